"""Is the native call of EGNN the same potential as the modules it was made from?"""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import bulk
from test_native import ELEMENTS, by_autograd, deviations, graph_of, n_threads_for_anything, structures

from mlpot.forces import hessian, native_obstacle, predict
from mlpot.graph import AtomGraph, collate
from mlpot.models import native_egnn
from mlpot.potential import Potential

VARIANTS = {
    "moving": {},
    "still": {"move_coordinates": False},
    "attentive": {"attention": True},
    "one layer": {"n_layers": 1},
    "odd sizes": {"n_features": 20, "n_radial": 13},
}
WITHOUT = {
    "another basis": {"radial": "bessel"},
    "another envelope": {"envelope": "cosine"},
    "another activation": {"activation": "ssp"},
    "another place of the second layer": {"second_linear": "sum"},
}


def made(dtype: torch.dtype = torch.float64, *, repulsion: bool = False, **arguments: object) -> Potential:
    torch.manual_seed(0)
    return (
        Potential(
            "egnn",
            {"n_features": 32, "n_layers": 3, **arguments},
            reference_energies=ELEMENTS,
            energy_scale={1: 0.5, 6: 0.7, 8: 0.9, 14: 1.1},
            energy_shift={1: 0.1, 6: -0.2, 8: 0.3, 14: -4.0},
            repulsion=repulsion,
        )
        .to(dtype)
        .freeze()
    )


def graphs() -> list[AtomGraph]:
    return [*map(graph_of, structures()), collate([graph_of(a) for a in structures()])]


@pytest.mark.parametrize("repulsion", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_forces_and_stress_are_those_of_autograd(variant: str, repulsion: bool) -> None:
    potential = made(repulsion=repulsion, **VARIANTS[variant])
    assert native_obstacle(potential) is None
    for graph in graphs():
        assert deviations(predict(potential, graph), by_autograd(potential, graph)) <= 1e-11


def test_float32_is_near_float64() -> None:
    potential = made(torch.float32)
    exact = copy.deepcopy(potential).to(torch.float64)
    for graph in graphs():  # 1.5e-5 was measured, and 1.1e-5 of autograd
        assert deviations(predict(potential, graph), by_autograd(exact, graph)) <= 5e-5


@pytest.mark.parametrize("variant", ["moving", "still"])
def test_what_is_computed_again_is_what_was_kept(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [predict(made(**VARIANTS[variant]), graph) for graph in graphs()]
    monkeypatch.setattr(native_egnn, "KEPT", 0)
    potential = made(**VARIANTS[variant])
    for graph, before in zip(graphs(), kept, strict=True):
        again = predict(potential, graph)
        assert torch.equal(again.energy, before.energy)
        assert torch.equal(again.forces, before.forces)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(n_threads: int) -> None:
    atoms = bulk("Si", cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=0)
    potential, graph = made(torch.float32), graph_of(atoms)
    alone = predict(potential, graph)
    with n_threads_for_anything(n_threads):
        shared = predict(potential, graph)
    assert torch.equal(shared.energy, alone.energy)
    assert torch.equal(shared.forces, alone.forces)
    assert torch.equal(shared.stress, alone.stress)


def test_edges_beyond_the_cutoff_change_nothing() -> None:
    potential = made(torch.float32, attention=True)
    for atoms in structures():
        exact, wide = predict(potential, graph_of(atoms)), predict(potential, graph_of(atoms, 5.7))
        assert torch.equal(exact.energy, wide.energy)
        assert torch.equal(exact.forces, wide.forces)


def test_a_call_remembers_nothing_of_the_last() -> None:
    potential = made()
    first = [predict(potential, graph).forces for graph in graphs()]
    for graph, forces in reversed(list(zip(graphs(), first, strict=True))):
        assert torch.equal(predict(potential, graph).forces, forces)


def test_a_position_that_is_no_number_is_no_energy() -> None:
    atoms = structures()[1]
    graph = graph_of(atoms)
    graph.positions[3] = torch.nan
    assert predict(made(), graph).energy.isnan().all()


@pytest.mark.parametrize("variant", WITHOUT)
def test_what_has_no_native_call_goes_by_autograd(variant: str) -> None:
    potential = made(**WITHOUT[variant])
    assert native_obstacle(potential)
    assert predict(potential, graphs()[0]).forces.abs().max() > 0


def test_curvature_is_that_of_the_forces() -> None:
    potential, graph = made(attention=True), graph_of(structures()[0])
    step, curvature = 1e-4, hessian(potential, graph)
    for k in (0, 13):
        i, c = divmod(k, 3)
        pair = []
        for sign in (1, -1):
            moved = structures()[0]
            moved.positions[i, c] += sign * step
            pair.append(predict(potential, graph_of(moved)).forces.flatten())
        slope = (pair[1] - pair[0]) / (2 * step)
        assert (curvature[:, k] - slope).abs().max() <= 1e-6 * curvature.abs().max()


def test_a_second_layer_after_the_sum_is_one_an_atom() -> None:
    layer, edges = made(second_linear="sum", move_coordinates=False).backbone.layers[0], graphs()[-1].edges
    a, b = torch.randn(2, edges.n_atoms, 32, dtype=torch.float64)
    radial, weight = torch.randn(len(edges), 32, dtype=torch.float64), torch.rand(len(edges), dtype=torch.float64)
    summed, along = layer.messages(edges, a, b, radial, weight)
    z = a[edges.center] + b[edges.neighbor] + layer.from_distance(radial)
    each = torch.nn.functional.silu(z) @ layer.after_sum.weight.T * weight[:, None]
    assert along is None
    assert torch.allclose(summed, torch.zeros_like(a).index_add(0, edges.center, each), rtol=0, atol=1e-11)
