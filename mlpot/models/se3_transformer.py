"""SE(3)-Transformer: attention over tensors of the neighbors.

    z_ij,p = (Y_l₁(u_ij) ⊗ U x_j)_l                                              of each path p = (l₂, l₁, l)
    k_ij,p = R_p(d_ij) ∘ z_ij,p,    v_ij,p = V_p(d_ij) ∘ z_ij,p,    q_i,p = Q_p x_i                  eqs. 10, 11
    α_ij   = u_ij exp(s_ij) / (1 + Σ_k u_ik exp(s_ik)),    s_ij = Σ_p q_i,p · k_ij,p / √n_products       eq. 11
    y_i    = Σ_p W_p Σ_j α_ij v_ij,p + W₀ x_i                                                           eq. 10
    x_i    = (silu(y⁰), silu(g) ∘ y) + x_i
    b_i    = dense(silu(dense(x⁰_i))) of the last layer

F. B. Fuchs, D. E. Worrall, V. Fischer and M. Welling, NeurIPS 33 (2020), arXiv 2006.10503. R_p and V_p are dense
layers without bias on Bessel functions; every head has channels of its own in s and its own α. What is not the
paper's: the envelope u on the weights and the constant in their denominator, which make the energy smooth at the
cutoff (see `attention`); maps of channels on atoms, before and after the sum, and not on each edge; keys and
values that share z; gates g in place of norms, whose slope has no limit at zero.

With parity a tensor of degree l changes by (−1)^l under inversion, and l₁ + l₂ + l is even (E(3)). Without it all
degrees couple that can, as in the paper (SE(3)): 1 ⊗ 1 -> 1 is a cross product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, pairs, sum_at_centers
from mlpot.models.attention import attention_weights
from mlpot.models.backbone import PlainNetwork
from mlpot.models.layers import dense, embedding, mlp, radial_layers
from mlpot.models.tensors import Path
from mlpot.stages.coupling import couplings
from mlpot.stages.harmonics import N_HARMONICS, harmonics
from mlpot.stages.pointwise import SECOND_MOMENT
from mlpot.stages.radial import BesselBasis, PolynomialEnvelope


def paths_to(target: int, source: int, max_degree: int, *, parity: bool) -> tuple[Path, ...]:
    """All couplings to tensors of one degree, of tensors to degree `source` with harmonics to `max_degree`."""
    return tuple(
        Path(l2, l1, target)
        for l2 in range(source + 1)
        for l1 in range(max_degree + 1)
        if abs(l1 - l2) <= target <= l1 + l2 and not (parity and (l1 + l2 + target) % 2)
    )


@cache
def _coefficients(paths: tuple[Path, ...]) -> Tensor:
    """κ (16, (2l + 1) n_paths, n_a) float64 of paths to one degree: from harmonics to the matrices of z.

    A row is a component of one path; those of all paths stand side by side.
    """
    n, n_sources = len(paths), (1 + max(path.source for path in paths)) ** 2
    kappa = torch.zeros(N_HARMONICS, (2 * paths[0].target + 1) * n, n_sources, dtype=torch.float64, device="cpu")
    for k, path in enumerate(paths):
        for c in couplings(*path):
            kappa[path.harmonic**2 + c.m2, c.m * n + k, path.source**2 + c.m1] = c.value
    return kappa


def _of_degree(x: Tensor, degree: int) -> Tensor:
    """(n_atoms, 2l + 1, n_channels) of all degrees side by side."""
    return x[:, degree**2 : (degree + 1) ** 2]


class Layer(nn.Module):
    """One attention over the neighbors and the gate that follows it.

    Args:
        n: channels of every tensor.
        degrees: the highest of an atom's tensors before the layer, and after it.
        max_degree: of the harmonics.
        parity: whether tensors have their natural one.
        n_heads: divides n.
        radial: sizes of the dense layers of distances, with that of the basis.
    """

    def __init__(
        self,
        n: int,
        degrees: tuple[int, int],
        *,
        max_degree: int,
        parity: bool,
        n_heads: int,
        radial: Sequence[int],
    ):
        super().__init__()
        self.before, self.after = degrees
        self.n, self.n_heads = n, n_heads
        # Keys need the degrees of the atom itself, values those after the layer: the first of all degrees both.
        self.paths = [
            paths_to(degree, self.before, max_degree, parity=parity) for degree in range(max(degrees) + 1)
        ]
        counts = [len(paths) for paths in self.paths]
        of_keys, of_values = counts[: self.before + 1], counts[: self.after + 1]
        self.n_key_paths, self.n_value_paths = sum(of_keys), sum(of_values)
        self.radial = radial_layers([*radial, (self.n_key_paths + self.n_value_paths) * n])
        self.up = nn.ModuleList(dense(n, n, bias=False) for _ in of_keys)
        self.query = nn.ModuleList(dense(n, count * n, bias=False) for count in of_keys)
        gates = 1 + self.after  # and the scalars themselves
        self.mix = nn.ModuleList(
            dense((count + (degree <= self.before)) * n, n if degree else gates * n, bias=degree == 0)
            for degree, count in enumerate(of_values)
        )
        n_components = sum((2 * degree + 1) * count for degree, count in enumerate(of_keys))
        self.n_products = n_components * n // n_heads  # of a head

    def forward(self, x: Tensor, edges: Edges, y: Tensor, basis: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
        """Features (n_atoms, n_components, n) after the layer.

        Args:
            x: features before it.
            edges: of the graph.
            y: harmonics of the edges (n_edges, 16).
            basis: radial basis of each pair of edges, and the pair of each edge.
            u: envelope of each edge.
        """
        n_edges, n_heads, own = len(edges), self.n_heads, self.n // self.n_heads
        radial = gather(self.radial(basis[0]), basis[1])
        radial = radial.view(n_edges, self.n_key_paths + self.n_value_paths, self.n)
        to_keys, to_values = radial[:, : self.n_key_paths], radial[:, self.n_key_paths :]
        x_j = gather(torch.cat([up(_of_degree(x, k)) for k, up in enumerate(self.up)], dim=1), edges.neighbor)
        z = [self._coupled(paths, y, x_j) for paths in self.paths]
        products = [
            (gather(query(_of_degree(x, k)), edges.center) * z[k]).sum(1) for k, query in enumerate(self.query)
        ]
        terms = (torch.cat(products, dim=1).view_as(to_keys) * to_keys).view(
            n_edges, self.n_key_paths, n_heads, own
        )
        logits = terms.sum((1, 3)) / math.sqrt(self.n_products)
        alpha = attention_weights(logits, u, edges).repeat_interleave(own, dim=1)
        return self._gated(x, self._sums((to_values * alpha[:, None]).flatten(1), z, edges))

    def _coupled(self, paths: tuple[Path, ...], y: Tensor, x_j: Tensor) -> Tensor:
        """z of all paths to one degree, (n_edges, 2l + 1, n_paths n)."""
        kappa = _coefficients(paths).to(y)
        z = (y @ kappa.flatten(1)).view(len(y), *kappa.shape[1:]) @ x_j
        return z.view(len(y), 2 * paths[0].target + 1, len(paths) * self.n)

    def _sums(self, factors: Tensor, z: Sequence[Tensor], edges: Edges) -> list[Tensor]:
        """Σ_j α v of each degree, (n_atoms, 2l + 1, n_paths n); factors are α V."""
        out, first = [], 0
        for k in range(self.after + 1):
            last = first + z[k].shape[2]
            out.append(sum_at_centers(factors[:, None, first:last] * z[k], edges))
            first = last
        return out

    def _gated(self, x: Tensor, sums: Sequence[Tensor]) -> Tensor:
        """From sums of values, by degree, to the features."""
        tensors: list[Tensor] = []
        gates: list[Tensor] = []
        for degree, (mix, own) in enumerate(zip(self.mix, sums, strict=True)):
            has_before = degree <= self.before
            y = mix(torch.cat([own, _of_degree(x, degree)], dim=2) if has_before else own)
            if degree == 0:
                y, *gates = (SECOND_MOMENT * silu(y)).view(len(y), 1, 1 + self.after, self.n).unbind(2)
            else:
                y = gates[degree - 1] * y
            tensors.append(y + _of_degree(x, degree) if has_before else y)
        return torch.cat(tensors, dim=1)


class SE3Transformer(PlainNetwork):
    """Atomic energies from attention over tensors.

    No stage has it: weights of attention need a sum over all neighbors before any message.

    Args:
        cutoff: Å.
        n_features: channels of every tensor, a multiple of `n_heads`.
        max_degree: highest degree l of harmonics and tensors, 1 to 3.
        parity: whether tensors have their natural parity, so that mirror images have one energy (E(3)); if not,
            they may differ with two layers or more (SE(3)).
        n_heads: attentions side by side.
        n_interactions: layers.
        n_radial: Bessel functions.
        envelope_exponent: p of the polynomial envelope.
        radial_layers: sizes of the dense layers of distances.

    Raises:
        ValueError: there is no such degree, or heads do not share out the channels.
    """

    equivariant = True

    def __init__(
        self,
        *,
        cutoff: float = 5.0,
        n_features: int = 32,
        max_degree: int = 2,
        parity: bool = True,
        n_heads: int = 4,
        n_interactions: int = 4,
        n_radial: int = 8,
        envelope_exponent: int = 6,
        radial_layers: Sequence[int] = (32,),
    ):
        super().__init__()
        if max_degree not in (1, 2, 3):
            raise ValueError(f"max_degree is {max_degree}, expected one of 1, 2, 3. Correct it.")
        if n_features % n_heads:
            raise ValueError(
                f"n_features is {n_features}, which {n_heads} heads cannot share. Give a multiple of n_heads."
            )
        self.cutoff, self.parity = cutoff, parity
        self.embedding = embedding(n_features)
        self.basis = BesselBasis(n_radial, cutoff)
        self.envelope = PolynomialEnvelope(cutoff, envelope_exponent)
        degrees = [
            0,
            *[max_degree] * (n_interactions - 1),
            0,
        ]  # the energy sees the scalars of the last layer alone
        self.layers = nn.ModuleList(
            Layer(
                n_features,
                (before, after),
                max_degree=max_degree,
                parity=parity,
                n_heads=n_heads,
                radial=(n_radial, *radial_layers),
            )
            for before, after in pairwise(degrees)
        )
        self.readout = mlp(n_features, max(n_features // 2, 1), 1, activation="silu")

    def handedness_obstacle(self) -> str | None:
        """Why mirror images have one energy although `parity` is false; None if they have not, or it is true."""
        if self.parity or len(self.layers) > 1:
            return None
        return "parity is false, but a pseudoscalar needs n_interactions of 2 or more"

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        return len(self.layers)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        d = distances(vectors)
        y, u = harmonics(vectors / d[:, None]), self.envelope(d)
        first, pair = pairs(edges)  # what depends on distance alone both directions share
        basis = self.basis(gather(d, first)), pair
        x = self.embedding(numbers)[:, None]
        for layer in cast("list[Layer]", list(self.layers)):
            x = layer(x, edges, y, basis, u)
        return self.readout(x[:, 0]).squeeze(-1)  # type: ignore[no-any-return]  # modules have no types
