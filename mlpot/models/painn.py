"""PaiNN: scalars and vectors as messages (K. T. Schütt, O. T. Unke and M. Gastegger, ICML 2021, arXiv 2102.03150).

    Δs_i = Σ_j φ_s(s_j) ∘ W_s(d_ij)                                                         eq. 7
    Δv_i = Σ_j φ_vv(s_j) ∘ v_j ∘ W_vv(d_ij) + φ_vs(s_j) ∘ W_vs(d_ij) u_ij                   eq. 8
    Δs_i = a_ss + a_sv ∘ ⟨U v_i, V v_i⟩,   Δv_i = a_vv ∘ U v_i                              eqs. 9, 10
    φ = dense(silu(dense(s))),   a = dense(silu(dense(s_i, ‖V v_i‖))),   W = u(d) · dense(e(d))

The envelope u is polynomial (the paper has a cosine) so that the energy has two continuous derivatives.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from mlpot.knots import RadialTable
from mlpot.models.layers import choose, dense
from mlpot.stages.linear import Block, Linear
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import Activation
from mlpot.stages.products import Product, Products
from mlpot.stages.radial import BASES, PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step

# An array of features is [s, v_y, v_z, v_x]; one of messages [φ_s, φ_vs, φ_vv ∘ v].
FROM_SCALARS = (Term(0, 0, 0, 0), *(Term(1, 1 + m, 1, 1 + m) for m in range(3)))
FROM_BOTH = (*FROM_SCALARS, *(Term(2, 0, 2 + m, 1 + m) for m in range(3)))
GATED = tuple(Product((0, 1 + m), m) for m in range(3))  # of [φ_vv, v]
SQUARE = tuple(Product((3 + m, 3 + m), 0) for m in range(3))  # of [U v, V v]
UPDATE = (  # of [a_ss, a_sv, a_vv, U v, V v]
    Product((0,), 0),
    *(Product((1, 3 + m, 6 + m), 0) for m in range(3)),
    *(Product((2, 3 + m), 1 + m) for m in range(3)),
)
VECTORS = tuple(Block(m, 3 * which + m, which) for which in range(2) for m in range(3))  # U v and V v
THREE = tuple(Block(0, k, k) for k in range(3))


class Layer(nn.Module):
    """The dense layers of one message and the update that follows."""

    def __init__(self, n: int, n_radial: int, *, n_paths: int, table: RadialTable):
        super().__init__()
        self.n_paths, self.table = n_paths, table
        self.filter = nn.Sequential(dense(n_radial, n_paths * n))
        self.message, self.messages = dense(n, n), dense(n, n_paths * n)
        self.vectors = dense(n, 2 * n, bias=False)
        self.from_scalars, self.from_norms = dense(n, n), dense(n, n, bias=False)
        self.updates = dense(n, 3 * n)


class PaiNN(StagedNetwork):
    """Atomic energies from scalars and vectors.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        n_features: channels of an atom.
        n_interactions: message-passing steps.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        n_knots: intervals of the grid of the filters.
        degree: of the splines on the grid, 3 or 5.
    """

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
        cutoff: float = 5.0,
        n_features: int = 64,
        n_interactions: int = 3,
        radial: str = "bessel",
        n_radial: int = 20,
        n_knots: int = 256,
        degree: int = 5,
    ):
        n_hidden = max(n_features // 2, 1)
        linear = {"t": ((Product((0,), 0),), n_hidden)}
        super().__init__(elements=elements, cutoff=cutoff, features="s", linear=linear)
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        tables = (
            RadialTable(self.basis, PolynomialEnvelope(cutoff), cutoff=cutoff, n_knots=n_knots, degree=degree)
            for _ in range(n_interactions)
        )
        self.embedding = nn.Parameter(torch.randn(len(self.elements), n_features, dtype=torch.float32))
        self.layers = nn.ModuleList(
            Layer(n_features, n_radial, n_paths=3 if k else 2, table=table) for k, table in enumerate(tables)
        )
        self.hidden = dense(n_features, n_hidden)
        self.energy = dense(n_hidden, 1)

    def stages(self) -> list[Step]:
        """The list; all arrays but the first have four components, a scalar and a vector."""
        steps, h = [Step(Embedding(self.embedding), None, "h0")], "h0"
        for k, layer in enumerate(cast("list[Layer]", list(self.layers))):
            steps += [*self._message(layer, h, f"{k}"), *self._update(layer, f"i{k}", f"{k}")]
            h = f"h{k + 1}"
        return [
            *steps,
            Step(None, h, "s", n_copied=1),
            Step(_linear(self.hidden), "s", "r"),
            Step(Activation(), "r", "t"),
            Step(Readout(self.energy.weight[0], self.energy.bias), "t", ENERGY),
        ]

    def _message(self, layer: Layer, h: str, k: str) -> list[Step]:
        """From h to i, eqs. 7 and 8."""
        n_paths = layer.n_paths
        (table,) = layer.table([layer.filter])
        terms = FROM_BOTH if n_paths == 3 else FROM_SCALARS
        steps = [
            Step(_linear(layer.message), h, "p" + k),
            Step(Activation(), "p" + k, "q" + k),
            Step(_linear(layer.messages, THREE[:n_paths]), "q" + k, "φ" + k),
            Step(None, "φ" + k, "x" + k, n_copied=2),
        ]
        if n_paths == 3:
            steps += [
                Step(None, "φ" + k, "g" + k, read=2, n_copied=1),
                Step(None, h, "g" + k, read=1, write=1, n_copied=3),
                Step(Products(GATED), "g" + k, "x" + k, write=2),
            ]
        return [
            *steps,
            Step(NeighborSum(table.view(len(table), n_paths, -1), layer.table.grid, terms), "x" + k, "i" + k),
            Step(None, h, "i" + k),
        ]

    def _update(self, layer: Layer, i: str, k: str) -> list[Step]:
        """From i to the next h, eqs. 9 and 10."""
        h = f"h{int(k) + 1}"
        return [
            Step(_linear(layer.vectors, VECTORS), i, "v" + k, read=1),
            Step(Products(SQUARE), "v" + k, "n" + k),
            Step(Activation("root"), "n" + k, "l" + k),
            Step(_linear(layer.from_scalars), i, "a" + k),
            Step(_linear(layer.from_norms), "l" + k, "a" + k),
            Step(Activation(), "a" + k, "b" + k),
            Step(_linear(layer.updates, THREE), "b" + k, "w" + k),
            Step(None, "v" + k, "w" + k, write=3),
            Step(Products(UPDATE), "w" + k, h),
            Step(None, i, h),
        ]


def _linear(layer: nn.Linear, blocks: tuple[Block, ...] = THREE[:1]) -> Linear:
    """A dense layer whose outputs are several components, one after another."""
    n = 1 + max(b.matrix for b in blocks)
    weight = layer.weight.view(n, -1, layer.in_features).mT
    return Linear(weight, blocks, None if layer.bias is None else layer.bias.view(n, -1))
