"""Read frames of H5MD files, of mlpot or other programs: by slices, with units converted and values checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from mlpot.data import stress_labels
from mlpot.data.elements import Elements
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.frame import Frame, atoms_of, frame_of_columns
from mlpot.data.h5md.block import Block, Series
from mlpot.data.h5md.foreign import KEYS, particles_of, unread
from mlpot.data.h5md.layout import CARD, FAMILIES, GROUPS, INDEX, VERSION
from mlpot.data.h5md.particles import CREATORS, Particles
from mlpot.data.h5md.safe_hdf5 import conversion, naming_damage, open_checked
from mlpot.data.sources.names import NONE, Questions, looks_like

BLOCK = 256  # frames read at once


class Reader:
    """An H5MD file as a sequence of frames; only what is asked for is read.

    Args:
        path: the file.
        units: units of quantities ("positions", "energy", "forces", ...) for which the file gives none.
        numbers: (n_atoms,) atomic numbers, for files that carry no species (MDAnalysis writes none).
        elements: the same in other words, or the elements of types (LAMMPS and others write those).
        keys: names of `foreign.KEYS` in a file of another program.
        said: options of the command line that say all this, for questions.
        labels: whether labels are wanted.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: not H5MD 1.0 or 1.1, damaged, empty, reaching outside itself, or with shapes that disagree.
        UnitsError: a unit is missing, unknown or of the wrong dimension.
        KeysError: the elements are not said, or are not those of so many atoms.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        units: Mapping[str, str] | None = None,
        numbers: ArrayLike | None = None,
        elements: Elements | None = None,
        keys: Mapping[str, str] | None = None,
        said: tuple[str, ...] = (),
        labels: bool = True,
    ):
        self.path = Path(path)
        self.of_stresses: list[tuple[int, str]] = []
        """Records, of those read, whose stress was not taken as it is, and why."""
        self._file = open_checked(path)
        try:
            with naming_damage(str(path)):
                self._open(units or {}, elements if numbers is None else Elements(numbers=numbers), keys or {})
                self._ask(Questions(str(path), said, labels), keys or {})
        except BaseException:
            self._file.close()
            raise

    def _open(self, units: Mapping[str, str], elements: Elements | None, keys: Mapping[str, str]) -> None:
        version = self._file["h5md"].attrs.get("version") if "h5md" in self._file else None
        if version is None or "particles" not in self._file:
            raise FormatError(
                f"{self.path} is HDF5 but not H5MD: it lacks /h5md or /particles. Convert it: "
                f"{conversion(self.path)}"
            )
        if np.shape(version) != (2,) or tuple(version) not in (VERSION, (1, 0)):
            raise FormatError(f"{self.path} is H5MD version {version}, expected [1 1] or [1 0]. Convert it first.")
        self.is_ours = ours = INDEX in self._file
        if unknown := sorted(keys if ours else keys.keys() - KEYS):
            hint = " Elements are named by --elements: Si8 in the order of the atoms, or H,O of types 1 and 2."
            raise KeysError(
                f"{self.path} is H5MD, which names its quantities itself: {unknown[0]} cannot be named. Leave out "
                f"--key {unknown[0]}.{hint if 'numbers' in unknown or 'species' in unknown else ''}"
            )
        names = (
            [n.decode() for n in self._file[GROUPS][:]]
            if ours
            else particles_of(self._file, keys.get("particles"), CREATORS)
        )
        self._groups = [Particles(self._file, name, units, elements, keys) for name in names]
        self.scales = {quantity: scale for group in self._groups for quantity, scale in group.scales.items()}
        """House units in one unit of the file, by quantity."""
        for key in keys.keys() - {"particles"}:
            if keys[key] != NONE and not any(key in group.columns for group in self._groups):
                raise KeysError(
                    f"{self.path} has no {keys[key]!r} that is written for each frame. Correct --key {key}, as in "
                    f"--key {key}=observables/NAME."
                )
        used = {place for group in self._groups for place in group.used}
        self.unread: list[str] = [] if ours else unread(self._file, used)
        """What another program wrote beside what is read."""
        self._families = [n.decode() for n in self._file[FAMILIES][:]] if ours else []
        self._n_frames = self._indexed() if ours else sum(len(g) for g in self._groups)
        if self._n_frames == 0:
            raise FormatError(f"{self.path} has no frames. Remake it.")
        # Rows that the index does not have are from a block whose writer was killed.
        if self._n_frames > sum(len(g) for g in self._groups):
            raise FormatError(f"{self.path}: the index names more frames than there are. Restore or remake it.")

    def _ask(self, questions: Questions, keys: Mapping[str, str]) -> None:
        """Ask whether what nobody reads is a label that is not there."""
        for quantity in ("energy", "forces", "stress") if questions.labels else ():
            like = [name for name in self.unread if looks_like(quantity, name.rpartition("/")[2])]
            if like and quantity not in keys and not any(quantity in group.columns for group in self._groups):
                questions.ask(quantity, like, 0)
                first = self._file.get(f"{like[0]}/value", self._file[like[0]])
                if "unit" in first.attrs:
                    questions.likely_units[quantity] = ""
        if questions:
            raise questions.error()

    def _indexed(self) -> int:
        """Frames that the index names; of a file that is being written, those before one that lacks a row."""
        if not self._file.swmr_mode:
            return int(self._file[INDEX].shape[0])
        index = self._file[INDEX][:]
        sizes = np.array([len(group) for group in self._groups])
        late = index[:, 1] >= sizes[index[:, 0].clip(0, len(sizes) - 1)]
        return int(late.argmax()) if late.any() else len(index)

    @cached_property
    def card(self) -> dict[str, str]:
        """The description of the data by their authors."""
        return {k: str(v) for k, v in self._file[CARD].attrs.items()} if CARD in self._file else {}

    @cached_property
    def _index(self) -> NDArray[np.int32]:
        """(n_frames, 3): particles group, row in it, family."""
        if INDEX not in self._file:
            rows = [np.arange(len(group)) for group in self._groups]
            which = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
            return np.stack([which, np.concatenate(rows), np.full(len(which), -1)], axis=1).astype(np.int32)
        with naming_damage(f"{self.path}:{INDEX}"):
            index: NDArray[np.int32] = self._file[INDEX][: self._n_frames]
        sizes = np.array([len(group) for group in self._groups])
        valid = (index >= (0, 0, -1)).all() and (index[:, 0] < len(sizes)).all()
        if not valid or (index[:, 1] >= sizes[index[:, 0]]).any() or (index[:, 2] >= len(self._families)).any():
            raise FormatError(f"{self.path}: the index points to frames that are not there. Restore or remake it.")
        return index

    @cached_property
    def n_atoms(self) -> NDArray[np.int64]:
        """(n_frames,) number of atoms of each frame."""
        sizes = np.empty(len(self), dtype=np.int64)
        for k, group in enumerate(self._groups):
            mine = self._index[:, 0] == k
            sizes[mine] = group.sizes[self._index[mine, 1]]
        return sizes

    def __len__(self) -> int:
        return self._n_frames

    def __getitem__(self, k: int) -> Atoms:
        if not -len(self) <= k < len(self):
            raise IndexError(f"Frame {k} of {self.path}, which has {len(self)}.")
        return next(self._atoms([k % len(self)]))

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Atoms]:
        """The frames of a slice as structures, streamed."""
        return self._atoms(range(*slice(start, stop, step).indices(len(self))))

    def columns(self, indices: Sequence[int] | NDArray[np.integer]) -> list[Frame]:
        """The frames with these indices, in their order; this is how a training reads.

        Raises:
            LabelError: a label is not finite; FormatError: the file is damaged there.
        """
        records = self._records(np.asarray(indices, dtype=np.int64), motion=False)
        for k, (columns, pbc, _) in zip(indices, records, strict=True):
            if "stress" in columns and (what := stress_labels.told(columns["stress"], pbc, columns["edges"])):
                self.of_stresses.append((int(k), what))
        return [frame_of_columns(*record) for record in records]

    def _atoms(self, indices: Sequence[int]) -> Iterator[Atoms]:
        for start in range(0, len(indices), BLOCK):
            for record in self._records(np.array(indices[start : start + BLOCK]), motion=True):
                yield atoms_of(*record)

    def _records(
        self, indices: NDArray[np.int64], *, motion: bool
    ) -> list[tuple[dict[str, Any], NDArray[np.bool_], str | None]]:
        """Columns, boundary and family of each frame, read by ascending slices of each particles group."""
        records: list[Any] = [None] * len(indices)
        for group, mine, rows, families in self._by_group(indices):
            found = self._groups[group].rows(rows, indices[mine], motion=motion)
            for place, family, (columns, pbc) in zip(mine, families, found, strict=True):
                records[place] = (columns, pbc, family)
        return records

    def series(self, indices: Sequence[int] | NDArray[np.integer]) -> Series | None:
        """The frames with these indices with all that they carry, group by group, column by column.

        None if one file group holds structures of different sizes or boundaries. Errors are those of `columns`.
        """
        chosen, blocks = np.asarray(indices, dtype=np.int64), []
        for group, mine, rows, families in self._by_group(chosen):
            found = self._groups[group].block(rows, chosen[mine])
            if found is None or (found[1] != found[1][0]).any():
                return None
            blocks.append(Block(mine, found[0], found[1][0], families))
        return Series(blocks)

    def _by_group(
        self, indices: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int32], list[str | None]]]:
        """Of each particles group that frames are in: their places among the indices, rows, and families."""
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"Frames {indices.min()} to {indices.max()} of {self.path}, which has {len(self)}.")
        which, rows, families = self._index[indices].T
        for k in np.unique(which):
            mine = np.flatnonzero(which == k)
            mine = mine[np.argsort(rows[mine], kind="stable")]
            yield int(k), mine, rows[mine], [self._families[f] if f >= 0 else None for f in families[mine]]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def content_hash(*paths: str | Path) -> str:
    """SHA-256 of the structures and labels of files in their order, whatever their packing and number."""
    digest = hashlib.sha256()
    for path in paths:
        with Reader(path) as reader:
            for start in range(0, len(reader), BLOCK):
                for frame in reader.columns(range(start, min(start + BLOCK, len(reader)))):
                    add_to_hash(digest, frame)
    return digest.hexdigest()


def add_to_hash(digest: hashlib._Hash, frame: Frame) -> None:
    """Take one more frame into the hash of a set."""
    for array in (frame.numbers, frame.positions, frame.cell, frame.pbc, frame.forces, frame.stress):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(np.float64(frame.energy).tobytes())
    if frame.weight != 1.0:
        digest.update(np.float64(frame.weight).tobytes())
