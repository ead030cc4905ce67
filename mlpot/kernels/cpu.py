"""The three operations on knots, compiled by Numba: threads over blocks of atoms or intervals, in vectors.

Every sum is taken by one thread in a fixed order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mlpot.kernels import edges
from mlpot.kernels.simd import LINE, compiled
from mlpot.kernels.threads import block_size, run, shares
from mlpot.stages.spline_grid import KnotEdges

Array = NDArray[Any]


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    wide = _wide(x)
    out = torch.zeros_like(wide)
    run(_conv, *_blocks(on, wide), *_lists(on, order), _weights(on, weights), _wide(table).numpy(), wide.numpy(),
        out.numpy())  # fmt: skip
    return out[:, : x.shape[1]].contiguous()


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    out, wide = x.new_empty(len(on.edges)), _wide(x)
    run(_edge_dot, *_blocks(on, wide), *_lists(on, order), _wide(table).numpy(), wide.numpy(), _wide(g).numpy(),
        out.numpy())  # fmt: skip
    return out


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    wide, c = _wide(x), on.coefficients(order).numpy()
    edge, begin = _pairs_by_knot(on)
    part = x.new_empty(on.n_knots, c.shape[1], wide.shape[1])
    out = wide.new_empty(on.spline.n_rows(on.n_knots), wide.shape[1])
    e = on.edges
    run(_interval_grads, shares(begin, 2 * wide.shape[1]), begin, edge, e.center.numpy(), e.neighbor.numpy(),
        e.reverse.numpy(), c, _weights(on, weights), wide.numpy(), _wide(g).numpy(), part.numpy())  # fmt: skip
    edges.sum_intervals(part.numpy(), on.spline.stride, out.numpy())
    return out[:, : x.shape[1]].contiguous()


@compiled
def _conv(begin, end, block, row_ptr, neighbor, reverse, first, c, weights, table, x, out):
    """The sums of atoms begin ≤ i < end, each in the order of its edges; two atoms of a block serve each other."""
    for start in range(begin, end, block):
        stop = min(start + block, end)
        for i in range(start, stop):
            for e in range(row_ptr[i], row_ptr[i + 1]):
                if neighbor[e] >= start:
                    break
                edges.conv(c, table, x, out, e, first[e], i, neighbor[e], weights[e], weights[e], False)
        for i in range(start, stop):
            for e in range(row_ptr[i], row_ptr[i + 1]):
                j = neighbor[e]
                if j >= i:
                    back = weights[reverse[e]]
                    edges.conv(c, table, x, out, e, first[e], i, j, weights[e], back, i < j < stop)


@compiled
def _edge_dot(begin, end, block, row_ptr, neighbor, reverse, first, c, table, x, g, out):
    """Both edges of a pair at once if they are of one block."""
    for start in range(begin, end, block):
        stop = min(start + block, end)
        for i in range(start, stop):
            for e in range(row_ptr[i], row_ptr[i + 1]):
                j = neighbor[e]
                if j < start or j >= i:
                    there, back = edges.dot(c, table, x, g, e, first[e], i, j)
                    out[e] = there
                    if i < j < stop:
                        out[reverse[e]] = back


@compiled
def _interval_grads(begin, end, first_pair, pair, center, neighbor, reverse, c, weights, x, g, part):
    """What the pairs of each interval give to the rows they read."""
    for k in range(begin, end):
        rows = part[k]
        rows[:] = 0
        for p in range(first_pair[k], first_pair[k + 1]):
            e = pair[p]
            edges.grad(c, rows, x, g, e, center[e], neighbor[e], weights[e], weights[reverse[e]])


@compiled
def _sort_pairs(first, reverse, stride, pair, begin):
    """One edge of each pair in order of its knot, and where each knot's begin: a counting sort."""
    begin[:] = 0
    for e in range(len(first)):
        if e < reverse[e]:
            begin[first[e] // stride + 1] += 1
    for k in range(len(begin) - 1):
        begin[k + 1] += begin[k]
    place = begin.copy()
    for e in range(len(first)):
        if e < reverse[e]:
            knot = first[e] // stride
            pair[place[knot]] = e
            place[knot] += 1


def _pairs_by_knot(on: KnotEdges) -> tuple[Array, Array]:
    """Kept with the edges, because every layer and derivative wants it."""
    if "pairs by knot" not in on.kept:
        pair, begin = np.empty(len(on.edges) // 2, np.int64), np.empty(on.n_knots + 1, np.int64)
        _sort_pairs(on.first.numpy(), on.edges.reverse.numpy(), on.spline.stride, pair, begin)
        on.kept["pairs by knot"] = pair, begin
    return on.kept["pairs by knot"]


def _lists(on: KnotEdges, order: int) -> tuple[Array, ...]:
    e = on.edges
    lists = (e.row_ptr, e.neighbor, e.reverse, on.first, on.coefficients(order))
    return tuple(t.numpy() for t in lists)


def _blocks(on: KnotEdges, x: Tensor) -> tuple[list[tuple[int, int]], int]:
    block = block_size(len(x))
    return shares(on.edges.row_ptr.numpy(), x.shape[1], block), block


def _wide(x: Tensor) -> Tensor:
    """With columns of zeros up to whole lines."""
    return functional.pad(x, (0, -x.shape[1] % (LINE // x.element_size())))


def _weights(on: KnotEdges, weights: Tensor | None) -> Array:
    ones_or_weights: Array = (on.ones if weights is None else weights).numpy()
    return ones_or_weights
