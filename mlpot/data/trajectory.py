"""A trajectory file that grows while a simulation runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import h5py
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data.h5md_write import extend, found

BLOCK = 64  # frames written at once


class TrajectoryWriter:
    """An H5MD file held open, to which frames are added in blocks; others may read it meanwhile.

    All frames have the same atoms, boundary and labels as the first.

    Args:
        path: the new file.
        card: how the trajectory was made.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: the file exists and is not to be replaced.
    """

    def __init__(self, path: str | Path, *, card: Mapping[str, str], overwrite: bool = False):
        if Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists. Choose another output, or ask to overwrite it.")
        self._file = h5py.File(path, "w", libver=("v110", "v110"))
        found(self._file, card)
        self._block: list[Atoms] = []

    def add(self, atoms: Atoms, *, step: int, time: float) -> None:
        """Add a structure as it is now, with its momenta and what its calculator has for it; time in fs."""
        frame = atoms.copy()
        frame.info = {"step": step, "time": time}
        if atoms.calc is not None:
            frame.calc = SinglePointCalculator(frame, **atoms.calc.results)
        self._block.append(frame)
        if len(self._block) >= BLOCK or not self._file.swmr_mode:
            self.flush()

    def flush(self) -> None:
        """Hand everything added so far to the system.

        Raises:
            LabelError: a value is not finite; the frames before it are in the file.
        """
        block, self._block = self._block, []
        extend(self._file, block)
        if block and not self._file.swmr_mode:  # from here on a kill leaves a file that opens
            self._file.swmr_mode = True
        self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        try:
            self.flush()
        finally:
            self._file.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
