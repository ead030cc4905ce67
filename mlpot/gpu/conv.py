"""The three operations on knots as Triton kernels, for CUDA devices.

A program takes TILE channels of one atom, of a block of edges, or of one interval, and reads its edges BLOCK at a
time: no atomics, and every sum in a fixed order. Tiles are the slowest axis of a grid, so all programs that run at
one time read the same slice of the table, and it stays on chip: 771 rows (256 knots, degree 5) of 32 float32
channels are 99 kB, less than the L1 cache of a multiprocessor.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlpot.stages.spline_grid import KnotEdges

TILE = tl.constexpr(32)  # channels
BLOCK = tl.constexpr(16)  # edges
LONG = 256  # edges of an average interval that are worth one more program
MAX_SHARES = 16  # programs for one interval


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    out = torch.empty_like(x)
    _run(_conv, (len(x),), on, x, on.edges.row_ptr, on.edges.neighbor, on.first, on.coefficients(order),
         _weights(on, weights), table, x, out)  # fmt: skip
    return out


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    n_edges = len(on.edges)
    part = x.new_empty(_n_tiles(x), n_edges)
    _run(_edge_dot, (triton.cdiv(n_edges, BLOCK.value),), on, x, n_edges, on.edges.center, on.edges.neighbor,
         on.first, on.coefficients(order), table, x, g, part)  # fmt: skip
    return part.sum(0)


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    n_shares = min(1 + len(on.edges) // (on.n_knots * LONG), MAX_SHARES)
    edge, begin = on.by_knot()
    part = x.new_empty(n_shares, on.spline.degree + 1, on.n_knots, x.shape[1])
    _run(_interval_grads, (on.n_knots, n_shares), on, x, begin, edge, on.edges.center, on.edges.neighbor,
         on.coefficients(order), _weights(on, weights), x, g, part)  # fmt: skip
    out = x.new_zeros(on.spline.n_rows(on.n_knots), x.shape[1])
    for r, rows in enumerate(part.sum(0)):
        out[r :: on.spline.stride][: on.n_knots] += rows
    return out


@triton.jit
def _conv(row_ptr, neighbor, first, c, weights, table, x, out, n_features, N_READ: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros((BLOCK, TILE), out.dtype.element_ty)
    end = tl.load(row_ptr + i + 1)
    for begin in range(tl.load(row_ptr + i), end, BLOCK):
        e = begin + tl.arange(0, BLOCK)
        w = _filters(table, first, c, e, e < end, f, n_features, N_READ)
        w *= tl.load(weights + e, e < end, 0)[:, None]
        total += w * _at(x, neighbor, e, e < end, f, n_features)
    tl.store(out + i * n_features + f, tl.sum(total, 0), f < n_features)


@triton.jit
def _edge_dot(n_edges, center, neighbor, first, c, table, x, g, part, n_features, N_READ: tl.constexpr):
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.program_id(1).to(tl.int64)
    f = tile * TILE + tl.arange(0, TILE)
    w = _filters(table, first, c, e, e < n_edges, f, n_features, N_READ)
    w *= _at(x, neighbor, e, e < n_edges, f, n_features)
    w *= _at(g, center, e, e < n_edges, f, n_features)
    tl.store(part + tile * n_edges + e, tl.sum(w, 1), e < n_edges)


@triton.jit
def _interval_grads(begin, edge, center, neighbor, c, weights, x, g, part, n_features, N_READ: tl.constexpr):
    """What an equal share of an interval's edges gives to each row that they read."""
    k, share, n_shares = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    f = tl.program_id(2) * TILE + tl.arange(0, TILE)
    r = tl.arange(0, 4 if N_READ == 4 else 8)
    total = tl.zeros((4 if N_READ == 4 else 8, TILE), part.dtype.element_ty)
    start = tl.load(begin + k)
    n = tl.load(begin + k + 1) - start
    end = start + n * (share + 1) // n_shares
    for p in range(start + n * share // n_shares, end, BLOCK):
        q = p + tl.arange(0, BLOCK)
        e = tl.load(edge + q, q < end, 0)
        pair = _at(g, center, e, q < end, f, n_features) * _at(x, neighbor, e, q < end, f, n_features)
        pair *= tl.load(weights + e, q < end, 0)[:, None]
        c_e = tl.load(c + e[:, None] * N_READ + r, (q < end)[:, None] & (r < N_READ), 0)
        total += tl.sum(c_e[:, :, None] * pair[:, None, :], 0)
    row = (share * N_READ + r) * tl.num_programs(0) + k
    tl.store(part + row[:, None] * n_features + f, total, (r < N_READ)[:, None] & (f < n_features))


@triton.jit
def _filters(table, first, c, e, mask, f, n_features, N_READ: tl.constexpr):
    """The radial function on edges e, as `reference.interpolate`."""
    row = tl.load(first + e, mask, 0)
    w = tl.zeros((BLOCK, TILE), table.dtype.element_ty)
    for r in tl.static_range(N_READ):
        rows = tl.load(table + (row + r)[:, None] * n_features + f, mask[:, None] & (f < n_features), 0)
        w += tl.load(c + e * N_READ + r, mask, 0)[:, None] * rows
    return w


@triton.jit
def _at(x, index, e, mask, f, n_features):
    """x of the atom that edges e have at one of their ends."""
    i = tl.load(index + e, mask, 0)
    return tl.load(x + i[:, None] * n_features + f, mask[:, None] & (f < n_features), 0)


def _run(kernel: Any, programs: tuple[int, ...], on: KnotEdges, x: Tensor, *arguments: Any) -> None:
    with torch.cuda.device(x.get_device()):  # Triton launches on the current one
        kernel[*programs, _n_tiles(x)](*arguments, x.shape[1], on.spline.degree + 1, num_warps=2)


def _n_tiles(x: Tensor) -> int:
    return triton.cdiv(x.shape[1], TILE.value)


def _weights(on: KnotEdges, weights: Tensor | None) -> Tensor:
    return on.ones if weights is None else weights
