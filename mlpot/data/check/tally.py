"""Some numbers for every frame, collected in one pass; they fit in memory when the file does not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.check.frame_facts import N_NUMBERS, FrameFacts, facts_of, hash_of, state_of
from mlpot.data.check.geometry import SHELLS, geometry, lopsided
from mlpot.data.check.stream import Chunk, Floats, Ints
from mlpot.data.frame import Frame

NEAR = 0.15  # Å; steps up to which a trajectory's energies are compared with the work of its forces
UNMOVED = 1e-6  # Å, below which an atom stood still
MOST_KINDS = 500  # lists of atoms whose moving parts are followed one by one
SAMPLE_FRAMES, SAMPLE_ATOMS = 160, 6000  # of the linear fit


@dataclass(frozen=True)
class Columns:
    """One row a frame, in the order of the file."""

    index: Ints
    n_atoms: Ints
    composition: NDArray[np.uint64]  # hash of how many atoms of each element
    digest: NDArray[np.uint64]  # hash of numbers, positions and cell
    labels: NDArray[np.uint64]  # hash of the labels
    energy: Floats  # eV
    force: Floats  # greatest on an atom, eV/Å
    force_rms: Floats  # eV/Å
    unlabeled: Ints  # atoms without force
    is_unforced: NDArray[np.bool_]  # every force is exactly zero, and no symmetry makes it so
    net: Floats  # |ΣF|, eV/Å
    torque: Floats  # |Σ r × F|, eV, about the middle; NaN for periodic frames
    isolated: NDArray[np.bool_]  # one isolated atom, in the open or in a box
    has_stress: NDArray[np.bool_]  # one that a potential can learn
    stress: Floats  # greatest component, eV/Å³
    periodic: NDArray[np.bool_]  # in all directions
    closest: Floats  # Å
    overlap: Floats  # sums of covalent radii
    bond: Floats  # sums of covalent radii
    fewest: Ints  # neighbors of an atom
    most: Ints
    fingerprint: Floats  # (n_frames, n_shells)


@dataclass(frozen=True)
class Steps:
    """Small steps from one frame to the next."""

    index: Ints  # of the second frame
    change: Floats  # of the energy, eV
    work: Floats  # −∫F·dr by the trapezoid rule, eV
    strain_work: Floats  # V σ:ε likewise, eV; NaN where the cell does not change
    error: Floats  # of the trapezoid rule, by its own estimate, eV


@dataclass
class Motion:
    """Ranges of motion and forces of one list of atoms in one order."""

    numbers: Ints
    first: Floats
    n: int = 0
    moved: Floats = field(default_factory=lambda: np.zeros(0))  # greatest displacement from the first frame, Å
    pushed: Floats = field(default_factory=lambda: np.zeros(0))  # greatest force, eV/Å


class Tally:
    """Collects the numbers of each frame."""

    def __init__(self) -> None:
        self.parts: list[list[Floats]] = []
        self.steps: list[Floats] = []
        self.motions: dict[bytes, Motion] = {}
        self.groups: dict[str, int] = {}
        self.isolated: dict[int, list[tuple[int, float]]] = {}  # frame and energy of isolated atoms, no ions
        self.states: Counter[tuple[float, ...]] = Counter()  # frames of each total charge and spin
        self.elements: set[int] = set()
        self.elements_of: dict[int, NDArray[np.bool_]] = {}  # (119,) which are in a composition, by its hash
        self.displacement = 0.0  # Å that one unit of the fingerprint stands for
        self._sample: list[tuple[int, Frame]] = []
        self._every, self._seen = 1, 0

    def add(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self.elements |= set(np.unique(chunk.numbers).tolist())
        for frame in chunk.frames:
            self.states[state_of(frame)] += len(frame.numbers) > 1
            if frame.group is not None:
                self.groups[frame.group] = self.groups.get(frame.group, 0) + 1
        if chunk.is_isolated:
            for k, frame in zip(chunk.index, chunk.frames, strict=True):
                if np.isfinite(frame.reference_energy):
                    self.isolated.setdefault(int(frame.numbers[0]), []).append((int(k), frame.reference_energy))
        else:
            self._keep(chunk)
            self._calibrate(chunk)
            self._follow(chunk)
        self.parts.append(_columns(chunk))
        kinds, first = np.unique(self.parts[-1][2], return_index=True)
        for kind, k in zip(kinds, first, strict=True):
            self.elements_of[int(kind)] = np.isin(np.arange(N_NUMBERS), chunk.numbers[k])
        self.steps.append(steps_of(chunk))

    def columns(self) -> Columns:
        """All columns, in the order of the file."""
        joined = [np.concatenate(column) for column in zip(*self.parts, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return Columns(*(column[order] for column in joined))

    def holds(self, c: Columns) -> NDArray[np.bool_]:
        """(n_frames, 119) which elements are in which frame."""
        kinds, which = np.unique(c.composition, return_inverse=True)
        return np.array([self.elements_of[int(kind)] for kind in kinds])[which]

    def all_steps(self) -> Steps:
        """All small steps."""
        return all_steps(self.steps)

    def sample(self) -> list[Frame]:
        """Labeled frames of the most frequent charge and spin, evenly spread, few enough for a fit."""
        most = max(self.states, key=lambda state: self.states[state], default=())
        frames = [f for _, f in self._sample if state_of(f) == most]
        if not frames:
            return []
        n = min(SAMPLE_FRAMES, max(20, int(SAMPLE_ATOMS / float(np.mean([len(f.numbers) for f in frames])))))
        picks = (
            np.unique(np.linspace(0, len(frames) - 1, n).astype(int)) if len(frames) > n else range(len(frames))
        )
        return [frames[k] for k in picks]

    def numbered_sample(self) -> list[tuple[int, Frame]]:
        """Every labeled frame that is kept for samples, with its number."""
        return list(self._sample)

    def sampled(self) -> list[int]:
        """Indices of the frames kept for samples."""
        return [k for k, _ in self._sample]

    def _keep(self, chunk: Chunk) -> None:
        """Keep every n-th labeled frame for the sample; n doubles as frames are added."""
        labeled = np.isfinite(chunk.energy) & np.isfinite(chunk.forces).any(axis=(1, 2))
        for k in np.flatnonzero(labeled):
            if self._seen % self._every == 0:
                self._sample.append((int(chunk.index[k]), chunk.frames[k]))
            self._seen += 1
        while len(self._sample) > 4 * SAMPLE_FRAMES:
            self._sample, self._every = self._sample[::2], 2 * self._every

    def _calibrate(self, chunk: Chunk) -> None:
        """How far atoms move when the fingerprint changes by one; from the first frames alone."""
        if self.displacement == 0.0:
            few = _first(chunk, 8)
            noise = 1e-3 * np.random.default_rng(0).normal(size=few.positions.shape)
            change = geometry(few).fingerprint - geometry(_shifted(few, noise)).fingerprint
            size = np.linalg.norm(change, axis=1)
            size = size[np.isfinite(size)]  # none where all atoms overlap
            middle = float(np.median(size)) if len(size) else 0.0
            self.displacement = 1e-3 * np.sqrt(3) / middle if middle > 0 else 0.0

    def _follow(self, chunk: Chunk) -> None:
        """How far each atom moved, and how hard it was pushed, in frames that list the same atoms."""
        for numbers in np.unique(chunk.numbers, axis=0):
            mine = (chunk.numbers == numbers).all(axis=1)
            key = numbers.tobytes() + chunk.pbc.tobytes()
            if key not in self.motions:
                if len(self.motions) >= MOST_KINDS:
                    continue
                first = chunk.positions[mine][0]
                self.motions[key] = Motion(numbers, first, 0, np.zeros(len(numbers)), np.zeros(len(numbers)))
            motion = self.motions[key]
            motion.n += int(mine.sum())
            moved = np.abs(chunk.positions[mine] - motion.first).max(axis=(0, 2))
            pushed = np.abs(np.nan_to_num(chunk.forces[mine], nan=np.inf)).max(axis=(0, 2))
            motion.moved, motion.pushed = np.maximum(motion.moved, moved), np.maximum(motion.pushed, pushed)


def _first(chunk: Chunk, n: int) -> Chunk:
    arrays = {name: getattr(chunk, name)[:n] for name in Chunk.__dataclass_fields__ if name != "pbc"}
    return Chunk(pbc=chunk.pbc, **arrays)


def _shifted(chunk: Chunk, shift: Floats) -> Chunk:
    return Chunk(**{**chunk.__dict__, "positions": chunk.positions + shift})


def _columns(chunk: Chunk) -> list[NDArray[Any]]:
    n_frames, n = chunk.numbers.shape
    if chunk.is_isolated:
        shells, none = np.zeros((n_frames, len(SHELLS))), np.full(n_frames, np.inf)
        distances = [none, none, np.full(n_frames, np.nan), *np.zeros((2, n_frames), dtype=np.int64), shells]
    else:
        g = geometry(chunk)
        distances = [g.closest, g.overlap, g.bond, *g.neighbors.T, g.fingerprint]
    facts = [facts_of(frame) for frame in chunk.frames]
    known = np.asarray(np.isfinite(chunk.forces).all(axis=2))
    forces = np.where(known[:, :, None], chunk.forces, 0.0)
    size = np.linalg.norm(forces, axis=2)
    arms = chunk.positions - chunk.positions.mean(axis=1, keepdims=True)
    torque = np.linalg.norm(np.cross(arms, forces).sum(axis=1), axis=1)
    torque[~known.all(axis=1) | chunk.pbc.any()] = np.nan
    net = np.linalg.norm(forces.sum(axis=1), axis=1)
    net[~known.all(axis=1)] = np.nan
    return [
        chunk.index,
        np.full(n_frames, n),
        np.array([f.composition for f in facts], dtype=np.uint64),
        np.array([f.structure for f in facts], dtype=np.uint64),
        np.array([_labels_hash(frame) for frame in chunk.frames], dtype=np.uint64),
        chunk.energy,
        np.array([f.largest_force for f in facts]),
        np.sqrt((size**2).sum(axis=1) / np.maximum(1, 3 * known.sum(axis=1))),
        np.array([n - f.n_forces for f in facts]),
        np.array([_is_unforced(frame, f) for frame, f in zip(chunk.frames, facts, strict=True)]),
        net,
        torque,
        np.full(n_frames, chunk.is_isolated),
        np.array([f.has_stress for f in facts]),
        np.fmax.reduce(np.abs(chunk.stress), axis=(1, 2)),
        np.full(n_frames, bool(chunk.pbc.all())),
        *distances,
    ]


def _is_unforced(frame: Frame, facts: FrameFacts) -> bool:
    """Whether every force of a frame is exactly zero although no symmetry of it asks for that."""
    is_zero = facts.n_forces == facts.n_atoms > 2 and facts.largest_force == 0.0
    return is_zero and not facts.is_isolated and lopsided(frame)


def _labels_hash(frame: Frame) -> int:
    return hash_of(np.round(frame.energy, 6), np.round(frame.forces, 5) + 0.0)


def all_steps(parts: list[Floats]) -> Steps:
    """The steps of all chunks, from what `steps_of` gave for each."""
    table = np.concatenate(parts) if parts else np.zeros((0, 5))
    return Steps(table[:, 0].astype(np.int64), *table[:, 1:].T)


def steps_of(chunk: Chunk) -> Floats:
    """(n_steps, 5) rows of `Steps`: pairs of frames that follow each other closely with the same atoms."""
    states = [state_of(frame) for frame in chunk.frames]
    same = np.array([a == b for a, b in zip(states[1:], states[:-1], strict=True)], dtype=bool)
    same &= (chunk.numbers[1:] == chunk.numbers[:-1]).all(axis=1)
    after = np.flatnonzero((np.diff(chunk.index) == 1) & same)
    a, b = after, after + 1
    move = chunk.positions[b] - chunk.positions[a]
    strain = np.zeros((len(a), 3, 3))
    if chunk.pbc.any():
        cells = chunk.cell + np.eye(3) * (np.abs(chunk.cell).sum(axis=2) == 0)[:, :, None]  # of slabs and wires
        whole = np.round(np.linalg.solve(cells[a].transpose(0, 2, 1), move.transpose(0, 2, 1))).transpose(0, 2, 1)
        move = move - (whole * chunk.pbc) @ cells[a]
        strain = np.linalg.solve(cells[a], cells[b]) - np.eye(3)
        move = move - chunk.positions[a] @ strain
    held = np.abs(move) < UNMOVED  # no work is done on what stands still, whether its force is known or not
    before, after_it = (np.where(held, 0.0, chunk.forces[k]) for k in (a, b))
    work = -(0.5 * (before + after_it) * move).sum(axis=(1, 2))
    curve = ((after_it - before) * move).sum(axis=(1, 2))
    still = np.abs(strain).max(axis=(1, 2)) < 1e-9
    volume = np.abs(np.linalg.det(chunk.cell))
    virial = 0.5 * (volume[a, None, None] * chunk.stress[a] + volume[b, None, None] * chunk.stress[b])
    strain_work = np.where(still, np.nan, (virial * strain).sum(axis=(1, 2)))
    change = chunk.energy[b] - chunk.energy[a]
    near = (np.abs(move).max(axis=(1, 2)) < NEAR) & np.isfinite(work + change) & (still | np.isfinite(strain_work))
    near &= (np.abs(strain).max(axis=(1, 2)) < 0.05) & (np.abs(change) + np.abs(work) > 0)
    rows = np.stack([chunk.index[b], change, work, strain_work, np.abs(curve) / 6], axis=1)
    return np.asarray(rows[near])
