"""The atoms of one process among several: its own, and around them ghosts, which belong to others.

Own atoms count with their energies. With n passes of messages, an energy depends on atoms up to n cutoffs away. A
ghost that is k edges away from the nearest own atom has the right features before pass n − k + 1, and own atoms
ask for no later ones. What is farther away, or connects two of the farthest, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.graph import AtomGraph, Edges
from mlpot.kernels import loops
from mlpot.kernels.threads import run
from mlpot.models.native import GHOST
from mlpot.neighbors import each_once, edges_of_pairs, pairs_within

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


NO_PERIOD = np.zeros(3, bool)
SKIN = 1.0  # Å; twice that of a calculator, as among many atoms some always go far
NEAR = 0.4  # Å; of the part of a list that is walked in each step, as compiled code looks at every pair in it


class Box(NamedTuple):
    """The box of all ranks."""

    origin: Floats  # (3,) Å
    cell: Floats  # (3, 3) Å, rows are its vectors
    periodic: NDArray[np.bool_]  # (3,)


@dataclass(frozen=True)
class LocalGraph:
    """A graph of own atoms, which come first, and of the ghosts that they need, each atom once."""

    graph: AtomGraph  # ghosts have `GHOST` added to their atomic numbers
    kept: Ints  # (n_kept,) places of its atoms among those given
    n_own: int
    ids: Ints  # (n_kept,)

    def with_true_numbers(self) -> AtomGraph:
        """For whoever counts the own atoms by itself."""
        return replace(self.graph, numbers=self.graph.numbers % GHOST)


class _Found(NamedTuple):
    """What a list keeps: places of the atoms of its graph, how many are own, edges and cells that they cross."""

    kept: Ints
    n_own: int
    edges: Edges
    cell_shift: Tensor
    crosses: bool = True  # whether an edge crosses a cell


class Due(IntEnum):
    """What must be found anew before a list has all edges within the cutoff."""

    NOTHING = 0
    NEAR = 1  # the edges within the smaller skin
    ALL = 2


class LocalList:
    """Edges of own atoms and ghosts, found anew when an atom moved half the skin or other atoms came.

    Of these, the ones within a smaller skin are taken anew more often: a pair that is r apart, of atoms that have
    moved by at most u since the list was found, was at most r + 2 u apart then.

    Args:
        cutoff: Å.
        n_passes: of messages.
        skin: Å, by which the list goes beyond the cutoff.
    """

    def __init__(self, cutoff: float, n_passes: int, skin: float = SKIN):
        self.cutoff, self.n_passes, self.skin = cutoff, n_passes, skin
        self.n_builds = 0
        self._ids: Ints | None = None
        self._n_own = 0
        self._wide: tuple[Floats, _Found] | None = None  # where atoms were then, and all edges
        self._near: tuple[Floats, _Found, float] | None = None  # and those nearer, for so far a way of atoms

    def due(self, positions: Floats, numbers: Ints, ids: Ints, n_own: int) -> Due:
        """What must be found anew for atoms that are where they are now; arguments as of `graph`."""
        visible_ids = np.where(numbers > 0, ids, -1)
        same = self._ids is not None and n_own == self._n_own and np.array_equal(visible_ids, self._ids)
        if not same or self._wide is None or self._near is None:
            return Due.ALL
        if farthest(positions, self._near[0]) < self._near[2]:  # NaN is not
            return Due.NOTHING
        return Due.NEAR if self.skin - 2 * farthest(positions, self._wide[0]) > NEAR / 2 else Due.ALL

    def graph(
        self, positions: Floats, numbers: Ints, ids: Ints, n_own: int, box: Box, due: Due | None = None
    ) -> LocalGraph:
        """The graph of now.

        Args:
            positions: (n_atoms, 3) Å, own atoms first, images of atoms where they are.
            numbers: (n_atoms,) atomic numbers; 0 for atoms that the potential does not see.
            ids: (n_atoms,) equal for images of one atom.
            n_own: how many are own.
            box: whole vectors of which are between images.
            due: at least what `due` says, which is asked if it is None; processes that wait for each other find
                lists anew in the same step.

        Raises:
            ValueError: a position is not finite, or two atoms are in one place.
        """
        if due is None:
            due = self.due(positions, numbers, ids, n_own)
        if due is Due.ALL:
            self._wide = self._near = None  # also if what follows fails
            self._wide = positions.copy(), _small(self._build(positions, numbers, ids, n_own, box))
            self._ids, self._n_own = np.where(numbers > 0, ids, -1), n_own
            self.n_builds += 1
        assert self._wide is not None
        if due is not Due.NOTHING:
            margin = min(self.skin - 2 * farthest(positions, self._wide[0]), NEAR)
            near = _within(self.cutoff + margin, self._wide[1], positions, box.cell)
            self._near = positions.copy(), near, margin / 2
        assert self._near is not None
        kept, n_seen, edges, shift, crosses = self._near[1]
        z = numbers[kept]
        z[n_seen:] += GHOST
        graph = AtomGraph(
            positions=torch.from_numpy(positions[kept]),
            numbers=torch.from_numpy(z),
            cell=torch.from_numpy(box.cell.copy())[None],
            pbc=torch.full((1, 3), crosses, device="cpu"),
            edges=edges,
            cell_shift=shift,
            batch=torch.zeros(len(kept), dtype=torch.int64, device="cpu"),
        )
        return LocalGraph(graph, kept, n_seen, ids[kept])

    def _build(self, positions: Floats, numbers: Ints, ids: Ints, n_own: int, box: Box) -> _Found:
        """Edges from the images that are nearest to own atoms, each image standing for its atom."""
        if not np.isfinite(positions).all():
            raise ValueError("A position is not finite: the run blew up. Take shorter steps, or relax the start.")
        visible = np.flatnonzero(numbers > 0)
        n_seen, r = int(np.searchsorted(visible, n_own)), positions[visible]
        if np.isin(ids[visible[n_seen:]], ids[visible[:n_seen]], assume_unique=False).all():
            return self._alone(r[:n_seen], ids, visible[:n_seen], box)
        # Arrays of all pairs are let go of as soon as they can be: they are most of a rank's memory.
        first, second, shift = pairs_within(r, np.zeros((3, 3)), NO_PERIOD, self.cutoff + self.skin, ids[visible])
        hops = hops_from(n_seen, len(visible), first, second, self.n_passes)
        image, node = nearest_images(ids[visible], hops)
        near = np.flatnonzero(hops[image] <= self.n_passes)  # own atoms first: they are 0 hops away
        place = np.full(len(image), -1)
        place[near] = np.arange(len(near))
        asks = np.zeros(len(visible), bool)  # images whose edges own atoms ask for
        asks[image] = hops[image] < self.n_passes
        wanted = asks[first] | asks[second]
        first, second, shift = first[wanted], second[wanted], shift[wanted]
        pairs = place[node[first]], place[node[second]], shift
        if len(image) < len(visible):
            crossed = np.rint(np.linalg.solve(box.cell.T, (r - r[image[node]]).T).T)  # of each image to its atom
            pairs = each_once(*pairs[:2], (crossed[second] - crossed[first]).astype(np.int32), len(near))
        del first, second, shift, wanted
        return _Found(visible[image[near]], n_seen, *edges_of_pairs(*pairs, len(near)))

    def _alone(self, positions: Floats, ids: Ints, visible: Ints, box: Box) -> _Found:
        """Edges of atoms all of whose ghosts are images of themselves: those of a periodic structure."""
        pairs = pairs_within(positions, box.cell, box.periodic, self.cutoff + self.skin, ids[visible])
        return _Found(visible, len(visible), *edges_of_pairs(*pairs, len(visible)))


def _small(found: _Found) -> _Found:
    """The same in a third of the memory, of integers as short as they can be."""
    edges, shift = found.edges, found.cell_shift
    if len(edges) < 2**31:
        edges = Edges(*(t.int() for t in (edges.center, edges.neighbor, edges.row_ptr, edges.reverse)))
    if float(shift.abs().max() if len(shift) else 0) < 2**7:
        shift = shift.to(torch.int8)
    return found._replace(edges=edges, cell_shift=shift)


def _within(reach: float, found: _Found, positions: Floats, cell: Floats) -> _Found:
    """The edges that are shorter, in their order; each with the one that points back, as long to the bit."""
    neighbor, row_ptr, reverse = (
        t.numpy() for t in (found.edges.neighbor, found.edges.row_ptr, found.edges.reverse)
    )
    shift, r, parts = found.cell_shift.numpy(), positions[found.kept], [(0, len(row_ptr) - 1)]
    is_within = np.empty(len(neighbor), np.bool_)
    run(loops.structure.mark_within, parts, row_ptr, neighbor, shift, cell, r, reach**2, is_within)
    place = np.empty(len(neighbor) + 1, row_ptr.dtype)  # how many shorter ones stand before each
    place[0] = 0
    np.cumsum(is_within, out=place[1:])
    n = int(place[-1])
    near = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 3))
    run(loops.structure.take_within, parts, row_ptr, neighbor, reverse, shift, is_within, place, *near)
    edges = near[0], near[1], place[row_ptr].astype(np.int64), near[2]
    return found._replace(
        edges=Edges(*(torch.from_numpy(array) for array in edges)),
        cell_shift=torch.from_numpy(near[3]),
        crosses=bool(near[3].any()),
    )


def nearest_images(ids: Ints, hops: Ints) -> tuple[Ints, Ints]:
    """Of each atom the image with the fewest hops, own atoms first; and for each image its atom among these."""
    order = np.argsort(hops, kind="stable")
    _, first, atom = np.unique(ids[order], return_index=True, return_inverse=True)
    rank = np.argsort(first)  # atoms as their nearest images come
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank))
    node = np.empty(len(ids), np.int64)
    node[order] = place[atom]
    return order[first[rank]], node


def farthest(positions: Floats, reference: Floats) -> float:
    """How far an atom is from where it was, Å; NaN if a position is not a number."""
    moved = positions - reference
    return float(np.sqrt(np.einsum("ia,ia->i", moved, moved).max(initial=0.0)))


def hops_from(n_own: int, n_atoms: int, first: Ints, second: Ints, n_passes: int) -> Ints:
    """Edges between each atom and the nearest own one, (n_atoms,), from pairs; n_passes + 1 stands for more."""
    hops = np.full(n_atoms, n_passes + 1)
    hops[:n_own] = 0
    for k in range(n_passes):
        for reached in (second[hops[first] == k], first[hops[second] == k]):
            hops[reached] = np.minimum(hops[reached], k + 1)
    return hops
