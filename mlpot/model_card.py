"""What a model file says beside its weights, when a program writes one: it holds, and is of these weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mlpot.torch_settings import DTYPES

ERRORS = ("train", "validation", "test")
"""Entries of a card's metrics that are of certain weights."""


def check_storable(dtype: torch.dtype, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError for weights that no `load_potential` would take."""
    if dtype not in DTYPES.values():
        raise ValueError(f"Weights are of {dtype}. Potentials compute in float32 or float64: potential.float().")
    if bad := [name for name, t in weights.items() if not t.isfinite().all()]:
        raise ValueError(
            f"Weights are not finite ({', '.join(bad[:3])}): a training diverged. Nothing was written."
        )


def checked_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as a dictionary that JSON holds.

    Raises:
        TypeError: JSON does not hold them.
    """
    try:
        json.dumps(known := dict(card))
    except (TypeError, ValueError) as error:
        raise TypeError(f"A card is a dictionary of numbers, text and lists of them. {error}.") from None
    return known


def kept(
    header: Mapping[str, Any], weights: Mapping[str, Tensor], hash_of: Callable[[Mapping[str, Tensor]], str]
) -> dict[str, Any]:
    """Card and certificate of the file that a potential was loaded from, for a file of the same potential.

    Args:
        header: of that file; empty of a potential that was not loaded.
        weights: as they are now. Of others than the file's, the card keeps no errors and says that they changed.
        hash_of: as of `model_file`.
    """
    card, own = dict(header.get("card", {})), header.get("weights_sha256")
    certificate = header.get("certificate")
    if isinstance(certificate, dict) and certificate.get("weights_sha256") == hash_of(weights):
        result = {name: value for name, value in certificate.items() if name != "of_these_weights"}
        return {"card": card, "certificate": result}
    number = DTYPES.get(header.get("dtype", ""), torch.float32)
    as_stored = {name: t.to(number) if _is_cast(name, t) else t for name, t in weights.items()}
    if own is not None and own != hash_of(as_stored):
        card["weights"] = "changed after the training that this card tells of"
        if isinstance(metrics := card.get("metrics"), dict):
            card["metrics"] = {name: value for name, value in metrics.items() if name not in ERRORS}
    return {"card": card}


def _is_cast(name: str, weight: Tensor) -> bool:
    """Whether a weight has the type of the potential; reference energies are always float64."""
    return weight.is_floating_point() and name != "reference"
