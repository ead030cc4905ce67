"""What is in a training set, before anything is trained: elements, labels, isolated atoms, repeated structures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.check.frame_facts import N_NUMBERS, facts_of
from mlpot.data.h5md import Frame, SetReader, add_to_hash
from mlpot.data.sources.report import MODEL
from mlpot.data.stress_labels import IN_PLANE

BLOCK = 20_000  # atoms read at once
FRAME_BYTES, ATOM_BYTES = 1500, 100  # that a frame in memory takes, and each of its atoms
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Survey:
    """Some numbers for each frame of a set of files; they fit in memory when the files do not."""

    paths: tuple[str, ...]
    sizes: Ints  # (n_files,) frames of each file
    n_stress_left_out: Ints  # (n_files,) stresses that no potential can learn, see `stress_labels`
    potentials: tuple[str, ...]  # (n_files,) hash of the potential that computed a file's labels, or empty
    hash: str  # of the content of all files in their order, as `data.h5md.content_hash`
    families: tuple[str, ...]
    compositions: Ints  # (n_kinds, N_NUMBERS) atoms of each atomic number
    kept: list[Frame] = field(repr=False)  # all frames, or none where they are read when they are needed
    n_atoms: Ints  # (n_frames,)
    energy: Floats  # (n_frames,) eV
    n_forces: Ints  # (n_frames,) atoms with a force
    largest_force: Floats  # (n_frames,) on an atom, eV/Å; zero without forces
    has_stress: NDArray[np.bool_]  # (n_frames,) one that a potential can learn
    is_in_plane: NDArray[np.bool_]  # (n_frames,) of a slab or wire, along its periodic directions
    is_isolated: NDArray[np.bool_]  # (n_frames,) one isolated atom, in the open or in a box
    reference: Floats  # (n_frames,) energy of an isolated atom that is no ion as far as is known, eV; else NaN
    weight: Floats  # (n_frames,) how much the frame counts in the loss
    digest: NDArray[np.uint64]  # (n_frames,) of the same atoms in the same places
    composition: Ints  # (n_frames,) row of `compositions`
    family: Ints  # (n_frames,) place in `families`, or -1

    @property
    def path(self) -> str:
        """The files in words."""
        return ", ".join(self.paths)

    @property
    def file(self) -> Ints:
        """(n_frames,) place in `paths`."""
        return np.repeat(np.arange(len(self.paths)), self.sizes)

    def names(self, frames: Ints) -> list[str]:
        """What the frames are called in messages: the number in the file, and the file if there are several."""
        if len(self.paths) == 1:
            return [str(k) for k in frames]
        starts = np.cumsum(self.sizes) - self.sizes
        return [f"{k - starts[i]} of {self.paths[i]}" for k, i in zip(frames, self.file[frames], strict=True)]

    def frames(self, frames: Ints) -> Iterator[Frame]:
        """Frames in the given order, as they were kept, or read by blocks."""
        if self.kept:
            yield from (self.kept[k] for k in frames)
            return
        with SetReader(self.paths) as reader:
            for indices in _blocks(reader, frames):
                yield from reader.columns(indices)

    def forget(self) -> None:
        """Give the memory of kept frames back."""
        self.kept.clear()

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
        """Energies of the isolated atoms in the set, no ions, eV; the lowest of each element, its ground state."""
        energies: dict[int, float] = {}
        for k in np.flatnonzero(np.isfinite(self.reference)):
            z, energy = int(self.compositions[self.composition[k]].argmax()), float(self.reference[k])
            energies[z] = min(energy, energies.get(z, energy))
        return energies


def survey(*paths: str | Path, keep: float = 0.0) -> Survey:
    """Open each file once and read it once, by blocks.

    Args:
        paths: of a set of H5MD files.
        keep: bytes of memory that frames may take, to be at hand for what follows; larger sets are read again.

    Raises:
        FileNotFoundError, DataError: as `data.h5md.Reader`.
    """
    kinds: dict[bytes, int] = {}
    families: dict[str, int] = {}
    blocks, kept, digest = [], list[Frame](), hashlib.sha256()
    with SetReader(paths) as reader:
        does_fit = len(reader) * FRAME_BYTES + int(reader.n_atoms.sum()) * ATOM_BYTES <= keep
        for indices in _blocks(reader, np.arange(len(reader))):
            frames = reader.columns(indices)
            rows = [_row(frame, kinds, families) for frame in frames]
            blocks.append([np.array(column) for column in zip(*rows, strict=True)])
            for frame in frames:
                add_to_hash(digest, frame)
            if does_fit:
                kept += frames
        sizes = reader.sizes
        made_by = tuple(file.card.get(MODEL, "") for file in reader.readers)
        left_out = np.array([sum(what != IN_PLANE for _, what in file.of_stresses) for file in reader.readers])
    columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
    compositions = np.frombuffer(b"".join(kinds), dtype=np.int64).reshape(-1, N_NUMBERS)
    names = tuple(str(path) for path in paths)
    return Survey(
        names, sizes, left_out, made_by, digest.hexdigest(), tuple(families), compositions, kept, *columns
    )


def _blocks(reader: SetReader, frames: Ints) -> list[Ints]:
    """The frames in groups that are read at once."""
    n = max(1, int(BLOCK / reader.n_atoms.mean()))
    return [frames[start : start + n] for start in range(0, len(frames), n)]


def _row(frame: Frame, kinds: dict[bytes, int], families: dict[str, int]) -> tuple[Any, ...]:
    facts = facts_of(frame)
    return (
        facts.n_atoms,
        facts.energy,
        facts.n_forces,
        facts.largest_force,
        facts.has_stress,
        facts.has_stress and not bool(frame.pbc.all()),
        facts.is_isolated,
        facts.reference,
        frame.weight,
        np.uint64(facts.structure),
        kinds.setdefault(facts.counts.tobytes(), len(kinds)),
        -1 if frame.group is None else families.setdefault(frame.group, len(families)),
    )
