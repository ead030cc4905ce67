"""Distances within frames: how close atoms come, how many neighbors they have, and which frames are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlpot.data.check.stream import Chunk, Floats, Ints
from mlpot.data.frame import Frame
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph

CUTOFF = 5.0  # Å, of neighbors
DENSE = 120  # atoms of a molecule up to which all pairs are looked at
SHELLS = np.array([1.0, 1.5, 2.0, 2.6, 3.2, 4.0, 4.8])  # Å, of the fingerprint
WIDTHS = np.array([0.3, 0.4, 0.4, 0.5, 0.6, 0.7, 0.7])  # Å
NOBLE = np.isin(np.arange(119), [2, 10, 18, 36, 54, 86, 118])
SCALE = 10.0  # of the weights
LOPSIDED = 0.01  # of the neighbors: rounded positions of a crystal give 1e-4
SIZES = covalent_radii * (1 + 0.3 * (0.618 * np.arange(len(covalent_radii)) % 1))  # radii of Pt and Au are equal


@dataclass(frozen=True)
class Geometry:
    """Distances of the frames of a chunk."""

    fingerprint: Floats  # (n_frames, n_shells), invariant to rotation, reflection, translation, order of atoms
    closest: Floats  # (n_frames,) least distance, Å; infinite without neighbors
    overlap: Floats  # (n_frames,) least distance in sums of covalent radii
    bond: Floats  # (n_frames,) median over atoms of the nearest distance in sums of covalent radii
    neighbors: Ints  # (n_frames, 2) fewest and most neighbors of an atom within CUTOFF


def geometry(chunk: Chunk) -> Geometry:
    """Distances of all frames of a chunk."""
    n = chunk.numbers.shape[1]
    if not chunk.pbc.any() and 1 < n <= DENSE:
        return _dense(chunk)
    rows = [_sparse(chunk, k) for k in range(len(chunk.index))]
    return Geometry(*(np.array(column) for column in zip(*rows, strict=True)))


def _dense(chunk: Chunk) -> Geometry:
    n = chunk.numbers.shape[1]
    a, b = np.triu_indices(n, 1)
    r = np.linalg.norm(chunk.positions[:, a] - chunk.positions[:, b], axis=2)
    zi, zj = chunk.numbers[:, a], chunk.numbers[:, b]
    relative = r / (covalent_radii[zi] + covalent_radii[zj])
    nearest = np.full((len(r), n, n), np.inf)
    nearest[:, a, b] = nearest[:, b, a] = np.where(NOBLE[zi] | NOBLE[zj], np.inf, relative)
    near = np.zeros((len(r), n, n), dtype=bool)
    near[:, a, b] = near[:, b, a] = r < CUTOFF
    counts = near.sum(axis=2)
    shells = _shells(r, _weight(zi, zj)).sum(axis=1) / n
    return Geometry(
        shells,
        r.min(axis=1),
        relative.min(axis=1),
        np.median(nearest.min(axis=2), axis=1),
        np.stack([counts.min(axis=1), counts.max(axis=1)], axis=1),
    )


def _sparse(chunk: Chunk, k: int) -> tuple[Floats, float, float, float, tuple[int, int]]:
    numbers, n = chunk.numbers[k], chunk.numbers.shape[1]
    try:
        graph = build_graph(numbers, chunk.positions[k], chunk.cell[k], chunk.pbc, CUTOFF)
    except ValueError:  # two atoms in one place, or a cell that is none: both are findings
        return np.full(len(SHELLS), np.nan), 0.0, 0.0, np.nan, (0, 0)
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    r = np.linalg.norm(edge_vectors(graph).numpy(), axis=1)
    zi, zj = numbers[center], numbers[neighbor]
    relative = r / (covalent_radii[zi] + covalent_radii[zj])
    nearest = np.full(n, np.inf)
    bonding = ~(NOBLE[zi] | NOBLE[zj])
    np.minimum.at(nearest, center[bonding], relative[bonding])
    counts = np.bincount(center, minlength=n)
    shells = _shells(r, _weight(zi, zj)).sum(axis=0) / (2 * n)
    least, lowest = float(r.min(initial=np.inf)), float(relative.min(initial=np.inf))
    return shells, least, lowest, float(np.median(nearest)), (int(counts.min()), int(counts.max()))


def surroundings(frame: Frame) -> Floats:
    """(n_atoms, n_shells) neighbors of each atom by distance, in an order that the frame's own does not change.

    Raises:
        ValueError: as `build_graph`.
    """
    graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, CUTOFF)
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    r = np.linalg.norm(edge_vectors(graph).numpy(), axis=1)
    rows = np.zeros((len(frame.numbers), len(SHELLS)))
    np.add.at(rows, center, _shells(r, _weight(frame.numbers[center], frame.numbers[neighbor])))
    return by_element(frame.numbers, rows)


def lopsided(frame: Frame) -> bool:
    """Whether an atom has more neighbors on one side than on the other, so that no symmetry forbids a force."""
    try:
        graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, CUTOFF)
    except ValueError:  # two atoms in one place
        return False
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    vectors = edge_vectors(graph).numpy()
    r = np.linalg.norm(vectors, axis=1)
    weight = _shells(r, _weight(frame.numbers[center], frame.numbers[neighbor])).sum(axis=1)
    sums, sizes = np.zeros((len(frame.numbers), 3)), np.zeros(len(frame.numbers))
    np.add.at(sums, center, vectors * (weight / r)[:, None])
    np.add.at(sizes, center, weight)
    return bool((np.linalg.norm(sums, axis=1) > LOPSIDED * sizes).any())


def by_element(numbers: Ints, values: Floats) -> Floats:
    """(n_atoms, n) values of atoms, each column by size within an element: independent of the order of atoms."""
    return np.stack([column[np.lexsort((column, numbers))] for column in values.T], axis=1)


def _weight(zi: Ints, zj: Ints) -> Floats:
    weight: Floats = SCALE * SIZES[zi] * SIZES[zj]
    return weight


def _shells(r: Floats, weight: Floats) -> NDArray[np.float64]:
    """Smooth counts of pairs by distance; zero at the cutoff, so that periodic and dense ones agree."""
    envelope = np.where(r < CUTOFF, (1 - np.minimum(r / CUTOFF, 1.0) ** 2) ** 2, 0.0) * weight
    counts: Floats = envelope[..., None] * np.exp(-0.5 * ((r[..., None] - SHELLS) / WIDTHS) ** 2)
    return counts


def lengths(sample: list[Chunk]) -> Floats:
    """Nearest distances in sums of covalent radii, one value a frame, over chunks."""
    return np.concatenate([geometry(chunk).bond for chunk in sample]) if sample else np.zeros(0)
