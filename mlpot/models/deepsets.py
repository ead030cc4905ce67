"""DeepSets: a sum over pairs, then a function of the sum (M. Zaheer et al., NeurIPS 2017, theorem 2).

    E_i = ρ( z_i, Σ_j u(d_ij) φ(z_i, z_j, e(d_ij)) )

No messages are passed on: the baseline that tells whether message passing buys anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.models.backbone import PlainNetwork
from mlpot.models.layers import ACTIVATIONS, choose, dense, distance_layer, embedding, mlp
from mlpot.stages.radial import BASES, ENVELOPES


class DeepSets(PlainNetwork):
    """Atomic energies from the set of an atom's neighbors.

    Args:
        cutoff: Å.
        n_features: channels of a pair and of an atom.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        envelope: polynomial (C2 at the cutoff) or cosine (C1).
        activation: "silu" or "ssp".
    """

    parity = True
    equivariant = True

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_features: int = 128,
        radial: str = "gaussian",
        n_radial: int = 50,
        envelope: str = "polynomial",
        activation: str = "silu",
    ):
        super().__init__()
        self.cutoff = cutoff
        self.embedding = embedding(n_features)
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        self.envelope = choose(ENVELOPES, envelope, "envelope")(cutoff)
        self.from_center = dense(n_features, n_features)
        self.from_neighbor = dense(n_features, n_features, bias=False)
        self.from_distance = distance_layer(self.basis, n_radial, n_features, cutoff)
        act = choose(ACTIVATIONS, activation, "activation")
        self.pair = nn.Sequential(act(), dense(n_features, n_features), act())
        self.atom = mlp(2 * n_features, n_features, max(n_features // 2, 1), 1, activation=activation)

    @property
    def readout(self) -> nn.Module:
        """What makes an atom's energy of its features, as in every backbone."""
        return self.atom

    def handedness_obstacle(self) -> str | None:
        """None: it sees distances alone."""
        return None

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        return 1

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        d, z = distances(vectors), self.embedding(numbers)
        first = gather(self.from_center(z), edges.center) + gather(self.from_neighbor(z), edges.neighbor)
        pairs = self.pair(first + self.from_distance(self.basis(d))) * self.envelope(d)[:, None]
        return self.atom(torch.cat([z, sum_at_centers(pairs, edges)], dim=-1)).squeeze(-1)
