"""What is in a data file, before anything is trained: elements, labels, free atoms, repeated structures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.h5md import Frame, Reader

BLOCK = 20_000  # atoms read at once
N_NUMBERS = 119  # atomic numbers, and 0
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Survey:
    """Some numbers for each frame of a file; they fit in memory when the file does not."""

    path: str
    n_atoms: Ints  # (n_frames,)
    energy: Floats  # (n_frames,) eV
    n_forces: Ints  # (n_frames,) atoms with a force
    largest_force: Floats  # (n_frames,) component, eV/Å; zero without forces
    has_stress: NDArray[np.bool_]  # (n_frames,) one that a potential can learn
    stress_without_volume: NDArray[np.bool_]  # (n_frames,) one that no potential has, as there is no volume
    is_isolated: NDArray[np.bool_]  # (n_frames,) one isolated atom, in the open or in a box
    digest: NDArray[np.uint64]  # (n_frames,) of numbers, positions and cell
    composition: Ints  # (n_frames,) row of `compositions`
    compositions: Ints  # (n_kinds, N_NUMBERS) atoms of each atomic number

    def elements(self, frames: Ints) -> list[int]:
        """Atomic numbers in some frames."""
        kinds = np.unique(self.composition[frames])
        return [int(z) for z in np.flatnonzero(self.compositions[kinds].any(axis=0))]

    def counts(self, frames: Ints, elements: list[int]) -> Floats:
        """(n_frames, n_elements) atoms of each element."""
        return self.compositions[:, elements][self.composition[frames]].astype(np.float64)

    def holds(self, frames: Ints) -> NDArray[np.bool_]:
        """(n_frames, N_NUMBERS) which elements are in which frame."""
        return (self.compositions > 0)[self.composition[frames]]

    def isolated_atoms(self) -> dict[int, float]:
        """Energies of the isolated atoms in the file, eV; the lowest of each element, its ground state."""
        energies: dict[int, float] = {}
        for k in np.flatnonzero(self.is_isolated & np.isfinite(self.energy)):
            z, energy = int(self.compositions[self.composition[k]].argmax()), float(self.energy[k])
            energies[z] = min(energy, energies.get(z, energy))
        return energies


def survey(path: str | Path) -> Survey:
    """Read a file once, by blocks.

    Raises:
        FileNotFoundError, DataError: as `data.h5md.Reader`.
    """
    kinds: dict[bytes, int] = {}
    blocks = []
    with Reader(path) as reader:
        for indices in _blocks(reader, np.arange(len(reader))):
            rows = [_row(frame, kinds) for frame in reader.columns(indices)]
            blocks.append([np.array(column) for column in zip(*rows, strict=True)])
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    compositions = np.frombuffer(b"".join(kinds), dtype=np.int64).reshape(-1, N_NUMBERS)
    return Survey(str(path), *(*columns, compositions))


def read_frames(path: str | Path, frames: Ints) -> Iterator[Frame]:
    """Frames of a file in the given order, read by blocks."""
    with Reader(path) as reader:
        for indices in _blocks(reader, frames):
            yield from reader.columns(indices)


def _blocks(reader: Reader, frames: Ints) -> list[Ints]:
    """The frames in groups that are read at once."""
    n = max(1, int(BLOCK / reader.n_atoms.mean()))
    return [frames[start : start + n] for start in range(0, len(frames), n)]


def _row(frame: Frame, kinds: dict[bytes, int]) -> tuple[Any, ...]:
    known = np.isfinite(frame.forces).all(axis=1)
    counts = np.bincount(frame.numbers, minlength=N_NUMBERS).astype(np.int64)
    content = hashlib.sha256(np.ascontiguousarray(frame.numbers).tobytes())
    content.update(np.array([x for x in (frame.charge, frame.spin) if np.isfinite(x)]).tobytes())
    for array in (frame.positions, frame.cell):
        content.update((np.round(array, 6) + 0.0).tobytes())  # + 0.0: no negative zeros
    return (
        len(frame.numbers),
        frame.energy,
        known.sum(),
        np.abs(frame.forces[known]).max(initial=0.0),
        frame.has_stress,
        bool(np.isfinite(frame.stress).all()) and not frame.has_stress,
        frame.is_isolated,
        np.frombuffer(content.digest()[:8], dtype=np.uint64)[0],
        kinds.setdefault(counts.tobytes(), len(kinds)),
    )
