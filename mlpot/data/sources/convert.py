"""Any source of labelled structures into our H5MD, with names and units read or given, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled
from ase.io.formats import ioformats
from numpy.typing import NDArray

from mlpot.data.errors import FormatError, KeysError, LabelError, UnitsError
from mlpot.data.h5md.read import Reader
from mlpot.data.h5md.safe_hdf5 import open_checked
from mlpot.data.h5md.write import write
from mlpot.data.sources.correct import corrected, unwanted
from mlpot.data.sources.datasets import LAYOUTS, read_foreign
from mlpot.data.sources.read import READABLE, ase_kind, read_with_ase
from mlpot.data.unit_names import factor

HOLDS_ATOMS = (FixAtoms, FixCartesian, FixScaled, FixedPlane, FixedLine)
RIVALS = {"energy": r"energy", "forces": r"forces?$|gradients?$", "stress": r"stress|virial"}
"""What the name of another label of a quantity looks like."""


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    format: str | None = None,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    index: str = ":",
    corrections: Mapping[str, str] | None = None,
    drop: str | None = None,
    without: str | Path | None = None,
    hold: Sequence[int] = (),
    card: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write the frames of any readable file to an H5MD file and return how many there were.

    Labels of ASE's formats are taken in eV, eV/Å and eV/Å³ under ASE's names (energy, forces, stress; virial, eV,
    in extxyz); others need `keys` and `units`. Atoms that a constraint holds get a force mask of False.

    Args:
        source, destination: the latter is absent until it is complete.
        format: where the file does not show it: one of `ase.io`, of `foreign.LAYOUTS`, "h5md", "npz" or "hdf5".
        keys: names under which the file keeps quantities ("energy", "forces", "stress", "virial", "group"; for npz
            and HDF5 also "numbers", "positions", "cell", "pbc"); a leading minus turns a gradient into a force.
        units: by quantity ("positions", "energy", "forces", "stress"), such as "kcal/mol".
        index: slice of the frames to take, such as "::10".
        corrections: what the numbers really are, for `correct.corrected`.
        drop, without: frames that are left out, for `correct.unwanted`.
        hold: atoms whose forces are not to be learnt.
        card: what the data are: level of theory, licence, ...
        overwrite: replace an existing destination.

    Raises:
        KeysError: no labels, or several that could be meant, or a key that is not there.
        UnitsError: a unit is unknown, missing, or of the wrong dimension.
        LabelError: a value is not finite or has the wrong shape, with the index of the frame; no frames.
        FormatError: the file cannot be read.
        FileExistsError: the destination exists.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"There is no file {source}. Check the path.")
    frames = _frames(source, format or _kind(source), keys or {}, units or {}, index)
    out = unwanted(source, drop, without)
    frames = corrected((atoms for k, atoms in enumerate(frames) if k not in out), corrections or {}, hold)
    card = {"source": source.name, **(card or {})}
    write(destination, _labelled(source, frames), card=card, overwrite=overwrite)
    with Reader(destination) as reader:
        return len(reader)


def _kind(source: Path) -> str:
    """The format that the content, or else the name, of a file shows."""
    if source.is_file() and h5py.is_hdf5(source):
        with open_checked(source) as file:
            return "h5md" if "h5md" in file else "hdf5"
    if source.suffix == ".npz":
        return "npz"
    if not (kind := ase_kind(source)):
        raise FormatError(f"{source} shows no format that ASE knows. Name it with `format`.")
    return kind


def _frames(
    source: Path, kind: str, keys: Mapping[str, str], units: Mapping[str, str], index: str
) -> Iterator[Atoms]:
    if kind in LAYOUTS or kind in ("npz", "hdf5"):
        wanted = _wanted(index)
        foreign = read_foreign(source, format=kind if kind in LAYOUTS else None, keys=keys, units=units)
        yield from islice(foreign, wanted.start, wanted.stop, wanted.step)
    elif kind == "h5md":
        if keys:
            raise KeysError(f"{source} is H5MD, which names its quantities itself. Leave out `keys`.")
        wanted = _wanted(index)
        with Reader(source, units=units) as reader:
            yield from reader.frames(wanted.start or 0, wanted.stop, wanted.step or 1)
    elif kind in ioformats:
        yield from _ase_frames(source, kind, keys, units, index)
    else:
        near = get_close_matches(kind, [*READABLE, *LAYOUTS], n=3)
        raise FormatError(f"There is no format {kind!r}. Nearest: {', '.join(near) or 'none'}; see ase.io.")


def _wanted(index: str) -> slice:
    """The slice that an index string spells."""
    parts = [int(part) if part else None for part in index.split(":")]
    wanted = slice(*parts) if len(parts) > 1 else slice(parts[0], (parts[0] or 0) + 1)
    if any(part is not None and part < 0 for part in parts):
        raise FormatError(f"Frames are streamed, so the index {index!r} cannot count from the end.")
    return wanted


def _labelled(source: Path, frames: Iterable[Atoms]) -> Iterator[Atoms]:
    """The frames; at their end an error if there was nothing to learn from."""
    atoms, labelled = None, False
    for atoms in frames:
        labelled = labelled or (atoms.calc is not None and bool(atoms.calc.results))
        yield atoms
    if atoms is not None and not labelled:
        raise KeysError(
            f"{source} has no energies, forces or stresses. Name them with `keys`, or label the frames."
        )


def _ase_frames(
    source: Path, kind: str, keys: Mapping[str, str], units: Mapping[str, str], index: str
) -> Iterator[Atoms]:
    if unknown := set(keys) - {*RIVALS, "virial", "group"}:
        raise KeysError(f"{sorted(unknown)} cannot be named in ASE's formats. Correct `keys`.")
    found: set[str] = set()
    names: set[str] = set()
    for k, atoms in enumerate(read_with_ase(source, kind, index)):
        pool = {**atoms.arrays, **atoms.info, **({} if atoms.calc is None else atoms.calc.results)}
        found |= set(keys) & {key for key, name in keys.items() if name.removeprefix("-") in pool}
        names |= set(pool)
        yield _cleaned(f"{source}, frame {k}", atoms, pool, keys, units)
    if names and (absent := set(keys) - found):
        raise KeysError(
            f"{source} has nothing named {[keys[key] for key in sorted(absent)]}. It has {sorted(names)}. "
            "Correct `keys`."
        )


def _cleaned(
    where: str, atoms: Atoms, pool: Mapping[str, Any], keys: Mapping[str, str], units: Mapping[str, str]
) -> Atoms:
    """The structure with its labels in house units and nothing else."""
    length = factor("positions", units["positions"]) if "positions" in units else 1.0
    clean = Atoms(atoms.numbers, atoms.positions * length, cell=atoms.cell.array * length, pbc=atoms.pbc)
    if atoms.has("momenta"):
        clean.set_momenta(atoms.get_momenta(apply_constraint=False))
    mask = _force_mask(where, atoms)
    if not mask.all():
        clean.set_array("force_mask", mask)
    family = pool.get(keys["group"]) if "group" in keys else pool.get("group", pool.get("config_type"))
    if family is not None:
        clean.info["group"] = str(family)
    labels = {key: _label(where, key, atoms, pool, keys, units) for key in RIVALS}
    virial = _label(where, "virial", atoms, pool, keys, units)
    if labels["stress"] is None and virial is not None:
        labels["stress"] = -np.reshape(virial, (3, 3)) / clean.get_volume()
    labels = {key: value for key, value in labels.items() if value is not None}
    if labels:
        clean.calc = SinglePointCalculator(clean, **labels)
    return clean


def _label(
    where: str, key: str, atoms: Atoms, pool: Mapping[str, Any], keys: Mapping[str, str], units: Mapping[str, str]
) -> Any:
    """A label in house units, None where the frame has none."""
    name = keys.get(key, key)
    sign, name = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
    if key not in keys and key in RIVALS:
        _refuse_rivals(where, key, atoms, pool)
    value = pool.get(name)
    if value is None:
        return None
    quantity = "energy" if key == "virial" else key
    if quantity not in units and name != key:
        raise UnitsError(
            f"{where}: {name!r} is not one of ASE's names, so its unit is unknown. "
            f'Give units={{"{quantity}": "..."}}.'
        )
    if np.asarray(value).dtype.kind not in "iuf":
        raise LabelError(f"{where}: {name} is {value!r}, expected numbers. Correct the file or `keys`.")
    scale = sign * (factor(quantity, units[quantity]) if quantity in units else 1.0)
    if key == "stress" and np.size(value) == 9:
        value = np.reshape(value, (3, 3))
    return float(value) * scale if np.ndim(value) == 0 else np.asarray(value) * scale


def _refuse_rivals(where: str, key: str, atoms: Atoms, pool: Mapping[str, Any]) -> None:
    """Stop where another name than ASE's could be the label that is meant."""
    sizes = {"energy": (1,), "forces": (3 * len(atoms),), "stress": (6, 9)}[key]
    rivals = [
        name
        for name in (*atoms.info, *atoms.arrays)
        if re.search(RIVALS[key], name, re.IGNORECASE)
        and name not in (key, "virial", "free_energy")
        and np.size(atoms.info.get(name, atoms.arrays.get(name))) in sizes
    ]
    if rivals:
        choice = " or ".join(repr(name) for name in (*([key] if key in pool else []), *rivals))
        raise KeysError(
            f"{where}: is the label for {key} {choice}? Say which: "
            f'keys={{"{key}": "{rivals[0]}"}}, with its unit: units={{"{key}": "..."}}.'
        )


def _force_mask(where: str, atoms: Atoms) -> NDArray[np.bool_]:
    """Which atoms were free to feel their forces: codes write zeros for the others."""
    mask: NDArray[np.bool_] = atoms.arrays.get("force_mask", np.ones(len(atoms))).astype(bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, HOLDS_ATOMS):
            raise LabelError(
                f"{where}: forces under the constraint {type(constraint).__name__} may not be those "
                "of the potential. Remove the constraint from the file if they are."
            )
        mask[constraint.get_indices()] = False
    return mask
