"""Sums over edges: one answer, and right first and second derivatives, whichever library adds."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import pytest
import torch
from potentials import small_potential
from structures import STRUCTURES, batch_of, worst
from torch import Tensor

from mlpot.forces import hessian, predict
from mlpot.graph import AtomGraph
from mlpot.kernels import reductions
from mlpot.kernels.reductions import gather, sum_at_centers, use_torch_scatter

NEEDS_SCATTER = "torch-scatter is an optional extra that must be compiled: pip install 'mlpot[scatter]'"


@pytest.fixture
def graph() -> AtomGraph:
    return batch_of([make() for make in STRUCTURES.values()])


def test_the_sum_at_centers_is_the_sum_over_each_row(graph: AtomGraph) -> None:
    values = torch.randn(len(graph.edges), 3, dtype=torch.float64)
    rows = [values[a:b].sum(0) for a, b in itertools.pairwise(graph.edges.row_ptr.tolist())]
    assert worst(sum_at_centers(values, graph.edges), torch.stack(rows)) < 1e-13


def test_atoms_without_edges_have_zero_sums() -> None:
    nothing = batch_of([STRUCTURES["copper_atom"]()], cutoff=1.0).edges
    assert torch.equal(sum_at_centers(torch.zeros(0, 4), nothing), torch.zeros(1, 4))
    assert gather(torch.zeros(1, 4), nothing.neighbor).shape == (0, 4)


def test_sums_have_first_and_second_derivatives(graph: AtomGraph) -> None:
    edges = batch_of([STRUCTURES["copper_atom"](), STRUCTURES["copper_atom"]()]).edges
    values = torch.randn(len(edges), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: sum_at_centers(v, edges).square(), values)


def test_without_torch_scatter_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(ModuleNotFoundError, match="index_add by default"), use_torch_scatter():
        pass
    assert reductions._sum is reductions._index_add


def second_gradient(reduce: Callable[[Tensor], Tensor], values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and gradient of the gradient's square of Σ f(sum)² with a cubic inside."""
    v = values.clone().requires_grad_()
    total = reduce(v**3).square().sum()
    (g,) = torch.autograd.grad(total, v, create_graph=True)
    (gg,) = torch.autograd.grad(g.square().sum(), v)
    return total.detach(), g.detach(), gg


def test_torch_scatter_gives_equal_sums_and_first_and_second_gradients(graph: AtomGraph) -> None:
    pytest.importorskip("torch_scatter", reason=NEEDS_SCATTER)
    values = torch.randn(len(graph.edges), 5, dtype=torch.float64)
    ours = second_gradient(lambda v: sum_at_centers(v, graph.edges), values)
    with use_torch_scatter():
        assert reductions._sum is not reductions._index_add
        theirs = second_gradient(lambda v: sum_at_centers(v, graph.edges), values)
    for a, b in zip(ours, theirs, strict=True):
        assert worst(a, b) <= 1e-12 * max(1.0, a.abs().max().item())
    assert reductions._sum is reductions._index_add


def test_a_potential_is_the_same_with_torch_scatter(variant: str, graph: AtomGraph) -> None:
    pytest.importorskip("torch_scatter", reason=NEEDS_SCATTER)
    molecule = batch_of([STRUCTURES["ethanol"]()])

    def everything() -> list[Tensor]:
        potential = small_potential(variant)
        out = predict(potential, graph, training=True)
        gradient = torch.autograd.grad(out.forces.square().sum(), list(potential.parameters()), allow_unused=True)
        return [out.energy, out.forces, hessian(potential, molecule), *(g for g in gradient if g is not None)]

    ours = everything()
    with use_torch_scatter():
        theirs = everything()
    for a, b in zip(ours, theirs, strict=True):
        assert worst(a.detach(), b.detach()) <= 1e-11 * max(1.0, a.abs().max().item())


def test_why_segment_csr_is_not_used(graph: AtomGraph) -> None:
    """Its sum and its gradient are right, its second derivative is not: forces would train on a wrong gradient."""
    scatter = pytest.importorskip("torch_scatter", reason=NEEDS_SCATTER)
    values = torch.randn(len(graph.edges), 5, dtype=torch.float64)
    value, g, gg = second_gradient(lambda v: sum_at_centers(v, graph.edges), values)
    v = values.clone().requires_grad_()
    total = scatter.segment_csr(v**3, graph.edges.row_ptr, reduce="sum").square().sum()
    assert worst(total.detach(), value) <= 1e-9
    (first,) = torch.autograd.grad(total, v, create_graph=True)
    assert worst(first.detach(), g) <= 1e-9
    try:
        (second,) = torch.autograd.grad(first.square().sum(), v)
    except RuntimeError:
        return  # refused: honest, and of no use for forces
    assert worst(second, gg) > 1e-3 * gg.abs().max().item()
