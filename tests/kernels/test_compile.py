"""Does torch.compile take a convolution on knots as one operator, and find the same numbers?"""

from __future__ import annotations

import shutil

import pytest
import torch
from structures import CUTOFF, copper, ethanol, graph_of
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Edges, edge_vectors
from mlpot.kernels import ops
from mlpot.potential import Potential
from mlpot.stages.spline_grid import SPLINES, KnotEdges
from mlpot.terms.core_repulsion import TrainingLimits

N_KNOTS, N_FEATURES = 12, 5
# Dynamo looks at every attribute of the edge vectors, which in float64 are no leaf.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _forgotten():
    """Nothing that another test compiled."""
    torch.compiler.reset()


class Compiled:
    """A potential whose energies are compiled, in one piece: a graph break is an error."""

    def __init__(self, potential: Potential, backend: str):
        self.dtype, self.reference_energies = potential.dtype, potential.reference_energies
        self.energies = torch.compile(potential, backend=backend, fullgraph=True)

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV."""
        return self.energies(numbers, edges, vectors)


def schnet() -> Potential:
    arguments = {"n_features": 16, "n_interactions": 2, "cutoff": CUTOFF, "n_knots": 64}
    return Potential("schnet", arguments, reference_energies={1: -1.0, 6: -2.0, 8: -3.0, 29: -4.0}).double()


def check(potential: Potential, backend: str) -> None:
    compiled = Compiled(potential, backend)
    for graph in (graph_of(ethanol()), graph_of(copper())):
        found, wanted = predict(compiled, graph), predict(potential, graph)
        torch.testing.assert_close(found.energy, wanted.energy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.forces, wanted.forces, rtol=1e-12, atol=1e-12)


def test_a_compiled_potential_gives_the_same_energies_and_forces_with_its_core_repulsion():
    potential, graph = schnet().freeze(), graph_of(ethanol())
    alone = predict(potential, graph).energy
    potential.add_core_repulsion(
        TrainingLimits({(1, 6): 1.2, (29, 29): 2.6}, {})
    )  # closer than that in both structures
    assert (predict(potential, graph).energy - alone).abs() > 1e-3
    check(potential, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's, of itself
def test_inductor_gives_the_same_energies_and_forces():
    check(schnet().freeze(), "inductor")


def test_compiled_energies_give_the_same_gradients_of_weights():
    potential, graph = schnet(), graph_of(ethanol())
    arguments = graph.numbers, graph.edges, edge_vectors(graph)
    found = []
    for energies in (potential, Compiled(potential, "aot_eager")):
        potential.zero_grad()
        energies(*arguments).square().sum().backward()
        found.append([p.grad.clone() for p in potential.parameters() if p.grad is not None])
    assert len(found[0]) > 10
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def inputs(graph: AtomGraph, degree: int) -> list[Tensor]:
    d = edge_vectors(graph).norm(dim=-1)
    pair = torch.minimum(
        torch.arange(len(d)), graph.edges.reverse
    )  # equal to the last bit, as an edge's reverse is
    shapes = (graph.n_atoms, N_FEATURES), (SPLINES[degree].n_rows(N_KNOTS), N_FEATURES), (len(d),)
    return [t.requires_grad_() for t in (*(torch.randn(s, dtype=torch.float64) for s in shapes), d[pair])]


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_operator_has_the_derivatives_of_the_convolution(degree, order, weighted):
    graph = graph_of(copper())

    def conv(x: Tensor, table: Tensor, v: Tensor, d: Tensor) -> Tensor:
        on = KnotEdges(graph.edges, d, cutoff=CUTOFF, n_knots=N_KNOTS, degree=degree)
        return ops.conv(x, table, on, v if weighted else None, order)

    found, t = [], inputs(graph, degree)
    for f in (conv, torch.compile(conv, backend="aot_eager", fullgraph=True)):
        value = f(*t)
        g = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
        found.append([value, *torch.autograd.grad(value, t, g, allow_unused=not weighted)])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
