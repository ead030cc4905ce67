"""Public data sets in npz and HDF5, as their authors lay them out, read in blocks of conformations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.errors import FormatError, KeysError, UnitsError
from mlpot.data.h5md.safe_hdf5 import naming_damage, open_checked
from mlpot.data.safe_npz import open_arrays
from mlpot.data.unit_names import factor

BLOCK = 256  # conformations read at once
Block = Mapping[str, Any]
"""Arrays or datasets of some conformations of one molecule, or of one number of atoms, by name."""

SHAPES = {  # of n conformations of m atoms
    "numbers": ("m", "nm"),
    "positions": ("nm3",),
    "energy": ("n", "n1"),
    "forces": ("nm3",),
    "stress": ("n33", "n6"),
    "virial": ("n33",),
    "cell": ("33", "n33"),
    "pbc": ("3", "n3"),
}
WITHIN = ("properties", "property_weights")  # subgroups that belong to the group around them
QUANTITY = {key: key for key in ("positions", "energy", "forces", "stress")}
QUANTITY |= {"cell": "positions", "virial": "energy"}  # whose unit they are in


@dataclass(frozen=True)
class Layout:
    """Under which names, and in which units, a data set keeps its arrays."""

    keys: Mapping[str, str]  # a leading minus turns a gradient into a force
    units: Mapping[str, str] = field(default_factory=dict)  # by quantity
    family: str | None = None  # dataset or "/" for the name of the HDF5 group
    nan_is_missing: bool = False  # the authors write NaN for what was not calculated


EV = {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}
LAYOUTS = {
    # A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)
    "rmd17": Layout(
        {"numbers": "nuclear_charges", "positions": "coords", "energy": "energies", "forces": "forces"},
        {"positions": "Angstrom", "energy": "kcal/mol", "forces": "kcal/mol/Angstrom"},
    ),
    # S. Chmiela et al., Sci. Adv. 3, e1603015 (2017); the units stand in the file as r_unit and e_unit
    "sgdml": Layout({"numbers": "z", "positions": "R", "energy": "E", "forces": "F"}),
    # J. S. Smith et al., Sci. Data 7, 134 (2020)
    "ani1x": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "coordinates",
            "energy": "wb97x_dz.energy",
            "forces": "wb97x_dz.forces",
        },
        {"positions": "Angstrom", "energy": "hartree", "forces": "hartree/Angstrom"},
        family="/",
        nan_is_missing=True,
    ),
    # P. Eastman et al., Sci. Data 10, 11 (2023); dft_total_gradient is +dE/dr
    "spice": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "conformations",
            "energy": "dft_total_energy",
            "forces": "-dft_total_gradient",
        },
        {"positions": "bohr", "energy": "hartree", "forces": "hartree/bohr"},
        family="subset",
    ),
    # I. Batatia et al., MACE: one group per frame in groups config_batch_*; labels of newer files in properties/
    "mace": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "positions",
            "energy": "energy",
            "forces": "forces",
            "stress": "stress",
            "virial": "virials",
            "cell": "cell",
            "pbc": "pbc",
        },
        EV,
        family="config_type",
    ),
    # D. Anstine, R. Zubatyuk, O. Isayev, AIMNet2: one group per number of atoms
    "aimnet2": Layout({"numbers": "numbers", "positions": "coord", "energy": "energy", "forces": "forces"}, EV),
}


def read_foreign(
    path: str | Path, *, format: str | None, keys: Mapping[str, str], units: Mapping[str, str]
) -> Iterator[Atoms]:
    """The frames of an npz or HDF5 data set.

    Args:
        path: the file.
        format: a name of `LAYOUTS`, or None to recognise the layout by its names.
        keys: names in the file, by quantity, instead of those of the layout; "-name" for a gradient.
        units: by quantity; needed for each key given, unless the file says.

    Raises:
        KeysError: no known layout fits, or a key is not there.
        UnitsError: a unit is unknown, missing, or not the one in the file.
        FormatError: damaged, or shapes that disagree.
    """
    layout, found = None, set()
    with naming_damage(str(path)):
        for name, block in _blocks(path):
            if layout is None:
                layout = _layout(path, set(block), format, keys)
            if all(_place(block, layout.keys[key]) for key in ("numbers", "positions")):
                found |= {key for key in keys if _place(block, layout.keys[key])}
                yield from _frames(f"{path}:{name}", block, layout, units)
    if layout is None:
        raise FormatError(f"{path} has no data. Check the path.")
    if absent := set(keys) - found:
        raise KeysError(f"{path} has nothing named {[keys[key] for key in sorted(absent)]}. Correct `keys`.")


def _blocks(path: str | Path) -> Iterator[tuple[str, Block]]:
    """What the file holds, by name: one block for npz, one a group for HDF5."""
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            yield "", open_arrays(raw, str(path))
        return
    with open_checked(path) as file:
        pending, seen = [file], set()
        while pending:
            group = pending.pop()
            place = h5py.h5o.get_info(group.id).addr
            if place in seen:
                continue
            seen.add(place)
            children = [child for child in group.values() if isinstance(child, h5py.Group)]
            within = [child for child in children if child.name.rpartition("/")[2] in WITHIN]
            block = {d.name[len(group.name) :].lstrip("/"): d for g in (group, *within) for d in _datasets(g)}
            if block:
                yield group.name, block
            pending += [child for child in reversed(children) if child not in within]


def _datasets(group: h5py.Group) -> list[h5py.Dataset]:
    return [child for child in group.values() if isinstance(child, h5py.Dataset)]


def _layout(path: str | Path, names: set[str], format: str | None, keys: Mapping[str, str]) -> Layout:
    """The layout asked for, or the one whose names are there, with the keys given put over it."""
    block = dict.fromkeys(names)
    needed = {"numbers", "positions"} - set(keys)
    if format is None and needed:
        needed |= {"energy"} - set(keys)
        fitting = [k for k, layout in LAYOUTS.items() if all(_place(block, layout.keys[q]) for q in needed)]
        if len(fitting) != 1:
            raise KeysError(
                f"{path} is in no layout that is known ({', '.join(LAYOUTS)}). It holds {sorted(names)[:20]}. "
                'Give their names and units: keys={"numbers": "...", "positions": "...", "energy": "...", '
                '"forces": "..."}, units={"positions": "...", "energy": "...", "forces": "..."}.'
            )
        format = fitting[0]
    known = LAYOUTS[format] if format in LAYOUTS else Layout({})
    if unknown := set(keys) - set(SHAPES):
        raise KeysError(
            f"{sorted(unknown)} are not quantities that are kept: {', '.join(SHAPES)}. Correct `keys`."
        )
    if missing := {"numbers", "positions"} - set(known.keys) - set(keys):
        raise KeysError(f"`keys` lacks {sorted(missing)}. {path} holds {sorted(names)[:20]}.")
    given = {QUANTITY.get(key) for key in keys}
    return replace(
        known,
        keys={**known.keys, **keys},
        units={quantity: unit for quantity, unit in known.units.items() if quantity not in given},
    )


def _place(block: Block, key: str) -> str | None:
    """The name in the block of a key."""
    name = key.removeprefix("-")
    return next((place for place in (name, *(f"{group}/{name}" for group in WITHIN)) if place in block), None)


def _frames(where: str, block: Block, layout: Layout, units: Mapping[str, str]) -> Iterator[Atoms]:
    """The conformations of one block."""
    parts = {}
    for key, name in layout.keys.items():
        place = _place(block, name)
        array = None if place is None or _has_no_weight(block, name) else block[place]
        if array is not None and array.dtype.kind not in "OSU":  # MACE writes the word None
            sign = -1.0 if name.startswith("-") else 1.0
            parts[key] = (
                array,
                None if key not in QUANTITY else sign * _factor(where, key, array, block, layout, units),
            )
    single = parts["positions"][0].ndim == 2
    n, m = (1, *parts["positions"][0].shape)[-3:-1] if single else parts["positions"][0].shape[:2]
    for key, (array, _) in parts.items():
        _check(f"{where}/{layout.keys[key]}", key, array, {"n": n, "m": m}, single)
    if "cell" in parts and "pbc" not in parts:
        raise KeysError(
            f'{where} has a cell, but no pbc says which directions are periodic. Give keys={{"pbc": ...}}.'
        )
    family = _family(where, block, layout.family)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        values = {key: _slice(key, array, start, stop, single, scale) for key, (array, scale) in parts.items()}
        for k in range(stop - start):
            yield _atoms({key: value[k] for key, value in values.items()}, family, layout.nan_is_missing)


def _factor(where: str, key: str, array: Any, block: Block, layout: Layout, units: Mapping[str, str]) -> float:
    """House units in one unit of an array: as the file says, or else as given, or else as its layout has it."""
    quantity = QUANTITY[key]
    written = next((array.attrs[a] for a in ("units", "unit") if a in getattr(array, "attrs", {})), None)
    if "r_unit" in block and "e_unit" in block:
        length, energy = str(block["r_unit"]), str(block["e_unit"])
        written = {"positions": length, "energy": energy, "forces": f"{energy}/{length}"}.get(quantity)
    written = written.decode() if isinstance(written, bytes) else written
    name = written or units.get(quantity) or layout.units.get(quantity)
    if name is None:
        raise UnitsError(
            f'{where} gives no unit of {key}, and none is guessed. Give units={{"{quantity}": "..."}}.'
        )
    value = factor(quantity, name)
    if written and quantity in units and factor(quantity, units[quantity]) != value:
        raise UnitsError(f"{where}: {key} is in {written!r} in the file, not in {units[quantity]!r}.")
    return value


def _check(where: str, key: str, array: Any, sizes: Mapping[str, int], single: bool) -> None:
    shapes = [tuple(sizes[s] if s in sizes else int(s) for s in shape) for shape in SHAPES[key]]
    shape = (1, *array.shape) if single and key != "numbers" else array.shape
    if shape not in shapes or array.dtype.kind not in "iufb" or array.dtype == np.float16:
        raise FormatError(
            f"{where} has shape {array.shape} of {array.dtype}, expected {' or '.join(map(str, shapes))} "
            "of float64 or float32. Correct the file or `keys`."
        )


def _slice(key: str, array: Any, start: int, stop: int, single: bool, scale: float | None) -> NDArray[Any]:
    """Values of the conformations from start to stop, in house units."""
    shared = array.ndim == len(SHAPES[key][0]) and not SHAPES[key][0].startswith("n")
    whole = single or shared
    values = np.broadcast_to(array[()], (stop - start, *array.shape)) if whole else array[start:stop]
    return values if scale is None else np.asarray(values, dtype=np.float64) * scale


def _atoms(values: dict[str, Any], family: str | None, nan_is_missing: bool) -> Atoms:
    cell = values.get("cell")
    atoms = Atoms(values["numbers"], values["positions"], cell=cell, pbc=values.get("pbc", False))
    if "virial" in values and "stress" not in values:
        values["stress"] = -values["virial"] / atoms.get_volume()
    labels = {}
    for key in ("energy", "forces", "stress"):
        if key in values and not (nan_is_missing and np.isnan(values[key]).all()):
            labels[key] = float(values[key].item()) if key == "energy" else values[key]
    if labels:
        atoms.calc = SinglePointCalculator(atoms, **labels)
    if family is not None:
        atoms.info["group"] = family
    return atoms


def _family(where: str, block: Block, source: str | None) -> str | None:
    if source == "/":
        return where.rpartition("/")[2]
    if source is None or source not in block:
        return None
    name = np.ravel(block[source][()])[0]
    return name.decode() if isinstance(name, bytes) else str(name)


def _has_no_weight(block: Block, name: str) -> bool:
    """Whether MACE was told to learn nothing from this label of this frame, because it is missing."""
    weights = (f"property_weights/{name}", f"{name}_weight")
    return any(np.all(block[w][()] == 0) for w in weights if w in block)
