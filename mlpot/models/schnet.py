"""SchNet: continuous-filter convolutions (K. T. Schütt et al., NeurIPS 30 (2017), arXiv 1706.08566).

    x_i^{l+1} = x_i^l + dense( ssp( dense( Σ_j (W_in x_j^l) ∘ W^l(d_ij) ) ) )        eqs. 1-2, figure 2
    W^l(d)    = u(d) · dense( act( dense( e(d) ) ) )                                    filter network

The envelope u is not in the paper: it makes the energy smooth at the cutoff.
"""

from __future__ import annotations

from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, pairs, sum_at_centers
from mlpot.models.layers import choose, dense, embedding, mlp
from mlpot.radial import BASES, ENVELOPES


class Interaction(nn.Module):
    """One continuous-filter convolution and the update that follows it."""

    def __init__(self, *, n_features: int, n_radial: int, activation: str):
        super().__init__()
        self.filter = mlp(n_radial, n_features, n_features, activation=activation)
        self.to_message = dense(n_features, n_features, bias=False)
        self.update = mlp(n_features, n_features, n_features, activation=activation)

    def forward(self, x: Tensor, radial: Tensor, envelope: Tensor, pair: Tensor, edges: Edges) -> Tensor:
        """x (n_atoms, n_features), radial functions of pairs -> the residual (n_atoms, n_features)."""
        weight = gather(self.filter(radial) * envelope[:, None], pair)
        messages = gather(self.to_message(x), edges.neighbor) * weight
        return self.update(sum_at_centers(messages, edges))


class SchNet(nn.Module):
    """Atomic energies from distances by continuous-filter convolutions.

    Args:
        cutoff: Å.
        n_features: channels of an atom.
        n_interactions: message-passing steps.
        radial: basis of distances, a name in `radial.BASES`.
        n_radial: size of the basis.
        envelope: a name in `radial.ENVELOPES`.
        activation: "silu" or "ssp", the paper's shifted softplus.
    """

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_features: int = 128,
        n_interactions: int = 3,
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
        self.interactions = nn.ModuleList(
            Interaction(n_features=n_features, n_radial=n_radial, activation=activation)
            for _ in range(n_interactions)
        )
        self.readout = mlp(n_features, n_features // 2, 1, activation=activation)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        first, pair = pairs(edges)  # filters depend on distance alone: both directions share one
        d = distances(vectors.index_select(0, first))
        radial, envelope = self.basis(d), self.envelope(d)
        x = self.embedding(numbers)
        for interaction in self.interactions:
            x = x + interaction(x, radial, envelope, pair, edges)
        return self.readout(x).squeeze(-1)
