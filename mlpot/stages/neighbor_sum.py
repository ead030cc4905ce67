"""The one stage with edges: sums over neighbors of radial functions, spherical harmonics and features.

    y[i, k, c] = Σ_j Σ_t κ_t T_p(d_ij)[c] Y_b(u_ij) x[j, a, c]        t = (p, b, a, k, κ)

A term t has a path p with a radial function of its own for every channel, a harmonic b, a component a of the
neighbor and a component k of the sum; κ are coupling coefficients. A continuous-filter convolution has one
term, messages of scalars and vectors ten. The radial functions T are tables on knots (see `spline_grid`). With
Z[k, a] = Σ_b κ Y_b of a path, an edge gives T ∘ Z x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlpot.stages.constants import indices
from mlpot.stages.harmonics import N_HARMONICS
from mlpot.stages.spline_grid import SplineGrid
from mlpot.stages.stage import Environments, Weights, fits


class Term(NamedTuple):
    """One product of a `NeighborSum`."""

    path: int  # whose radial function it has
    harmonic: int  # l² + l + m, see `harmonics`
    source: int  # component of the neighbor
    target: int  # component of the sum
    value: float = 1.0  # κ


@dataclass(frozen=True, eq=False)
class _Path:
    """The terms of one path: κ as a matrix from harmonics to pairs of a target and a source."""

    number: int
    sources: Tensor  # (n_a,)
    targets: Tensor  # (n_k,)
    kappa: Tensor  # (16, n_k, n_a)


@dataclass(eq=False)
class NeighborSum:
    """Sums over the neighbors within the cutoff of the table.

    Args:
        table: (n_rows, n_paths, n_channels), the radial functions on `grid`.
        grid: where the knots are.
        terms: see above.

    Raises:
        ValueError: a term names a path or harmonic that there is not, or the table has another number of rows.
    """

    table: Tensor
    grid: SplineGrid
    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        n_rows, n_paths, _ = self.table.shape
        if n_rows != self.grid.n_rows:
            raise ValueError(f"The table has {n_rows} rows, but its grid needs {self.grid.n_rows}.")
        self.terms, self._n_read, self._n_written = _checked(tuple(self.terms), n_paths)

    @property
    def weights(self) -> Weights:
        return (self.table,)

    @property
    def n_read(self) -> int:
        return self._n_read

    @property
    def n_written(self) -> int:
        return self._n_written

    def n_channels(self, n: int) -> int:
        fits(n, self.table.shape[2], "NeighborSum")
        return n

    def value(self, at: Environments, x: Tensor) -> Tensor:
        """Σ_j T ∘ Z x."""
        radial, (x_j,) = self._radial(at)[0], self._gathered(at.edges.neighbor, x)
        out = self._empty(x_j, self.n_written)
        for path in self._paths(x):
            message = radial[:, path.number, None] * (_of(path, at.harmonics) @ x_j[:, path.sources])
            out = out.index_add(1, path.targets, message)
        return self._summed(out, at.edges.center, len(x))

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        """Σ_j T ∘ (Z ẋ + Ż x) + Ṫ ∘ Z x."""
        (radial, slope), (x_j, dot_j) = self._radial(at), self._gathered(at.edges.neighbor, x, x_dot)
        out = self._empty(x_j, self.n_written)
        for path in self._paths(x):
            z, z_dot, p = _of(path, at.harmonics), _of(path, at.harmonics_dot), path.number
            a, a_dot = x_j[:, path.sources], dot_j[:, path.sources]
            message = radial[:, p, None] * (z @ a_dot + z_dot @ a)
            message = message + at.distances_dot[:, None, None] * slope[:, p, None] * (z @ a)
            out = out.index_add(1, path.targets, message)
        return self._summed(out, at.edges.center, len(x))

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, Tensor]:
        """x̄_j = Σ_i Zᵀ (T ∘ ȳ), and ∂E/∂r = (Σ T′ ∘ Z x · ȳ) u + Σ_b Ȳ_b ∂Y_b/∂r."""
        (radial, slope), (x_j,) = self._radial(at), self._gathered(at.edges.neighbor, x)
        (y_i,) = self._gathered(at.edges.center, y_bar)
        out, by_harmonic = self._empty(x_j, self.n_read), torch.zeros_like(at.harmonics)
        by_distance = torch.zeros_like(at.distances)
        for path in self._paths(x):
            z, a, y = _of(path, at.harmonics), x_j[:, path.sources], y_i[:, path.targets]
            by_message = radial[:, path.number, None] * y
            out = out.index_add(1, path.sources, z.mT @ by_message)
            by_harmonic = by_harmonic + torch.einsum("bka,ekc,eac->eb", path.kappa, by_message, a)
            by_distance = by_distance + (slope[:, path.number, None] * y * (z @ a)).sum((1, 2))
        gradient = by_distance[:, None] * at.directions
        gradient = gradient + (by_harmonic[:, :, None] * at.harmonic_gradients).sum(1)
        return self._summed(out, at.edges.neighbor, len(x)), gradient

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """x̄_j = Σ_i Zᵀ (T ∘ ȳ + Ṫ ∘ g) + Żᵀ (T ∘ g), and the gradient of the table: T and T′ are linear in it."""
        (radial, slope), (x_j, dot_j) = self._radial(at), self._gathered(at.edges.neighbor, x, x_dot)
        y_i, g_i = self._gathered(at.edges.center, y_bar, g)
        out, turned = self._empty(x_j, self.n_read), at.distances_dot[:, None, None]
        by_radial, by_slope = torch.zeros_like(radial), torch.zeros_like(slope)
        for path in self._paths(x):
            z, z_dot, p = _of(path, at.harmonics), _of(path, at.harmonics_dot), path.number
            a, a_dot = x_j[:, path.sources], dot_j[:, path.sources]
            y, q = y_i[:, path.targets], g_i[:, path.targets]
            t, t_dot = radial[:, p, None], turned * slope[:, p, None]
            out = out.index_add(1, path.sources, z.mT @ (t * y + t_dot * q) + z_dot.mT @ (t * q))
            of_q = q * (z @ a)
            by_radial[:, p] += (y * (z @ a) + q * (z @ a_dot + z_dot @ a)).sum(1)
            by_slope[:, p] += (turned * of_q).sum(1)
        return self._summed(out, at.edges.neighbor, len(x)), (self._to_table(at, by_radial, by_slope),)

    def _radial(self, at: Environments) -> tuple[Tensor, Tensor]:
        """T and T′ of each edge, (n_edges, n_paths, n_channels)."""
        first, c, slope = at.on_knots(self.grid)
        radial, slopes = (torch.zeros(len(c), *self.table.shape[1:]).to(self.table) for _ in range(2))
        for r in range(c.shape[1]):
            rows = self.table.index_select(0, first + r)
            radial = radial + c[:, r, None, None] * rows
            slopes = slopes + slope[:, r, None, None] * rows
        return radial, slopes

    def _to_table(self, at: Environments, by_radial: Tensor, by_slope: Tensor) -> Tensor:
        first, c, slope = at.on_knots(self.grid)
        out = torch.zeros_like(self.table)
        for r in range(c.shape[1]):
            row = c[:, r, None, None] * by_radial + slope[:, r, None, None] * by_slope
            out = out.index_add(0, first + r, row)
        return out

    def _paths(self, like: Tensor) -> Iterator[_Path]:
        for number, sources, targets, kappa in _by_path(self.terms):
            a, k = (indices(rows, like.device) for rows in (sources, targets))
            yield _Path(number, a, k, kappa.to(like))

    @staticmethod
    def _gathered(at: Tensor, *arrays: Tensor) -> list[Tensor]:
        return [x.index_select(0, at) for x in arrays]

    @staticmethod
    def _empty(like: Tensor, n_components: int) -> Tensor:
        return like.new_zeros(like.shape[0], n_components, like.shape[2])

    @staticmethod
    def _summed(messages: Tensor, at: Tensor, n_atoms: int) -> Tensor:
        return messages.new_zeros(n_atoms, *messages.shape[1:]).index_add(0, at, messages)


@lru_cache(256)
def _checked(terms: tuple[Term, ...], n_paths: int) -> tuple[tuple[Term, ...], int, int]:
    """The terms, and how many components they read and write; a training asks in every step."""
    named = tuple(Term(*t) for t in terms)
    for t in named:
        if not (0 <= t.path < n_paths and 0 <= t.harmonic < N_HARMONICS and min(t.source, t.target) >= 0):
            raise ValueError(f"{t} names a path (of {n_paths}), harmonic (of {N_HARMONICS}) or component amiss.")
    return named, 1 + max(t.source for t in named), 1 + max(t.target for t in named)


@cache
def _by_path(terms: tuple[Term, ...]) -> list[tuple[int, list[int], list[int], Tensor]]:
    """For each path its number, sources, targets and κ (16, n_targets, n_sources) float64."""
    out = []
    for number in sorted({t.path for t in terms}):
        own = [t for t in terms if t.path == number]
        sources, targets = sorted({t.source for t in own}), sorted({t.target for t in own})
        kappa = torch.zeros(N_HARMONICS, len(targets), len(sources), dtype=torch.float64)
        for t in own:
            kappa[t.harmonic, targets.index(t.target), sources.index(t.source)] += t.value
        out.append((number, sources, targets, kappa))
    return out


def _of(path: _Path, y: Tensor) -> Tensor:
    """Z (n_edges, n_k, n_a) from harmonics, or its derivative from theirs."""
    return torch.einsum("eb,bka->eka", y, path.kappa)
