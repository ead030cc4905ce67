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

from mlpot.graph import AtomGraph, Edges, edge_vectors

SMALL = 64  # atoms; of fewer, all distances are computed
COINCIDENT = 1e-2  # Å; closer pairs are one atom written twice, not chemistry

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
        ValueError: wrong shapes, no atoms, a value that is not finite, a periodic direction without a
            cell vector, two atoms in one place.
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
    if not (np.isfinite(r).all() and np.isfinite(h).all()):
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
    back = _key(neighbor, center, -shift, n_atoms)
    if not np.array_equal(np.sort(back), _key(center, neighbor, shift, n_atoms)):
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
    if periodic.any():
        _check_periodic(h, periodic)
    return z, r, h, periodic


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
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=False, n_threads=torch.get_num_threads())
    center, neighbor, shift, distance = finder.compute(
        points=r, box=_full_cell(cell, periodic), periodic=periodic, quantities="ijSd"
    )
    if len(distance) and distance.min() < COINCIDENT:
        e = int(distance.argmin())
        raise ValueError(
            f"Atoms {ids[center[e]]} and {ids[neighbor[e]]} are {distance[e]:.2g} Å apart: the same atom twice, "
            "or a periodic image of itself. Remove one of them or correct the cell."
        )
    return center.astype(np.int64), neighbor.astype(np.int64), np.asarray(shift, dtype=np.float64)


def _full_cell(cell: Floats, periodic: NDArray[np.bool_]) -> Floats:
    """The cell with each non-periodic direction replaced by a unit vector normal to the periodic ones."""
    if periodic.all():
        return cell
    if not periodic.any():
        return np.zeros((3, 3))
    full = cell.copy()
    full[~periodic] = np.linalg.svd(cell[periodic])[2][periodic.sum() :]
    return full


def _key(center: Ints, neighbor: Ints, shift: NDArray[np.integer] | Floats, n_atoms: int) -> Ints:
    """One integer a pair, ordered as (center, neighbor, shift)."""
    whole = np.asarray(shift).astype(np.int64)
    reach = int(np.abs(whole).max(initial=0))
    base = 2 * reach + 1
    if float(n_atoms) ** 2 * float(base) ** 3 > 2**62:
        raise ValueError(
            f"{n_atoms} atoms that see {reach} periodic images overflow the pair index. Wrap the positions "
            "into the cell."
        )
    key = center * n_atoms + neighbor
    for axis in range(3):
        key = key * base + (whole[:, axis] + reach)
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
