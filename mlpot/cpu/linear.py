"""Linear maps as `stages.linear`: rows of a tile of atoms through one matrix, wherever they stand.

The list of a step is n_matrices, and for each: its number, n_blocks, and source and target of each, as places of a
row. Matrices are packed for `vectors.add_products`, there and back.
"""

from __future__ import annotations

import numpy as np

from mlpot.cpu.plan import (
    BACK,
    BIAS,
    BIAS_BY_ELEMENT,
    BY_ELEMENT,
    CHANNELS,
    FRESH,
    LISTS,
    N_IN,
    N_OUT,
    N_ROWS,
    N_WRITTEN,
    OUT_CHANNELS,
    PANEL,
    STATIC,
    WEIGHTS,
    source_of,
    target_of,
)
from mlpot.cpu.tiles import add_outer_of_rows
from mlpot.cpu.vectors import add_products, add_scaled, stack
from mlpot.kernels.simd import bare

Array = np.ndarray


@bare
def _rows(begin, end, s, lists, at, z, workspace, xs, ys):
    """The places of the rows that one matrix takes, for atoms of element z, or all if z < 0; how many."""
    n = 0
    for i in range(begin, end):
        if z >= 0 and workspace.element[i] != z:
            continue
        x, y = source_of(i, s, workspace), target_of(i, s, workspace)
        for k in range(lists[at + 1]):
            xs[n], ys[n] = x + lists[at + 2 + 2 * k], y + lists[at + 3 + 2 * k]
            n += 1
    return n


@bare
def _through(begin, end, s, plan, workspace, x, y, back, fresh):
    """y += x W, or x += y Wᵀ if back; = if fresh."""
    lists, width = plan.lists, s[PANEL]
    at = s[LISTS] + 1
    for _ in range(lists[s[LISTS]]):
        xs, ys = stack((end - begin) * lists[at + 1], lists), stack((end - begin) * lists[at + 1], lists)
        for z in range(s[BY_ELEMENT] if s[BY_ELEMENT] else 1):
            n = _rows(begin, end, s, lists, at, z if s[BY_ELEMENT] else -1, workspace, xs, ys)
            number = z * s[N_ROWS] + lists[at]
            if back:
                place = s[BACK] + number * s[N_OUT] * s[CHANNELS]
                add_products(y, ys, n, plan.weights, place, s[N_OUT], s[CHANNELS] // width, width, x, xs, fresh)
            else:
                place = s[WEIGHTS] + number * s[N_IN] * s[OUT_CHANNELS]
                add_products(x, xs, n, plan.weights, place, s[N_IN], s[OUT_CHANNELS] // width, width, y, ys, fresh)
        at += 2 + 2 * lists[at + 1]


@bare
def value(begin, end, s, plan, workspace):
    """y += x W + b."""
    _through(begin, end, s, plan, workspace, workspace.values, workspace.values, False, s[FRESH])
    if s[BIAS] < 0:
        return
    n, one = s[N_WRITTEN] * s[OUT_CHANNELS], workspace.values.dtype.type(1)
    for i in range(begin, end):
        row = s[BIAS] + (workspace.element[i] * n if s[BIAS_BY_ELEMENT] else 0)
        add_scaled(workspace.values, target_of(i, s, workspace), n, plan.weights, row, one)


@bare
def tangent(begin, end, s, plan, workspace):
    """ẏ += ẋ W."""
    _through(begin, end, s, plan, workspace, workspace.dots, workspace.dots, False, 0)


@bare
def adjoint(begin, end, s, plan, workspace, array, fresh):
    """x̄ += ȳ Wᵀ in an array of adjoints; = if fresh."""
    _through(begin, end, s, plan, workspace, array, array, True, fresh)


@bare
def weights_back(begin, end, s, plan, workspace, w_bar):
    """W̄ += x ⊗ ȳ + ẋ ⊗ g and b̄ += ȳ; ẋ of what is static is zero."""
    lists, width = plan.lists, s[PANEL]
    at = s[LISTS] + 1
    for _ in range(lists[s[LISTS]]):
        xs, ys = stack((end - begin) * lists[at + 1], lists), stack((end - begin) * lists[at + 1], lists)
        for z in range(s[BY_ELEMENT] if s[BY_ELEMENT] else 1):
            n = _rows(begin, end, s, lists, at, z if s[BY_ELEMENT] else -1, workspace, xs, ys)
            place = s[WEIGHTS] + (z * s[N_ROWS] + lists[at]) * s[N_IN] * s[OUT_CHANNELS]
            if n > 0:
                add_outer_of_rows(
                    workspace.values, xs, s[N_IN], workspace.backs, ys, s[OUT_CHANNELS], n, w_bar, place, width
                )
            if n > 0 and not s[STATIC]:
                add_outer_of_rows(
                    workspace.dots, xs, s[N_IN], workspace.adjoints, ys, s[OUT_CHANNELS], n, w_bar, place, width
                )
        at += 2 + 2 * lists[at + 1]
    if s[BIAS] < 0:
        return
    n, one = s[N_WRITTEN] * s[OUT_CHANNELS], w_bar.dtype.type(1)
    for i in range(begin, end):
        row = s[BIAS] + (workspace.element[i] * n if s[BIAS_BY_ELEMENT] else 0)
        add_scaled(w_bar, row, n, workspace.backs, target_of(i, s, workspace), one)
