"""The three operations on knots, compiled by Numba: threads over atoms or intervals, SIMD over channels.

Every sum is taken by one thread in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.kernels.simd import compiled
from mlpot.kernels.splines import KnotEdges
from mlpot.kernels.threads import run, shares

Array = NDArray[Any]


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    out = torch.empty_like(x)
    row_ptr, c = on.edges.row_ptr.numpy(), on.coefficients(order).numpy()
    run(_conv, shares(row_ptr, x.shape[1]), row_ptr, on.edges.neighbor.numpy(), on.first.numpy(), c,
         _weights(on, weights), table.numpy(), x.numpy(), out.numpy())  # fmt: skip
    return out


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    out = x.new_empty(len(on.edges))
    row_ptr, c = on.edges.row_ptr.numpy(), on.coefficients(order).numpy()
    run(_edge_dot, shares(row_ptr, x.shape[1]), row_ptr, on.edges.neighbor.numpy(), on.first.numpy(), c,
         table.numpy(), x.numpy(), g.numpy(), out.numpy())  # fmt: skip
    return out


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    c = on.coefficients(order).numpy()
    edge, begin = (t.numpy() for t in on.by_knot())
    part = np.empty((on.n_knots, c.shape[1], x.shape[1]), dtype=c.dtype)
    out = x.new_empty(on.spline.n_rows(on.n_knots), x.shape[1])
    run(_interval_grads, shares(begin, x.shape[1]), begin, edge, on.edges.center.numpy(),
        on.edges.neighbor.numpy(), c, _weights(on, weights), x.numpy(), g.numpy(), part)  # fmt: skip
    _sum_intervals(part, on.spline.stride, out.numpy())
    return out


@compiled
def _conv(first_atom, last_atom, row_ptr, neighbor, first, c, weights, table, x, out):  # type: ignore[no-untyped-def]
    n_features = x.shape[1]
    for i in range(first_atom, last_atom):
        total = out[i]
        for f in range(n_features):
            total[f] = 0
        for e in range(row_ptr[i], row_ptr[i + 1]):
            v, r, xj = weights[e], first[e], x[neighbor[e]]
            c0, c1, c2, c3 = v * c[e, 0], v * c[e, 1], v * c[e, 2], v * c[e, 3]
            t0, t1, t2, t3 = table[r], table[r + 1], table[r + 2], table[r + 3]
            if c.shape[1] == 4:
                for f in range(n_features):
                    total[f] += (c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f]) * xj[f]
            else:
                c4, c5, t4, t5 = v * c[e, 4], v * c[e, 5], table[r + 4], table[r + 5]
                for f in range(n_features):
                    w = c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f] + c4 * t4[f] + c5 * t5[f]
                    total[f] += w * xj[f]


@compiled
def _edge_dot(first_atom, last_atom, row_ptr, neighbor, first, c, table, x, g, out):  # type: ignore[no-untyped-def]
    n_features = x.shape[1]
    for i in range(first_atom, last_atom):
        gi = g[i]
        for e in range(row_ptr[i], row_ptr[i + 1]):
            r, xj = first[e], x[neighbor[e]]
            c0, c1, c2, c3 = c[e, 0], c[e, 1], c[e, 2], c[e, 3]
            t0, t1, t2, t3 = table[r], table[r + 1], table[r + 2], table[r + 3]
            s = c.dtype.type(0)
            if c.shape[1] == 4:
                for f in range(n_features):
                    s += (c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f]) * xj[f] * gi[f]
            else:
                c4, c5, t4, t5 = c[e, 4], c[e, 5], table[r + 4], table[r + 5]
                for f in range(n_features):
                    w = c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f] + c4 * t4[f] + c5 * t5[f]
                    s += w * xj[f] * gi[f]
            out[e] = s


@compiled
def _interval_grads(first_knot, last_knot, begin, edge, center, neighbor, c, weights, x, g, part):  # type: ignore[no-untyped-def]
    """What the edges of each interval give to the rows they read."""
    _, n_coefficients, n_features = part.shape
    for k in range(first_knot, last_knot):
        rows = part[k]
        for r in range(n_coefficients):
            for f in range(n_features):
                rows[r, f] = 0
        for p in range(begin[k], begin[k + 1]):
            e = edge[p]
            v, gi, xj = weights[e], g[center[e]], x[neighbor[e]]
            c0, c1, c2, c3 = v * c[e, 0], v * c[e, 1], v * c[e, 2], v * c[e, 3]
            for f in range(n_features):
                w = gi[f] * xj[f]
                rows[0, f] += c0 * w
                rows[1, f] += c1 * w
                rows[2, f] += c2 * w
                rows[3, f] += c3 * w
            if n_coefficients == 6:
                c4, c5 = v * c[e, 4], v * c[e, 5]
                for f in range(n_features):
                    w = gi[f] * xj[f]
                    rows[4, f] += c4 * w
                    rows[5, f] += c5 * w


@compiled
def _sum_intervals(part, stride, out):  # type: ignore[no-untyped-def]
    """Each row of the table from all intervals that read it, in order."""
    n_knots, n_coefficients, n_features = part.shape
    out[:] = 0
    for k in range(n_knots):
        for r in range(n_coefficients):
            row, more = out[k * stride + r], part[k, r]
            for f in range(n_features):
                row[f] += more[f]


def _weights(on: KnotEdges, weights: Tensor | None) -> Array:
    ones_or_weights: Array = (on.ones if weights is None else weights).numpy()
    return ones_or_weights
