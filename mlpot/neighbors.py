"""Who is near whom: full neighbor lists with exact periodic images, and a list with a Verlet skin.

The pairs come from vesin; ASE's list is the oracle in the tests. Edges are ordered by (center, neighbor,
shift) and cut at exactly the cutoff, so that a list depends on the positions alone and not on its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import vesin
from numpy.typing import ArrayLike, NDArray

from mlpot.graph import AtomGraph, Edges, collate, edge_vectors

SMALL = 64  # atoms; of fewer, all distances are computed
COINCIDENT = 1e-2  # Å; closer pairs are one atom written twice, not chemistry
FARTHEST = 1e8  # Å from the origin; beyond it, rounding of positions moves atoms by more than 1e-8 Å
MOST_CELLS = 5e4  # vesin 0.6 holds 1e5

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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
            without a cell vector, two atoms in one place.
    """
    z, r, h, periodic = checked_structure(numbers, positions, cell, pbc)
    center, neighbor, shift = _pairs(r, h, periodic, cutoff)
    return _graph(z, r, h, periodic, center, neighbor, shift)


class SkinList:
    """A neighbor list for moving atoms: rebuilt only when an atom moved half the skin or the cell changed.

    Pairs up to cutoff + skin are kept and every graph is cut at the cutoff, so graphs are the same, to the bit
    and in the same order, whether the list is old or new (L. Verlet, Phys. Rev. 159, 98 (1967)).
    """

    def __init__(self, cutoff: float, skin: float = 0.5):
        self.cutoff, self.skin = cutoff, skin  # Å
        self.n_builds = 0
        self._reference: AtomGraph | None = None  # as it was when the pairs were found, with all of them

    def graph(self, numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> AtomGraph:
        """The graph of a structure; arguments and errors as for `build_graph`."""
        wide = self.wide(numbers, positions, cell, pbc)
        vectors = edge_vectors(wide).numpy()
        near = np.einsum("ea,ea->e", vectors, vectors) < self.cutoff**2
        center, neighbor, shift = (
            t.numpy()[near] for t in (wide.edges.center, wide.edges.neighbor, wide.cell_shift)
        )
        r, z, h, periodic = (t.numpy() for t in (wide.positions, wide.numbers, wide.cell[0], wide.pbc[0]))
        return _graph(z, r, h, periodic, center, neighbor, shift)

    def wide(self, numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike) -> AtomGraph:
        """The graph with all edges up to cutoff + skin: the last one with other positions, while its pairs hold.

        For a reader that skips what lies beyond the cutoff. Arguments and errors as for `build_graph`.
        """
        r = np.array(positions, dtype=np.float64)
        if self._reference is None or not self._holds(numbers, r, cell, pbc):
            z, r, h, periodic = checked_structure(numbers, r, cell, pbc)
            self._reference = _graph(z, r, h, periodic, *_pairs(r, h, periodic, self.cutoff + self.skin))
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
    r = np.concatenate([np.asarray(part, dtype=np.float64) for part in positions])
    z = np.concatenate([np.asarray(part, dtype=np.int64) for part in numbers])
    h = np.stack([np.asarray(part, dtype=np.float64) for part in cells])
    return _molecules(sizes, z, r, h, cutoff)


def build_equal_molecules(numbers: Ints, positions: Floats, cells: Floats, cutoff: float) -> AtomGraph | None:
    """As `build_molecules` of equal sizes: (n_graphs, n_atoms), (n_graphs, n_atoms, 3), (n_graphs, 3, 3)."""
    n_graphs, n_atoms = numbers.shape
    if not 1 <= n_atoms <= SMALL:
        return None
    z, r = numbers.reshape(-1).astype(np.int64), positions.reshape(-1, 3).astype(np.float64)
    return _molecules(np.full(n_graphs, n_atoms), z, r, cells.astype(np.float64), cutoff)


def _molecules(sizes: Ints, z: Ints, r: Floats, h: Floats, cutoff: float) -> AtomGraph | None:
    """The graph of structures whose atoms stand one after another."""
    if not _sized(r, h):
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
    )


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


