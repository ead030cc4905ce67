"""EGNN: E(n)-equivariant graph network (V. G. Satorras et al., ICML 2021, arXiv 2102.09844).

    m_ij = φ_e(h_i, h_j, e(d_ij))                                     eq. 3, with a radial basis e of the distance
    x_i  ← x_i + C Σ_j (x_i − x_j) φ_x(m_ij)                          eq. 4, optional
    m_i  = Σ_j u(d_ij) a_ij m_ij                                      eq. 5, a_ij = σ(φ_a(m_ij)) optional (eq. 8)
    h_i  ← h_i + φ_h(h_i, m_i)                                        eq. 6

The envelope u, of the true distance, ends every message at the cutoff, so the energy is smooth there. The
coordinates are carried as a displacement of each atom, so the network still sees edge vectors alone: the
energy is invariant under translation, and periodic images need no special care. A layer is an `EdgeNetwork`
between dense layers at the atoms.

The distance term C e(d) of φ_e is not on knots, unlike SchNet's filters: atoms may be displaced to any distance,
so a table has no end.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mlpot.models.layers import ACTIVATIONS, choose, dense, distance_layer, embedding, mlp
from mlpot.stages.edge_network import Dense, EdgeNetwork, Gate, Move
from mlpot.stages.linear import Block, Linear
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import Activation
from mlpot.stages.radial import BASES, ENVELOPES, Basis, Envelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step

SECOND_LINEAR = {"edge": True, "sum": False}  # whether each edge passes it
TYPICAL_NEIGHBORS = 8.0  # scales sums over neighbors so that features stay of order one
SOFTENING = 1e-6  # Å²; displaced atoms may meet: √(r² + ε²) keeps the length smooth there
ENDS = (Block(0, 0, 0), Block(0, 1, 1))  # A h and B h


class EquivariantLayer(nn.Module):
    """The dense layers of one step of eqs. 3-6."""

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

    def ends(self) -> Linear:
        """A h and B h side by side."""
        center, neighbor = self.from_center, self.from_neighbor
        bias = torch.stack([center.bias, torch.zeros_like(center.bias)])
        return Linear(torch.stack([center.weight, neighbor.weight]).mT, ENDS, bias)

    def messages(self, basis: Basis, envelope: Envelope, function: str, *, displaced: bool) -> EdgeNetwork:
        """Eqs. 3 to 5 on every edge."""
        second, gate, move = (_linear(part, k) for part, k in ((self.edge, 1), (self.gate, 0), (self.move, 0)))
        last = _linear(self.move, 2)
        return EdgeNetwork(
            cast("nn.Linear", self.from_distance).weight.mT,
            basis.places,
            basis,
            envelope,
            factor=1 / math.sqrt(TYPICAL_NEIGHBORS),
            function=function,
            second=None if second is None else Dense(second.weight.mT, second.bias),
            gate=None if gate is None else Gate(gate.weight[0], gate.bias),
            move=None if move is None or last is None else Move(move.weight.mT, move.bias, last.weight[0]),
            softening=SOFTENING if displaced else None,
        )


class EGNN(StagedNetwork):
    """Atomic energies from equivariant message passing.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        n_features: channels of an atom.
        n_layers: message-passing steps.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        envelope: polynomial (C2 at the cutoff) or cosine (C1).
        activation: "silu" or "ssp".
        move_coordinates: eq. 4: later layers see distances between displaced atoms, and so angles.
        attention: eq. 8: a learned gate on each message.
        second_linear: "edge": φ_e has two layers, as in the paper; "sum": a variant whose second one, without an
            activation, is applied to the sum over neighbors, once an atom instead of once an edge.

    Raises:
        ValueError: atoms move, but there are fewer than three features.
    """

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
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
        super().__init__(elements=elements, cutoff=cutoff, features=f"h{n_layers}")
        if move_coordinates and n_features < 3:
            raise ValueError(
                f"n_features is {n_features}. Atoms that move need 3, or write move_coordinates: false."
            )
        self.move_coordinates, self.activation = move_coordinates, activation
        del self.readout  # comes last, as in files and checkpoints
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
        self.readout = mlp(n_features, max(n_features // 2, 1), 1, activation=activation)

    def stages(self) -> list[Step]:
        """The list; an array x holds A h, B h and, where atoms were displaced, D."""
        known = torch.tensor(self.elements, device=self.embedding.weight.device)
        steps = [Step(Embedding(self.embedding(known)), None, "h0")]
        for k, layer in enumerate(cast("list[EquivariantLayer]", list(self.layers))):
            h, x, sums = f"h{k}", f"x{k}", f"m{k}"
            steps.append(Step(layer.ends(), h, x))
            displaced = self.move_coordinates and k > 0
            if displaced:
                steps.append(Step(None, f"m{k - 1}", x, read=1, write=2))
            if displaced and k > 1:
                steps.append(Step(None, f"x{k - 1}", x, read=2, write=2))
            network = layer.messages(self.basis, self.envelope, self.activation, displaced=displaced)
            steps.append(Step(network, x, sums))
            if layer.after_sum is not None:
                steps.append(Step(_stage(layer.after_sum.weight), sums, f"s{k}"))
                sums = f"s{k}"
            steps += self._update(layer.update, h, sums, k)
        hidden, last = (_layer(self.readout, n) for n in (0, 2))
        return [
            *steps,
            Step(_stage(hidden.weight, hidden.bias), self.features, "r"),
            Step(Activation(self.activation), "r", "t"),
            Step(Readout(last.weight[0], last.bias), "t", ENERGY),
        ]

    def _update(self, update: nn.Module, h: str, sums: str, k: int) -> list[Step]:
        """Eq. 6."""
        hidden, second = (_layer(update, n) for n in (0, 2))
        own, of_sums = hidden.weight.chunk(2, dim=1)
        return [
            Step(_stage(own, hidden.bias), h, f"u{k}"),
            Step(_stage(of_sums), sums, f"u{k}"),
            Step(Activation(self.activation), f"u{k}", f"v{k}"),
            Step(_stage(second.weight, second.bias), f"v{k}", f"h{k + 1}"),
            Step(None, h, f"h{k + 1}"),
        ]


def _stage(weight: Tensor, bias: Tensor | None = None) -> Linear:
    return Linear(weight.mT[None], bias=None if bias is None else bias[None])


def _layer(part: nn.Module, k: int) -> nn.Linear:
    return cast("nn.Linear", part.get_submodule(str(k)))


def _linear(part: nn.Module | None, k: int) -> nn.Linear | None:
    """The k-th layer of a part that there may not be, or may be shorter."""
    return None if part is None or k >= len(list(part.children())) else _layer(part, k)
