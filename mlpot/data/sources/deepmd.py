"""Folders of DeePMD-kit: one system a folder, its frames in arrays, in eV and Å."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.elements import Elements, ask_for_types, numbers_of_text
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.h5md.safe_hdf5 import naming_damage
from mlpot.data.safe_npz import map_array
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO

MOST_SYSTEMS = 100_000
ARRAYS = ("coord", "energy", "force", "virial", "box", "real_atom_types")


def is_deepmd(path: Path) -> bool:
    """Whether a folder is a system of DeePMD-kit, or holds some."""
    return path.is_dir() and next(_systems(path), None) is not None


def read_deepmd(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """The frames of a system, or of all systems in a folder one after another; their family is the system.

    Raises:
        FormatError: an array is damaged, or has not the size that the system has.
        KeysError: the system tells types alone.
    """
    if reading.keys or reading.units:
        raise KeysError(
            f"{path} is of DeePMD-kit, which names its arrays itself, in eV and Å. Leave out --key, --unit."
        )
    frame = count()
    for system in _systems(path):
        name = str(system.relative_to(path)) if system != path else None
        types = np.atleast_1d(_text(system / "type.raw", int))
        symbols = _text(system / "type_map.raw", str) if (system / "type_map.raw").is_file() else None
        for where, arrays in _sets(system, len(types)):
            others = {file.stem for file in Path(where).glob("*.npy")} - set(ARRAYS)
            report.unused.update(dict.fromkeys(others, len(arrays["coord"])))
            periodic = "box" in arrays and not (system / "nopbc").exists()
            pbc = boundary_of(reading.pbc) if reading.pbc else np.full(3, periodic)
            for k in range(len(arrays["coord"])):
                values = {key: array[k] for key, array in arrays.items()}
                own = values.get("real_atom_types", types).astype(np.int64)
                numbers = np.where(own < 0, 0, _numbers(where, own[own >= 0], own, symbols, reading.elements))
                number = next(frame)
                if "virial" in values and "box" not in values:
                    report.note(NO_VOLUME if np.any(values["virial"]) else NO_VOLUME_ZERO, number)
                yield number, _atoms(values, numbers, pbc, name)


def _systems(path: Path) -> Iterator[Path]:
    """Folders with types of atoms, in the order of their names."""
    for k, found in enumerate(sorted(path.rglob("type.raw"))):
        if k >= MOST_SYSTEMS:
            raise FormatError(f"{path} holds more than {MOST_SYSTEMS} systems. Convert parts of it.")
        yield found.parent


def _sets(system: Path, n_atoms: int) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """The arrays of each set: of frames in folders set.*, or as text in the system's own folder."""
    sets = sorted(p for p in system.glob("set.*") if p.is_dir())
    if not sets and not (system / "coord.raw").is_file():
        raise FormatError(f"{system} has neither folders set.* nor coord.raw. Give the folder of a whole system.")
    shapes = {"energy": (), "virial": (3, 3), "box": (3, 3), "real_atom_types": (n_atoms,)}
    for folder in sets or [system]:
        files = {name: folder / (f"{name}.npy" if sets else f"{name}.raw") for name in ARRAYS}
        arrays = {n: _array(file, shapes.get(n, (n_atoms, 3))) for n, file in files.items() if file.is_file()}
        if "coord" not in arrays:
            raise FormatError(f"{folder} has no coord.npy. Restore it, or remove the folder.")
        n_frames = len(arrays["coord"])
        if odd := [name for name, array in arrays.items() if len(array) != n_frames]:
            raise FormatError(
                f"{folder}: {odd[0]} has {len(arrays[odd[0]])} frames, coord {n_frames}. Remake the set."
            )
        yield str(folder), arrays


def _array(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of a set, frames first, of this shape each; nothing is unpickled, or read before it is needed."""
    if file.suffix == ".npy":
        array = map_array(file)
    else:
        with naming_damage(str(file)):
            array = np.loadtxt(file, ndmin=2)
    size = math.prod(shape)
    frames = array.size // size if array.ndim < 2 else array.shape[0]
    if array.dtype.kind not in "iuf" or array.dtype == np.float16 or frames * size != array.size:
        raise FormatError(
            f"{file} has shape {array.shape} of {array.dtype}, expected (frames, {size}) of float64 or float32. "
            "It is of another system, or of half precision."
        )
    return array.reshape(frames, *shape)


def _text(file: Path, kind: type) -> NDArray[Any]:
    with naming_damage(str(file)):
        return np.loadtxt(file, dtype=kind, ndmin=1)


def _numbers(
    where: str, present: NDArray[Any], types: NDArray[Any], symbols: NDArray[Any] | None, elements: Elements | None
) -> NDArray[np.int64]:
    """Atomic numbers of the types of one frame, whatever for its padding."""
    safe = np.where(types < 0, present.min(initial=0), types)
    if elements is not None:
        return elements.of_types(where, safe)
    if symbols is None:
        ask_for_types(where, np.unique(present).tolist(), "There is no type_map.raw. ")
    if present.max(initial=0) >= len(symbols):
        raise FormatError(f"{where} has atoms of type {present.max()}, but type_map.raw names {len(symbols)}.")
    return numbers_of_text(f"{where}, type_map.raw", symbols)[safe]


def _atoms(
    values: Mapping[str, NDArray[Any]], numbers: NDArray[np.int64], pbc: NDArray[np.bool_], family: str | None
) -> Atoms:
    there = numbers > 0
    atoms = Atoms(numbers[there], np.asarray(values["coord"], dtype=float)[there], cell=values.get("box"), pbc=pbc)
    labels: dict[str, Any] = {}
    if "energy" in values:
        labels["energy"] = float(values["energy"])
    if "force" in values:
        labels["forces"] = np.asarray(values["force"], dtype=float)[there]
    if "virial" in values and atoms.cell.rank == 3:
        stress = -np.asarray(values["virial"], dtype=float) / atoms.get_volume()
        labels["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]
    if labels:
        atoms.calc = SinglePointCalculator(atoms, **labels)
    if family is not None:
        atoms.info["group"] = family
    return atoms
