"""EGNN: E(n)-equivariant graph network (V. G. Satorras et al., ICML 2021, arXiv 2102.09844).

    m_ij = φ_e(h_i, h_j, e(d_ij))                                     eq. 3, with a radial basis e of the distance
    x_i  ← x_i + C Σ_j (x_i − x_j) φ_x(m_ij)                          eq. 4, optional
    m_i  = Σ_j u(d_ij) a_ij m_ij                                      eq. 5, a_ij = σ(φ_a(m_ij)) optional (eq. 8)
    h_i  ← h_i + φ_h(h_i, m_i)                                        eq. 6

The envelope u, of the true distance, ends every message at the cutoff, so the energy is smooth there. The
coordinates are carried as a displacement of each atom, so the network still sees edge vectors alone: the
energy is invariant under translation, and periodic images need no special care.

The distance term C e(d) of φ_e is not on knots, unlike SchNet's filters: atoms may be displaced to any distance,
so a table has no end, and its Gaussians are some 8 % of the native call (`kernels.native_egnn`), of which a table
would save half.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.models.layers import (
    ACTIVATIONS,
    choose,
    dense,
    distance_layer,
    embedding,
    mlp,
    obstacle_of_activations,
)
from mlpot.stages.radial import BASES, ENVELOPES, GaussianBasis, PolynomialEnvelope

SECOND_LINEAR = {"edge": True, "sum": False}  # whether each edge passes it
TYPICAL_NEIGHBORS = 8.0  # scales sums over neighbors so that features stay of order one
SOFTENING = 1e-6  # Å²; displaced atoms may meet: √(r² + ε²) keeps the length smooth there


class EquivariantLayer(nn.Module):
    """One step of eqs. 3-6."""

    def __init__(
        self,
        from_distance: nn.Module,
        *,
        n_features: int,
        activation: str,
        move_coordinates: bool,
        attention: bool,
        second_linear: str,
    ):
        super().__init__()
        # φ_e's first layer is split, W [h_i, h_j, e] = A h_i + B h_j + C e: the first two are computed per atom.
        self.from_center = dense(n_features, n_features)
        self.from_neighbor = dense(n_features, n_features, bias=False)
        self.from_distance = from_distance
        act = choose(ACTIVATIONS, activation, "activation")
        on_edges = choose(SECOND_LINEAR, second_linear, "place of the second linear layer")
        self.edge = (
            nn.Sequential(act(), dense(n_features, n_features), act()) if on_edges else nn.Sequential(act())
        )
        self.after_sum = None if on_edges else dense(n_features, n_features, bias=False)
        self.gate = nn.Sequential(dense(n_features, 1), nn.Sigmoid()) if attention else None
        self.move = None
        if move_coordinates:
            self.move = nn.Sequential(dense(n_features, n_features), act(), dense(n_features, 1, bias=False))
            nn.init.xavier_uniform_(self.move[-1].weight, gain=0.1)  # type: ignore[arg-type]
        self.update = mlp(2 * n_features, n_features, n_features, activation=activation)

    def forward(
        self, h: Tensor, displacement: Tensor, radial: Tensor, envelope: Tensor, moved: Tensor, edges: Edges
    ) -> tuple[Tensor, Tensor]:
        """New features (n_atoms, n_features) and displacements (n_atoms, 3) Å."""
        weight = envelope / math.sqrt(TYPICAL_NEIGHBORS)
        summed, along = self.messages(edges, self.from_center(h), self.from_neighbor(h), radial, weight)
        if along is not None:
            step = moved * (along * weight)[:, None]
            displacement = displacement - sum_at_centers(step, edges)  # x_i − x_j = −r_e
        return h + self.update(torch.cat([h, summed], dim=-1)), displacement

    def messages(
        self, edges: Edges, from_center: Tensor, from_neighbor: Tensor, radial: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Weighted sums of messages (n_atoms, n_features), and φ_x (n_edges,) if atoms move.

        Args:
            edges: who is near whom.
            from_center, from_neighbor: A h and B h, (n_atoms, n_features).
            radial: (n_edges, n_radial).
            weight: (n_edges,).
        """
        first = gather(from_center, edges.center) + gather(from_neighbor, edges.neighbor)
        message = self.edge(first + self.from_distance(radial))
        along = None if self.move is None else self.move(message).squeeze(-1)
        if self.gate is not None:
            message = message * self.gate(message)
        summed = sum_at_centers(message * weight[:, None], edges)
        return summed if self.after_sum is None else self.after_sum(summed), along


class EGNN(nn.Module):
    """Atomic energies from equivariant message passing.

    Args:
        cutoff: Å.
        n_features: channels of an atom.
        n_layers: message-passing steps.
        radial: basis of distances, a name in `radial.BASES`.
        n_radial: size of the basis.
        envelope: a name in `radial.ENVELOPES`.
        activation: "silu" or "ssp".
        move_coordinates: eq. 4: later layers see distances between displaced atoms, and so angles.
        attention: eq. 8: a learned gate on each message.
        second_linear: "edge": φ_e has two layers, as in the paper; "sum": a variant whose second one, without an
            activation, is applied to the sum over neighbors, once an atom instead of once an edge.
    """

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_features: int = 128,
        n_layers: int = 4,
        radial: str = "gaussian",
        n_radial: int = 32,
        envelope: str = "polynomial",
        activation: str = "silu",
        move_coordinates: bool = True,
        attention: bool = False,
        second_linear: str = "edge",
    ):
        super().__init__()
        self.cutoff, self.move_coordinates = cutoff, move_coordinates
        self.embedding = embedding(n_features)
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        self.envelope = choose(ENVELOPES, envelope, "envelope")(cutoff)
        self.layers = nn.ModuleList(
            EquivariantLayer(
                distance_layer(self.basis, n_radial, n_features, cutoff),
                n_features=n_features,
                activation=activation,
                # Nothing sees where the last layer would move the atoms.
                move_coordinates=move_coordinates and layer < n_layers - 1,
                attention=attention,
                second_linear=second_linear,
            )
            for layer in range(n_layers)
        )
        self.readout = mlp(n_features, n_features // 2, 1, activation=activation)

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        return len(self.layers)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        d = distances(vectors)
        envelope, radial = self.envelope(d), self.basis(d)
        h, moved = self.embedding(numbers), vectors
        displacement = vectors.new_zeros(edges.n_atoms, 3)
        for k, layer in enumerate(self.layers):
            if self.move_coordinates and k > 0:
                moved, radial = self._after_move(vectors, displacement, edges)
            h, displacement = layer(h, displacement, radial, envelope, moved, edges)
        return self.readout(h).squeeze(-1)

    def native_obstacle(self) -> str | None:
        """Compiled code knows Gaussians, the usual envelope, SiLU and two layers on edges."""
        usual = PolynomialEnvelope(self.cutoff)
        if not isinstance(self.envelope, PolynomialEnvelope) or self.envelope.exponent != usual.exponent:
            return f"envelope {type(self.envelope).__name__}"
        if not isinstance(self.basis, GaussianBasis):
            return f"radial basis {type(self.basis).__name__}"
        if any(layer.after_sum is not None for layer in self.layers):
            return "the second linear layer stands after the sum"
        return obstacle_of_activations(self.modules())

    def _after_move(self, vectors: Tensor, displacement: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Edge vectors between displaced atoms, and the basis of their lengths."""
        moved = vectors + gather(displacement, edges.neighbor) - gather(displacement, edges.center)
        return moved, self.basis((moved.square().sum(-1) + SOFTENING).sqrt())
