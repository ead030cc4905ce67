"""Compiled code follows the indices of a graph: one that somebody made, and that does not hold, is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ase import Atoms
from potentials import small_potential
from structures import copper, ethanol, graph_of

from mlpot.forces import (
    extrapolation_grade,
    hessian,
    hessian_vector_product,
    predict,
    predict_and_grade,
    predict_atoms,
)
from mlpot.graph import AtomGraph, Edges, collate
from mlpot.graph_check import check_graph
from mlpot.neighbors import SkinList

GRAPH = graph_of(ethanol())
CENTER, NEIGHBOR, ROW_PTR, REVERSE = (
    getattr(GRAPH.edges, k) for k in ("center", "neighbor", "row_ptr", "reverse")
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": GRAPH.positions.half()}, "positions of a graph is .* of torch.float16, expected"),
        ({"positions": GRAPH.positions[:4]}, r"positions of a graph is \(4, 3\)"),
        ({"positions": GRAPH.positions.numpy()}, "positions of a graph is of type ndarray"),
        ({"numbers": GRAPH.numbers.double()}, "numbers of a graph is .* of torch.float64"),
        ({"cell": GRAPH.cell[0]}, "cell of a graph"),
        ({"batch": GRAPH.batch + 1}, "batch of a graph is no sorted list"),
        ({"cell_shift": GRAPH.cell_shift[:3]}, "cell_shift of a graph"),
        ({"edges": None}, "edges of a graph are of type NoneType"),
        ({"edges": Edges(CENTER, NEIGHBOR + 10**6, ROW_PTR, REVERSE)}, "point to atoms or edges"),
        ({"edges": Edges(CENTER, NEIGHBOR, ROW_PTR, REVERSE - 10**6)}, "point to atoms or edges"),
        ({"edges": Edges(CENTER.flip(0), NEIGHBOR, ROW_PTR, REVERSE)}, "not sorted by center"),
        ({"edges": Edges(CENTER, NEIGHBOR, ROW_PTR[:4], REVERSE)}, "row_ptr of a graph"),
        ({"edges": Edges(CENTER, NEIGHBOR, ROW_PTR, REVERSE.flip(0))}, "none that points back"),
        ({"edges": Edges(*(t.int() for t in (CENTER, NEIGHBOR, ROW_PTR, REVERSE)))}, "expected .* of torch.int64"),
        ({"cutoff": None, "edges": replace(GRAPH.edges)}, "cutoff of a graph is None"),
    ],
)
def test_a_graph_that_does_not_hold_is_refused(wrong: dict[str, Any], message: str) -> None:
    """Its indices were written to, wherever they pointed; others gave forces of something else."""
    with pytest.raises(ValueError, match=message):
        predict(small_potential("schnet"), replace(GRAPH, **wrong))


def test_a_graph_made_by_hand_has_the_forces_of_the_list() -> None:
    made = AtomGraph(**vars(replace(GRAPH, edges=replace(GRAPH.edges))))
    assert not made.is_known()
    potential = small_potential("schnet")
    assert torch.equal(predict(potential, made).forces, predict(potential, GRAPH).forces)
    assert made.is_known()  # and is not looked at again


def test_what_the_house_makes_is_known() -> None:
    atoms = copper()
    skin = SkinList(4.0)
    structure = atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc
    crystal = graph_of(atoms)
    graphs = [
        GRAPH,
        crystal,
        collate([GRAPH, crystal]),
        skin.graph(*structure),
        skin.wide(*structure),
        GRAPH.clone(),
    ]
    graphs += [
        copy.deepcopy(crystal),
        pickle.loads(pickle.dumps(crystal)),
        replace(crystal, positions=crystal.positions + 1),
    ]
    for graph in graphs:
        assert graph.is_known()
        check_graph(replace(graph, edges=replace(graph.edges)), "predict")  # and holds
    assert not replace(crystal, batch=crystal.batch.clone()).is_known()


@pytest.mark.parametrize(
    "door",
    [predict, predict_and_grade, predict_atoms, extrapolation_grade, hessian,
     lambda p, g: hessian_vector_product(p, g, GRAPH.positions)],
    ids=["predict", "predict_and_grade", "predict_atoms", "extrapolation_grade", "hessian", "product"],
)  # fmt: skip
def test_every_door_says_what_it_takes(door: Callable[..., object]) -> None:
    potential = small_potential("schnet")
    for first in ("model.safetensors", None, GRAPH, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=r"the first argument is of type .*mlpot\.load"):
            door(first, GRAPH)
    for second in (Atoms("C"), None, [GRAPH], potential):
        with pytest.raises(TypeError, match=r"takes an AtomGraph, and this is of type .*build_graph"):
            door(potential, second)


def test_a_displacement_and_own_atoms_fit_the_graph() -> None:
    potential, v = small_potential("schnet"), torch.ones_like(GRAPH.positions)
    for wrong in (v.numpy(), v.ravel(), v[:3], v + 0j, None):
        with pytest.raises(ValueError, match="A displacement is a tensor of real numbers"):
            hessian_vector_product(potential, GRAPH, wrong)  # type: ignore[arg-type]  # that is the point
    for n in (-1, 100, 2.5, True):
        with pytest.raises(ValueError, match=r"n_own = .*give how many of the 9 atoms"):
            predict_atoms(potential, GRAPH, n)  # type: ignore[arg-type]  # that is the point


def test_graphs_alone_are_collated() -> None:
    for wrong in (GRAPH, (g for g in [GRAPH]), [GRAPH, ethanol()]):
        with pytest.raises(TypeError, match="collate takes"):
            collate(wrong)  # type: ignore[arg-type]  # that is the point
