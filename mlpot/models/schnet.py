"""SchNet: continuous-filter convolutions (K. T. Schütt et al., NeurIPS 30 (2017), arXiv 1706.08566).

    x_i^{l+1} = x_i^l + dense( ssp( dense( Σ_j (W_in x_j^l) ∘ W^l(d_ij) ) ) )        eqs. 1-2, figure 2
    W^l(d)    = u(d) · dense( act( dense( e(d) ) ) )                                    filter network

The envelope u is not in the paper: it makes the energy smooth at the cutoff. The filters W^l depend on the
distance alone and are read from a table (see `knots`). The first messages are those of the element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels import ops
from mlpot.kernels.reductions import distances, gather, pairs, sum_at_centers
from mlpot.knots import RadialTable
from mlpot.models.layers import choose, dense, embedding, mlp
from mlpot.stages.linear import Linear
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import Activation
from mlpot.stages.radial import BASES, ENVELOPES
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step
from mlpot.stages.spline_grid import KnotEdges

ONE = (Term(0, 0, 0, 0),)  # one radial function times the neighbor's channels
Convolution = Callable[[Tensor, int], Tensor]  # Σ_j x_j ∘ W^l(d_ij) of x and the layer l


class Interaction(nn.Module):
    """The dense layers of one continuous-filter convolution and of the update that follows it."""

    def __init__(self, *, n_features: int, n_radial: int, activation: str):
        super().__init__()
        self.filter = mlp(n_radial, n_features, n_features, activation=activation)
        self.to_message = dense(n_features, n_features, bias=False)
        self.update = mlp(n_features, n_features, n_features, activation=activation)


class SchNet(StagedNetwork):
    """Atomic energies from distances by continuous-filter convolutions.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        n_features: channels of an atom.
        n_interactions: message-passing steps.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        envelope: polynomial (C2 at the cutoff) or cosine (C1).
        activation: "silu" or "ssp", the paper's shifted softplus.
        n_knots: intervals of the grid on which the filters are tabulated; None
            evaluates them on every edge.
        degree: of the splines on the grid: 5 or, a little faster and less smooth, 3.
    """

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
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
        super().__init__(elements=elements, cutoff=cutoff, features=f"h{n_interactions}")
        self.activation = activation
        self.embedding = embedding(n_features)
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        self.envelope = choose(ENVELOPES, envelope, "envelope")(cutoff)
        self.interactions = nn.ModuleList(
            Interaction(n_features=n_features, n_radial=n_radial, activation=activation)
            for _ in range(n_interactions)
        )
        self.readout = mlp(n_features, max(n_features // 2, 1), 1, activation=activation)
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
        """Compiled code knows filters on a spline grid."""
        return "filters are not on a spline grid (n_knots is null)" if self.table is None else None

    def stages(self) -> list[Step]:
        """The list; there is one only with filters on a spline grid."""
        assert self.table is not None, self.native_obstacle()
        layers = self._layers()
        features = self.embedding(torch.tensor(self.elements, device=self.embedding.weight.device))
        messages = Embedding(layers[0].to_message(features)[:, None])
        steps = [Step(Embedding(features[:, None]), None, "h0"), Step(messages, None, "x0")]
        tables = self.table([layer.filter for layer in layers])
        for k, (layer, table) in enumerate(zip(layers, tables, strict=True)):
            if k > 0:
                steps.append(Step(_linear(layer.to_message), f"h{k}", f"x{k}"))
            filters, after = NeighborSum(table[:, None], self.table.grid, ONE), f"h{k + 1}"
            steps += [Step(filters, f"x{k}", f"m{k}"), *self._mlp(layer.update, f"m{k}", f"{k}", after)]
            steps.append(Step(None, f"h{k}", after))
        last = cast("nn.Linear", self.readout.get_submodule("2"))
        *hidden, _ = self._mlp(self.readout, f"h{len(layers)}", "", ENERGY)
        return [*steps, *hidden, Step(Readout(last.weight[0], last.bias), "s", ENERGY)]

    def _mlp(self, layers: nn.Module, source: str, k: str, target: str) -> list[Step]:
        """Two dense layers."""
        first, last = (_linear(cast("nn.Linear", layers.get_submodule(name))) for name in ("0", "2"))
        steps = [Step(first, source, "a" + k), Step(Activation(self.activation), "a" + k, "s" + k)]
        return [*steps, Step(last, "s" + k, target)]

    def _layers(self) -> list[Interaction]:
        return cast("list[Interaction]", list(self.interactions))

    def _on_knots(self, table: RadialTable, vectors: Tensor, edges: Edges) -> Convolution:
        tables = table([layer.filter for layer in self._layers()])
        on = KnotEdges(edges, distances(vectors), cutoff=table.cutoff, n_knots=table.n_knots, degree=table.degree)
        return lambda x, layer: ops.conv(x, tables[layer], on)

    def _on_edges(self, vectors: Tensor, edges: Edges) -> Convolution:
        first, pair = pairs(edges)  # filters depend on distance alone: both directions share one
        d = distances(vectors.index_select(0, first))
        radial, envelope = self.basis(d), self.envelope(d)[:, None]
        filters = [layer.filter for layer in self._layers()]

        def convolve(x: Tensor, layer: int) -> Tensor:
            weight = gather(filters[layer](radial) * envelope, pair)
            return sum_at_centers(gather(x, edges.neighbor) * weight, edges)

        return convolve


def _linear(layer: nn.Linear) -> Linear:
    return Linear(layer.weight.mT[None], bias=None if layer.bias is None else layer.bias[None])
