"""What is in a data file: counts, ranges, distances, and signs that something is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlpot.data.check.checks import trajectory_slope
from mlpot.data.check.frame_facts import FrameFacts, facts_of
from mlpot.data.check.stream import Chunk, chunks_of
from mlpot.data.check.tally import Steps, all_steps, steps_of
from mlpot.data.errors import DataError
from mlpot.data.frame import Frame
from mlpot.data.sources.read import Source, as_source
from mlpot.data.stress_labels import NO_VOLUME, NO_VOLUME_ZERO
from mlpot.error_table import in_periodic_axes
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.units import HOUSE_UNITS

Floats = NDArray[np.float64]

FORCE_BINS = np.logspace(-5, 5, 1001)  # eV/Å; percentiles are as fine as these, 2.3 %
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
N_DISTANCE_BINS = 200
CLOSEST, FARTHEST = 0.6, 1.6  # bond lengths between the nearest atoms; a bohr is 0.53 Å
UPPER = np.triu_indices(3)


@dataclass(frozen=True)
class Spread:
    """Count, range, mean and standard deviation of a quantity."""

    n: int
    min: float
    mean: float
    std: float
    max: float


@dataclass(frozen=True, eq=False)
class DataInfo:
    """What `info` found."""

    path: str
    card: dict[str, str]
    units: dict[str, str]
    n_frames: int
    n_atoms: Spread  # of a frame
    n_periodic: int  # frames with a periodic direction
    elements: dict[str, int]  # atoms
    groups: dict[str, int]  # frames of each named family
    missing: dict[str, int]  # frames without energy, forces, stress; stress counts where there is a volume
    n_masked: int  # atoms whose force is not to be learned
    n_stress_without_volume: int  # frames with a stress and no volume that it refers to
    isolated: dict[str, float]  # eV, energies of isolated atoms, in the open or in a box
    energy: Spread  # eV/atom, of frames of more than one atom
    force: Spread  # eV/Å, magnitudes
    force_rms: float  # eV/Å
    force_percentiles: dict[float, float]  # eV/Å
    largest_force: tuple[float, int]  # eV/Å, frame
    stress: Spread  # eV/Å³, components
    nearest: dict[tuple[str, str], tuple[float, int]]  # Å, frame; pairs that meet within the cutoff
    cutoff: float  # Å
    n_neighbors: Spread  # of an atom within the cutoff, isolated atoms left out
    warnings: list[str]
    energies: dict[str, Floats] = field(repr=False)  # eV/atom by group
    pressures: Floats = field(repr=False)  # eV/Å³, −trace(stress)/3 of each frame that has one
    force_counts: NDArray[np.int64] = field(repr=False)  # in FORCE_BINS
    distance_counts: dict[tuple[str, str], NDArray[np.int64]] = field(repr=False)  # of N_DISTANCE_BINS to cutoff
    neighbor_counts: NDArray[np.int64] = field(repr=False)  # atoms with 0, 1, 2, ... neighbors


def info(file: str | Path | Source, cutoff: float = 5.0) -> DataInfo:
    """Survey a file of any kind, streamed.

    Args:
        file: the set.
        cutoff: Å, for neighbors and distances.

    Raises:
        DataError: as `Source.numbered`, and for a structure whose neighbors cannot be listed, with its frame.
    """
    source = as_source(file)
    survey = _Survey(cutoff)
    for chunk in chunks_of(source.records()):
        survey.add(chunk)
    if not survey.sizes.n:
        raise DataError(f"{source.path} has no frames. Check the path.")
    for what in (NO_VOLUME, NO_VOLUME_ZERO):
        survey.n_stress_without_volume += source.report.notes.get(what, [0])[0]
    return survey.result(str(source.path), source.card)


class _Running:
    """Range and moments of a stream of values."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares, self.min, self.max = 0, 0.0, 0.0, np.inf, -np.inf

    def add(self, values: Floats) -> None:
        if not len(values):
            return
        n, shift = self.n + len(values), float(values.mean()) - self.mean
        self.squares += float(((values - values.mean()) ** 2).sum()) + shift**2 * self.n * len(values) / n
        self.mean += shift * len(values) / n
        self.n, self.min, self.max = n, min(self.min, float(values.min())), max(self.max, float(values.max()))

    def spread(self) -> Spread:
        if self.n == 0:
            return Spread(0, np.nan, np.nan, np.nan, np.nan)
        return Spread(self.n, self.min, self.mean, float(np.sqrt(self.squares / self.n)), self.max)


