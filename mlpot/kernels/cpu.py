"""The three operations on knots, compiled by Numba: threads over atoms or knots, SIMD over channels.

Every sum is taken by one thread in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from mlpot.kernels.splines import KnotEdges

FASTMATH = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning
SERIAL_WORK = 60_000  # edges × channels below which waking threads costs more than it saves

Array = NDArray[Any]
_simd = numba.njit(fastmath=FASTMATH, cache=True, nogil=True, error_model="numpy")
_threads = numba.njit(fastmath=FASTMATH, cache=True, nogil=True, error_model="numpy", parallel=True)


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    out = torch.empty_like(x)
    _run(_conv, len(on.edges) * x.shape[1], *_list(on), on.coefficients(order).numpy(), _weights(on, weights),
         table.numpy(), x.numpy(), out.numpy())  # fmt: skip
    return out


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    out = x.new_empty(len(on.edges))
    _run(_edge_dot, len(on.edges) * x.shape[1], *_list(on), on.coefficients(order).numpy(),
         table.numpy(), x.numpy(), g.numpy(), out.numpy())  # fmt: skip
    return out


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    c = on.coefficients(order)
    edge, begin = on.by_knot()
    part = x.new_empty(on.n_knots, c.shape[1], x.shape[1])
    out = x.new_empty(on.spline.n_rows(on.n_knots), x.shape[1])
    _run(_table_grad, len(on.edges) * x.shape[1], begin.numpy(), edge.numpy(), on.edges.center.numpy(),
         on.edges.neighbor.numpy(), c.numpy(), _weights(on, weights), x.numpy(), g.numpy(), part.numpy(),
         on.spline.stride, out.numpy())  # fmt: skip
    return out


@_threads
def _conv(row_ptr, neighbor, first, c, weights, table, x, out):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        _conv_atom(row_ptr[i], row_ptr[i + 1], neighbor, first, c, weights, table, x, out[i])


@_simd
def _conv_atom(begin, end, neighbor, first, c, weights, table, x, total):  # type: ignore[no-untyped-def]
    n_features = len(total)
    for f in range(n_features):
        total[f] = 0
    for e in range(begin, end):
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


@_threads
def _edge_dot(row_ptr, neighbor, first, c, table, x, g, out):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        _edge_dot_atom(row_ptr[i], row_ptr[i + 1], neighbor, first, c, table, x, g[i], out)


@_simd
def _edge_dot_atom(begin, end, neighbor, first, c, table, x, gi, out):  # type: ignore[no-untyped-def]
    n_features = len(gi)
    for e in range(begin, end):
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


@_threads
def _table_grad(begin, edge, center, neighbor, c, weights, x, g, part, stride, out):  # type: ignore[no-untyped-def]
    for k in prange(len(part)):
        _table_grad_knot(edge[begin[k] : begin[k + 1]], center, neighbor, c, weights, x, g, part[k])
    for row in prange(len(out)):
        _add_intervals(row, part, stride, out[row])


@_simd
def _table_grad_knot(edges, center, neighbor, c, weights, x, g, rows):  # type: ignore[no-untyped-def]
    """What the edges of one interval give to the rows they read."""
    n_coefficients, n_features = rows.shape
    for r in range(n_coefficients):
        for f in range(n_features):
            rows[r, f] = 0
    for e in edges:
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


@_simd
def _add_intervals(row, part, stride, total):  # type: ignore[no-untyped-def]
    """One row of the table from all intervals that read it, in order."""
    n_knots, n_coefficients, n_features = part.shape
    for f in range(n_features):
        total[f] = 0
    for k in range(max(0, (row - n_coefficients + stride) // stride), min(n_knots - 1, row // stride) + 1):
        for f in range(n_features):
            total[f] += part[k, row - k * stride, f]


def _run(kernel: Any, work: int, *arrays: Any) -> None:
    n_threads = torch.get_num_threads() if work > SERIAL_WORK else 1
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    kernel(*arrays)


def _list(on: KnotEdges) -> tuple[Array, Array, Array]:
    return on.edges.row_ptr.numpy(), on.edges.neighbor.numpy(), on.first.numpy()


def _weights(on: KnotEdges, weights: Tensor | None) -> Array:
    return (on.ones if weights is None else weights).numpy()
