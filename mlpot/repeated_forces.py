"""Energy, forces and stress of one structure, again and again: on a CUDA device as one CUDA graph.

The arrays of edges are longer than the list of neighbors, so that another list needs no other CUDA graph. Their
unused places hold edges of the first atom to itself that are longer than the cutoff and contribute exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mlpot.forces import energies_and_pulls, stress_of, to_atoms
from mlpot.gpu.md_graph import captured
from mlpot.graph import AtomGraph, Edges, Properties, edge_vectors
from mlpot.potential import Potential
from mlpot.torch_settings import usual_settings

ROOM = 1.1  # edges of the arrays for each that there is


class RepeatedForces:
    """What `forces.predict` gives for one graph, for others of as many atoms of the same elements too.

    Args:
        potential: it is frozen.
        graph: one structure with at least one atom.
    """

    def __init__(self, potential: Potential, graph: AtomGraph):
        assert potential.is_frozen, "captured kernels would not see other weights"
        self._potential, n_edges = potential, math.ceil(ROOM * len(graph.edges)) + 1
        self._graph, self._offset = _with_room(graph, n_edges, far=2 * potential.cutoff)
        self._list, self._constants = graph.edges, potential.isolated
        self._reference = potential.reference_energies(graph.numbers).sum()
        device = graph.positions.device
        with usual_settings():
            self._function = captured(self._compute, device) if device.type == "cuda" else self._compute

    def fits(self, graph: AtomGraph) -> bool:
        """Whether there is room for a graph, and its elements, in their order, and the weights are the same."""
        same = graph.n_graphs == 1 and graph.n_atoms == self._graph.n_atoms
        same = same and self._constants is self._potential.isolated
        return same and len(graph.edges) < len(self._offset) and torch.equal(graph.numbers, self._graph.numbers)

    def __call__(self, graph: AtomGraph) -> Properties:
        """Energy, forces and stress of a graph that fits; a list that was seen last is not copied again."""
        own = self._graph
        own.positions.copy_(graph.positions)
        if graph.edges is not self._list:
            other, offset = _with_room(graph, len(self._offset), far=2 * self._potential.cutoff)
            self._offset.copy_(offset)
            for name in ("center", "neighbor", "row_ptr", "reverse"):
                getattr(own.edges, name).copy_(getattr(other.edges, name))
            self._list = graph.edges
        with usual_settings():
            energy, forces, virial = (t.clone() for t in self._function())
            return Properties(energy + self._reference, forces, stress_of(virial, graph))

    def _compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Energy without references (1,), forces and virial (1, 3, 3), float64."""
        own = self._graph
        center, neighbor = own.edges.center, own.edges.neighbor
        vectors = own.positions.index_select(0, neighbor) - own.positions.index_select(0, center) + self._offset
        energy, g = energies_and_pulls(self._potential, own, vectors)
        virial = (vectors[:, :, None] * g[:, None, :]).sum(0, keepdim=True)
        return energy.detach().double().sum(0, keepdim=True), to_atoms(g, own).detach(), virial.detach()


def _with_room(graph: AtomGraph, n_edges: int, *, far: float) -> tuple[AtomGraph, Tensor]:
    """A copy of a graph with n_edges edges, and S · cell of each (n_edges, 3) Å; what fills up is `far` long."""
    edges, more = graph.edges, n_edges - len(graph.edges)
    first, own = edges.center.new_zeros(more), torch.arange(len(edges), n_edges, device=edges.center.device)
    filled = Edges(
        torch.cat([edges.center, first]),
        torch.cat([edges.neighbor, first]),
        edges.row_ptr.clone(),
        torch.cat([edges.reverse, own]),
    )
    offset = edge_vectors(replace(graph, positions=torch.zeros_like(graph.positions)))
    beyond = offset.new_tensor([far, 0.0, 0.0]).expand(more, 3)
    return replace(graph.clone(), edges=filled), torch.cat([offset, beyond])