class _Survey:
    """Everything that is counted while the frames go by."""

    def __init__(self, cutoff: float):
        self.cutoff = cutoff
        self.k = 0  # number of the frame in its file
        self.sizes, self.energy, self.force, self.stress = _Running(), _Running(), _Running(), _Running()
        self.n_neighbors = _Running()
        self.elements: Counter[int] = Counter()
        self.groups: Counter[str] = Counter()
        self.missing = dict.fromkeys(("energy", "forces", "stress"), 0)
        self.n_periodic = self.n_masked = self.n_stress_without_volume = 0
        self.isolated: dict[str, float] = {}
        self.largest_force = (0.0, -1)
        self.force_counts = np.zeros(len(FORCE_BINS) - 1, dtype=np.int64)
        self.neighbor_counts = np.zeros(1, dtype=np.int64)
        self.distances: dict[tuple[int, int], tuple[float, int]] = {}
        self.distance_counts: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.energies: dict[str, list[float]] = {}
        self.pressures: list[float] = []
        self.steps: list[Floats] = []  # rows of `tally.Steps`

    def add(self, chunk: Chunk) -> None:
        for k, frame in zip(chunk.index.tolist(), chunk.frames, strict=True):
            self._add_frame(k, frame, facts_of(frame))
        self.steps.append(steps_of(chunk))

    def _add_frame(self, k: int, frame: Frame, facts: FrameFacts) -> None:
        self.k = k
        self.sizes.add(np.array([float(facts.n_atoms)]))
        self.elements.update(frame.numbers.tolist())
        if frame.group is not None:
            self.groups[frame.group] += 1
        self.n_periodic += bool(frame.pbc.any())
        self._add_labels(frame, facts)
        if facts.is_isolated:
            symbol = chemical_symbols[frame.numbers[0]]
            if np.isfinite(facts.reference):
                self.isolated[symbol] = min(facts.reference, self.isolated.get(symbol, facts.reference))
        else:
            self._add_distances(frame)

    def _add_labels(self, frame: Frame, facts: FrameFacts) -> None:
        if np.isnan(frame.energy):
            self.missing["energy"] += 1
        elif not facts.is_isolated:
            per_atom = frame.energy / facts.n_atoms
            self.energy.add(np.array([per_atom]))
            self.energies.setdefault(frame.group or "", []).append(per_atom)
        if not facts.n_forces:
            self.missing["forces"] += not facts.is_isolated
        else:
            self.n_masked += facts.n_atoms - facts.n_forces
            size = np.linalg.norm(frame.forces[np.isfinite(frame.forces).all(axis=1)], axis=1)
            self.force.add(size)
            self.force_counts += np.histogram(np.clip(size, FORCE_BINS[0], FORCE_BINS[-1]), FORCE_BINS)[0]
            self.largest_force = max(self.largest_force, (facts.largest_force, self.k))
        if not facts.has_stress:
            self.missing["stress"] += bool(frame.pbc.all()) and not facts.is_isolated
            return
        cell, pbc = torch.tensor(frame.cell)[None], torch.tensor(frame.pbc)[None]
        upper = in_periodic_axes(torch.tensor(frame.stress)[None], cell, pbc)[0].numpy()[UPPER]
        self.stress.add(upper[np.isfinite(upper)])
        if frame.pbc.all():
            self.pressures.append(-float(np.trace(frame.stress)) / 3.0)

    def _add_distances(self, frame: Frame) -> None:
        try:
            graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, self.cutoff)
        except ValueError as error:
            raise DataError(f"Frame {self.k}: {error}") from None
        counts = np.diff(graph.edges.row_ptr.numpy())
        self.n_neighbors.add(counts.astype(np.float64))
        counted = np.bincount(counts, minlength=len(self.neighbor_counts))
        counted[: len(self.neighbor_counts)] += self.neighbor_counts
        self.neighbor_counts = counted
        center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
        low, high = np.sort(frame.numbers[np.stack([center, neighbor])], axis=0)
        distance = np.linalg.norm(edge_vectors(graph).numpy(), axis=1)
        for code in np.unique(low * 128 + high):
            pair, own = (int(code) // 128, int(code) % 128), distance[low * 128 + high == code]
            self.distances[pair] = min(self.distances.get(pair, (np.inf, -1)), (float(own.min()), self.k))
            binned = np.histogram(own, N_DISTANCE_BINS, (0.0, self.cutoff))[0]
            self.distance_counts[pair] = self.distance_counts.get(pair, 0) + binned

    def result(self, path: str, card: dict[str, str]) -> DataInfo:
        force = self.force.spread()
        return DataInfo(
            path=path,
            card=card,
            units=dict(HOUSE_UNITS),
            n_frames=self.sizes.n,
            n_atoms=self.sizes.spread(),
            n_periodic=self.n_periodic,
            elements={chemical_symbols[z]: n for z, n in sorted(self.elements.items())},
            groups=dict(self.groups.most_common()),
            missing=self.missing,
            n_masked=self.n_masked,
            n_stress_without_volume=self.n_stress_without_volume,
            isolated=self.isolated,
            energy=self.energy.spread(),
            force=force,
            force_rms=float(np.hypot(force.mean, force.std)),
            force_percentiles=_percentiles(self.force_counts),
            largest_force=self.largest_force,
            stress=self.stress.spread(),
            nearest={_symbols(pair): nearest for pair, nearest in sorted(self.distances.items())},
            cutoff=self.cutoff,
            n_neighbors=self.n_neighbors.spread(),
            warnings=list(self._warnings()),
            energies={group: np.array(values) for group, values in self.energies.items()},
            pressures=np.array(self.pressures),
            force_counts=self.force_counts,
            distance_counts={_symbols(pair): counts for pair, counts in sorted(self.distance_counts.items())},
            neighbor_counts=self.neighbor_counts,
        )

    def _warnings(self) -> Iterator[str]:
        for pair, (distance, frame) in sorted(self.distances.items()):
            bond = covalent_radii[pair[0]] + covalent_radii[pair[1]]
            if distance < CLOSEST * bond:
                names = "-".join(_symbols(pair))
                yield (
                    f"{names} comes down to {distance:.2f} Å in frame {frame}, a bond is {bond:.2f} Å: "
                    "is the unit of length right?"
                )
        closest = [d / (covalent_radii[a] + covalent_radii[b]) for (a, b), (d, _) in self.distances.items()]
        if closest and min(closest) > FARTHEST:
            yield f"No two atoms come closer than {min(closest):.1f} bond lengths: is the unit of length right?"
        if self.force.n and self.force.max == 0.0:
            yield "All forces are zero: there is nothing to learn from them."
        if self.largest_force[0] > 100.0:
            size, frame = self.largest_force
            yield f"The largest force is {size:.3g} eV/Å, in frame {frame}: did that calculation converge?"
        if self.n_stress_without_volume:
            yield (
                f"{self.n_stress_without_volume} frames have a stress but no volume that it refers to: it is not "
                "trained on."
            )
        yield from _slope_warnings(all_steps(self.steps))


def _slope_warnings(steps: Steps) -> Iterator[str]:
    """One line if energies follow the forces along small steps, but with another factor than 1."""
    ratio, correlation, n = trajectory_slope(steps)
    if abs(correlation) > 0.9 and not 0.8 < 1 / ratio < 1.25:
        yield (
            f"Along {n} small steps the energy changes by {1 / ratio:.4g} times the work of the forces, "
            "which should be 1: a wrong unit, or gradients in place of forces."
        )


def _percentiles(counts: NDArray[np.int64]) -> dict[float, float]:
    if not counts.any():
        return dict.fromkeys(PERCENTILES, float("nan"))
    cumulative = np.cumsum(counts) / counts.sum()
    centers = np.sqrt(FORCE_BINS[1:] * FORCE_BINS[:-1])
    return {p: float(centers[np.searchsorted(cumulative, p / 100.0)]) for p in PERCENTILES}


def _symbols(pair: tuple[int, int]) -> tuple[str, str]:
    return chemical_symbols[pair[0]], chemical_symbols[pair[1]]
