"""Several H5MD files as one sequence of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Frame
from mlpot.data.h5md.read import Reader


class SetReader:
    """Several H5MD files as one sequence of frames: all of the first file, then all of the second, and so on.

    Args:
        paths: of the files.

    Raises:
        FileNotFoundError, FormatError, UnitsError: as `Reader`.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.readers: list[Reader] = []
        try:
            for path in paths:
                self.readers.append(Reader(path))
        except BaseException:
            self.close()
            raise
        self.sizes = np.array([len(reader) for reader in self.readers], dtype=np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """(n_frames,) number of atoms of each frame."""
        return np.concatenate([reader.n_atoms for reader in self.readers])

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def columns(self, indices: Sequence[int] | NDArray[np.integer]) -> list[Frame]:
        """The frames with these numbers in the set, in their order.

        Raises:
            LabelError, FormatError: as `Reader.columns`, with the number of the frame in its file.
        """
        if len(self.readers) == 1:
            return self.readers[0].columns(indices)
        chosen = np.asarray(indices, dtype=np.int64)
        which = np.searchsorted(self._starts, chosen, side="right") - 1
        frames: list[Frame | None] = [None] * len(chosen)
        for k in np.unique(which):
            mine = np.flatnonzero(which == k)
            for place, frame in zip(mine, self.readers[k].columns(chosen[mine] - self._starts[k]), strict=True):
                frames[place] = frame
        return [frame for frame in frames if frame is not None]

    def close(self) -> None:
        """Close the files."""
        for reader in self.readers:
            reader.close()

    def __enter__(self) -> SetReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
