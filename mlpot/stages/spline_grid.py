"""Edges laid on a grid of knots: which rows of a table an edge reads, and with which polynomials.

A radial function f is a table of rows of n_features values on intervals of length h = cutoff / n_knots. On edge e,
in interval k, with t = d/h − k,

    f^(q)(d_e) = Σ_r c_r^(q)(t) · rows[m k + r],   r = 0 … degree.

Degree 3 is the uniform cubic B-spline, m = 1 row an interval (C. de Boor, A Practical Guide to Splines, 1978).
Degree 5 is the quintic Hermite interpolant, m = 4 rows a knot: h f′, h² f″, f and Δf, its change to the next knot,
which stands for the value there: f′ of two rounded values would have errors of ε f/h, ten times those of f for 128
knots in float32, and more the finer the grid. The last knot has the first two rows only. Both are twice
continuously differentiable. The polynomials c are found once for each edge and order q, and serve every layer; an
edge beyond the last knot has c = 0, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlpot.graph import Edges
from mlpot.stages.constants import constants


@dataclass(frozen=True)
class Spline:
    """Piecewise polynomials on a uniform grid."""

    polynomials: tuple[tuple[float, ...], ...]  # in t, constant first, for each row that an interval reads
    stride: int  # rows from one interval to the next

    @property
    def degree(self) -> int:
        return len(self.polynomials) - 1

    def n_rows(self, n_knots: int) -> int:
        """Rows of a table of n_knots intervals."""
        return self.stride * (n_knots - 1) + len(self.polynomials)

    def derivative(self, order: int, per_length: float) -> tuple[tuple[float, ...], ...]:
        """The polynomials in t of the derivatives by distance, for knots 1/per_length Å apart."""
        powers = range(order, self.degree + 1)
        # d^q/dt^q t^p = p!/(p − q)! t^(p − q), and dt/dd = 1/h
        factors = [math.perm(p, order) * per_length**order for p in powers]
        return tuple(tuple(row[p] * f for p, f in zip(powers, factors, strict=True)) for row in self.polynomials)


SPLINES = {
    3: Spline(
        ((1 / 6, -1 / 2, 1 / 2, -1 / 6), (2 / 3, 0, -1, 1 / 2), (1 / 6, 1 / 2, 1 / 2, -1 / 2), (0, 0, 0, 1 / 6)), 1
    ),
    5: Spline(
        (
            (0, 1, 0, -6, 8, -3),
            (0, 0, 1 / 2, -3 / 2, 3 / 2, -1 / 2),
            (1, 0, 0, 0, 0, 0),
            (0, 0, 0, 10, -15, 6),
            (0, 0, 0, -4, 7, -3),
            (0, 0, 0, 1 / 2, -1, 1 / 2),
        ),
        4,
    ),
}


@dataclass(frozen=True)
class SplineGrid:
    """Where the knots of a table stand: n_knots intervals of length h = cutoff / n_knots, splines of a degree."""

    cutoff: float  # Å
    n_knots: int
    degree: int  # 3 or 5, see above

    @property
    def n_rows(self) -> int:
        """Rows of a table."""
        return SPLINES[self.degree].n_rows(self.n_knots)

    @property
    def stride(self) -> int:
        """Rows from one interval to the next."""
        return SPLINES[self.degree].stride

    def coefficients(self, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What edges of length d (n_edges,) Å read: the first row, c and c′ (1/Å), (n_edges, degree + 1).

        Both are functions of d that autograd derives as often as asked; zero beyond the last knot.
        """
        spline, per_length = SPLINES[self.degree], self.n_knots / self.cutoff
        place = d.double() * per_length  # in float32 a distance of 5 Å would lose five digits of t
        knot = place.detach().long().clamp(0, self.n_knots - 1)
        t = place - knot
        rows = (constants(spline.derivative(k, per_length), t.dtype, t.device) for k in (0, 1))
        c, slope = (torch.where(t[:, None] >= 1, 0.0, _horner(t, row)).to(d.dtype) for row in rows)
        return knot * spline.stride, c, slope


class KnotEdges:
    """The edges of a graph on a grid of knots, shared by all layers of one evaluation.

    Args:
        edges: a full list, so that every edge has its reverse, at the same distance.
        d: (n_edges,) Å.
        cutoff: Å, distance of the last knot.
        n_knots: number of intervals.
        degree: 3 or 5.
    """

    def __init__(self, edges: Edges, d: Tensor, *, cutoff: float, n_knots: int, degree: int):
        self.edges, self.d = edges, d
        self.n_knots, self.spline = n_knots, SPLINES[degree]
        self.per_length = n_knots / cutoff  # 1/Å
        # float64: in float32 a distance of 5 Å would lose five digits of t.
        place = d.detach().double() * self.per_length
        knot = place.long().clamp_(0, n_knots - 1)  # NaN becomes knot 0, and stays NaN in t
        self.t = place - knot
        self.first = knot * self.spline.stride  # (n_edges,) int64, first of the rows that an edge reads
        self.ones = torch.ones_like(d, requires_grad=False)
        self._coefficients: dict[int, Tensor] = {}
        self._by_knot: tuple[Tensor, Tensor] | None = None
        self.kept: dict[str, Any] = {}  # what kernels find once for all layers

    def coefficients(self, order: int) -> Tensor:
        """c^(order) (n_edges, degree + 1), derivatives by distance in 1/Å."""
        if order not in self._coefficients:
            rows = constants(self.spline.derivative(order, self.per_length), torch.float64, self.t.device)
            c = _horner(self.t, rows)
            self._coefficients[order] = torch.where(self.t[:, None] >= 1, 0.0, c).to(self.d.dtype)
        return self._coefficients[order]

    def by_knot(self) -> tuple[Tensor, Tensor]:
        """Edges in order of their knot (n_edges,), and where each knot's begin (n_knots + 1,)."""
        if self._by_knot is None:
            knot = torch.div(self.first, self.spline.stride, rounding_mode="floor")
            begin = torch.bincount(knot, minlength=self.n_knots).cumsum(0)
            order = torch.argsort(knot, stable=True)
            self._by_knot = order, torch.cat([begin.new_zeros(1), begin])
        return self._by_knot


def _horner(t: Tensor, polynomials: Tensor) -> Tensor:
    """Values (n, n_polynomials) at t (n,) of polynomials (n_polynomials, n_powers), constant first."""
    if polynomials.shape[1] == 0:
        return t.new_zeros(len(t), len(polynomials))
    value = polynomials[:, -1].expand(len(t), -1)
    for column in polynomials.T[:-1].flip(0):
        value = torch.addcmul(column, value, t[:, None])
    return value
