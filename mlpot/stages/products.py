"""Products of the components of an atom, channel by channel: invariants, covariants, gates, norms.

    y[n, k, c] = Σ_t w[z_n, p_t, c] κ_t Π_q x[n, a_tq, c]        t = (a_1 … a_ν, k, p, κ), ν ≤ 3

The terms are sparse coupling coefficients. Products of order 1, 2 and 3 of sums over neighbors see 2, 3 and 4
bodies (R. Drautz, Phys. Rev. B 99, 014104 (2019); I. Batatia et al., NeurIPS 35 (2022), eq. 10).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlpot.stages.constants import constants, indices
from mlpot.stages.coupling import symmetric_products
from mlpot.stages.stage import Environments, Weights, by_element, fits, of_element

MAX_ORDER = 3
AT_ONCE = 256  # terms whose products are in memory together


class Product(NamedTuple):
    """One term of `Products`."""

    factors: tuple[int, ...]  # components that are multiplied, 1 to 3
    target: int
    path: int = 0  # whose weight it has
    value: float = 1.0  # κ


@cache
def coupled_products(
    degrees: tuple[int, ...], degree: int, orders: tuple[int, ...] = (1, 2, 3), *, parity: bool = True
) -> tuple[Product, ...]:
    """All independent products to a tensor of one degree, see `coupling.symmetric_products`.

    Args:
        degrees: of the tensors that stand side by side, each once.
        degree: of the products; they stand in components 0 to 2l.
        orders: numbers of factors.
        parity: only products of natural parity.

    Returns:
        Terms whose paths are numbered from 0, one for each independent product.
    """
    polynomials = [p for order in orders for p in symmetric_products(degrees, degree, order, parity=parity)]
    return tuple(
        Product(factors, m, path, float(c))
        for path, polynomial in enumerate(polynomials)
        for factors, of_m in polynomial.items()
        for m, c in enumerate(of_m)
        if abs(c) > 1e-12
    )


@dataclass(eq=False)
class Products:
    """See above.

    Args:
        terms: in any order.
        weight: (n_paths, n_channels), or (n_elements, n_paths, n_channels); none for weights of one.

    Raises:
        ValueError: a term has no factor or more than three, or names a path that there is not.
    """

    terms: tuple[Product, ...]
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and self.weight.dim() == 2:
            self.weight = self.weight[None]
        n_paths = 1 if self.weight is None else self.weight.shape[1]
        self.terms, self._n_read, self._n_written = _checked(tuple(self.terms), n_paths)

    @property
    def weights(self) -> Weights:
        return () if self.weight is None else (self.weight,)

    @property
    def n_read(self) -> int:
        return self._n_read

    @property
    def n_written(self) -> int:
        return self._n_written

    def n_channels(self, n: int) -> int:
        if self.weight is not None:
            fits(n, self.weight.shape[2], "Products")
        return n

    def value(self, at: Environments, x: Tensor) -> Tensor:
        return self._sum(at, x, lambda f: f.product([]))

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        return self._sum(at, x, lambda f: f.tangent(x_dot))

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        x_bar = torch.zeros_like(x)
        for f in self._factors(x):
            by_product = self._weighted(at, f, y_bar.index_select(1, f.target))
            for q in range(f.order):
                x_bar = x_bar.index_add(1, f.components[q], by_product * f.product([q]))
        return x_bar, None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """x̄_q = w κ (ȳ Π_{p≠q} x_p + g Σ_{p≠q} ẋ_p Π_{r≠p,q} x_r), and w̄ = κ (ȳ Π x + g (Π x)˙)."""
        x_bar, weight = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        if self.weight is not None:
            weight = x.new_zeros(len(x), *self.weight.shape[1:])
        for f in self._factors(x):
            y, g_t = y_bar.index_select(1, f.target), g.index_select(1, f.target)
            by_product, by_tangent = self._weighted(at, f, y), self._weighted(at, f, g_t)
            for q in range(f.order):
                by_factor = by_product * f.product([q]) + by_tangent * f.tangent(x_dot, [q])
                x_bar = x_bar.index_add(1, f.components[q], by_factor)
            if self.weight is not None:
                by_term = (y * f.product([]) + g_t * f.tangent(x_dot)) * f.kappa
                weight = weight.index_add(1, f.path, by_term)
        return x_bar, () if self.weight is None else (by_element(weight, len(self.weight), at),)

    def _sum(self, at: Environments, x: Tensor, term):  # type: ignore[no-untyped-def]
        out = x.new_zeros(len(x), self.n_written, x.shape[2])
        for f in self._factors(x):
            out = out.index_add(1, f.target, self._weighted(at, f, term(f)))
        return out

    def _weighted(self, at: Environments, f: _Factors, terms: Tensor) -> Tensor:
        """w κ times terms (n_atoms, n_terms, n_channels)."""
        if self.weight is None:
            return terms * f.kappa
        return of_element(self.weight, at).index_select(1, f.path) * f.kappa * terms

    def _factors(self, x: Tensor) -> Iterator[_Factors]:
        """The terms of each order, few enough at a time for the memory."""
        for components, target, path, kappa in _chunks(self.terms):
            places = [indices(rows, x.device) for rows in (*components, target, path)]
            factors = constants(tuple(kappa), x.dtype, x.device)[:, None]
            yield _Factors(x, places[:-2], places[-2], places[-1], factors)


@lru_cache(256)
def _checked(terms: tuple[Product, ...], n_paths: int) -> tuple[tuple[Product, ...], int, int]:
    """The terms, and how many components they read and write; a training asks in every step."""
    named = tuple(Product(*t) for t in terms)
    for t in named:
        if not (1 <= len(t.factors) <= MAX_ORDER and min(*t.factors, t.target, t.target) >= 0 <= t.path < n_paths):
            raise ValueError(f"{t} needs 1 to {MAX_ORDER} factors, and a path of the {n_paths} that there are.")
    return named, 1 + max(a for t in named for a in t.factors), 1 + max(t.target for t in named)


@dataclass(eq=False)
class _Factors:
    """Terms of one order at atoms."""

    x: Tensor
    components: list[Tensor]  # of each factor, (n_terms,)
    target: Tensor
    path: Tensor
    kappa: Tensor  # (n_terms, 1)

    @property
    def order(self) -> int:
        return len(self.components)

    def product(self, without: list[int], replaced: tuple[int, Tensor] | None = None) -> Tensor:
        """Π_q x[a_q] without some factors, with one factor from another array; one without factors."""
        out = None
        for q, components in enumerate(self.components):
            if q in without:
                continue
            array = replaced[1] if replaced is not None and replaced[0] == q else self.x
            factor = array.index_select(1, components)
            out = factor if out is None else out * factor
        return self.x.new_ones(len(self.x), len(self.kappa), 1) if out is None else out

    def tangent(self, x_dot: Tensor, without: list[int] | None = None) -> Tensor:
        """Σ_p ẋ[a_p] Π_{q≠p} x[a_q] without some factors."""
        own = [q for q in range(self.order) if q not in (without or [])]
        parts = [self.product(without or [], (q, x_dot)) for q in own]
        return sum(parts[1:], parts[0]) if parts else self.x.new_zeros(len(self.x), len(self.kappa), 1)


@cache
def _chunks(terms: tuple[Product, ...]) -> list[tuple[list[list[int]], list[int], list[int], list[float]]]:
    out = []
    for order in sorted({len(t.factors) for t in terms}):
        own = [t for t in terms if len(t.factors) == order]
        for some in (own[k : k + AT_ONCE] for k in range(0, len(own), AT_ONCE)):
            components = [[t.factors[q] for t in some] for q in range(order)]
            out.append((components, [t.target for t in some], [t.path for t in some], [t.value for t in some]))
    return out
