"""Frames of any file in blocks of equal shape, so that checks run over whole arrays and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Frame
from mlpot.data.h5md.read import BLOCK
from mlpot.data.sources.read import Source, as_source

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Frames with the same number of atoms and boundary, in the order of the file; all isolated atoms, or none."""

    index: Ints  # (n_frames,) in the file
    numbers: Ints  # (n_frames, n_atoms)
    positions: Floats  # (n_frames, n_atoms, 3) Å
    cell: Floats  # (n_frames, 3, 3) Å
    pbc: NDArray[np.bool_]  # (3,)
    energy: Floats  # (n_frames,) eV
    forces: Floats  # (n_frames, n_atoms, 3) eV/Å
    stress: Floats  # (n_frames, 3, 3) eV/Å³
    frames: list[Frame]

    @property
    def is_isolated(self) -> bool:
        """Whether the frames are isolated atoms, in the open or in a box."""
        return self.frames[0].is_isolated


def chunks(file: str | Path | Source, stride: int = 1) -> Iterator[Chunk]:
    """Every `stride`-th frame of a file of any kind, with its number in the file.

    Raises:
        DataError: as `Source.numbered`.
    """
    yield from chunks_of(as_source(file).records(stride))


def chunks_of(frames: Iterable[tuple[int, Frame]]) -> Iterator[Chunk]:
    """Numbered frames in chunks."""
    stream = iter(frames)
    while block := list(islice(stream, BLOCK)):
        kinds: dict[tuple[int, bytes, bool], list[tuple[int, Frame]]] = {}
        for k, frame in block:
            kind = (len(frame.numbers), frame.pbc.tobytes(), frame.is_isolated)
            kinds.setdefault(kind, []).append((k, frame))
        yield from (_chunk(members) for members in kinds.values())


def _chunk(members: Iterable[tuple[int, Frame]]) -> Chunk:
    index, frames = zip(*members, strict=True)
    names = ("numbers", "positions", "cell", "energy", "forces", "stress")
    arrays = {name: np.array([getattr(f, name) for f in frames]) for name in names}
    return Chunk(index=np.array(index), pbc=frames[0].pbc, frames=list(frames), **arrays)


def groups_of(file: str | Path | Source) -> NDArray[np.str_]:
    """(n_frames,) the family of each frame, an empty word where it has none."""
    return np.array([frame.group or "" for _, frame in as_source(file).records()])
