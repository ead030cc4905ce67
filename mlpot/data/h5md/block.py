"""Frames of equal size and boundary, column by column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Columns


@dataclass(frozen=True)
class Block:
    """Frames of one particles group, out of a series of frames."""

    places: NDArray[np.int64]  # (n,) in the series
    columns: Columns  # (n, ...) under the names of `layout.COLUMNS`; NaN where a frame lacks a label
    pbc: NDArray[np.bool_]  # (3,)
    families: list[str | None]  # n

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Series:
    """Frames in their order, which their blocks know."""

    blocks: list[Block]

    def __len__(self) -> int:
        return sum(map(len, self.blocks))
