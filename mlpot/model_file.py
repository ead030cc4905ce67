"""A trained potential as one safetensors file: weights, and a JSON header that says all that is known of it.

No code is stored and none is run on loading: the backbone is looked up by name in a literal table.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import __version__ as ase_version
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mlpot.atomic_files import StorageError, check_place, path_of
from mlpot.extrapolation import Domain
from mlpot.model_card import check_storable, checked_card, kept
from mlpot.models import former_arguments
from mlpot.models.layers import without_values
from mlpot.potential import RENAMED, Potential
from mlpot.terms.core_repulsion import CoreRepulsion
from mlpot.terms.zbl import UNIVERSAL, ZBL, Form
from mlpot.torch_settings import DTYPES, known_device, known_dtype, usual_settings
from mlpot.units import HOUSE_UNITS
from mlpot.version import __version__

GIVE_A_MODEL = "Give a file that mlpot wrote; for structures there is `mlpot data info`."
MAX_HEADER = 2**24  # bytes
FIELDS = {"backbone": str, "arguments": dict, "elements": list, "repulsion": bool, "dtype": str, "units": dict}

# Since 2, arguments mean what `models.former_arguments` gives; since 3, weights have the new names in
# `potential.RENAMED`.
FORMAT_VERSION = 3


class ModelFileError(ValueError):
    """A file is not a potential that this version can load."""


def check_model_place(path: str | Path, *, overwrite: bool = True) -> None:
    """Raise what would stop a potential from being written, before it is made: a file of structures is none.

    Raises:
        FileExistsError, FileNotFoundError, StorageError: as `check_place`, or the name is not one of a potential.
    """
    if Path(path).suffix != ".safetensors":
        raise StorageError(f"{path} would be a potential: let its name end in .safetensors.")
    check_place(path, overwrite=overwrite)


def save_potential(potential: Potential, path: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a potential to one file; the old file stays whole until the new one is.

    Args:
        potential: of float32 or float64; weights are stored as they are.
        path: ends in .safetensors by convention.
        card: JSON-able facts: training-set hash, ranges, metrics, recipe. By default those of the file that the
            potential was loaded from, with its certificate; of changed weights without errors, which were others'.

    Raises:
        TypeError: no potential, no path, or facts that JSON does not hold.
        ValueError: weights of a type of 16 bits, or that are not finite.
        StorageError, FileNotFoundError, IsADirectoryError: as `check_place`, or a file of something else is there.
    """
    if not isinstance(potential, Potential):
        kind = type(potential).__name__
        raise TypeError(f"save takes a potential and a path, and the first is of type {kind}. Give a Potential.")
    path = path_of(path, "a potential")
    check_place(path)
    _check_not_another(path)
    weights = {name: t.detach().cpu().contiguous() for name, t in potential.state_dict().items()}
    check_storable(potential.dtype, weights)
    known = kept(potential.header, weights, hash_of) if card is None else {"card": checked_card(card)}
    header = {
        "format_version": FORMAT_VERSION,
        "backbone": potential.backbone_name,
        "arguments": potential.arguments,
        "elements": list(potential.elements),
        "cutoff": potential.cutoff,
        "repulsion": potential.repulsion is not None,
        **_form_of(potential.repulsion),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "units": HOUSE_UNITS,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "mlpot": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "ase": ase_version,
            "python": platform.python_version(),
        },
        **known,
    }
    write_tensors(path, weights, header)


def _check_not_another(path: Path) -> None:
    """A file of other data, under a name that is none of a potential's, is not replaced by one."""
    if path.suffix == ".safetensors" or not path.exists():
        return
    try:
        read_metadata(path)
    except ModelFileError:
        raise StorageError(f"{path} holds something else than a potential. Give a name in .safetensors.") from None


def attach_certificate(path: str | Path, certificate: Mapping[str, Any]) -> None:
    """Store a certificate in a model file, with the SHA-256 of the certified weights.

    Args:
        path: a file written by `save_potential`.
        certificate: JSON-able.

    Raises:
        FileNotFoundError, ModelFileError: as `read_header`.
    """
    header, path = read_header(path), Path(path)
    weights = read_weights(path)
    header["certificate"] = {"weights_sha256": hash_of(weights), "result": dict(certificate)}
    write_tensors(path, weights, header)