def unsorted_pairs(
    positions: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float, ids: Ints
) -> tuple[Ints, Ints, Floats]:
    """Center, neighbor and shift of all ordered pairs closer than `cutoff`, in any order.

    Args:
        positions, cell, periodic: as for `build_graph`, checked.
        cutoff: Å.
        ids: (n_atoms,) by which an error names atoms.

    Raises:
        ValueError: two atoms are in one place.
    """
    if len(positions) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3))
    return _found_pairs(positions, cell, periodic, cutoff, ids)


def symmetric_edges(center: Ints, neighbor: Ints, shift: Floats, n_atoms: int) -> tuple[Edges, torch.Tensor]:
    """Each pair once in both directions, whichever were given, sorted by (center, neighbor, shift).

    Args:
        center, neighbor: (n_pairs,).
        shift: (n_pairs, 3) whole cells crossed from center to neighbor.
        n_atoms: how many there are.

    Returns:
        The edges, and the shift of each, (n_edges, 3).
    """
    order = np.argsort(_key(center, neighbor, shift, n_atoms), kind="stable")
    center, neighbor, shift = center[order], neighbor[order], shift[order]
    del order  # with many atoms such arrays fill the memory
    back = _key(neighbor, center, -shift, n_atoms)
    back.sort()
    is_whole = np.array_equal(back, _key(center, neighbor, shift, n_atoms))
    del back
    if not is_whole:
        both = np.concatenate([center, neighbor]), np.concatenate([neighbor, center])
        crossed = np.concatenate([shift, -shift])
        _, once = np.unique(_key(*both, crossed, n_atoms), return_index=True)
        center, neighbor, shift = both[0][once], both[1][once], crossed[once]
    return _edges(center, neighbor, shift, n_atoms), torch.from_numpy(shift)


