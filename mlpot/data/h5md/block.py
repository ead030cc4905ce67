"""Frames of equal size and boundary, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    @property
    def n_bytes(self) -> int:
        """Of all columns."""
        return sum(column.nbytes for block in self.blocks for column in block.columns.values())


def joined(parts: Sequence[Series]) -> Series:
    """Series behind one another as one, with as few blocks as there can be."""
    alike: dict[tuple[object, ...], list[Block]] = {}
    first = 0
    for part in parts:
        for block in part.blocks:
            kind = (block.columns["position"].shape[1], *block.pbc.tolist(), *sorted(block.columns))
            alike.setdefault(kind, []).append(replace(block, places=first + block.places))
        first += len(part)
    return Series([_one(blocks) for blocks in alike.values()])


def _one(blocks: list[Block]) -> Block:
    """Blocks of equal size, boundary and columns as one."""
    if len(blocks) == 1:
        return blocks[0]
    keys = blocks[0].columns
    return Block(
        np.concatenate([block.places for block in blocks]),
        {key: np.concatenate([block.columns[key] for block in blocks]) for key in keys},
        blocks[0].pbc,
        [family for block in blocks for family in block.families],
    )
