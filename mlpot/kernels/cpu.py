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

from mlpot.kernels.hermite import KnotEdges

FASTMATH = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning
SERIAL_WORK = 60_000  # edges × channels below which waking threads costs more than it saves

Array = NDArray[Any]
_compiled = numba.njit(parallel=True, fastmath=FASTMATH, cache=True, nogil=True, error_model="numpy")


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    out = torch.empty_like(x)
    _run(_conv, len(on.edges) * x.shape[1], *_list(on), _array(on.coefficients(order)), _array(weights),
         table.numpy(), x.numpy(), out.numpy())  # fmt: skip
    return out


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    out = x.new_empty(len(on.edges))
    _run(_edge_dot, len(on.edges) * x.shape[1], *_list(on), _array(on.coefficients(order)),
         table.numpy(), x.numpy(), g.numpy(), out.numpy())  # fmt: skip
    return out


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    c = on.coefficients(order)
    edge, begin = on.by_knot()
    part = x.new_empty(on.n_knots, c.shape[1], x.shape[1])
    out = x.new_empty(on.n_rows * (on.n_knots + 1), x.shape[1])
    _run(_table_grad, len(on.edges) * x.shape[1], begin.numpy(), edge.numpy(), on.edges.center.numpy(),
         on.edges.neighbor.numpy(), c.numpy(), _array(weights), x.numpy(), g.numpy(), part.numpy(),
         out.numpy())  # fmt: skip
    return out


@_compiled
def _conv(row_ptr, neighbor, first, c, weights, table, x, out):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        total = out[i]
        total[:] = 0
        for e in range(row_ptr[i], row_ptr[i + 1]):
            v = c.dtype.type(1) if weights is None else weights[e]
            xj, r = x[neighbor[e]], first[e]
            c0, c1, c2, c3 = v * c[e, 0], v * c[e, 1], v * c[e, 2], v * c[e, 3]
            t0, t1, t2, t3 = table[r], table[r + 1], table[r + 2], table[r + 3]
            if c.shape[1] == 4:
                for f in range(x.shape[1]):
                    total[f] += (c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f]) * xj[f]
            else:
                c4, c5, t4, t5 = v * c[e, 4], v * c[e, 5], table[r + 4], table[r + 5]
                for f in range(x.shape[1]):
                    w = c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f] + c4 * t4[f] + c5 * t5[f]
                    total[f] += w * xj[f]


@_compiled
def _edge_dot(row_ptr, neighbor, first, c, table, x, g, out):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        gi = g[i]
        for e in range(row_ptr[i], row_ptr[i + 1]):
            xj, r = x[neighbor[e]], first[e]
            c0, c1, c2, c3 = c[e, 0], c[e, 1], c[e, 2], c[e, 3]
            t0, t1, t2, t3 = table[r], table[r + 1], table[r + 2], table[r + 3]
            s = c.dtype.type(0)
            if c.shape[1] == 4:
                for f in range(x.shape[1]):
                    s += (c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f]) * xj[f] * gi[f]
            else:
                c4, c5, t4, t5 = c[e, 4], c[e, 5], table[r + 4], table[r + 5]
                for f in range(x.shape[1]):
                    w = c0 * t0[f] + c1 * t1[f] + c2 * t2[f] + c3 * t3[f] + c4 * t4[f] + c5 * t5[f]
                    s += w * xj[f] * gi[f]
            out[e] = s


@_compiled
def _table_grad(begin, edge, center, neighbor, c, weights, x, g, part, out):  # type: ignore[no-untyped-def]
    n_knots, n_rows = len(part), c.shape[1] // 2
    for k in prange(n_knots):  # what the edges between knots k and k + 1 give to the rows of both
        rows = part[k]
        rows[:] = 0
        for p in range(begin[k], begin[k + 1]):
            e = edge[p]
            gi, xj = g[center[e]], x[neighbor[e]]
            v = c.dtype.type(1) if weights is None else weights[e]
            for r in range(c.shape[1]):
                row, cr = rows[r], v * c[e, r]
                for f in range(x.shape[1]):
                    row[f] += cr * gi[f] * xj[f]
    for k in prange(n_knots + 1):
        for r in range(n_rows):
            row = out[k * n_rows + r]
            for f in range(x.shape[1]):
                low = part[k, r, f] if k < n_knots else c.dtype.type(0)
                high = part[k - 1, n_rows + r, f] if k > 0 else c.dtype.type(0)
                row[f] = low + high


def _run(kernel: Any, work: int, *arrays: Any) -> None:
    n_threads = torch.get_num_threads() if work > SERIAL_WORK else 1
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    kernel(*arrays)


def _list(on: KnotEdges) -> tuple[Array, Array, Array]:
    return on.edges.row_ptr.numpy(), on.edges.neighbor.numpy(), on.first.numpy()


def _array(t: Tensor | None) -> Any:
    return None if t is None else t.numpy()
