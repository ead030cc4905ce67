"""A transformer over edge vectors, without built-in symmetry: rotations are learned, or averaged over.

    a_ij    = u(d_ij) exp(s_ij) / (1 + Σ_k u(d_ik) exp(s_ik)),    s_ij = q_i · k_ij / √c
    x_i^l+1 = x_i^l + W Σ_j a_ij u(d_ij) v_ij,  then  x_i + dense( act( dense( norm(x_i) ) ) )
    k_ij, v_ij = linear( norm(x_j) ) + linear( act( dense( [e(d_ij), r_ij / d_ij, e(d_ij) ⊗ r_ij / d_ij] ) ) )

Attention as of A. Vaswani et al., NeurIPS 30 (2017), arXiv 1706.03762, eq. 1, with layers of norm before each part
(R. Xiong et al., ICML 2020, arXiv 2002.04745); neighbors have no order, so it has no positional code but the edge
vectors. Not in the papers: the envelope u, and the 1 in the denominator, by which the weight of an atom's only
neighbor vanishes at the cutoff, although its softmax would be 1 up to there. Where scores are large, weights still
are near 1 until shortly before the cutoff; so values have the envelope too.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.models.attention import attention_weights
from mlpot.models.backbone import PlainNetwork
from mlpot.models.layers import ACTIVATIONS, choose, dense, embedding, mlp
from mlpot.stages.radial import BASES, ENVELOPES


class Attention(nn.Module):
    """One layer: attention of an atom to its neighbors, then dense layers of the atom."""

    def __init__(self, *, n_features: int, n_heads: int, n_edge: int, activation: str):
        super().__init__()
        self.n_heads = n_heads
        self.norm, self.norm_of_sum = (nn.LayerNorm(n_features, dtype=torch.float32) for _ in range(2))
        self.query = dense(n_features, n_features)
        self.of_neighbor = dense(n_features, 2 * n_features)
        self.edge = nn.Sequential(
            dense(n_edge, n_features),
            choose(ACTIVATIONS, activation, "activation")(),
            dense(n_features, 2 * n_features),
        )
        self.out = dense(n_features, n_features)
        self.update = mlp(n_features, 2 * n_features, n_features, activation=activation)

    def forward(self, x: Tensor, edges: Edges, features: Tensor, envelope: Tensor) -> Tensor:
        """New features (n_atoms, n_features), from those of edges (n_edges, n_edge) and u (n_edges,)."""
        normed, shape = self.norm(x), (-1, self.n_heads, x.shape[1] // self.n_heads)
        query = gather(self.query(normed), edges.center).view(shape)
        both = gather(self.of_neighbor(normed), edges.neighbor) + self.edge(features)
        key, value = (part.reshape(shape) for part in both.chunk(2, dim=1))
        score = (query * key).sum(-1) / math.sqrt(shape[2])
        weights = attention_weights(score, envelope, edges) * envelope[:, None]
        x = x + self.out(sum_at_centers(weights[:, :, None] * value, edges).flatten(1))
        updated: Tensor = x + self.update(self.norm_of_sum(x))
        return updated


class Transformer(PlainNetwork):
    """Atomic energies from edge vectors by attention; it knows of rotations what training shows it.

    Args:
        cutoff: Å.
        n_features: channels of an atom, 3 or more, a multiple of n_heads.
        n_layers: message-passing steps.
        n_heads: of the attention.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        envelope: polynomial (C2 at the cutoff) or cosine (C1).
        activation: "silu" or "ssp".

    Raises:
        ValueError: n_features is below 3, or no multiple of n_heads.
    """

    parity = False
    equivariant = False

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_features: int = 128,
        n_layers: int = 3,
        n_heads: int = 8,
        radial: str = "gaussian",
        n_radial: int = 24,
        envelope: str = "polynomial",
        activation: str = "silu",
    ):
        super().__init__()
        if n_features < 3:  # norm(x) of one number is constant, and of two it is their order alone
            raise ValueError(
                f"n_features is {n_features}: layers of norm leave fewer than 3 features without forces. "
                "Give 3 or more."
            )
        if n_features % n_heads:
            raise ValueError(
                f"n_features is {n_features}, no multiple of n_heads, {n_heads}. Correct one of them."
            )
        self.cutoff = cutoff
        self.embedding = embedding(n_features)
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        self.envelope = choose(ENVELOPES, envelope, "envelope")(cutoff)
        n_edge = 3 + 4 * n_radial
        self.layers = nn.ModuleList(
            Attention(n_features=n_features, n_heads=n_heads, n_edge=n_edge, activation=activation)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_features, dtype=torch.float32)
        self.readout = mlp(n_features, max(n_features // 2, 1), 1, activation=activation)

    def handedness_obstacle(self) -> str | None:
        """None: nothing keeps it from telling mirror images apart but what it learned."""
        return None

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        return len(self.layers)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        d = distances(vectors)
        radial, unit = self.basis(d), vectors / d[:, None]
        directed = (radial[:, :, None] * unit[:, None, :]).flatten(1)
        features, envelope = torch.cat([radial, unit, directed], dim=1), self.envelope(d)
        x = self.embedding(numbers)
        for layer in cast("list[Attention]", list(self.layers)):
            x = layer(x, edges, features, envelope)
        return self.readout(self.norm(x)).squeeze(-1)
