"""Frames of any file in blocks of equal shape, so that checks run over whole arrays and memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Frame, columns_of, family, frame_of_columns
from mlpot.data.h5md.read import BLOCK, Reader
from mlpot.data.sources.read import read_structures

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Frames with the same number of atoms and boundary, in the order of the file."""

    index: Ints  # (n_frames,) in the file
    numbers: Ints  # (n_frames, n_atoms)
    positions: Floats  # (n_frames, n_atoms, 3) Å
    cell: Floats  # (n_frames, 3, 3) Å
    pbc: NDArray[np.bool_]  # (3,)
    energy: Floats  # (n_frames,) eV
    forces: Floats  # (n_frames, n_atoms, 3) eV/Å
    stress: Floats  # (n_frames, 3, 3) eV/Å³
    frames: list[Frame]


def chunks(path: str | Path, stride: int = 1) -> Iterator[Chunk]:
    """Every `stride`-th frame of an H5MD file, or of any that ASE reads.

    Raises:
        DataError: as `Reader`.
    """
    stream = enumerate(_frames(path, stride))
    while block := list(islice(stream, BLOCK)):
        kinds: dict[tuple[int, bytes], list[tuple[int, Frame]]] = {}
        for k, frame in block:
            kinds.setdefault((len(frame.numbers), frame.pbc.tobytes()), []).append((k * stride, frame))
        yield from (_chunk(members) for members in kinds.values())


def _frames(path: str | Path, stride: int) -> Iterator[Frame]:
    if h5py.is_hdf5(path):
        with Reader(path) as reader:
            for start in range(0, len(reader), BLOCK * stride):
                yield from reader.columns(range(start, min(start + BLOCK * stride, len(reader)), stride))
    else:
        for k, atoms in enumerate(read_structures(path, step=stride)):
            yield frame_of_columns(columns_of(atoms, k * stride), atoms.pbc, family(atoms))


def _chunk(members: Iterable[tuple[int, Frame]]) -> Chunk:
    index, frames = zip(*members, strict=True)
    names = ("numbers", "positions", "cell", "energy", "forces", "stress")
    arrays = {name: np.array([getattr(f, name) for f in frames]) for name in names}
    return Chunk(index=np.array(index), pbc=frames[0].pbc, frames=list(frames), **arrays)


def n_frames(path: str | Path) -> int | None:
    """Number of frames, where it can be told without reading them."""
    if not h5py.is_hdf5(path):
        return None
    with Reader(path) as reader:
        return len(reader)


def groups_of(path: str | Path) -> NDArray[np.str_]:
    """(n_frames,) the family of each frame, an empty word where it has none."""
    return np.array([frame.group or "" for frame in _frames(path, 1)])
