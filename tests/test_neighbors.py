"""A neighbor list holds every pair closer than the cutoff, once in each direction, in whatever cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from potentials import new_potential
from structures import copper, copper_atom, ethanol, graph_of, isolated_atom, quartz, slab, worst

from mlpot import neighbors
from mlpot.forces import hessian, predict, predict_atoms
from mlpot.graph import AtomGraph, collate, edge_vectors
from mlpot.neighbors import SkinList, build_graph, build_molecules


def with_cell(atoms: Atoms, rows: object, pbc: object = True) -> Atoms:
    """The same atoms in another cell."""
    return Atoms(atoms.numbers, atoms.positions, cell=rows, pbc=pbc)


def by_cells(atoms: Atoms, reach: int) -> Atoms:
    """Every atom moved by whole cells."""
    out = atoms.copy()
    out.positions += np.random.default_rng(0).integers(-reach, reach + 1, (len(atoms), 3)) @ atoms.cell.array
    return out


QUARTZ, SLAB = quartz().cell.array, slab().cell.array
TILTED = SLAB + [[0, 0, 0], [0, 0, 0], [3, 2, 9]]
SKEW = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]])
A_CHAIN, LAST_CHAIN = [[2.9, 0.3, 0.1], [1, 9, 0], [0.5, 2, 9]], [[0, 0, 0], [0, 0, 0], [0.2, 0.3, 3.1]]

CASES: dict[str, tuple[Atoms, float]] = {
    "cubic": (bulk("Cu", "fcc", a=3.61, cubic=True), 4.5),
    "triclinic": (quartz(), 5.0),
    "skewed": (with_cell(quartz(), SKEW @ QUARTZ), 4.0),
    "primitive, smaller than the cutoff": (bulk("Si", "diamond", a=5.43), 6.0),
    "one atom in a small cell": (copper_atom(), 7.3),
    "one atom in a flat cell": (with_cell(copper_atom(), [[2.5, 0, 0], [2.3, 0.9, 0], [0.1, 0.4, 2.0]]), 4.0),
    "left-handed": (with_cell(quartz(), QUARTZ[[1, 0, 2]]), 4.0),
    "slab": (slab(), 4.0),
    "slab in a tilted box": (with_cell(slab(), TILTED, (True, True, False)), 4.0),
    "slab with its vacuum first": (with_cell(slab(), SLAB[[2, 0, 1]], (False, True, True)), 4.0),
    "chain in a tilted box": (with_cell(ethanol(), A_CHAIN, (True, False, False)), 4.0),
    "chain along the last vector": (with_cell(ethanol(), LAST_CHAIN, (False, False, True)), 4.0),
    "molecule": (ethanol(), 3.0),
    "molecule in a cell it ignores": (with_cell(ethanol(), np.eye(3), False), 3.0),
    "moved by two cells": (by_cells(quartz(), 2), 4.0),
    "moved by nine cells": (by_cells(copper(), 9), 4.0),
    "isolated atom": (isolated_atom(), 5.0),
}


def distances(graph: AtomGraph) -> np.ndarray:
    return torch.linalg.vector_norm(edge_vectors(graph), dim=-1).numpy()


def as_set(center: np.ndarray, neighbor: np.ndarray, shift: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.column_stack([center, neighbor, shift]).astype(int).tolist()))


def oracle(atoms: Atoms, cutoff: float) -> set[tuple[int, ...]]:
    """ASE's list, of a cell that it accepts: missing vectors replaced by long ones it never crosses."""
    cell = atoms.cell.array.copy()
    missing = ~atoms.pbc
    if missing.any():
        basis = np.linalg.svd(cell[atoms.pbc])[2][atoms.pbc.sum() :] if atoms.pbc.any() else np.eye(3)
        cell[missing] = 50.0 * basis
    i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, cell, atoms.positions, cutoff, self_interaction=False)
    return as_set(i, j, shift)


