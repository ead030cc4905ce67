"""A propagator as one safetensors file: weights, and a JSON header; no code is stored or run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mlpot.model_file import ModelFileError, read_metadata, read_weights, write_tensors
from mlpot.models.layers import MAX_Z, without_values
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.recipe import PropagatorModel
from mlpot.version import __version__

KIND = "propagator"
FORMAT_VERSION = 1
LEARNED = "learned"
"""Entry of a card: hashes of the trajectories that were learned; not in files of before."""


def save_propagator(propagator: Propagator, path: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a propagator to one file; the old file stays whole until the new one is.

    Args:
        propagator: in any type; weights are stored as they are.
        path: ends in .safetensors by convention.
        card: JSON-able facts, such as the recipe.
    """
    header = {
        "kind": KIND,
        "propagator_version": FORMAT_VERSION,
        "arguments": propagator.arguments,
        "elements": list(propagator.elements),
        "interval": propagator.interval,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"mlpot": __version__, "torch": torch.__version__},
        "card": dict(card or {}),
    }
    weights = {name: t.detach().cpu().contiguous() for name, t in propagator.state_dict().items()}
    write_tensors(Path(path), weights, header)


def load_propagator(path: str | Path, *, dtype: torch.dtype = torch.float64) -> Propagator:
    """The propagator in a file, with its header as `propagator.header`; it is not trained further.

    Args:
        path: a file written by `save_propagator`.
        dtype: in which it computes; momentum is conserved to its rounding.

    Raises:
        FileNotFoundError, ModelFileError: there is none, or it is damaged or no propagator.
    """
    header = read_metadata(path)
    if header.get("kind") != KIND:
        what = "a potential, and no propagator" if "format_version" in header else "no propagator"
        raise ModelFileError(f"{path} is {what}. Give a file that `mlpot propagate train` wrote.")
    if header.get("propagator_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {header.get('propagator_version')}, this mlpot reads {FORMAT_VERSION}. "
            "Update mlpot."
        )
    try:
        weights = read_weights(path)
        with without_values():  # takes no memory, whatever the sizes
            propagator = _build(header)
        propagator.load_state_dict({name: w.clone() for name, w in weights.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe a propagator of this mlpot: {error}") from error
    if not all(w.isfinite().all() for w in propagator.state_dict().values()):
        raise ModelFileError(f"{path} has weights that are not finite: it is damaged. Train the propagator anew.")
    propagator.header = header
    return propagator.to(dtype).requires_grad_(False).eval()


def _build(header: Mapping[str, Any]) -> Propagator:
    """A propagator as large as the one in a file, within the bounds of a recipe; its weights have no values."""
    arguments, elements, interval = header["arguments"], header["elements"], float(header["interval"])
    scales = {name: float(arguments[name]) for name in ("speed", "radius") if name in arguments}
    if not all(math.isfinite(n) and n > 0 for n in (interval, *scales.values())):
        raise ValueError("interval, speed or radius is no positive number")
    if sorted(set(elements)) != elements or not all(isinstance(z, int) and 0 <= z <= MAX_Z for z in elements):
        raise ValueError("elements are not ascending atomic numbers")
    sizes = PropagatorModel.model_validate({k: v for k, v in arguments.items() if k not in scales})
    return Propagator({**sizes.model_dump(exclude_unset=True), **scales}, elements=elements, interval=interval)
