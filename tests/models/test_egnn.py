"""EGNN in every form that its arguments give: is compiled code the same potential as the modules?"""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import bulk
from structures import CUTOFF, STRUCTURES, batch_of, copper, ethanol, graph_of
from torch import Tensor

from mlpot.cpu import executor
from mlpot.forces import hessian, native_obstacle, predict
from mlpot.graph import AtomGraph, Edges, Properties
from mlpot.models.egnn import EGNN
from mlpot.potential import Potential
from mlpot.stages.stage import Environments

VARIANTS: dict[str, dict[str, object]] = {
    "moving": {"n_layers": 3},
    "still": {"move_coordinates": False},
    "attentive": {"attention": True},
    "one layer": {"n_layers": 1},
    "odd sizes": {"n_features": 20, "n_radial": 13},
    "another basis": {"radial": "bessel"},
    "another envelope": {"envelope": "cosine", "radial": "expnormal"},
    "another activation": {"activation": "ssp"},
    "second layer after the sum": {"second_linear": "sum", "attention": True},
}
REFERENCES = {1: -13.6, 6: -1029.0, 8: -2042.0, 14: -7870.0, 29: -45000.0}  # eV


def made(variant: str = "moving", dtype: torch.dtype = torch.float64, **changes: object) -> Potential:
    torch.manual_seed(0)
    arguments = {"cutoff": CUTOFF, "n_features": 32, "n_layers": 2, "n_radial": 16, **VARIANTS[variant], **changes}
    scale, shift = {1: 0.5, 6: 0.7, 8: 0.9, 14: 1.1}, {1: 0.1, 6: -0.2, 8: 0.3, 14: -4.0}
    return Potential(
        "egnn", arguments, reference_energies=REFERENCES, energy_scale=scale, energy_shift=shift, repulsion=True
    ).to(dtype)


def graph() -> AtomGraph:
    return batch_of([make() for make in STRUCTURES.values()])


def equal(a: Properties, b: Properties) -> bool:
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(parts(a), parts(b), strict=True))


def parts(found: Properties) -> list[Tensor]:
    return [found.energy, found.forces, found.stress]


@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_forces_and_stress_are_those_of_the_modules(variant: str) -> None:
    potential = made(variant).freeze()
    assert native_obstacle(potential) is None
    mine, exact = predict(potential, graph()), predict(potential, graph(), native=False)
    for a, b in zip(parts(mine), parts(exact), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-10, equal_nan=True)
    assert exact.forces.abs().max() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_of_a_loss_is_that_of_the_modules(variant: str) -> None:
    potential, gradients = made(variant), []
    for native in (True, False):
        found = predict(potential, graph(), training=True, native=native)
        loss = sum((t.nan_to_num().square().sum() for t in (found.forces, found.stress)), found.energy.sum())
        potential.zero_grad()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in potential.named_parameters() if p.grad is not None})
    mine, exact = gradients
    assert mine.keys() == exact.keys()
    size = max(float(g.abs().max()) for g in exact.values())
    for name, g in exact.items():
        assert torch.allclose(mine[name], g, rtol=1e-9, atol=1e-12 * size), name


def test_float32_is_near_float64() -> None:
    potential = made(dtype=torch.float32).freeze()
    exact = predict(copy.deepcopy(potential).to(torch.float64), graph(), native=False)
    error = (predict(potential, graph()).forces - exact.forces).abs().max()
    assert error <= 5e-5 * exact.forces.abs().max()


@pytest.mark.parametrize("variant", ["moving", "still", "second layer after the sum"])
def test_what_is_computed_again_is_what_was_kept(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = predict(made(variant).freeze(), graph())
    monkeypatch.setattr(executor, "ON_EDGES", 0)
    assert equal(predict(made(variant).freeze(), graph()), kept)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_results_do_not_depend_on_the_number_of_threads(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bulk("Si", cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=0)
    potential, crystal = made("attentive", torch.float32).freeze(), graph_of(atoms)
    alone = predict(potential, crystal)
    monkeypatch.setattr("mlpot.kernels.threads.ONE_THREAD", 0)
    monkeypatch.setattr("mlpot.kernels.threads.MOST_THREADS", n_threads)
    monkeypatch.setattr("mlpot.kernels.threads.processors", lambda: n_threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert equal(predict(potential, crystal), alone)


def test_edges_beyond_the_cutoff_change_nothing() -> None:
    potential = made("attentive", torch.float32).freeze()
    for atoms in (ethanol(), copper()):
        exact, wide = (predict(potential, graph_of(atoms, CUTOFF + skin)) for skin in (0.0, 0.7))
        assert torch.equal(exact.energy, wide.energy)
        assert torch.equal(exact.forces, wide.forces)


def test_a_call_remembers_nothing_of_the_last() -> None:
    potential, graphs = made().freeze(), [graph_of(make()) for make in STRUCTURES.values()]
    first = [predict(potential, one).forces for one in graphs]
    for one, forces in reversed(list(zip(graphs, first, strict=True))):
        assert torch.equal(predict(potential, one).forces, forces)


def test_a_position_that_is_no_number_is_no_energy() -> None:
    crystal = graph_of(copper())
    crystal.positions[3] = torch.nan
    assert predict(made().freeze(), crystal).energy.isnan().all()


def test_curvature_is_that_of_the_forces() -> None:
    potential, step = made("attentive").freeze(), 1e-4
    curvature = hessian(potential, graph_of(ethanol()))
    for k in (0, 13):
        i, c = divmod(k, 3)
        pair = []
        for sign in (1, -1):
            moved = ethanol()
            moved.positions[i, c] += sign * step
            pair.append(predict(potential, graph_of(moved)).forces.flatten())
        slope = (pair[1] - pair[0]) / (2 * step)
        assert (curvature[:, k] - slope).abs().max() <= 1e-6 * curvature.abs().max()


def test_a_second_layer_after_the_sum_is_one_an_atom() -> None:
    network = made("second layer after the sum", move_coordinates=False, attention=False).backbone
    assert isinstance(network, EGNN)
    layer, molecule = network.layers[0], graph_of(ethanol())
    edges: Edges = molecule.edges
    r = molecule.positions[edges.neighbor] - molecule.positions[edges.center]
    at = Environments(torch.zeros(edges.n_atoms, dtype=torch.int64), edges, r)
    h = torch.randn(edges.n_atoms, 1, 32, dtype=torch.float64)
    stage = layer.messages(network.basis, network.envelope, "silu", displaced=False)
    mine = stage.value(at, layer.ends().value(at, h))[:, 0] @ layer.after_sum.weight.T
    z = layer.from_center(h[edges.center, 0]) + layer.from_neighbor(h[edges.neighbor, 0])
    z = z + layer.from_distance(network.basis(at.distances))
    each = (
        torch.nn.functional.silu(z) @ layer.after_sum.weight.T * network.envelope(at.distances)[:, None] / 8**0.5
    )
    assert torch.allclose(mine, torch.zeros_like(mine).index_add(0, edges.center, each), rtol=0, atol=1e-11)


def test_atoms_that_move_need_three_features() -> None:
    with pytest.raises(ValueError, match="Atoms that move need 3"):
        made(n_features=2)
