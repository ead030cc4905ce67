"""A trajectory file that grows while a simulation runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import h5py
from ase import Atoms

from mlpot.data.errors import FormatError
from mlpot.data.frame import results_of
from mlpot.data.h5md.journal import JournaledFile
from mlpot.data.h5md.layout import CARD, INDEX
from mlpot.data.h5md.safe_hdf5 import check, naming_damage, walk
from mlpot.data.h5md.write import extend, found

VERSIONS = ("v110", "v110")  # of HDF5, the oldest and newest that must read the file
KEPT = ("group", "charge", "spin")  # of what the structure is, besides its atoms
OF_RUN = {
    "run sha256": "it began from other atoms, velocities or settings",
    "model sha256": "another model made it",
    "seed": "it has another seed",
}
"""Entries of the card that are those of one run alone, and what it means if they differ."""
BLOCK = 2**23  # bytes of frames held at most between two commits


class TrajectoryWriter:
    """An H5MD file to which frames are added; on disk it goes from commit to commit, and others may read it.

    All frames have the same atoms, boundary and labels as the first.

    Args:
        path: the file.
        card: how the trajectory was made; what of `OF_RUN` stands in it must stand in a file that is kept.
        keep: frames to keep of the file that is there, which loses the others; None for a new file.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and is neither to be kept nor replaced.
        FormatError: the file that is there has fewer frames, is of another run, or is damaged.
        StorageError: it cannot be written.
    """

    def __init__(
        self, path: str | Path, *, card: Mapping[str, str], keep: int | None = None, overwrite: bool = False
    ):
        path = Path(path)
        if keep is None and path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists. Choose another output, or ask to overwrite it.")
        if keep and not path.exists():
            raise FormatError(f"{path} is gone, with {keep} frames. Restore it, or start the run anew.")
        self._file = JournaledFile(path, new=not keep)
        self._block: list[Atoms] = []
        self._held = 0  # bytes
        self.n_frames = keep or 0
        try:
            if keep:
                with naming_damage(str(path)), h5py.File(self._handle, "r+", libver=VERSIONS) as file:
                    check(file)
                    _check_run(str(path), file, card)
                    _cut(str(path), file, keep)
            else:
                # Space that a rewritten chunk frees is remembered from one commit to the next.
                with h5py.File(self._handle, "w", libver=VERSIONS, fs_strategy="fsm", fs_persist=True) as file:
                    found(file, card)
            self._file.commit()
        except BaseException:
            self._file.release()
            raise

    @property
    def _handle(self) -> BinaryIO:
        return cast("BinaryIO", self._file)  # it has what HDF5 needs of one

    def add(self, atoms: Atoms, *, step: int, time: float) -> None:
        """Add a structure as it is now, with momenta, masses, constraints and results; time in fs."""
        frame = atoms.copy()
        frame.info = {key: atoms.info[key] for key in KEPT if key in atoms.info} | {"step": step, "time": time}
        frame.set_masses(atoms.get_masses())  # as they were used, for those who read without ASE
        if atoms.calc is not None:
            frame.calc = results_of(frame, atoms.calc.results)
        self._block.append(frame)
        self.n_frames += 1
        self._held += 110 * len(atoms) + 4096
        if self._held > BLOCK:
            self.commit()

    def commit(self) -> None:
        """Have every frame added so far on disk.

        Raises:
            LabelError: a value is not finite.
            StorageError: the frames cannot be written; those committed before are whole.
        """
        if self._block:
            block, self._block, self._held = self._block, [], 0
            with h5py.File(self._handle, "r+", libver=VERSIONS) as file:
                extend(file, block)
            self._file.commit()

    def close(self) -> None:
        """Commit and close the file."""
        try:
            self.commit()
        finally:
            self._file.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_run(name: str, file: h5py.File, card: Mapping[str, str]) -> None:
    """Refuse the file of another run; one of an earlier version says less of its run."""
    there = dict(file[CARD].attrs) if CARD in file else {}
    for key, meaning in OF_RUN.items():
        if key in there and key in card and str(there[key]) != card[key]:
            raise FormatError(
                f"{name} is the trajectory of another run: {meaning}. Restore that of this run, or start anew."
            )


def _cut(name: str, file: h5py.File, n_frames: int) -> None:
    """Keep the first frames of a file of a single particles group."""
    there = 0 if INDEX not in file else file[INDEX].shape[0]
    if there < n_frames:
        raise FormatError(
            f"{name} has {there} frames, and {n_frames} were written. Restore it, or start the run anew."
        )
    if there > n_frames:
        for place, dataset in walk(file):
            if place.startswith(("/particles", "/observables", f"/{INDEX}")):
                dataset.resize(n_frames, axis=0)
