"""SchNet: continuous-filter convolutions (K. T. Schütt et al., NeurIPS 30 (2017), arXiv 1706.08566).

    x_i^{l+1} = x_i^l + dense( ssp( dense( Σ_j (W_in x_j^l) ∘ W^l(d_ij) ) ) )        eqs. 1-2, figure 2
    W^l(d)    = u(d) · dense( act( dense( e(d) ) ) )                                    filter network

The envelope u is not in the paper: it makes the energy smooth at the cutoff. The filters W^l depend on the
distance alone and are read from a table (see `knots`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels import ops
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.kernels.splines import KnotEdges
from mlpot.knots import RadialTable
from mlpot.models.layers import choose, dense, embedding, mlp
from mlpot.radial import BASES, ENVELOPES


class Interaction(nn.Module):
    """One continuous-filter convolution and the update that follows it."""

    def __init__(self, *, n_features: int, n_radial: int, activation: str):
        super().__init__()
        self.filter = mlp(n_radial, n_features, n_features, activation=activation)
        self.to_message = dense(n_features, n_features, bias=False)
        self.update = mlp(n_features, n_features, n_features, activation=activation)


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
        n_knots: intervals of the grid on which the filters are tabulated; None evaluates them on every edge.
        degree: of the splines on the grid: 3 or, for second derivatives as exact as forces, 5.
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
        n_knots: int | None = 512,
        degree: int = 3,
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
        self.table = None
        if n_knots is not None:
            self.table = RadialTable(self.basis, self.envelope, cutoff=cutoff, n_knots=n_knots, degree=degree)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        x = self.embedding(numbers)
        convolve = self._convolution(distances(vectors), edges)
        for k, interaction in enumerate(self.interactions):
            x = x + interaction.update(convolve(interaction.to_message(x), k))
        return self.readout(x).squeeze(-1)

    def _convolution(self, d: Tensor, edges: Edges) -> Callable[[Tensor, int], Tensor]:
        """Σ_j x_j ∘ W^l(d_ij), as a function of x and the number of the layer."""
        filters = [interaction.filter for interaction in self.interactions]
        if self.table is None:
            radial, envelope = self.basis(d), self.envelope(d)[:, None]
            return lambda x, k: sum_at_centers(gather(x, edges.neighbor) * filters[k](radial) * envelope, edges)
        tables = self.table(filters)
        on = KnotEdges(edges, d, cutoff=self.cutoff, n_knots=self.table.n_knots, degree=self.table.degree)
        return lambda x, k: ops.conv(x, tables[k], on)
