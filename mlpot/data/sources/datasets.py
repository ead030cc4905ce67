"""Public data sets in npz and HDF5, in the layouts of their authors, read in blocks of conformations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
from mlpot.data.frame import VOIGT
from mlpot.data.h5md.safe_hdf5 import naming_damage, open_unchecked, walk_groups
from mlpot.data.safe_npz import open_arrays
from mlpot.data.sources.consistency import check_agreement
from mlpot.data.sources.layouts import LAYOUTS, Layout
from mlpot.data.sources.leftovers import ask, states_of
from mlpot.data.sources.names import KNOWN, NONE, Questions
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO, has_volume
from mlpot.data.unit_names import H5MD_UNITS, factor

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
    "charge": ("", "n", "n1"),
    "spin": ("", "n", "n1"),
}
STATES = ("charge", "spin")
SAYS_UNITS = ("r_unit", "e_unit")
WITHIN = ("properties", "property_weights")  # subgroups that belong to the group around them
LAYOUT_TAKEN = "taken for the layout {0} by its names, in {1} where the file says no units; --unit says others"
QUANTITY = {key: key for key in ("positions", "energy", "forces", "stress")}
QUANTITY |= {"cell": "positions", "virial": "energy"}  # whose unit they are in


def read_datasets(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """The frames of an npz or HDF5 data set.

    Args:
        path: the file.
        kind: a name of `LAYOUTS`; "npz" or "hdf5" to recognize the layout by its names.
        reading: keys are names in the file instead of those of the layout, "-name" for a gradient; each needs its
            unit, unless the file says.
        report: takes what is left out.

    Raises:
        KeysError: no known layout fits, or a key is not there.
        UnitsError: a unit is unknown, missing, or not the one in the file.
        FormatError: damaged, or shapes that disagree.
        LabelError: what should name an element does not.
    """
    frame = count()
    keys = {quantity: name for quantity, name in reading.keys.items() if name != NONE}
    for where, block, layout in _laid_out(path, kind if kind in LAYOUTS else None, keys, reading.elements):
        family = _family(where, block, layout.family)
        for values in _frames(where, block, layout, reading, report):
            k = next(frame)
            if layout.name and layout.units.keys() - reading.units.keys():
                report.note(LAYOUT_TAKEN.format(layout.name, ", ".join(dict.fromkeys(layout.units.values()))), k)
            if padded := _without_padding(f"{where}, frame {k}", values):
                report.note(f"{padded} entries of number 0 or -1 are padding and no atoms", k)
            atoms = _atoms(values, family, layout.nan_is_missing)
            if not has_volume(atoms.pbc, atoms.cell.array) and "virial" in values and "stress" not in values:
                report.note(NO_VOLUME if np.any(values["virial"]) else NO_VOLUME_ZERO, k)
            elif has_volume(atoms.pbc, atoms.cell.array) and {"stress", "virial"} <= values.keys():
                _compare(f"{where}, frame {k}", values, atoms.get_volume())
            yield k, atoms


def _compare(where: str, values: Mapping[str, Any], volume: float) -> None:
    """Refuse a stress and a virial that contradict each other."""
    stress = np.asarray(values["stress"], dtype=float)
    stress = stress[VOIGT] if stress.shape == (6,) else stress
    check_agreement(where, stress, np.asarray(values["virial"], dtype=float), volume)


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
    needed, asked = whole - set(keys), format
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
        name="" if format is None or format == asked else format,
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
    where: str, block: Block, layout: Layout, reading: Reading, report: Report
) -> Iterator[dict[str, Any]]:
    """The values of each conformation of one block, in house units."""
    parts, none = {}, {quantity for quantity, name in reading.keys.items() if name == NONE}
    with naming_damage(where):
        for key, name in layout.keys.items():
            if key in none or key in STATES:
                continue
            place = _place(block, name)
            array = None if place is None or _has_no_weight(block, name) else block[place]
            if array is not None and (key == "numbers" or array.dtype.kind not in "OSU"):  # MACE: the word None
                sign = -1.0 if name.startswith("-") else 1.0
                scale = None if key not in QUANTITY else _factor(where, key, array, block, layout, reading.units)
                parts[key] = (array, None if scale is None else sign * scale)
    _refuse_unknown_units(where, parts)
    if "positions" not in parts or parts["positions"][0].ndim not in (2, 3):
        raise FormatError(f"{where}/{layout.keys['positions']} are no positions of atoms. Correct `keys`.")
    single = parts["positions"][0].ndim == 2
    n, m = (1, *parts["positions"][0].shape)[-3:-1] if single else parts["positions"][0].shape[:2]
    for key, (array, _) in parts.items():
        _check(f"{where}/{layout.keys[key]}", key, array, {"n": n, "m": m}, single)
    states = _account(where, block, layout, reading, report, set(parts) | none, (n, m))
    if "cell" in parts and "pbc" not in parts and reading.pbc is None and not layout.periodic:
        raise KeysError(f"{where} has a cell, and nothing says which directions are periodic. Give --pbc TTT.")
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        with naming_damage(where):
            values = {key: _slice(key, array, start, stop, single, scale) for key, (array, scale) in parts.items()}
        values["numbers"] = _numbers(where, values, m, reading.elements)
        if layout.periodic and "cell" in values and "cell" not in reading.keys:
            values["cell"] = values["cell"].swapaxes(-1, -2)  # sGDML keeps vectors in columns
        if reading.pbc is not None or (layout.periodic and "cell" in values and "pbc" not in values):
            values["pbc"] = np.broadcast_to(boundary_of(reading.pbc or "TTT"), (stop - start, 3))
        values |= {quantity: array[start:stop] for quantity, array in states.items()}
        for k in range(stop - start):
            yield {key: value[k] for key, value in values.items()}


def _account(
    where: str,
    block: Block,
    layout: Layout,
    reading: Reading,
    report: Report,
    kept: set[str],
    sizes: tuple[int, int],
) -> dict[str, NDArray[np.float64]]:
    """Charges and spins of a block; what else is not kept is counted, or asked about."""
    states = states_of(block, {q: name for q, name in reading.keys.items() if q in STATES}, sizes[0])
    claimed = {place for name in layout.keys.values() if (place := _place(block, name)) is not None}
    claimed |= {layout.family or "", *KNOWN["charge"], *KNOWN["spin"], *SAYS_UNITS}
    questions = Questions(where.rpartition(":")[0], reading.options, reading.labels)
    ask(questions, block, kept | states.keys(), claimed, sizes)
    if questions:
        raise questions.error()
    for name in set(block) - claimed:
        report.unused[name] += sizes[0]
    return states


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
    """Remove padding from a frame; the number of entries that were removed."""
    numbers = values["numbers"]
    if numbers.min(initial=1) > 0:
        return 0
    padding = is_padding(where, numbers, values["positions"])
    for key in ("numbers", "positions", "forces"):
        if key in values:
            values[key] = values[key][~padding]
    return int(padding.sum())


def _refuse_unknown_units(where: str, parts: Mapping[str, tuple[Any, float | None]]) -> None:
    unknown = [key for key, (_, scale) in parts.items() if scale is not None and np.isnan(scale)]
    if unknown:
        said = " ".join(f"--unit {q}={H5MD_UNITS[q]!r}" for q in dict.fromkeys(QUANTITY[key] for key in unknown))
        raise UnitsError(
            f"{where} gives no unit of {', '.join(unknown)}, and none is guessed. Say all, as in: {said}."
        )


def _factor(where: str, key: str, array: Any, block: Block, layout: Layout, units: Mapping[str, str]) -> float:
    """House units in one unit of an array: by the file, as given, or of its layout; NaN if none says it."""
    quantity = QUANTITY[key]
    written = next((array.attrs[a] for a in ("units", "unit") if a in getattr(array, "attrs", {})), None)
    if "r_unit" in block and "e_unit" in block:
        length, energy = str(block["r_unit"]), str(block["e_unit"])
        written = {"positions": length, "energy": energy, "forces": f"{energy}/{length}"}.get(quantity)
    written = written.decode() if isinstance(written, bytes) else written
    name = written or units.get(quantity) or layout.units.get(quantity)
    if name is None:
        return float("nan")
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
        volume = atoms.get_volume() if has_volume(atoms.pbc, atoms.cell.array) else np.nan
        if np.isfinite(volume):
            values["stress"] = -values["virial"] / volume
    labels = {}
    for key in ("energy", "forces", "stress"):
        if key in values and not (nan_is_missing and np.isnan(values[key]).all()):
            labels[key] = float(values[key].item()) if key == "energy" else values[key]
    if labels:
        atoms.calc = SinglePointCalculator(atoms, **labels)
    if family is not None:
        atoms.info["group"] = family
    atoms.info |= {quantity: float(values[quantity]) for quantity in STATES if quantity in values}
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
