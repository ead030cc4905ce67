"""Do the kernels for CUDA devices compute what the reference defines, always in the same order?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from triton_runs import CUDA, INTERPRETED, interpret, on_device, runs_the_others

from mlpot.forces import hessian, predict
from mlpot.graph import AtomGraph, collate, edge_vectors
from mlpot.kernels import ops, reference
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.stages.spline_grid import SPLINES, KnotEdges

pytest.importorskip("triton", reason="Triton is installed with PyTorch for CUDA, and by the dev extra on Linux")
from mlpot.gpu import conv, neighbor_sum

by_degree = pytest.mark.parametrize("degree", [3, 5])

CUTOFF, N_KNOTS = 4.0, 6
WIDE = 37  # channels: two tiles, the second of them not full


@pytest.fixture(autouse=True)
def _chosen(monkeypatch):
    """The kernels under test, also for tensors on the CPU."""
    if INTERPRETED:
        monkeypatch.setattr(neighbor_sum, "EDGES", 16)
        monkeypatch.setattr(ops, "_home", lambda *_: conv)


def crystal_atom_and_chain() -> list[AtomGraph]:
    """More neighbors than a block holds, none at all, and some beyond the cutoff of the table."""
    rng = np.random.default_rng(0)
    corners = 2.7 * np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) + rng.uniform(-0.2, 0.2, (2, 3))
    crystal = build_graph([14, 6], corners, 2.7 * np.eye(3), [True] * 3, CUTOFF)
    assert crystal.edges.row_ptr.diff().max() > neighbor_sum.EDGES
    no_cell = np.zeros((3, 3)), [False] * 3
    atom = build_graph([6], [[0, 0, 0]], *no_cell, CUTOFF)
    chain = build_graph([6, 14, 6], [[0, 0, 0], [1.9, 0, 0], [2.2, 3.7, 0]], *no_cell, CUTOFF + 0.5)
    assert edge_vectors(chain).norm(dim=-1).max() > CUTOFF
    return [crystal, atom, chain]


def tensors(graph: AtomGraph, degree: int, n_features: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {
        "x": normal(graph.n_atoms, n_features),
        "table": normal(SPLINES[degree].n_rows(N_KNOTS), n_features),
        "weights": normal(len(graph.edges)),
        "d": edge_vectors(graph).norm(dim=-1),
    }
    return {name: t.to(graph.positions.device, dtype).requires_grad_() for name, t in values.items()}


def conv_and_derivatives(graph: AtomGraph, degree: int, t: dict[str, Tensor]) -> list[Tensor]:
    """The convolution, its gradients, and the gradients of their squares."""
    # One distance a pair: an edge and its reverse are equally long.
    pair = torch.minimum(torch.arange(len(graph.edges), device=t["d"].device), graph.edges.reverse)
    on = KnotEdges(graph.edges, t["d"][pair], cutoff=CUTOFF, n_knots=N_KNOTS, degree=degree)
    value, leaves = ops.conv(t["x"], t["table"], on, t["weights"]), list(t.values())
    first = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [value.detach(), *(g.detach() for g in first), *second]


@on_device
@pytest.mark.parametrize(
    ("degree", "dtype", "n_features", "bar"),
    [
        pytest.param(3, torch.float64, WIDE, 1e-11, id="3-double"),
        pytest.param(5, torch.float64, WIDE, 1e-11, id="5-double", marks=pytest.mark.slow),
        pytest.param(3, torch.float32, 20, 2e-6, id="3-single", marks=pytest.mark.slow),
        pytest.param(5, torch.float32, 20, 2e-6, id="5-single", marks=pytest.mark.slow),
    ],
)
def test_value_and_two_derivatives_equal_the_reference(monkeypatch, device, degree, dtype, n_features, bar):
    graph = collate(crystal_atom_and_chain()).to(device)
    t = tensors(graph, degree, n_features, dtype)
    found = conv_and_derivatives(graph, degree, t)
    monkeypatch.setattr(ops, "_home", lambda *_: reference)
    for a, b in zip(found, conv_and_derivatives(graph, degree, t), strict=True):
        assert (a - b).abs().max() <= bar * b.abs().max()


@pytest.mark.parametrize("device", [CUDA])
@by_degree
def test_equal_runs_are_equal_to_the_last_bit(device, degree):
    graph = collate(50 * crystal_atom_and_chain()).to(device)
    t = tensors(graph, degree, WIDE, torch.float32)
    first = conv_and_derivatives(graph, degree, t)
    for _ in range(20):
        for a, b in zip(first, conv_and_derivatives(graph, degree, t), strict=True):
            assert torch.equal(a, b)


@on_device
@by_degree
def test_long_intervals_are_shared_among_programs(monkeypatch, device, degree):
    monkeypatch.setattr(neighbor_sum, "LONG", 2)
    graph = collate(crystal_atom_and_chain()).to(device)
    t = tensors(graph, degree, WIDE, torch.float64)
    on = KnotEdges(graph.edges, t["d"].detach(), cutoff=CUTOFF, n_knots=N_KNOTS, degree=degree)
    arguments = t["x"].detach(), t["x"].detach().flip(0).contiguous(), on, None, 0
    found, wanted = conv.table_grad(*arguments), reference.table_grad(*arguments)
    assert (found - wanted).abs().max() <= 1e-13 * wanted.abs().max()


@on_device
def test_a_potential_is_the_same_on_the_device(monkeypatch, device):
    arguments = {"n_features": 4, "n_interactions": 1, "cutoff": CUTOFF, "n_knots": 16}
    potential = Potential("schnet", arguments, reference_energies={6: -1.0, 14: -2.0}).double().freeze()
    graphs = crystal_atom_and_chain()
    graph, chain = collate(graphs), graphs[-1]
    with monkeypatch.context() as patch:
        patch.setattr(ops, "_home", lambda *_: reference)
        wanted, curvature = predict(potential, graph, native=False), hessian(potential, chain)
    potential = potential.to(device)
    found = predict(potential, graph.to(device), native=False)
    for a, b in ((found.energy, wanted.energy), (found.forces, wanted.forces), (found.stress, wanted.stress)):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-11, atol=1e-11, equal_nan=True)
    found_curvature = hessian(potential, chain.to(device)).cpu()
    torch.testing.assert_close(found_curvature, curvature, rtol=1e-11, atol=1e-11)


@runs_the_others
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_interpreter_finds_the_same(chosen):
    interpret(__file__, chosen)
