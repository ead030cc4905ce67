"""EGNN as it is usually written, with the weights of mlpot's: what that is compared with, in numbers and time.

Every edge carries [h_i, h_j, e(d_ij)] through the first layer of φ_e as one long vector (V. G. Satorras et al.,
ICML 2021, eqs. 3-6); mlpot multiplies h_i and h_j once an atom.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.models.egnn import EGNN, TYPICAL_NEIGHBORS, EquivariantLayer


class PlainLayer(nn.Module):
    """One step of eqs. 3-6."""

    def __init__(self, layer: EquivariantLayer):
        super().__init__()
        parts = (layer.from_center, layer.from_neighbor, layer.from_distance)
        weight = torch.cat([part.weight.detach() for part in parts], dim=1)
        first = nn.Linear(weight.shape[1], weight.shape[0])
        first.load_state_dict({"weight": weight, "bias": layer.from_center.bias.detach()})
        self.edge = nn.Sequential(first, *layer.edge)
        self.gate, self.move, self.update = layer.gate, layer.move, layer.update

    def forward(self, h: Tensor, x: Tensor, radial: Tensor, envelope: Tensor, moved: Tensor, edges: Edges):
        """New features (n_atoms, n_features) and displacements (n_atoms, 3) Å."""
        i, j = edges.center, edges.neighbor
        message = self.edge(torch.cat([h[i], h[j], radial], dim=-1))
        weight = envelope / math.sqrt(TYPICAL_NEIGHBORS)
        if self.move is not None:
            x = x.index_add(0, i, -moved * self.move(message) * weight)
        if self.gate is not None:
            message = message * self.gate(message)
        summed = torch.zeros_like(h).index_add(0, i, message * weight)
        return h + self.update(torch.cat([h, summed], dim=-1)), x


class PlainEGNN(nn.Module):
    """The same function as the EGNN that it is made from."""

    def __init__(self, egnn: EGNN):
        super().__init__()
        self.cutoff = egnn.cutoff
        self.embedding, self.basis, self.envelope, self.readout = (
            egnn.embedding,
            egnn.basis,
            egnn.envelope,
            egnn.readout,
        )
        self.layers = nn.ModuleList(PlainLayer(layer) for layer in egnn.layers)

    def native_obstacle(self) -> str:
        """It stands for code that is not compiled."""
        return "as it is usually written"

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        d = vectors.norm(dim=-1)
        envelope, radial = self.envelope(d)[:, None], self.basis(d)
        h, x, moved = self.embedding(numbers), vectors.new_zeros(edges.n_atoms, 3), vectors
        for k, layer in enumerate(self.layers):
            if k > 0 and self.layers[k - 1].move is not None:
                moved = vectors + x[edges.neighbor] - x[edges.center]
                radial = self.basis((moved.square().sum(-1) + 1e-6).sqrt())
            h, x = layer(h, x, radial, envelope, moved, edges)
        return self.readout(h).squeeze(-1)
