"""What is in a data file, before anything is trained: elements, labels, free atoms, repeated structures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlpot import baseline
from mlpot.data.h5md import Frame, Reader

BLOCK = 256  # frames read at once
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NothingToLearnError(ValueError):
    """No label in the data can teach what the recipe asks for."""


class LeakageError(ValueError):
    """Structures of the test set are in the training set."""


@dataclass(frozen=True)
class Survey:
    """One row for each frame of a file."""

    path: str
    n_atoms: Ints  # (n_frames,)
    counts: Ints  # (n_frames, 119) atoms of each atomic number
    energy: Floats  # (n_frames,) eV
    n_forces: Ints  # (n_frames,) atoms with a force
    largest_force: Floats  # (n_frames,) eV/Å; zero without forces
    has_stress: NDArray[np.bool_]  # (n_frames,)
    is_free_atom: NDArray[np.bool_]  # (n_frames,) one atom without periodic images
    digest: NDArray[np.bytes_]  # (n_frames,) of numbers, positions and cell

    def structures(self) -> Ints:
        """Indices of the frames that are not free atoms."""
        return np.flatnonzero(~self.is_free_atom)

    def elements(self, frames: Ints) -> list[int]:
        """Atomic numbers in some frames."""
        return [int(z) for z in np.flatnonzero(self.counts[frames].any(axis=0))]

    def free_atoms(self) -> dict[int, float]:
        """Energies of the free atoms in the file, eV."""
        free = np.flatnonzero(self.is_free_atom & np.isfinite(self.energy))
        return {int(self.counts[k].argmax()): float(self.energy[k]) for k in free}


def survey(path: str | Path) -> Survey:
    """Read a file once, by blocks.

    Raises:
        FileNotFoundError, DataError: as `data.h5md.Reader`.
    """
    rows = [_row(frame) for frame in read_frames(path)]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Survey(str(path), *columns)


def read_frames(path: str | Path, frames: Ints | None = None) -> Iterator[Frame]:
    """Frames of a file in the given order, all by default, read by blocks."""
    with Reader(path) as reader:
        indices = np.arange(len(reader)) if frames is None else frames
        for start in range(0, len(indices), BLOCK):
            yield from reader.columns(indices[start : start + BLOCK])


def _row(frame: Frame) -> tuple[object, ...]:
    known = np.isfinite(frame.forces).all(axis=1)
    content = hashlib.sha256(np.ascontiguousarray(frame.numbers).tobytes())
    content.update((np.round(frame.positions, 6) + 0.0).tobytes())  # + 0.0: no negative zeros
    content.update((np.round(frame.cell, 6) + 0.0).tobytes())
    return (
        len(frame.numbers),
        np.bincount(frame.numbers, minlength=119),
        frame.energy,
        known.sum(),
        np.abs(frame.forces[known]).max(initial=0.0),
        bool(np.isfinite(frame.stress).all()),
        len(frame.numbers) == 1 and not frame.pbc.any(),
        content.digest()[:16].hex().encode(),
    )


def split(data: Survey, validation: int | float, seed: int) -> tuple[Ints, Ints]:
    """Indices of training and validation frames, each ascending; free atoms are in neither.

    Raises:
        ValueError: too few frames.
    """
    frames = data.structures()
    n = validation if isinstance(validation, int) else max(1, round(validation * len(frames)))
    if not 0 < n < len(frames):
        raise ValueError(
            f"{data.path} has {len(frames)} structures besides free atoms, too few to draw {n} for validation. "
            "Give more data, or a smaller data.validation."
        )
    chosen = np.random.default_rng(seed).permutation(len(frames))[:n]
    is_validation = np.isin(np.arange(len(frames)), chosen)
    return frames[~is_validation], frames[is_validation]


def check_labels(data: Survey, frames: Ints, weights: dict[str, float]) -> dict[str, int]:
    """How many labels of each kind the frames have.

    Raises:
        NothingToLearnError: no label has a weight, or forces are all exactly zero.
    """
    n = {
        "structures": len(frames),
        "energy": int(np.isfinite(data.energy[frames]).sum()),
        "forces": int(data.n_forces[frames].sum()),
        "stress": int(data.has_stress[frames].sum()),
    }
    if not any(n[name] for name, weight in weights.items() if weight > 0):
        asked = ", ".join(name for name, weight in weights.items() if weight > 0)
        raise NothingToLearnError(
            f"{data.path}: nothing to learn. The loss weighs {asked}, and none of the {len(frames)} structures has "
            f"such a label (energies {n['energy']}, forces {n['forces']}, stresses {n['stress']}). "
            "Convert the data with the names of its labels, or weigh labels that are there."
        )
    if weights["forces"] > 0 and n["forces"] and not data.largest_force[frames].any():
        raise NothingToLearnError(
            f"{data.path}: every one of {n['forces']} force vectors is exactly zero, which looks like a label that "
            "was never computed. Remove the forces from the data, or set loss.forces=0."
        )
    return n


def check_elements(known: list[int], data: Survey, frames: Ints) -> None:
    """Raise ValueError if frames hold elements that are not in the training set."""
    unknown = [chemical_symbols[z] for z in data.elements(frames) if z not in known]
    if unknown:
        raise ValueError(
            f"{data.path} holds {', '.join(unknown)}, not in the training structures. Train on these elements too, "
            "or remove the frames."
        )


def n_duplicates(a: Survey, frames_a: Ints, b: Survey, frames_b: Ints) -> int:
    """How many frames of b have the same atoms in the same places as a frame of a."""
    return int(np.isin(b.digest[frames_b], a.digest[frames_a]).sum())


@dataclass(frozen=True)
class Baseline:
    """What a potential starts from, by atomic number."""

    reference_energies: dict[int, float]  # eV
    scale: dict[int, float]  # eV
    shift: dict[int, float]  # eV


def baseline_of(data: Survey, frames: Ints, given: dict[int, float], sample: list[Frame]) -> Baseline:
    """Reference energies, shifts and scales of training frames.

    Args:
        given: reference energies that go before those of free atoms in the file.
        sample: training frames that tell the size of forces.
    """
    elements = data.elements(frames)
    labelled = frames[np.isfinite(data.energy[frames])]
    counts, energy = data.counts[labelled][:, elements].astype(float), data.energy[labelled]
    isolated = {**data.free_atoms(), **given}
    if not len(labelled):
        references = {z: isolated.get(z, 0.0) for z in elements}
        shift = dict.fromkeys(elements, 0.0)
    else:
        references = baseline.reference_energies(counts, energy, elements, isolated)
        shift = baseline.shifts(counts, energy, elements, references)
    numbers = np.concatenate([f.numbers for f in sample])
    forces = np.concatenate([f.forces for f in sample])
    return Baseline(references, baseline.force_scales(numbers, forces, elements), shift)