def check_invariants(graph: AtomGraph, cutoff: float) -> None:
    """Sorted, complete in both directions, row pointers and reverse edges consistent."""
    edges, n = graph.edges, len(graph.edges)
    key = np.lexsort([*graph.cell_shift.numpy().T[::-1], edges.neighbor.numpy(), edges.center.numpy()])
    assert (key == np.arange(n)).all(), "edges are ordered by center, neighbor, shift"
    counts = torch.bincount(edges.center, minlength=graph.n_atoms)
    assert torch.equal(edges.row_ptr, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    assert torch.equal(edges.reverse[edges.reverse], torch.arange(n))
    assert torch.equal(edges.center[edges.reverse], edges.neighbor)
    assert torch.equal(graph.cell_shift[edges.reverse], -graph.cell_shift)
    vectors = edge_vectors(graph)
    assert worst(vectors[edges.reverse], -vectors) < 1e-12
    assert (distances(graph) < cutoff).all()


@pytest.mark.parametrize("case", CASES)
def test_pairs_are_those_of_ase(case: str) -> None:
    atoms, cutoff = CASES[case]
    graph = graph_of(atoms, cutoff)
    edges = graph.edges
    assert as_set(edges.center.numpy(), edges.neighbor.numpy(), graph.cell_shift.numpy()) == oracle(atoms, cutoff)
    check_invariants(graph, cutoff)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    cell=st.lists(st.floats(-4, 4), min_size=9, max_size=9),
    fractions=st.lists(st.floats(-3, 3), min_size=3, max_size=12),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    cutoff=st.floats(0.5, 4.0),
)
def test_random_cells_agree_with_ase(
    cell: list[float], fractions: list[float], pbc: tuple[bool, bool, bool], cutoff: float
) -> None:
    # A diagonal is added so that the cell keeps a volume; it may still be left-handed, flat or skewed.
    h = np.reshape(cell, (3, 3)) + 3 * np.diag(np.sign(np.diag(np.reshape(cell, (3, 3))) + 0.5))
    if abs(np.linalg.det(h)) < 4:
        h = h + 6 * np.eye(3)
    if abs(np.linalg.det(h)) < 4:
        return
    n = len(fractions) // 3
    rows = np.reshape(fractions[: 3 * n], (n, 3)) + np.arange(n)[:, None] * [0.31, 0.17, 0.23]
    atoms = Atoms(numbers=[6] * n, positions=rows @ h, cell=h, pbc=pbc)
    try:
        graph = graph_of(atoms, cutoff)
    except ValueError as error:
        assert "apart" in str(error)  # noqa: PT017  (coincident atoms are refused by design)
        return
    d = distances(graph_of(atoms, cutoff + 1e-6))
    if (abs(d - cutoff) < 1e-9).any():  # on the cutoff, rounding decides
        return
    edges = graph.edges
    assert as_set(edges.center.numpy(), edges.neighbor.numpy(), graph.cell_shift.numpy()) == oracle(atoms, cutoff)
    check_invariants(graph, cutoff)


