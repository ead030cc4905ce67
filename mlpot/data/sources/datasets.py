"""Public data sets in npz and HDF5, as their authors lay them out, read in blocks of conformations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.elements import CURE_WITHOUT_TYPES, Elements, is_padding, numbers_of_text
from mlpot.data.errors import FormatError, KeysError, LabelError, UnitsError
from mlpot.data.h5md.safe_hdf5 import naming_damage, open_unchecked, walk_groups
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
    # J. Hoja et al., QM7-X, Sci. Data 8, 43 (2021): one group per conformation
    "qm7x": Layout(
        {"numbers": "atNUM", "positions": "atXYZ", "energy": "ePBE0+MBD", "forces": "totFOR"},
        {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom"},
    ),
    # D. Anstine, R. Zubatyuk, O. Isayev, AIMNet2: one group per number of atoms
    "aimnet2": Layout({"numbers": "numbers", "positions": "coord", "energy": "energy", "forces": "forces"}, EV),
}


def read_foreign(
    path: str | Path,
    *,
    format: str | None,
    keys: Mapping[str, str],
    units: Mapping[str, str],
    elements: Elements | None = None,
    note: Callable[[str, int], None] = lambda what, frame: None,
) -> Iterator[Atoms]:
    """The frames of an npz or HDF5 data set.

    Args:
        path: the file.
        format: a name of `LAYOUTS`, or None to recognize the layout by its names.
        keys: names in the file, by quantity, instead of those of the layout; "-name" for a gradient.
        units: by quantity; needed for each key given, unless the file says.
        elements: of the numbers, where they are not atomic ones, or of the atoms, where there are none.
        note: is told what was left out, and of which frame.

    Raises:
        KeysError: no known layout fits, or a key is not there.
        UnitsError: a unit is unknown, missing, or not the one in the file.
        FormatError: damaged, or shapes that disagree.
        LabelError: what should name an element does not.
    """
    frame = count()
    for where, block, layout in _laid_out(path, format, keys, elements):
        family = _family(where, block, layout.family)
        for values in _frames(where, block, layout, units, elements):
            k = next(frame)
            if padded := _without_padding(f"{where}, frame {k}", values):
                note(f"{padded} entries of number 0 or -1 are padding and no atoms", k)
            yield _atoms(values, family, layout.nan_is_missing)


def _laid_out(
    path: str | Path, format: str | None, keys: Mapping[str, str], elements: Elements | None
) -> Iterator[tuple[str, Block, Layout]]:
    """The blocks that hold structures, where each stands, and their layout."""
    layout, found, names = None, set(), dict[str, None]()
    whole = {"positions"} if elements is not None else {"numbers", "positions"}
    for name, block in _blocks(path):
        if layout is None:
            names |= dict.fromkeys(block)
            layout = _layout(path, names, block, format, keys, elements)
        if layout is not None:
            found |= {key for key in keys if _place(block, layout.keys[key])}
            if all(_place(block, layout.keys[key]) for key in whole):
                yield f"{path}:{name}", block, layout
    if layout is None and names:
        raise _no_layout(path, names)
    if layout is None:
        raise FormatError(f"{path} has no data. Check the path.")
    if absent := set(keys) - found:
        raise KeysError(
            f"{path} has nothing named {[keys[key] for key in sorted(absent)]}. It holds {list(names)[:20]}. "
            "Correct `keys`."
        )


def _blocks(path: str | Path) -> Iterator[tuple[str, Block]]:
    """What the file holds, by name: one block for npz, one a group for HDF5."""
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            yield "", open_arrays(raw, str(path))
        return
    with naming_damage(str(path)), open_unchecked(path) as file:
        for name, datasets in walk_groups(file, within=WITHIN):
            if datasets:
                yield name or "/", _Group(datasets)


class _Group(Mapping[str, h5py.Dataset]):
    """The datasets of a group, each made h5py's when it is asked for."""

    def __init__(self, datasets: Mapping[str, h5py.h5d.DatasetID]):
        self._datasets = datasets

    def __getitem__(self, name: str) -> h5py.Dataset:
        return h5py.Dataset(self._datasets[name])

    def __contains__(self, name: object) -> bool:
        return name in self._datasets

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)


