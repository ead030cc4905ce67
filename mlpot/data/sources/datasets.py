"""Public data sets in npz and HDF5, in the layouts of their authors, read in blocks of conformations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from numpy.typing import NDArray

from mlpot.data.elements import Elements, ask_for_types, is_padding, numbers_of_text
from mlpot.data.errors import FormatError, KeysError, LabelError, UnitsError
from mlpot.data.frame import VOIGT
from mlpot.data.h5md.safe_hdf5 import naming_damage
from mlpot.data.sources.blocks import Block, laid_out, place_of
from mlpot.data.sources.consistency import check_agreement
from mlpot.data.sources.interpret import SIX_NUMBERS
from mlpot.data.sources.layouts import LAYOUTS, Layout
from mlpot.data.sources.leftovers import ask, states_of
from mlpot.data.sources.names import KNOWN, NONE, Questions, example_unit
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO, has_volume
from mlpot.data.unit_names import agreed_factor, factor

BLOCK = 256  # conformations read at once

SHAPES = {  # of n conformations of m atoms
    "numbers": ("m", "nm"),
    "positions": ("nm3",),
    "energy": ("n", "n1"),
    "forces": ("nm3",),
    "stress": ("n33", "n6"),
    "virial": ("n33",),
    "cell": ("33", "n33", "3", "n3", "6", "n6"),  # vectors; lengths; lengths and angles
    "pbc": ("3", "n3"),
    "charge": ("", "n", "n1"),
    "spin": ("", "n", "n1"),
}
STATES = ("charge", "spin")
SAYS_UNITS = ("r_unit", "e_unit")
LAYOUT_TAKEN = "taken for the layout {0} by its names, in {1} where the file says no units; --unit says others"
QUANTITY = {key: key for key in ("positions", "energy", "forces", "stress")}
QUANTITY |= {"cell": "positions", "virial": "energy"}  # whose unit they are in
LENGTHS = re.compile(r"len|size|dim|abc", re.IGNORECASE)  # names of three lengths of each of three frames


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
    for where, block, layout in laid_out(path, kind if kind in LAYOUTS else None, keys, reading, report):
        family = _family(where, block, layout.family)
        for values in _frames(where, block, layout, reading, report):
            k = next(frame)
            if layout.name and layout.units.keys() - reading.units.keys():
                report.note(LAYOUT_TAKEN.format(layout.name, ", ".join(dict.fromkeys(layout.units.values()))), k)
            if padded := _without_padding(f"{where}, frame {k}", values):
                report.note(f"{padded} entries of number 0 or -1 are padding and no atoms", k)
            if np.shape(values.get("stress", ())) == (6,):
                report.note(SIX_NUMBERS.format(layout.keys["stress"]), k)
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


def _frames(
    where: str, block: Block, layout: Layout, reading: Reading, report: Report
) -> Iterator[dict[str, Any]]:
    """The values of each conformation of one block, in house units."""
    parts, none = {}, {quantity for quantity, name in reading.keys.items() if name == NONE}
    with naming_damage(where):
        for key, name in layout.keys.items():
            if key in none or key in STATES:
                continue
            place = place_of(block, name)
            array = None if place is None or _has_no_weight(block, name) else block[place]
            if array is not None and (key == "numbers" or not _is_none(array)):
                sign = -1.0 if name.startswith("-") else 1.0
                scale = None if key not in QUANTITY else _factor(where, key, array, block, layout, reading)
                parts[key] = (array, None if scale is None else sign * scale)
                report.scales |= {} if scale is None else {key: scale}
        if angles := _angles(block, parts):
            parts["cell"] = np.concatenate([parts["cell"][0][()], block[angles][()]], axis=-1), parts["cell"][1]
    _refuse_unknown_units(where, parts, layout)
    if "positions" not in parts or parts["positions"][0].ndim not in (2, 3):
        raise FormatError(f"{where}/{layout.keys['positions']} are no positions of atoms. Correct --key.")
    single = parts["positions"][0].ndim == 2
    n, m = (1, *parts["positions"][0].shape)[-3:-1] if single else parts["positions"][0].shape[:2]
    for key, (array, _) in parts.items():
        _check(f"{where}/{layout.keys[key]}", key, array, {"n": n, "m": m}, single)
    states = _account(where, block, layout, reading, report, set(parts) | none, (n, m), angles)
    if "cell" in parts and "pbc" not in parts and reading.pbc is None and not layout.periodic:
        raise KeysError(f"{where} has a cell, and nothing says which directions are periodic. Give --pbc TTT.")
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        with naming_damage(where):
            values = {key: _slice(key, array, start, stop, single, scale) for key, (array, scale) in parts.items()}
            if "cell" in parts:
                values["cell"] = _vectors(layout.keys["cell"], *parts["cell"], 0 if single else n, start, stop)
        if "type" in layout.keys.get("numbers", "") and reading.elements is None:
            _refuse_types(where, layout.keys["numbers"], values["numbers"])
        values["numbers"] = _numbers(where, values, m, reading.elements)
        if layout.periodic and "cell" in values and "cell" not in reading.keys:
            values["cell"] = values["cell"].swapaxes(-1, -2)  # sGDML keeps vectors in columns
        if reading.pbc is not None or (layout.periodic and "cell" in values and "pbc" not in values):
            values["pbc"] = np.broadcast_to(boundary_of(reading.pbc or "TTT"), (stop - start, 3))
        values |= {quantity: array[start:stop] for quantity, array in states.items()}
        for k in range(stop - start):
            yield {key: value[k] for key, value in values.items()}


def _angles(block: Block, parts: Mapping[str, tuple[Any, float | None]]) -> str | None:
    """The name of the angles (degrees) of cells of which three lengths are given."""
    if "cell" not in parts or parts["cell"][0].shape[-1:] != (3,):
        return None
    lengths = parts["cell"][0]
    return next((n for n, array in block.items() if "angle" in n.lower() and array.shape == lengths.shape), None)


def _account(
    where: str,
    block: Block,
    layout: Layout,
    reading: Reading,
    report: Report,
    kept: set[str],
    sizes: tuple[int, int],
    angles: str | None,
) -> dict[str, NDArray[np.float64]]:
    """Charges and spins of a block; what else is not kept is counted, or asked about."""
    states = states_of(block, {q: name for q, name in reading.keys.items() if q in STATES}, sizes[0])
    claimed = {place for name in layout.keys.values() if (place := place_of(block, name)) is not None}
    claimed |= {layout.family or "", *KNOWN["charge"], *KNOWN["spin"], *SAYS_UNITS, angles or ""}
    questions = Questions(where.rpartition(":")[0], reading.options, reading.labels)
    ask(questions, block, kept | states.keys(), claimed, sizes)
    if "cell" in questions.asked and "pbc" not in kept and reading.pbc is None:
        questions.unknown_boundary = 0
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
        raise LabelError(f"{where} has numbers of atoms that are not whole. Correct the file or --key.")
    numbers = numbers.astype(np.int64)
    return numbers if elements is None else elements.of_types(where, numbers)


def _refuse_types(where: str, name: str, numbers: NDArray[Any]) -> None:
    """Ask which elements are meant where integers are types by their name."""
    if numbers.dtype.kind in "iuf":
        ask_for_types(where, np.unique(numbers).tolist(), f"They stand in {name!r}. ")


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


def _refuse_unknown_units(where: str, parts: Mapping[str, tuple[Any, float | None]], layout: Layout) -> None:
    unknown = [key for key, (_, scale) in parts.items() if scale is not None and np.isnan(scale)]
    if unknown:
        said = " ".join(f"--unit {key}={example_unit(key, layout.keys[key])!r}" for key in unknown)
        raise UnitsError(
            f"{where} gives no unit of {', '.join(unknown)}, and none is guessed. Say all, as in: {said}."
        )


def _factor(where: str, key: str, array: Any, block: Block, layout: Layout, reading: Reading) -> float:
    """House units in one unit of an array: by the file, as given, or of its layout; NaN if none says it."""
    quantity, units = QUANTITY[key], reading.units
    written = next((array.attrs[a] for a in ("units", "unit") if a in getattr(array, "attrs", {})), None)
    if "r_unit" in block and "e_unit" in block:
        length, energy = (_text(block[name]) for name in SAYS_UNITS)
        written = {"positions": length, "energy": energy, "forces": f"{energy}/{length}"}.get(quantity)
    written = _text(written) if written is not None else None
    value = agreed_factor(where, quantity, written, units.get(key, units.get(quantity)))
    if value is None and key not in reading.keys and quantity in layout.units:
        value = factor(quantity, layout.units[quantity])
    return float("nan") if value is None else value


def _text(value: Any) -> str:
    """A text that a file keeps as text or bytes, alone or in an array."""
    word = np.ravel(value[()] if isinstance(value, h5py.Dataset) else value)[0]
    return word.decode() if isinstance(word, bytes) else str(word)


def _is_none(array: Any) -> bool:
    """Whether a label is the word None, as MACE writes what there is not."""
    return array.dtype.kind in "OSU" and array.size > 0 and _text(array) == "None"


def _check(where: str, key: str, array: Any, sizes: Mapping[str, int], single: bool) -> None:
    shapes = [tuple(sizes[s] if s in sizes else int(s) for s in shape) for shape in SHAPES[key]]
    shape = (1, *array.shape) if single and key != "numbers" else array.shape
    kinds, what = ("iufOSU", "integers or symbols") if key == "numbers" else ("iufb", "float64 or float32")
    if shape not in shapes or array.dtype.kind not in kinds or array.dtype == np.float16:
        raise FormatError(
            f"{where} has shape {array.shape} of {array.dtype}, expected {' or '.join(map(str, shapes))} "
            f"of {what}. Correct the file or --key."
        )


def _slice(key: str, array: Any, start: int, stop: int, single: bool, scale: float | None) -> NDArray[Any]:
    """Values of the conformations from start to stop, in house units."""
    shared = array.ndim == len(SHAPES[key][0]) and not SHAPES[key][0].startswith("n")
    whole = single or shared
    values = np.broadcast_to(array[()], (stop - start, *array.shape)) if whole else array[start:stop]
    return values if scale is None else np.asarray(values, dtype=np.float64) * scale


def _vectors(name: str, array: Any, scale: float | None, n: int, start: int, stop: int) -> NDArray[np.float64]:
    """(stop - start, 3, 3) cells in house units, of vectors, lengths, or lengths and angles of one or n frames."""
    lengths = array.ndim == 2 and (array.shape != (3, 3) or LENGTHS.search(name))
    each = array.ndim == 3 or (lengths and array.shape[0] == n)
    values = np.asarray(array[start:stop] if each and n else array[()], dtype=np.float64)
    rows = (
        values.reshape(-1, 3, 3) if array.ndim == 3 or not (lengths or array.ndim == 1) else np.atleast_2d(values)
    )
    cells = np.array([Cell.new(row).array for row in rows]) * (scale or 1.0)
    return np.broadcast_to(cells, (stop - start, 3, 3))


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
