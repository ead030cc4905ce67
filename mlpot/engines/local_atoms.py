"""The atoms of one process among several: its own, and around them ghosts, which belong to others.

Own atoms count with their energies. With n passes of messages, an energy depends on atoms up to n cutoffs away. A
ghost that is k edges away from the nearest own atom has the right features before pass n − k + 1, and own atoms
ask for no later ones. What is farther away, or connects two of the farthest, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlpot.graph import AtomGraph, Edges
from mlpot.models.native import GHOST
from mlpot.neighbors import pairs_in_open_space

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LocalGraph:
    """A graph of own atoms, which come first, and of the ghosts that they need."""

    graph: AtomGraph  # ghosts have `GHOST` added to their atomic numbers
    kept: Ints  # (n_kept,) places of its atoms among those given
    n_own: int
    ids: Ints  # (n_kept,)

    def with_true_numbers(self) -> AtomGraph:
        """For whoever counts the own atoms by itself."""
        return replace(self.graph, numbers=self.graph.numbers % GHOST)


class LocalList:
    """Edges of own atoms and ghosts, found anew when an atom moved half the skin or other atoms came.

    Args:
        cutoff: Å.
        n_passes: of messages.
        skin: Å, by which the list goes beyond the cutoff.
    """

    def __init__(self, cutoff: float, n_passes: int, skin: float = 0.5):
        self.cutoff, self.n_passes, self.skin = cutoff, n_passes, skin
        self.n_builds = 0
        self._ids: Ints | None = None
        self._reference: Floats = np.empty((0, 3))
        self._kept: Ints = np.empty(0, np.int64)
        self._edges: Edges | None = None
        self._n_own = 0

    def graph(self, positions: Floats, numbers: Ints, ids: Ints, n_own: int) -> LocalGraph:
        """The graph of now.

        Args:
            positions: (n_atoms, 3) Å, own atoms first, images of atoms where they are.
            numbers: (n_atoms,) atomic numbers; 0 for atoms that the potential does not see.
            ids: (n_atoms,) to know the atoms again.
            n_own: how many are own.

        Raises:
            ValueError: a position is not finite, or two atoms are in one place.
        """
        seen = np.where(numbers > 0, ids, -1)
        if not self._holds(positions, seen, n_own):
            self._build(positions, numbers, ids, n_own)
            self._ids, self._n_own = seen, n_own
        assert self._edges is not None
        kept, n_seen = self._kept, self._n_seen
        z = numbers[kept]
        z[n_seen:] += GHOST
        n = len(kept)
        graph = AtomGraph(
            positions=torch.from_numpy(positions[kept]),
            numbers=torch.from_numpy(z),
            cell=torch.zeros(1, 3, 3, dtype=torch.float64),
            pbc=torch.zeros(1, 3, dtype=torch.bool),
            edges=self._edges,
            cell_shift=torch.zeros(1, 3, dtype=torch.float64).expand(len(self._edges), 3),
            batch=torch.zeros(n, dtype=torch.int64),
        )
        return LocalGraph(graph, kept, n_seen, ids[kept])

    def _holds(self, positions: Floats, ids: Ints, n_own: int) -> bool:
        if self._ids is None or n_own != self._n_own or not np.array_equal(ids, self._ids):
            return False
        return farthest(positions, self._reference) < self.skin / 2  # NaN does not hold

    def _build(self, positions: Floats, numbers: Ints, ids: Ints, n_own: int) -> None:
        if not np.isfinite(positions).all():
            raise ValueError("A position is not finite: the run blew up. Take shorter steps, or relax the start.")
        self._reference = positions.copy()
        visible = np.flatnonzero(numbers > 0)
        n_seen = int(np.searchsorted(visible, n_own))
        center, neighbor = pairs_in_open_space(positions[visible], self.cutoff + self.skin, ids[visible])
        hops = hops_from(n_seen, len(visible), center, neighbor, self.n_passes)
        near = np.flatnonzero(hops <= self.n_passes)
        inner = hops < self.n_passes
        wanted = inner[center] | inner[neighbor]
        new = np.full(len(visible), -1)
        new[near] = np.arange(len(near))
        self._edges = symmetric_edges(new[center[wanted]], new[neighbor[wanted]], len(near))
        self._kept, self._n_seen = visible[near], n_seen
        self.n_builds += 1


def farthest(positions: Floats, reference: Floats) -> float:
    """How far an atom is from where it was, Å; NaN if a position is not a number."""
    moved = positions - reference
    return float(np.sqrt(np.einsum("ia,ia->i", moved, moved).max(initial=0.0)))


def hops_from(n_own: int, n_atoms: int, center: Ints, neighbor: Ints, n_passes: int) -> Ints:
    """Edges between each atom and the nearest own one, (n_atoms,); n_passes + 1 stands for more."""
    hops = np.full(n_atoms, n_passes + 1)
    hops[:n_own] = 0
    for k in range(n_passes):
        reached = neighbor[hops[center] == k]
        hops[reached] = np.minimum(hops[reached], k + 1)
    return hops


def symmetric_edges(center: Ints, neighbor: Ints, n_atoms: int) -> Edges:
    """Edges from pairs sorted by center and neighbor, each of which is there in both directions, and once."""
    row_ptr = np.zeros(n_atoms + 1, dtype=np.int64)
    np.cumsum(np.bincount(center, minlength=n_atoms), out=row_ptr[1:])
    # Sorted by neighbor, and by center among equals, an edge stands where its reverse does in the list.
    reverse = np.empty(len(center), np.int64)
    reverse[np.argsort(neighbor, kind="stable")] = np.arange(len(center))
    return Edges(*(torch.from_numpy(array) for array in (center, neighbor, row_ptr, reverse)))
