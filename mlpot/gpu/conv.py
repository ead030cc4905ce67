"""The three operations on knots of `kernels.ops`, by the kernels of `neighbor_sum`.

A convolution is a sum over neighbors with one term that has no direction; a weight of each edge stands in the
place of its harmonic. Arrays are contiguous.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from mlpot.gpu import neighbor_sum
from mlpot.gpu.neighbor_sum import edge_grads, gather, n_tiles, room_for_rows, rows_of_table, table_grads
from mlpot.gpu.registers import launch
from mlpot.stages.spline_grid import KnotEdges

ONE: neighbor_sum.Paths = ((0, (0,), (0,), ((0, 0, 0, 1.0),)),)


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.conv`."""
    out, c, v, n, edges = torch.empty_like(x), on.coefficients(order), _weights(on, weights), x.shape[1], on.edges
    launch(
        gather, (len(x), n_tiles(x)), edges.row_ptr, edges.neighbor, edges.reverse, on.first, c, c, v, v, v, table,
        x, x, out, n, n, n, n, n, 1, 0, PATHS=ONE, N_TABLE=1, N_TARGETS=1, N_C=c.shape[1], N_Y=1, MOVING=False,
        TURNED=False, EDGES=neighbor_sum.EDGES, TILE=neighbor_sum.TILE,
    )  # fmt: skip
    return out


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """As `reference.edge_dot`."""
    n_edges, c, n, edges = len(on.edges), on.coefficients(order), x.shape[1], on.edges
    out = x.new_empty(n_edges)
    launch(
        edge_grads, (triton.cdiv(n_edges, neighbor_sum.EDGES), 1), edges.center, edges.neighbor, on.first, c, c,
        on.ones, table, x, g, out, out, n_edges, n, n, n, n, n, PATHS=ONE, N_TABLE=1, N_C=c.shape[1], N_Y=1,
        EDGES=neighbor_sum.EDGES, TILE=neighbor_sum.TILE,
    )  # fmt: skip
    return out


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `reference.table_grad`."""
    c, v, n = on.coefficients(order), _weights(on, weights), x.shape[1]
    edge, begin = on.by_knot()
    part = room_for_rows(x, len(on.edges), on.n_knots, c.shape[1], 1)
    launch(
        table_grads, (on.n_knots, len(part), n_tiles(x)), begin, edge, on.edges.center, on.edges.neighbor, c, c, v,
        v, v, x, x, g, g, part, n, n, n, n, n, n, n, n, n, PATHS=ONE, N_TABLE=1, N_C=c.shape[1], N_Y=1,
        MOVING=False, BLOCK=neighbor_sum.BLOCK, TILE=neighbor_sum.TILE,
    )  # fmt: skip
    return rows_of_table(part, on.spline.n_rows(on.n_knots), on.spline.stride)[:, 0]


def _weights(on: KnotEdges, weights: Tensor | None) -> Tensor:
    return on.ones if weights is None else weights