def checked_structure(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike
) -> tuple[Ints, Floats, Floats, NDArray[np.bool_]]:
    """The four arrays of a structure in house types, or a ValueError that names what is wrong."""
    z = np.asarray(numbers, dtype=np.int64)
    r = np.asarray(positions, dtype=np.float64)
    h = np.asarray(cell, dtype=np.float64)
    periodic = np.asarray(pbc, dtype=bool)
    if periodic.ndim == 0:
        periodic = np.repeat(periodic, 3)
    for name, array, shape in (
        ("numbers", z, (len(r),)),
        ("positions", r, (len(r), 3)),
        ("cell", h, (3, 3)),
        ("pbc", periodic, (3,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}. Give one row per atom.")
    if len(r) == 0:
        raise ValueError("The structure has no atoms. Remove the empty frame.")
    if not np.isfinite(r).all():
        bad = np.flatnonzero(~np.isfinite(r).all(axis=1))
        raise ValueError(f"Positions of atoms {bad[:5].tolist()} are not finite. Repair or remove the frame.")
    if not np.isfinite(h).all():
        raise ValueError("The cell is not finite. Repair or remove the frame.")
    if not _sized(r, h):
        bad = np.flatnonzero((np.abs(r) > FARTHEST).any(axis=1))
        what = f"Positions of atoms {bad[:5].tolist()} are" if len(bad) else "The cell is"
        raise ValueError(
            f"{what} beyond {FARTHEST:g} Å, where rounding moves atoms: a value that stands for none, or another "
            "unit, or a time step that is too long. Repair or remove the frame, or take a shorter step."
        )
    if periodic.any():
        _check_periodic(h, periodic)
    return z, r, h, periodic


def _sized(r: Floats, cell: Floats) -> bool:
    """Whether positions and cells are numbers in which float64 tells distances; NaN are none."""
    return bool((np.abs(r) <= FARTHEST).all() and (np.abs(cell) <= FARTHEST).all())


def _check_periodic(cell: Floats, periodic: NDArray[np.bool_]) -> None:
    vectors = cell[periodic]
    lengths = np.linalg.norm(vectors, axis=1)
    if (lengths < 1e-6).any():
        raise ValueError(
            f"pbc is {periodic.tolist()} but a periodic cell vector is zero:\n{cell}\n"
            "Give the cell, or set pbc to False for a molecule."
        )
    if np.linalg.matrix_rank(vectors / lengths[:, None], tol=1e-6) < len(vectors):
        raise ValueError(f"The periodic cell vectors are linearly dependent:\n{cell}\nCorrect the cell.")


def _pairs(r: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float) -> tuple[Ints, Ints, Floats]:
    """Center, neighbor and shift of all ordered pairs, sorted by (center, neighbor, shift)."""
    center, neighbor, shift = _found_pairs(r, cell, periodic, cutoff, np.arange(len(r)))
    order = np.argsort(_key(center, neighbor, shift, len(r)), kind="stable")
    return center[order], neighbor[order], shift[order]


def _found_pairs(
    r: Floats, cell: Floats, periodic: NDArray[np.bool_], cutoff: float, ids: Ints
) -> tuple[Ints, Ints, Floats]:
    points, box = _enclosed(r, cell, periodic, cutoff)
    reach = _reach(box, cutoff)
    finder = vesin.NeighborList(cutoff=reach, full_list=True, sorted=False, n_threads=torch.get_num_threads())
    center, neighbor, shift, distance = finder.compute(points=points, box=box, periodic=True, quantities="ijSd")
    if reach > cutoff:
        near = distance < cutoff
        center, neighbor, shift, distance = center[near], neighbor[near], shift[near], distance[near]
    if len(distance) and distance.min() < COINCIDENT:
        e = int(distance.argmin())
        raise ValueError(
            f"Atoms {ids[center[e]]} and {ids[neighbor[e]]} are {distance[e]:.2g} Å apart: the same atom twice, "
            "or a periodic image of itself. Remove one of them or correct the cell."
        )
    return center.astype(np.int64), neighbor.astype(np.int64), np.asarray(shift, dtype=np.float64)


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


def _key(center: Ints, neighbor: Ints, shift: NDArray[np.integer] | Floats, n_atoms: int) -> Ints:
    """One integer a pair, ordered as (center, neighbor, shift)."""
    shift = np.asarray(shift)
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
        key += shift[:, axis].astype(np.int64) + reach
    return key


def _graph(
    z: Ints, r: Floats, cell: Floats, periodic: NDArray[np.bool_], center: Ints, neighbor: Ints, shift: Floats
) -> AtomGraph:
    return AtomGraph(
        positions=torch.from_numpy(r.copy()),
        numbers=torch.from_numpy(z.copy()),
        cell=torch.from_numpy(cell.copy())[None],
        pbc=torch.from_numpy(periodic.copy())[None],
        edges=_edges(center, neighbor, shift, len(z)),
        cell_shift=torch.from_numpy(shift),
        batch=torch.zeros(len(z), dtype=torch.int64, device="cpu"),
    )


def _edges(center: Ints, neighbor: Ints, shift: Floats, n_atoms: int) -> Edges:
    """Edges from sorted pairs, each of which is there in both directions."""
    row_ptr = np.zeros(n_atoms + 1, dtype=np.int64)
    np.cumsum(np.bincount(center, minlength=n_atoms), out=row_ptr[1:])
    return Edges(
        center=torch.from_numpy(center),
        neighbor=torch.from_numpy(neighbor),
        row_ptr=torch.from_numpy(row_ptr),
        # The e-th pair in the order of the reversed keys is the pair whose reverse is edge e.
        reverse=torch.from_numpy(np.argsort(_key(neighbor, center, -shift, n_atoms), kind="stable")),
    )