def _layout(
    path: str | Path,
    names: Mapping[str, None],
    block: Block,
    format: str | None,
    keys: Mapping[str, str],
    elements: Elements | None,
) -> Layout | None:
    """The layout asked for, or the one whose names are in the block, with the keys given put over it."""
    whole = {"positions"} if elements is not None else {"numbers", "positions"}
    needed = whole - set(keys)
    if format is None and needed:
        needed |= {"energy"} - set(keys)
        fitting = [k for k, layout in LAYOUTS.items() if all(_place(block, layout.keys[q]) for q in needed)]
        if len(fitting) != 1:
            return None
        format = fitting[0]
    known = LAYOUTS[format] if format in LAYOUTS else Layout({})
    if unknown := set(keys) - set(SHAPES):
        raise KeysError(
            f"{sorted(unknown)} are not quantities that are kept: {', '.join(SHAPES)}. Correct `keys`."
        )
    if missing := whole - set(known.keys) - set(keys):
        how = CURE_WITHOUT_TYPES if missing == {"numbers"} else ""
        raise KeysError(f"`keys` lacks {sorted(missing)}. {path} holds {list(names)[:20]}. {how}".rstrip())
    given = {QUANTITY.get(key) for key in keys}
    return replace(
        known,
        keys={**known.keys, **keys},
        units={quantity: unit for quantity, unit in known.units.items() if quantity not in given},
    )


def _no_layout(path: str | Path, names: Mapping[str, None]) -> KeysError:
    return KeysError(
        f"{path} is in no layout that is known ({', '.join(LAYOUTS)}). It holds {sorted(names)[:20]}. "
        "Give their names and units: --key numbers=... --key positions=... --key energy=... --key forces=... "
        "--unit positions=Angstrom --unit energy=eV --unit forces=eV/Angstrom (units are examples). Where nothing "
        "tells the elements, --elements-from structure.xyz takes the place of numbers."
    )


def _place(block: Block, key: str) -> str | None:
    """The name in the block of a key."""
    name = key.removeprefix("-")
    return next((place for place in (name, *(f"{group}/{name}" for group in WITHIN)) if place in block), None)


def _frames(
    where: str, block: Block, layout: Layout, units: Mapping[str, str], elements: Elements | None
) -> Iterator[dict[str, Any]]:
    """The values of each conformation of one block, in house units."""
    parts = {}
    with naming_damage(where):
        for key, name in layout.keys.items():
            place = _place(block, name)
            array = None if place is None or _has_no_weight(block, name) else block[place]
            if array is not None and (key == "numbers" or array.dtype.kind not in "OSU"):  # MACE: the word None
                sign = -1.0 if name.startswith("-") else 1.0
                parts[key] = (
                    array,
                    None if key not in QUANTITY else sign * _factor(where, key, array, block, layout, units),
                )
    if "positions" not in parts or parts["positions"][0].ndim not in (2, 3):
        raise FormatError(f"{where}/{layout.keys['positions']} are no positions of atoms. Correct `keys`.")
    single = parts["positions"][0].ndim == 2
    n, m = (1, *parts["positions"][0].shape)[-3:-1] if single else parts["positions"][0].shape[:2]
    for key, (array, _) in parts.items():
        _check(f"{where}/{layout.keys[key]}", key, array, {"n": n, "m": m}, single)
    if "cell" in parts and "pbc" not in parts:
        raise KeysError(
            f'{where} has a cell, but no pbc says which directions are periodic. Give keys={{"pbc": ...}}.'
        )
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        with naming_damage(where):
            values = {key: _slice(key, array, start, stop, single, scale) for key, (array, scale) in parts.items()}
        values["numbers"] = _numbers(where, values, m, elements)
        for k in range(stop - start):
            yield {key: value[k] for key, value in values.items()}


def _numbers(where: str, values: Mapping[str, Any], n_atoms: int, elements: Elements | None) -> NDArray[np.int64]:
    """(n, n_atoms) atomic numbers, with 0 or −1 where an array is only filled up."""
    if "numbers" not in values:
        numbers = (elements or Elements()).of_atoms(where, n_atoms)
        return np.broadcast_to(numbers, (len(values["positions"]), n_atoms))
    numbers = values["numbers"]
    if numbers.dtype.kind in "OSU":
        return numbers_of_text(where, numbers)
    if numbers.dtype.kind == "f" and not (numbers == np.round(numbers)).all():
        raise LabelError(f"{where} has numbers of atoms that are not whole. Correct the file or `keys`.")
    numbers = numbers.astype(np.int64)
    return numbers if elements is None else elements.of_types(where, numbers)


def _without_padding(where: str, values: dict[str, Any]) -> int:
    """Take out of a frame what is no atom; how many entries that were."""
    numbers = values["numbers"]
    if numbers.min(initial=1) > 0:
        return 0
    padding = is_padding(where, numbers, values["positions"])
    for key in ("numbers", "positions", "forces"):
        if key in values:
            values[key] = values[key][~padding]
    return int(padding.sum())


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
    kinds, what = ("iufOSU", "integers or symbols") if key == "numbers" else ("iufb", "float64 or float32")
    if shape not in shapes or array.dtype.kind not in kinds or array.dtype == np.float16:
        raise FormatError(
            f"{where} has shape {array.shape} of {array.dtype}, expected {' or '.join(map(str, shapes))} "
            f"of {what}. Correct the file or `keys`."
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
