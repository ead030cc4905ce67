"""Who is near whom: full neighbor lists with exact periodic images, and a list with a Verlet skin.

The pairs come from vesin; ASE's list is the oracle in the tests. Edges are ordered by (center, neighbor,
shift) and cut at exactly the cutoff, so that a list depends on the positions alone and not on its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import vesin
from numpy.typing import ArrayLike, NDArray

from mlpot.graph import AtomGraph, Edges, collate, edge_vectors
from mlpot.kernels import loops
from mlpot.structure_check import checked_length, checked_structure, reals, sized

SMALL = 64  # atoms; of fewer, all distances are computed
COINCIDENT = 1e-2  # Å; closer pairs are one atom written twice, not chemistry
OWN_IMAGE = 0.6  # Å; no crystal repeats itself after less: of H₂ the bond is 0.74 Å
MOST_CELLS = 5e4  # vesin 0.6 holds 1e5
FEW = 4096  # pairs; to sort so many takes less time than to load compiled code

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Shift = NDArray[np.int32]
Pairs = tuple[Ints, Ints, Shift]


def build_graph(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float
) -> AtomGraph:
    """One structure with every ordered pair closer than `cutoff` (Å), images included.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) Å, wrapped or not.
        cell: (3, 3) Å, rows are cell vectors; zero for a molecule.
        pbc: (3,) bool, the periodic directions.
        cutoff: Å.

    Raises:
        ValueError: wrong shapes, no atoms, a value that is not finite or absurdly large, a periodic direction
            without a cell vector, two atoms in one place, a cutoff that is no number above 0.
    """
    z, r, h, periodic = checked_structure(numbers, positions, cell, pbc)
    return _graph(z, r, h, periodic, checked_length("cutoff", cutoff, "above 0", ", as potential.cutoff"))


class SkinList:
    """A neighbor list for moving atoms: rebuilt only when an atom moved half the skin or the cell changed.

    Pairs up to cutoff + skin are kept and every graph is cut at the cutoff, so graphs are the same, to the bit
    and in the same order, whether the list is old or new (L. Verlet, Phys. Rev. 159, 98 (1967)).

    Raises:
        ValueError: the skin is negative or no number: pairs would be missing.
    """

    def __init__(self, cutoff: float, skin: float = 0.5):
        skin = checked_length("skin", skin, "from 0 on", ", to which pairs beyond the cutoff are kept")
        self.cutoff, self.skin = cutoff, skin  # Å
        self.n_builds = 0
        self._reference: AtomGraph | None = None  # as it was when the pairs were found, with all of them

    def graph(self, numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> AtomGraph:
        """The graph of a structure; arguments and errors as for `build_graph`."""
        wide = self.wide(numbers, positions, cell, pbc)
        vectors, edges = edge_vectors(wide).numpy(), wide.edges
        near = np.einsum("ea,ea->e", vectors, vectors) < self.cutoff**2  # equal in both directions, to the bit
        kept, before = torch.from_numpy(near), np.zeros(len(near) + 1, np.int64)
        np.cumsum(near, out=before[1:])
        row_ptr, reverse = before[edges.row_ptr.numpy()], before[edges.reverse.numpy()[near]]
        ends = torch.from_numpy(row_ptr), torch.from_numpy(reverse)
        return replace(
            wide,
            positions=wide.positions.clone(),
            edges=Edges(edges.center[kept], edges.neighbor[kept], *ends),
            cell_shift=wide.cell_shift[kept],
            cutoff=self.cutoff,
        ).know()

    def wide(self, numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> AtomGraph:
        """The graph with all edges up to cutoff + skin: the last one with other positions, while its pairs hold.

        For a reader that skips what lies beyond the cutoff. Arguments and errors as for `build_graph`.
        """
        r = reals("positions", positions).copy()
        if self._reference is None or not self._holds(numbers, r, cell, pbc):
            z, r, h, periodic = checked_structure(numbers, r, cell, pbc)
            self._reference = _graph(z, r, h, periodic, self.cutoff + self.skin)
            self.n_builds += 1
        return replace(self._reference, positions=torch.from_numpy(r))

    def _holds(self, numbers: ArrayLike, r: Floats, cell: ArrayLike, pbc: ArrayLike) -> bool:
        """Whether the reference still has all pairs within the cutoff."""
        assert self._reference is not None
        old = self._reference
        same = ((old.numbers, numbers), (old.cell[0], cell), (old.pbc[0], pbc))
        if r.shape != old.positions.shape or not all(np.array_equal(a.numpy(), b) for a, b in same):
            return False
        moved = r - old.positions.numpy()
        return bool(np.einsum("ia,ia->i", moved, moved).max() < (self.skin / 2) ** 2)  # NaN does not hold


def build_molecules(
    numbers: Sequence[ArrayLike], positions: Sequence[ArrayLike], cells: Sequence[ArrayLike], cutoff: float
) -> AtomGraph | None:
    """The graph of many small structures without periods, as of `build_graph` and `collate`, in one go.

    Args:
        numbers: of each structure, (n_atoms,) atomic numbers.
        positions: of each, (n_atoms, 3) Å.
        cells: of each, (3, 3) Å, kept as they are.
        cutoff: Å.

    Returns:
        None if a structure is large, empty, not finite or of a wrong shape, or has two atoms in one place:
        `build_graph` takes it, or says what is wrong.
    """
    sizes = np.array([len(z) for z in numbers])  # type: ignore[arg-type]
    fit = all(np.shape(r) == (n, 3) for r, n in zip(positions, sizes, strict=True))
    if not fit or sizes.max() > SMALL or sizes.min() < 1:
        return None
    r, h = np.concatenate([np.asarray(part) for part in positions]), np.stack([np.asarray(part) for part in cells])
    z = np.concatenate([np.asarray(part) for part in numbers])
    if r.dtype.kind not in "fiu" or h.dtype.kind not in "fiu" or z.dtype.kind not in "iu":
        return None
    return _molecules(sizes, z.astype(np.int64), r.astype(np.float64), h.astype(np.float64), cutoff)


def build_equal_molecules(numbers: Ints, positions: Floats, cells: Floats, cutoff: float) -> AtomGraph | None:
    """As `build_molecules` of equal sizes: (n_graphs, n_atoms), (n_graphs, n_atoms, 3), (n_graphs, 3, 3)."""
    n_graphs, n_atoms = numbers.shape
    if not 1 <= n_atoms <= SMALL:
        return None
    z, r = numbers.reshape(-1).astype(np.int64), positions.reshape(-1, 3).astype(np.float64)
    return _molecules(np.full(n_graphs, n_atoms), z, r, cells.astype(np.float64), cutoff)


def _molecules(sizes: Ints, z: Ints, r: Floats, h: Floats, cutoff: float) -> AtomGraph | None:
    """The graph of structures whose atoms stand one after another."""
    if not sized(r, h):
        return None
    there = np.arange(sizes.max()) < sizes[:, None]  # (n_graphs, most atoms)
    apart = np.zeros((3, *there.shape))
    apart[:, there] = r.T
    squared = np.square(apart[:, :, None, :] - apart[:, :, :, None]).sum(0)
    near = (squared < cutoff**2) & there[:, :, None] & there[:, None, :]
    near[:, np.arange(sizes.max()), np.arange(sizes.max())] = False
    if (squared[near] < COINCIDENT**2).any():
        return None
    graph, i, j = np.nonzero(near)
    first = np.cumsum(sizes) - sizes
    row_ptr = np.zeros(len(z) + 1, dtype=np.int64)
    np.cumsum(near.sum(2)[there], out=row_ptr[1:])
    place = np.cumsum(near.ravel()).reshape(near.shape) - 1
    arrays = first[graph] + i, first[graph] + j, row_ptr, place[graph, j, i]
    return AtomGraph(
        positions=torch.from_numpy(r),
        numbers=torch.from_numpy(z),
        cell=torch.from_numpy(h),
        pbc=torch.zeros(len(sizes), 3, dtype=torch.bool, device="cpu"),
        edges=Edges(*(torch.from_numpy(array) for array in arrays)),
        cell_shift=torch.zeros(len(graph), 3, dtype=torch.float64, device="cpu"),
        batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        cutoff=cutoff,
    ).know()


def build_graphs(
    numbers: Sequence[ArrayLike],
    positions: Sequence[ArrayLike],
    cells: Sequence[ArrayLike],
    pbc: Sequence[ArrayLike],
    cutoff: float,
) -> AtomGraph:
    """Many structures as one graph; arguments, for each structure, and errors as for `build_graph`."""
    if not any(np.any(own) for own in pbc):
        graph = build_molecules(numbers, positions, cells, cutoff)
        if graph is not None:
            return graph
    return collate([build_graph(*one, cutoff) for one in zip(numbers, positions, cells, pbc, strict=True)])


def pairs_within(positions: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float, ids: Ints) -> Pairs:
    """Two atoms of each pair closer than `cutoff` and whole cells from the first to the second, each pair once.

    Args:
        positions, cell, periodic: as for `build_graph`, checked.
        cutoff: Å.
        ids: (n_atoms,) by which an error names atoms.

    Returns:
        (n_pairs,), (n_pairs,), (n_pairs, 3); an atom and an image of its own are a pair. In any order.

    Raises:
        ValueError: two atoms are in one place.
    """
    if len(positions) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3), np.int32)
    points, box = _enclosed(positions, cell, periodic, cutoff)
    reach = _reach(box, cutoff)
    finder = vesin.NeighborList(cutoff=reach, full_list=False, sorted=False, n_threads=torch.get_num_threads())
    first, second, shift, distance = finder.compute(points=points, box=box, periodic=True, quantities="ijSd")
    if reach > cutoff:
        near = distance < cutoff
        first, second, shift, distance = first[near], second[near], shift[near], distance[near]
    if len(distance) and distance.min() < OWN_IMAGE:
        _check_places(first, second, distance, ids)
    return first.astype(np.int64, copy=False), second.astype(np.int64, copy=False), shift


def _check_places(first: Ints, second: Ints, distance: Floats, ids: Ints) -> None:
    """Raise ValueError if two atoms are in one place, or one is nearly on an image of its own."""
    e = int(distance.argmin())
    if distance[e] < COINCIDENT:
        raise ValueError(
            f"Atoms {ids[first[e]]} and {ids[second[e]]} are {distance[e]:.2g} Å apart: the same atom twice, "
            "or a periodic image of itself. Remove one of them or correct the cell."
        )
    e = int(np.where(first == second, distance, np.inf).argmin())
    if first[e] == second[e] and distance[e] < OWN_IMAGE:
        raise ValueError(
            f"Atom {ids[first[e]]} is {distance[e]:.2g} Å from its own periodic image, closer than any bond. "
            "Correct the cell: its vectors are in Å, not in nm or in multiples of a lattice constant."
        )


def edges_of_pairs(first: Ints, second: Ints, shift: Shift, n_atoms: int) -> tuple[Edges, torch.Tensor]:
    """The edges in both directions of pairs that are given once, sorted by (center, neighbor, shift).

    Args:
        first, second, shift: as `pairs_within` has them.
        n_atoms: how many there are.

    Returns:
        The edges, and the shift of each, (n_edges, 3).
    """
    order = _ordered if len(first) < FEW else _ordered_in_compiled_code
    center, neighbor, row_ptr, reverse, cell_shift = map(torch.from_numpy, order(first, second, shift, n_atoms))
    return Edges(center, neighbor, row_ptr, reverse), cell_shift


def each_once(first: Ints, second: Ints, shift: Shift, n_atoms: int) -> Pairs:
    """The pairs without those that are given again, in either direction."""
    back = _key(second, first, -shift, n_atoms) < _key(first, second, shift, n_atoms)
    first, second = np.where(back, second, first), np.where(back, first, second)
    shift = np.where(back[:, None], -shift, shift)
    key = _key(first, second, shift, n_atoms)
    order = np.argsort(key)  # some times as fast as np.unique, whose sort is stable
    once = order[np.diff(key[order], prepend=-1) > 0]
    return first[once], second[once], shift[once]


def _enclosed(r: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float) -> tuple[Floats, Floats]:
    """Positions and a cell, periodic in all directions, with the same pairs; shifts along open directions are 0.

    Along open directions, normal to the periodic ones, the cell is so long that no image is near, and gaps that
    no pair crosses are closed to two cutoffs, so that atoms far away cost no cells. Left to itself, vesin 0.6
    takes hours for a wire of some thousand cutoffs.
    """
    if periodic.all():
        return r, cell
    normals = np.linalg.svd(cell[periodic])[2][periodic.sum() :] if periodic.any() else np.eye(3)
    box, points = cell.copy(), r
    for row, normal in zip(np.flatnonzero(~periodic), normals, strict=True):
        along = r @ normal
        order = np.argsort(along, kind="stable")
        excess = np.maximum(np.diff(along[order]) - 2 * cutoff, 0.0)
        closed = np.zeros(len(r))
        closed[order[1:]] = np.cumsum(excess)
        if excess.any():
            points = points - closed[:, None] * normal
        box[row] = (np.ptp(along - closed) + 2 * cutoff) * normal
    return points, box


def _reach(box: Floats, cutoff: float) -> float:
    """The cutoff, or as much more as vesin needs: of more cells than it holds, it scales small counts to none."""
    heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
    while True:
        n_cells = np.maximum(np.floor(heights / cutoff), 1.0)
        scale = np.cbrt(MOST_CELLS / n_cells.prod())
        if scale >= 1 or n_cells.min() * scale >= 2:
            return cutoff
        cutoff *= 1.25


def _key(center: Ints, neighbor: Ints, shift: Shift, n_atoms: int) -> Ints:
    """One integer a pair, ordered as (center, neighbor, shift)."""
    reach = int(max(shift.max(initial=0), -shift.min(initial=0)))
    base = 2 * reach + 1
    if float(n_atoms) ** 2 * float(base) ** 3 > 2**62:
        raise ValueError(
            f"{n_atoms} atoms that see {reach} periodic images overflow the pair index. Wrap the positions "
            "into the cell."
        )
    key = center * n_atoms
    key += neighbor
    for axis in range(3 if reach else 0):
        key *= base
        key += shift[:, axis]
        key += reach
    return key


def _graph(z: Ints, r: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float) -> AtomGraph:
    if len(r) <= SMALL and not periodic.any():
        molecule = _molecules(np.array([len(r)]), z.copy(), r.copy(), cell.copy()[None], cutoff)
        if molecule is not None:
            return molecule
    edges, cell_shift = edges_of_pairs(*pairs_within(r, cell, periodic, cutoff, np.arange(len(r))), len(r))
    return AtomGraph(
        positions=torch.from_numpy(r.copy()),
        numbers=torch.from_numpy(z.copy()),
        cell=torch.from_numpy(cell.copy())[None],
        pbc=torch.from_numpy(periodic.copy())[None],
        edges=edges,
        cell_shift=cell_shift,
        batch=torch.zeros(len(z), dtype=torch.int64, device="cpu"),
        cutoff=cutoff,
    ).know()


def _ordered(first: Ints, second: Ints, shift: Shift, n_atoms: int) -> tuple[Any, ...]:
    """Arrays of `edges_of_pairs`: center, neighbor, row_ptr, reverse, shift."""
    n_pairs = len(first)
    center, neighbor = np.concatenate([first, second]), np.concatenate([second, first])
    both = np.concatenate([shift, -shift])
    order = np.argsort(_key(center, neighbor, both, n_atoms))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    center, row_ptr = center[order], np.zeros(n_atoms + 1, np.int64)
    np.cumsum(np.bincount(center, minlength=n_atoms), out=row_ptr[1:])
    reverse = place[np.where(order < n_pairs, order + n_pairs, order - n_pairs)]
    return center, neighbor[order], row_ptr, reverse, both[order].astype(np.float64)


def _ordered_in_compiled_code(first: Ints, second: Ints, shift: Shift, n_atoms: int) -> tuple[Any, ...]:
    """The same; `order_edges` counts where a sort of many edges would compare."""
    n_edges = 2 * len(first)
    scratch = np.empty((2, n_edges), np.int32 if n_edges < 2**31 else np.int64)  # many edges fill the memory
    row_ptr, at = np.zeros(n_atoms + 1, np.int64), np.empty(n_atoms + 1, np.int64)
    center, neighbor, reverse = (
        np.empty(n_edges, np.int64),
        np.empty(n_edges, np.int64),
        np.empty(n_edges, np.int64),
    )
    cell_shift = np.empty((n_edges, 3))
    pairs = np.ascontiguousarray(first), np.ascontiguousarray(second), np.ascontiguousarray(shift, np.int32)
    loops.structure.order_edges(*pairs, at, *scratch, center, neighbor, row_ptr, reverse, cell_shift)
    return center, neighbor, row_ptr, reverse, cell_shift