@pytest.mark.parametrize("case", CASES)
def test_edges_that_are_counted_are_those_that_are_sorted(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In compiled code, which many pairs go through, and without it."""
    atoms, cutoff = CASES[case]
    arrays = atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff
    monkeypatch.setattr(neighbors, "FEW", 10**9)
    by_sorting = build_graph(*arrays)
    monkeypatch.setattr(neighbors, "FEW", 0)
    assert same_graph(build_graph(*arrays), by_sorting)


def test_pairs_of_a_large_cell_are_those_of_ase() -> None:
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (5, 5, 4)
    atoms.rattle(0.1, seed=0)
    graph, edges = graph_of(atoms, 5.0), graph_of(atoms, 5.0).edges
    assert len(edges) > 2 * neighbors.FEW
    assert as_set(edges.center.numpy(), edges.neighbor.numpy(), graph.cell_shift.numpy()) == oracle(atoms, 5.0)
    check_invariants(graph, 5.0)


def same_graph(one: AtomGraph, other: AtomGraph) -> bool:
    """Equal to the bit and in the same order."""
    pairs = [(one.positions, other.positions), (one.cell, other.cell), (one.cell_shift, other.cell_shift)]
    pairs += [
        (getattr(one.edges, f), getattr(other.edges, f)) for f in ("center", "neighbor", "row_ptr", "reverse")
    ]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "case", ["triclinic", "slab", "molecule", "one atom in a small cell", "moved by two cells"]
)
def test_a_list_with_a_skin_is_a_new_list_to_the_bit(case: str) -> None:
    atoms, cutoff = CASES[case]
    atoms, rng = atoms.copy(), np.random.default_rng(0)
    skin = SkinList(cutoff, skin=0.6)
    for _ in range(60):
        arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        assert same_graph(skin.graph(*arrays), build_graph(*arrays, cutoff))
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    assert 1 < skin.n_builds < 40


def test_a_list_with_a_skin_is_rebuilt_only_when_it_must_be() -> None:
    atoms = quartz()
    skin = SkinList(4.0, skin=0.5)

    def builds(changed: Atoms) -> int:
        skin.graph(changed.numbers, changed.positions, changed.cell.array, changed.pbc)
        return skin.n_builds

    assert builds(atoms) == 1
    assert builds(atoms) == 1
    atoms.positions[3] += [0.2499, 0, 0]
    assert builds(atoms) == 1, "no atom moved half the skin"
    atoms.positions[3] += [0.0002, 0, 0]
    assert builds(atoms) == 2, "one did"
    atoms.positions += 0.1
    assert builds(atoms) == 2, "counted from the last build"
    atoms.set_cell(atoms.cell.array * 1.0001)
    assert builds(atoms) == 3, "the cell changed"
    atoms.pbc = (True, True, False)
    assert builds(atoms) == 4, "the periodicity changed"
    atoms.numbers[0] = 1
    assert builds(atoms) == 5, "an element changed"
    assert builds(atoms[:-1]) == 6, "an atom was removed"
    wrapped = atoms[:-1].copy()
    wrapped.positions[0] += wrapped.cell.array[0]
    assert builds(wrapped) == 7, "an atom was wrapped"


def test_changing_the_arrays_that_were_given_changes_no_graph() -> None:
    atoms = quartz()
    positions = atoms.positions.copy()
    graph = build_graph(atoms.numbers, positions, atoms.cell.array, atoms.pbc, 4.0)
    positions += 100.0
    assert torch.equal(graph.positions, torch.from_numpy(atoms.positions))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((0, 3)), "numbers": []}, "no atoms"),
        ({"positions": [[0, 0, 0], [np.nan, 0, 0]]}, r"atoms \[1\] are not finite"),
        ({"positions": [[0, 0, 0], [np.inf, 0, 0]]}, "not finite"),
        ({"cell": np.full((3, 3), np.nan)}, "cell is not finite"),
        ({"positions": [[0, 0, 0], [0, -2e8, 0]]}, r"atoms \[1\] are beyond 1e\+08 Å"),
        ({"positions": [[0, 0, 0], [9.97e36, 0, 0]]}, "stands for none"),
        ({"cell": np.diag([5.0, 1e300, 5.0]), "pbc": True}, "cell is beyond"),
        ({"positions": [[0, 0], [1, 1]]}, "positions has shape"),
        ({"numbers": [6]}, "numbers has shape"),
        ({"cell": [3, 3, 3]}, "cell has shape"),
        ({"pbc": [True, True]}, "pbc has shape"),
        ({"positions": [[0, 0, 0], [0, 0, 0]]}, "the same atom twice"),
        ({"positions": [[0, 0, 0], [0, 0, 5e-3]]}, "the same atom twice"),
        ({"cell": np.eye(3) * 0.5, "pbc": True}, r"Atom \d is 0\.5 Å from its own periodic image"),
        ({"positions": [[0, 0, 0], [10, 0, 0]], "pbc": True}, "the same atom twice"),
    ],
)
def test_a_structure_that_makes_no_sense_is_refused_by_name(change: dict[str, object], message: str) -> None:
    structure = {"numbers": [6, 8], "positions": [[0, 0, 0], [0, 0, 1.1]], "cell": 10 * np.eye(3), "pbc": False}
    with pytest.raises(ValueError, match=message):
        build_graph(**(structure | change), cutoff=4.0)  # type: ignore[arg-type]


def test_integers_and_foreign_byte_orders_are_read_as_numbers() -> None:
    atoms = ethanol()
    r, cell = np.round(atoms.positions * 4) * 0.5, np.zeros((3, 3))
    expected = build_graph(atoms.numbers, r, cell, False, 4.0)
    swapped = build_graph(atoms.numbers.astype(">i4"), r.astype(">f8"), cell.astype(">f4"), False, 4.0)
    listed = build_graph(list(atoms.numbers), np.asfortranarray(r), cell.tolist(), [0, 0, 0], 4.0)
    assert same_graph(swapped, expected)
    assert same_graph(listed, expected)


def test_many_molecules_at_once_have_the_edges_of_each() -> None:
    """Sizes differ, one atom stands alone; what a molecule must not be is left to `build_graph`."""
    rng = np.random.default_rng(3)
    molecules = [(rng.integers(1, 9, n), rng.uniform(0, 5, (n, 3))) for n in (9, 1, 5, 30, 2)]
    numbers, positions, cells = [z for z, _ in molecules], [r for _, r in molecules], [np.eye(3)] * len(molecules)
    found = build_molecules(numbers, positions, cells, 3.0)
    expected = collate([build_graph(z, r, np.eye(3), False, 3.0) for z, r in molecules])
    assert found is not None
    for name in ("positions", "numbers", "cell", "pbc", "cell_shift", "batch"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("center", "neighbor", "row_ptr", "reverse"):
        assert torch.equal(getattr(found.edges, name), getattr(expected.edges, name)), name
    for wrong in (np.full((2, 3), np.nan), np.zeros((2, 3)), np.zeros((3, 3))):
        assert build_molecules([*numbers[:-1], [1, 1]], [*positions[:-1], wrong], cells, 3.0) is None
    assert build_molecules([[1] * 65], [rng.uniform(0, 50, (65, 3))], [np.eye(3)], 3.0) is None


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)], ids=["open", "wire", "y", "slab"])
@pytest.mark.parametrize("n_extended", [1, 2, 3])
def test_pairs_far_apart_or_of_a_tiny_cutoff_are_found_at_once(pbc: tuple[int, ...], n_extended: int) -> None:
    """Clusters up to 1e7 Å apart along one, two or three axes: the pairs of each, with its periodic images."""
    rng = np.random.default_rng(5)
    cell = [[4.0, 0.3, 0.1], [0.2, 5.0, 0.4], [1.0, 2.0, 6.0]]
    cluster = Atoms("C6", rng.uniform(0, 3, (6, 3)), cell=cell, pbc=pbc)
    near = graph_of(cluster, 2.0)
    for distance in (3e2, 1e5, 1e7):
        jump = distance * (np.arange(3) < n_extended) * ~np.array(pbc, dtype=bool)
        if pbc == (1, 1, 0):
            normal = np.cross(cell[0], cell[1])
            jump = distance * normal / np.linalg.norm(normal)
        r = np.concatenate([cluster.positions + k * jump for k in range(3)])
        if not jump.any():
            continue
        graph = build_graph([6] * 18, r, cell, pbc, 2.0)
        assert len(graph.edges) == 3 * len(near.edges), (distance, pbc)
        assert (distances(graph) < 2.0).all()
        assert torch.equal(graph.edges.center[: len(near.edges)], near.edges.center)
        assert torch.equal(graph.cell_shift[: len(near.edges)], near.cell_shift)
    assert len(build_graph([6] * 6, cluster.positions, cell, pbc, 0.01).edges) == 0


def test_a_flat_sheet_of_more_cells_than_a_finder_holds_has_all_its_pairs() -> None:
    """Two chains that span a sheet of 560 by 560 cutoffs, of one cutoff in height, in the open and periodic."""
    side = np.arange(0.0, 900.0, 1.5)
    line = np.column_stack([side, np.zeros_like(side), np.zeros_like(side)])
    r = np.concatenate([line, line[1:, [1, 0, 2]]])
    whole = np.diag([900.0, 900.0, 1.6])
    in_open, periodic = 2 * (len(r) - 1), 2 * (len(r) + 1)  # each chain closes over the border
    for cell, pbc, n in ((np.zeros((3, 3)), False, in_open), (whole, (True, True, False), periodic)):
        assert len(build_graph([6] * len(r), r, cell, pbc, 1.6).edges) == n
    layers = build_graph([6] * len(r), r, whole, True, 1.7)  # each atom sees its own images above and below
    assert len(layers.edges) == periodic + 2 * len(r)


@pytest.mark.parametrize("cutoff", [np.nan, np.inf, 0.0, -1.0])
def test_a_cutoff_that_is_no_length_is_refused(cutoff: float) -> None:
    with pytest.raises(ValueError, match="give a number of Å above 0"):
        build_graph([14], np.zeros((1, 3)), 5.4 * np.eye(3), True, cutoff)


@pytest.mark.parametrize("ask", [predict, predict_atoms, hessian])
def test_a_graph_that_lacks_pairs_of_the_potential_is_refused(ask):
    """Also one among others that have them; one with more is cut."""
    potential, atoms = new_potential("schnet").freeze(), copper()
    short, long = (graph_of(atoms, potential.cutoff + more) for more in (-0.5, 0.5))
    for graph in (short, short.clone(), collate([long, short])):
        with pytest.raises(ValueError, match=r"pairs up to .* are missing. Build it with potential.cutoff"):
            ask(potential, graph)
    assert ask(potential, long) is not None
    assert (
        SkinList(potential.cutoff).graph(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc).cutoff
        == potential.cutoff
    )


def test_atomic_numbers_are_whole() -> None:
    positions = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]]
    assert build_graph([6.0, 8.0], positions, np.zeros((3, 3)), False, 3.0).numbers.tolist() == [6, 8]
    with pytest.raises(ValueError, match="are not whole"):  # 6.5 became carbon
        build_graph([6.5, 8.0], positions, np.zeros((3, 3)), False, 3.0)