def hash_of_file(path: str | Path) -> str:
    """SHA-256 of a file as it is: what runs and predictions say of the potential that they are of."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        t = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, weights: dict[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able header to one file; the old file stays whole until the new one is.

    The header says what the tensors' SHA-256 is, by which `read_weights` sees damage.
    """
    header = {**header, "weights_sha256": hash_of(weights)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(save(weights, metadata={"mlpot": json.dumps(header)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a potential's file; weights are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: it is not a potential, or of a later format.
    """
    header = read_metadata(path)
    if "format_version" not in header:
        kind = f"a {header['kind']}" if isinstance(header.get("kind"), str) else "something else"
        raise ModelFileError(
            f"{path} is {kind[:40]}, and no potential. Give a file that `mlpot train` wrote; propagators have the "
            "commands of `mlpot propagate`."
        )
    if header.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise ModelFileError(
            f"{path} has format version {header.get('format_version')}, this mlpot reads {FORMAT_VERSION}. "
            "Update mlpot."
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(header.get(name), kind)]
    if not isinstance(header.get("card", {}), dict):
        wrong.append("a card of names and values")
    if wrong:
        raise ModelFileError(f"{path}: its header lacks {', '.join(wrong)}. Give a file that mlpot wrote.")
    header["arguments"] = former_arguments(header["backbone"], header["arguments"], header["format_version"])
    if header["format_version"] < 3:
        header["renamed_weights"] = RENAMED
    return header


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON header of a file of `write_tensors`, of whatever; tensors are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: not of mlpot, or damaged.
    """
    path = path_of(path, "a model")
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder. Give the model in it, such as {path / 'model.safetensors'}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give the path of a trained model (*.safetensors).")
    _check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a safetensors file ({error}). {GIVE_A_MODEL}") from None
    if "mlpot" not in metadata:
        raise ModelFileError(f"{path} holds tensors, but no mlpot header. Give a file that mlpot wrote.")
    try:
        header: dict[str, Any] = dict(json.loads(metadata["mlpot"], object_pairs_hook=_unique))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: its header is unreadable ({error}). The file is damaged; take another."
        ) from None
    return header


def _check_size(path: Path) -> None:
    """The header is as long as it says, and not absurdly long."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, path.stat().st_size):
        raise ModelFileError(f"{path} is not a safetensors file: its header claims {length} bytes. {GIVE_A_MODEL}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in any safetensors file, by name."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in a file of `write_tensors`, by name.

    Raises:
        FileNotFoundError, ModelFileError: as `read_metadata`, or the tensors are not those that were written.
    """
    expected = read_metadata(path).get("weights_sha256")  # files of earlier versions do not say it
    weights = read_tensors(path)
    if expected is not None and expected != hash_of(weights):
        raise ModelFileError(
            f"{path}: its weights are not those that were written: their SHA-256 differs from the header's. "
            "The file was damaged, or changed by another program; copy it again, or train anew."
        )
    return weights


def own_potential(
    given: Potential | str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
) -> Potential:
    """A frozen potential that nobody else has: a copy of one, or that of a file.

    Args:
        given: a potential, or the path of its file.
        device: as `load_potential`.
        dtype: as `load_potential`.

    Raises:
        TypeError: neither, such as what torch.compile makes of a potential.
        Else as `load_potential`.
    """
    if not isinstance(given, Potential | str | os.PathLike):
        kind = type(given).__name__
        advice = "Give one of these; torch.compile or torch.jit of a potential is none, as it is compiled already."
        if isinstance(given, list | tuple):
            advice = "Several files are no committee: training.committee=4 trains one, which is one file."
        raise TypeError(f"A potential or the path of its file is needed, and this is of type {kind}. {advice}")
    if not isinstance(given, Potential):
        return load_potential(given, device=device, dtype=dtype)
    number = given.dtype if dtype is None else known_dtype(dtype)
    return copy.deepcopy(given).to(device=known_device(device), dtype=number).freeze()


def load_potential(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | str | None = None
) -> Potential:
    """The potential in a file, frozen, with its header as `potential.header`.

    A certificate in the header says `of_these_weights`; one that is of others gives a warning.

    Args:
        path: a file written by `save_potential`.
        device: where it computes.
        dtype: the type in which it computes, or its name; that of the file by default.

    Raises:
        FileNotFoundError, ModelFileError: as `read_header`, or weights are missing, wrong or not finite.
        ValueError: another type, or a device that is not here.
    """
    device, number = known_device(device), None if dtype is None else known_dtype(dtype)
    with usual_settings():
        potential = _loaded(path)
        return potential.to(device=device, dtype=number or potential.dtype).freeze()


def _loaded(path: str | Path) -> Potential:
    """As it is in the file, not frozen yet."""
    header = read_header(path)
    stored = read_weights(path)
    try:
        weights = _with_names_of_today(stored, header["format_version"])
        with without_values():  # takes no memory, whatever the sizes
            potential = _build(header, weights)
            _check_weights(potential.state_dict(), weights)
        # Copies, because what was read may be a view of the file.
        potential.load_state_dict({name: t.clone() for name, t in weights.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe a potential of this mlpot: {error}") from error
    potential.header = header
    if isinstance(header.get("certificate"), dict):
        own = header.get("weights_sha256") or hash_of(stored)  # what the header says, `read_weights` has checked
        header["certificate"]["of_these_weights"] = header["certificate"].get("weights_sha256") == own
        if not header["certificate"]["of_these_weights"]:
            warnings.warn(
                f"{path}: its certificate is of other weights. Run `mlpot verify --attach` anew.", stacklevel=3
            )
    return potential


def _with_names_of_today(stored: dict[str, torch.Tensor], version: int) -> dict[str, torch.Tensor]:
    weights = stored
    if version < 3:
        weights = {RENAMED.get(name, name): tensor for name, tensor in stored.items()}
        if len(weights) < len(stored):
            raise ValueError("a weight stands under its old and under its new name")
    limits = weights.get("core_repulsion.distances")
    if limits is None or "core_repulsion.strength" in weights:
        return weights
    return {**weights, "core_repulsion.strength": limits.new_ones(limits.shape[:2])}  # before it was raised


def _build(header: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Potential:
    """A potential as large as the one in a file."""
    if not all(isinstance(z, int) for z in header["elements"]):
        raise ValueError("elements are not atomic numbers")
    if any(HOUSE_UNITS.get(quantity) != unit for quantity, unit in header["units"].items()):
        raise ValueError(f"units are {header['units']}, not {HOUSE_UNITS}")
    potential = Potential(
        header["backbone"],
        header["arguments"],
        reference_energies=dict.fromkeys(header["elements"], 0.0),
        repulsion=header["repulsion"] and _form(header.get("repulsion_form")),
        cutoff=header.get("cutoff"),
    )
    if "domain.mean" in weights:
        potential.domain = Domain(*weights["domain.mean"].shape)
    if "core_repulsion.distances" in weights:
        potential.core_repulsion = CoreRepulsion(len(potential.elements))
    return potential.to(DTYPES[header["dtype"]])


def _form_of(repulsion: ZBL | None) -> dict[str, Any]:
    """What a header says of a repulsion of another package."""
    if repulsion is None or repulsion.form == UNIVERSAL:
        return {}
    return {"repulsion_form": repulsion.form._asdict()}


def _form(told: Any) -> bool | Form:
    if told is None:
        return True
    if not isinstance(told, dict) or set(told) != set(Form._fields):
        raise ValueError(f"repulsion_form is {str(told)[:40]}, not {', '.join(Form._fields)}")
    length, power, charge = (float(told[name]) for name in ("length", "power", "charge"))
    screening = tuple((float(share), float(decay)) for share, decay in told["screening"])
    if len(screening) != 4 or not all(map(math.isfinite, [length, power, charge, *sum(screening, ())])):
        raise ValueError("repulsion_form has other terms than four, or numbers that are none")
    if min(length, power, charge) <= 0 or told["exponent"] not in range(1, 65):
        raise ValueError("repulsion_form has numbers that are not positive, or an exponent that is not 1 to 64")
    return Form(screening, length, power, charge, told["exponent"])


def _check_weights(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Names, shapes and types are those of the potential, and numbers are numbers."""
    if names := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"weights {', '.join(names[:5])} are missing, or too many")
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype):
            ours = f"{tuple(expected[name].shape)} of {expected[name].dtype}"
            raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, expected {ours}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite: the file is damaged, or the training diverged")
