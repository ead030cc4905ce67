"""Recover every whole frame of a damaged file of mlpot into a new file.

Frames lie in small chunks, each with a checksum, so a wrong bit costs the frames of one chunk. First, `repair`
corrects metadata and pads what was cut off.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.atomic_files import check_place, temporary_folder
from mlpot.data.errors import FormatError
from mlpot.data.frame import atoms_of
from mlpot.data.h5md.journal import JournaledFile
from mlpot.data.h5md.layout import CARD, COLUMNS, FAMILIES, GROUPS, INDEX
from mlpot.data.h5md.repair import repair
from mlpot.data.h5md.safe_hdf5 import naming_damage, walk
from mlpot.data.h5md.write import write

BLOCK = 256  # rows read at once
NEEDED = ("position", "species", "edges")
CLOCKS = ("step", "time")
PATHS = {key: f"/{column.path}/value" for key, column in COLUMNS.items()}
PATHS |= {clock: f"/particles/{{}}/position/{clock}" for clock in CLOCKS}
Place = tuple[int, int, int]  # particles group, row in it, family


@dataclass
class Recovered:
    """What was recovered from a file, and what was lost."""

    n_frames: int = 0  # in the new file
    n_lost: int = 0  # that were there
    notes: list[str] = field(default_factory=list)  # what else was found


def recover(path: str | Path, destination: str | Path, *, overwrite: bool = False) -> Recovered:
    """Write every whole frame of a file that mlpot wrote, however damaged, to a new file.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the destination exists and is not to be replaced.
        FormatError: the file was not written by mlpot, is not harmless, or no frame of it is whole.
    """
    path, destination = Path(path), Path(destination)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path.")
    check_place(destination, overwrite=overwrite)
    with temporary_folder(destination) as folder:
        copy = Path(shutil.copyfile(path, folder / path.name))
        if (journal := path.with_name(f"{path.name}.journal")).exists():
            shutil.copyfile(journal, copy.with_name(journal.name))
            JournaledFile(copy).release()
        told = Recovered(notes=repair(copy))
        with naming_damage(str(path)), h5py.File(copy, "r", locking=False) as file:
            damaged = _Damaged(file, told)
            frames = damaged.frames()
            if (first := next(frames, None)) is None:
                raise FormatError(f"No frame of {path} is whole: {'; '.join(told.notes)}. Restore it from a copy.")
            write(destination, chain([first], frames), card=damaged.card(path.name), overwrite=overwrite)
    return told


class _Damaged:
    """What can be read of a damaged file."""

    def __init__(self, file: h5py.File, told: Recovered):
        self._file, self._told = file, told
        lost: list[str] = []
        self._datasets = dict(walk(file, lost))
        told.notes += [f"{name} cannot be read" for name in lost]
        named = {name.split("/")[2] for name in self._datasets if name.startswith("/particles/atoms_")}
        if not named:
            raise FormatError(f"{file.filename} holds no frames that mlpot wrote. There is nothing to recover.")
        names, whole = self._table(GROUPS)
        self._order_known = whole.all() and set(names) == named
        self._groups = [
            _Group(name, self._datasets, told) for name in (names if self._order_known else sorted(named))
        ]

    def card(self, name: str) -> dict[str, str]:
        """The card of the file, if it can be read."""
        try:
            notes = {key: str(value) for key, value in self._file[CARD].attrs.items()}
        except (OSError, RuntimeError, KeyError):
            notes = {}
            self._told.notes.append("the card is lost")
        return notes | {"recovered from": name}

    def frames(self) -> Iterator[Atoms]:
        """The whole frames, in their order."""
        families, whole = self._table(FAMILIES)
        if not whole.all():
            self._told.notes.append("some names of groups of structures are lost")
        for g, row, k in self._order():
            family = families[k] if 0 <= k < len(whole) and whole[k] else None
            atoms = self._groups[g].frame(row, family) if row >= 0 else None
            if atoms is None:
                self._told.n_lost += 1
            else:
                self._told.n_frames += 1
                yield atoms

    def _order(self) -> list[Place]:
        """Where each frame is; those that the index has lost come by their step into its gaps."""
        index, whole = self._table(INDEX)
        if not self._order_known:
            index, whole = [], np.empty(0, dtype=bool)
        order: list[Place] = [
            (g, r, f) if ok else (-1, -1, -1) for (g, r, f), ok in zip(index, whole, strict=True)
        ]
        if len(whole) and whole.all():
            return order
        self._told.notes.append("the order of some frames is lost, and their groups: they are sorted by step")
        known = {place[:2] for place in order}
        steps = ((step, g, row) for g, group in enumerate(self._groups) for row, step in enumerate(group.steps()))
        late = iter([(g, row, -1) for _, g, row in sorted(steps) if (g, row) not in known])
        return [place if ok else next(late, place) for place, ok in zip(order, whole, strict=True)] + list(late)

    def _table(self, path: str) -> tuple[list[Any], NDArray[np.bool_]]:
        """The rows of a table of ours, and which are whole."""
        if (dataset := self._datasets.get(f"/{path}")) is None:
            return [], np.empty(0, dtype=bool)
        values, whole = _read(dataset, 0, len(dataset))
        return [v.decode() if isinstance(v, bytes) else v.tolist() for v in values], whole


class _Group:
    """The rows of one particles group, whose name says how many atoms and which boundary."""

    def __init__(self, name: str, datasets: dict[str, h5py.Dataset], told: Recovered):
        self._name, self._told = name, told
        self._columns = {
            key: d for key, path in PATHS.items() if (d := datasets.get(path.format(name))) is not None
        }
        lengths = [len(self._columns[key]) for key in NEEDED if key in self._columns]
        self._length = min(lengths) if len(lengths) == len(NEEDED) else 0
        self._pbc = np.array([letter == "p" for letter in (*name.split("_"), "nnn")[2]])
        self._start = 0
        self._block: dict[str, NDArray[Any]] = {}
        self._whole = np.empty(0, dtype=bool)

    def steps(self) -> list[float]:
        """The step of each row; those that are lost come last."""
        if "step" not in self._columns:
            return [np.inf] * self._length
        values, whole = _read(self._columns["step"], 0, self._length)
        return [float(v) if ok else np.inf for v, ok in zip(values, whole, strict=True)]

    def frame(self, row: int, family: str | None) -> Atoms | None:
        """A row as a structure, if all of it is whole."""
        if row >= self._length:
            return None
        if not self._start <= row < self._start + len(self._whole):
            self._load(row)
        k = row - self._start
        columns = {key: block[k] for key, block in self._block.items()}
        present = {key: v for key, v in columns.items() if v.dtype.kind != "f" or not np.isnan(v).all()}
        if not self._whole[k] or "position" not in present:
            return None
        return atoms_of(present, self._pbc, family)

    def _load(self, row: int) -> None:
        """Read the block that begins with a row."""
        stop = min(row + BLOCK, self._length)
        read = {key: _read(dataset, row, stop) for key, dataset in self._columns.items()}
        if not all(key in read and read[key][1].all() for key in CLOCKS):
            read = {key: block for key, block in read.items() if key not in CLOCKS}
            self._told.notes.append(f"{self._name}: steps and times of rows {row} to {stop - 1} are lost")
        self._start, self._block = row, {key: values for key, (values, _) in read.items()}
        self._whole = np.all([whole for _, whole in read.values()], axis=0)


def _read(dataset: h5py.Dataset, lo: int, hi: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows from lo to hi, and which of them are whole; the values of the others mean nothing."""
    size = dataset.chunks[0]
    with suppress(OSError, RuntimeError):
        if len(dataset) >= hi:
            return dataset[lo:hi], np.ones(hi - lo, dtype=bool)
    values, whole = np.zeros((hi - lo, *dataset.shape[1:]), dataset.dtype), np.zeros(hi - lo, dtype=bool)
    for start in range(lo - lo % size, min(hi, len(dataset)), size):
        a, b = max(start, lo), min(start + size, hi, len(dataset))
        with suppress(OSError, RuntimeError):
            values[a - lo : b - lo] = dataset[a:b]
            whole[a - lo : b - lo] = True
    return values, whole
