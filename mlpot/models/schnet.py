"""SchNet: continuous-filter convolutions (K. T. Schütt et al., NeurIPS 30 (2017), arXiv 1706.08566).

    x_i^{l+1} = x_i^l + dense( ssp( dense( Σ_j (W_in x_j^l) ∘ W^l(d_ij) ) ) )        eqs. 1-2, figure 2
    W^l(d)    = u(d) · dense( act( dense( e(d) ) ) )                                    filter network

The envelope u is not in the paper: it makes the energy smooth at the cutoff. The filters W^l depend on the
distance alone and are read from a table (see `knots`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels import ops
from mlpot.kernels.reductions import distances, gather, pairs, sum_at_centers
from mlpot.knots import RadialTable
from mlpot.models.layers import choose, dense, embedding, mlp, obstacle_of_activations
from mlpot.stages.radial import BASES, ENVELOPES
from mlpot.stages.spline_grid import KnotEdges
from mlpot.torch_settings import without_autocast

Convolution = Callable[[Tensor, int], Tensor]  # Σ_j x_j ∘ W^l(d_ij) of x and the layer l


class Interaction(nn.Module):
    """The dense layers of one continuous-filter convolution and of the update that follows it."""

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
        n_knots: intervals of the grid on which the filters are tabulated; None
            evaluates them on every edge.
        degree: of the splines on the grid: 5 or, a little faster and less smooth, 3.
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
        n_knots: int | None = 256,
        degree: int = 5,
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

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        return len(self.interactions)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        x = self.embedding(numbers)
        convolve = (
            self._on_edges(vectors, edges) if self.table is None else self._on_knots(self.table, vectors, edges)
        )
        for k, layer in enumerate(self._layers()):
            x = x + layer.update(convolve(layer.to_message(x), k))
        return self.readout(x).squeeze(-1)

    def native_obstacle(self) -> str | None:
        """Compiled code knows filters on a spline grid, and SiLU."""
        if self.table is None:
            return "filters are not on a spline grid (n_knots is null)"
        return obstacle_of_activations(self.modules())

    def _layers(self) -> list[Interaction]:
        return cast("list[Interaction]", list(self.interactions))

    def _on_knots(self, table: RadialTable, vectors: Tensor, edges: Edges) -> Convolution:
        with without_autocast(vectors):  # a slope of a spline whose knots have 16 bits is noise
            tables = table([layer.filter for layer in self._layers()])
        on = KnotEdges(edges, distances(vectors), cutoff=table.cutoff, n_knots=table.n_knots, degree=table.degree)
        return lambda x, layer: ops.conv(x.to(tables[layer].dtype), tables[layer], on)

    def _on_edges(self, vectors: Tensor, edges: Edges) -> Convolution:
        first, pair = pairs(edges)  # filters depend on distance alone: both directions share one
        d = distances(vectors.index_select(0, first))
        radial, envelope = self.basis(d), self.envelope(d)[:, None]
        filters = [layer.filter for layer in self._layers()]

        def convolve(x: Tensor, layer: int) -> Tensor:
            weight = gather(filters[layer](radial) * envelope, pair)
            return sum_at_centers(gather(x, edges.neighbor) * weight, edges)

        return convolve
