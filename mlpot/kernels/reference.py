"""The three operations on knots in plain PyTorch: the definition that the fast kernels are tested against.

Edge e = (i, j) reads w_e = Σ_r c_er rows[first_e + r], c polynomials, rows the table (see `stages.spline_grid`):

    conv        out_i = Σ_{e: center i} v_e w_e ∘ x_j
    edge_dot    s_e   = Σ_f w_ef g_if x_jf
    table_grad  G_r   = Σ_e Σ_r' [first_e + r' = r] v_e c_er' g_i ∘ x_j

v_e are weights, one if None. Values only: `ops` differentiates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlpot.stages.spline_grid import KnotEdges


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """(n_atoms, n_features) -> (n_atoms, n_features)."""
    messages = interpolate(table, on, order) * x.index_select(0, on.edges.neighbor)
    if weights is not None:
        messages = messages * weights[:, None]
    return torch.zeros_like(x).index_add(0, on.edges.center, messages)


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """(n_atoms, n_features) twice -> (n_edges,)."""
    pair = g.index_select(0, on.edges.center) * x.index_select(0, on.edges.neighbor)
    return (interpolate(table, on, order) * pair).sum(-1)


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """(n_atoms, n_features) twice -> (n_rows, n_features), the shape of the table."""
    pair = g.index_select(0, on.edges.center) * x.index_select(0, on.edges.neighbor)
    if weights is not None:
        pair = pair * weights[:, None]
    c = on.coefficients(order)
    rows = x.new_zeros(on.spline.n_rows(on.n_knots), x.shape[1])
    for r in range(c.shape[1]):
        rows = rows.index_add(0, on.first + r, c[:, r, None] * pair)
    return rows


def interpolate(table: Tensor, on: KnotEdges, order: int) -> Tensor:
    """f^(order) on every edge, (n_edges, n_features)."""
    c = on.coefficients(order)
    w = c[:, 0, None] * table.index_select(0, on.first)
    for r in range(1, c.shape[1]):
        w = torch.addcmul(w, c[:, r, None], table.index_select(0, on.first + r))
    return w
