"""Is the gradient that the native calls give to the weights that of autograd?"""

from __future__ import annotations

import copy

import pytest
import torch
from ase.build import molecule
from test_native import fresh, graph_of, molecules, structures
from thread_runs import n_threads_for_anything
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.potential import Potential


def batch() -> AtomGraph:
    """Molecules, crystals, a slab, an isolated atom and a cell that sees many images of itself."""
    return collate([graph_of(atoms) for atoms in structures()])


def loss_of(out: Properties, parts: tuple[float, float, float] = (1.0, 1.0, 100.0)) -> Tensor:
    """A sum over all that is predicted, with weights that know no symmetry."""
    random, total = torch.Generator().manual_seed(1), out.energy.new_zeros(())
    for part, t in zip(parts, (out.energy, out.forces, out.stress), strict=True):
        weights = torch.randn(t.shape, generator=random, dtype=torch.float64)
        total = total + part * torch.where(t.isnan(), 0.0, t * weights).sum()
    return total


def gradients(
    potential: Potential,
    graph: AtomGraph,
    parts: tuple[float, float, float] = (1.0, 1.0, 100.0),
    native: bool = True,
) -> dict[str, Tensor]:
    potential.zero_grad()
    loss_of(predict(potential, graph, training=True, native=native), parts).backward()
    return {n: w.grad.clone() for n, w in potential.named_parameters() if w.grad is not None}


def deviation(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Greatest difference within a weight, relative to its greatest gradient."""
    assert found.keys() == wanted.keys()
    none = "backbone.readout.2.bias"  # the same for an isolated atom: nothing is left of it
    return max(float((found[n] - wanted[n]).abs().max() / wanted[n].abs().max()) for n in found if n != none)


@pytest.mark.parametrize("parts", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 100.0), (1.0, 1.0, 100.0)])
@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("n_features", [32, 20])
def test_gradients_are_those_of_autograd(n_features: int, degree: int, parts: tuple[float, float, float]) -> None:
    potential, graph = fresh(n_features=n_features, degree=degree, n_interactions=3), batch()
    found, wanted = (gradients(potential, graph, parts, native) for native in (True, False))
    assert deviation(found, wanted) <= 1e-11


def test_a_potential_with_repulsion_trains_alike() -> None:
    potential, graph = fresh(repulsion=True), batch()
    found, wanted = (predict(potential, graph, training=True, native=native) for native in (True, False))
    assert torch.allclose(found.energy, wanted.energy, rtol=0, atol=1e-9)
    assert torch.allclose(found.forces, wanted.forces, rtol=1e-11, atol=1e-11)
    assert deviation(gradients(potential, graph), gradients(potential, graph, native=False)) <= 1e-11


@pytest.mark.parametrize("n_interactions", [1, 2])
def test_gradients_of_few_layers_are_those_of_autograd(n_interactions: int) -> None:
    potential, graph = fresh(n_interactions=n_interactions), batch()
    assert deviation(gradients(potential, graph), gradients(potential, graph, native=False)) <= 1e-11


def test_float32_is_no_worse_than_autograd() -> None:
    potential, graph = fresh(torch.float32), batch()
    exact = gradients(potential.double(), graph, native=False)
    potential = potential.float()
    found, usual = gradients(potential, graph), gradients(potential, graph, native=False)
    assert deviation(found, exact) <= 2e-6 + deviation(usual, exact)


def test_forces_in_training_are_those_in_use() -> None:
    """In use, tables of networks with layers are rounded once: in float64 nothing is."""
    for dtype, bar in ((torch.float32, 2e-5), (torch.float64, 0)):
        potential, graph = fresh(dtype), batch()
        trained = predict(potential, graph, training=True)
        used = predict(copy.deepcopy(potential).freeze(), graph)
        torch.testing.assert_close(trained.forces, used.forces, rtol=0, atol=bar)
        torch.testing.assert_close(trained.energy, used.energy, rtol=0, atol=1e-5)


def test_forces_in_training_are_those_in_use_to_the_bit_where_radial_functions_have_no_layers() -> None:
    torch.manual_seed(2)
    graph = collate([graph_of(molecule("CH3OH"))])
    arguments = {"n_features": 8, "n_message": 4, "max_degree": 1}
    potential = Potential("ace", arguments, reference_energies={1: -13.6, 6: -1028.4, 8: -2041.8})
    trained = predict(potential, graph, training=True)
    used = predict(copy.deepcopy(potential).freeze(), graph)
    assert torch.equal(trained.forces, used.forces)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_gradients_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, n_threads: int) -> None:
    potential = fresh()
    for graph in (batch(), molecules()):
        alone = gradients(potential, graph)
        with n_threads_for_anything(n_threads):
            shared = gradients(potential, graph)
        assert deviation(shared, alone) <= 1e-14


def test_two_structures_may_wait_for_one_backward_pass() -> None:
    potential, (first, second) = fresh(), [graph_of(a) for a in structures()[:2]]
    losses = [loss_of(predict(potential, graph, training=True)) for graph in (first, second)]
    potential.zero_grad()
    sum(losses).backward()
    together = {n: w.grad.clone() for n, w in potential.named_parameters()}
    one, two = gradients(potential, first), gradients(potential, second)
    assert deviation(together, {n: one[n] + two[n] for n in one}) <= 1e-12


def test_a_second_backward_pass_is_refused() -> None:
    potential = fresh()
    loss = loss_of(predict(potential, graph_of(molecule("H2O")), training=True))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken before"):
        loss.backward()


def test_evaluation_between_steps_changes_nothing() -> None:
    potential, graph = fresh(), batch()
    alone = gradients(potential, graph)
    loss = loss_of(predict(potential, graph, training=True))
    predict(potential.eval(), graph_of(molecule("CH3CH2OH")))
    potential.zero_grad()
    loss.backward()
    for name, weight in potential.named_parameters():
        assert torch.equal(weight.grad, alone[name])
