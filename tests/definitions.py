"""Networks against definitions made of e3nn's parts: energies, forces and gradients of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from structures import copper, ethanol, graph_of, worst
from torch import Tensor
from torch.func import functional_call

from mlpot.forces import predict
from mlpot.graph import AtomGraph
from mlpot.potential import Potential

KNOTS = 4096  # so many that the splines differ by less than 1e-13 from what they are splines of


def structure(elements: tuple[int, ...]) -> Atoms:
    return copper() if elements == (29,) else ethanol()


def by_definition(model: Any, graph: AtomGraph, positions: Tensor) -> Tensor:
    """Atomic energies (n_atoms,)."""
    center, neighbor = graph.edges.center, graph.edges.neighbor
    shift = torch.einsum("ea,eab->eb", graph.cell_shift.double(), graph.cell[graph.batch[center]])
    kinds = torch.tensor([model.size.elements.index(z) for z in graph.numbers.tolist()])
    one_hot = torch.nn.functional.one_hot(kinds, len(model.size.elements)).double()
    to_center = positions[center] - positions[neighbor] - shift
    return model(one_hot, torch.stack([neighbor, center]), to_center)  # type: ignore[no-any-return]  # modules have no types


def check_energies_and_forces(model: Any, potential: Potential) -> None:
    """By the definition of the stages and by compiled code."""
    graph = graph_of(structure(model.size.elements))
    positions = graph.positions.clone().requires_grad_()
    energy = by_definition(model, graph, positions)
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    alone = potential.isolated[potential.element_index[graph.numbers]].sum()
    for native in (True, False):
        out = predict(potential, graph, native=native)
        assert worst(out.energy + alone, energy.sum().item()) < 1e-10
        assert worst(out.forces, -gradient) < 1e-10
    assert gradient.abs().max() > 1e-3  # or there is nothing to compare


def check_gradients(model: Any, potential: Potential, state: Mapping[str, Tensor], own: Sequence[Tensor]) -> None:
    """Of a loss on energies and forces.

    Args:
        model: the definition.
        potential: ours.
        state: weights of our network as functions of the definition's.
        own: the definition's weights.
    """
    graph = graph_of(structure(model.size.elements))
    positions = graph.positions.clone().requires_grad_()
    wanted = torch.sin(torch.arange(positions.numel(), dtype=torch.float64)).view_as(positions)

    def gradient(energy: Tensor) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return torch.autograd.grad(energy.sum().square() + (slope * wanted).sum(), own, allow_unused=True)

    theirs = gradient(by_definition(model, graph, positions))
    backbone = potential.backbone
    assert isinstance(backbone, torch.nn.Module)
    backbone.train()
    shift = torch.einsum("ea,eab->eb", graph.cell_shift.double(), graph.cell[graph.batch[graph.edges.center]])
    vectors = positions[graph.edges.neighbor] - positions[graph.edges.center] + shift
    full = {**backbone.state_dict(), **state}
    ours = gradient(functional_call(backbone, full, (graph.numbers, graph.edges, vectors)))
    backbone.eval()
    for a, b in zip(ours, theirs, strict=True):
        if b is not None and a is not None:
            assert worst(a, b) <= 1e-10 * max(1.0, float(b.abs().max()))
        assert (a is None or not a.any()) == (b is None or not b.any())
