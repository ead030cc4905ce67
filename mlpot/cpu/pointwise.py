"""Stages of single numbers and rows, as in `stages`: functions of scalars, copies, embeddings and readouts."""

from __future__ import annotations

import numpy as np

from mlpot.cpu.plan import (
    BIAS,
    BIAS_BY_ELEMENT,
    BY_ELEMENT,
    CHANNELS,
    FRESH,
    FRESH_BACK,
    FUNCTION,
    KAPPA,
    N_READ,
    N_WRITTEN,
    OUT_CHANNELS,
    WEIGHTS,
    source_of,
    target_of,
)
from mlpot.cpu.vectors import add_scaled, add_scaled_product, dot, put_scaled, put_scaled_product, stack
from mlpot.kernels.simd import bare, exp, inlined
from mlpot.stages.pointwise import EPSILON

SILU, SSP, SIGMOID, TANH, ROOT = range(5)
NUMBERS = {"silu": SILU, "ssp": SSP, "sigmoid": SIGMOID, "tanh": TANH, "root": ROOT}


@bare
def _sigmoid(x, one):
    return one / (one + exp(-x))


@bare
def _function(number, x, out, n):
    """f of n numbers."""
    one, two = out.dtype.type(1), out.dtype.type(2)
    if number == SILU:
        for k in range(n):
            out[k] = x[k] * _sigmoid(x[k], one)
    elif number == SSP:
        for k in range(n):
            out[k] = max(x[k], 0) + np.log1p(exp(-abs(x[k]))) - out.dtype.type(np.log(2.0))
    elif number == SIGMOID:
        for k in range(n):
            out[k] = _sigmoid(x[k], one)
    elif number == TANH:
        for k in range(n):
            out[k] = two * _sigmoid(two * x[k], one) - one
    else:
        for k in range(n):
            out[k] = np.sqrt(x[k] + out.dtype.type(EPSILON))


@bare
def _slope(number, x, out, n):
    """f′."""
    one, two = out.dtype.type(1), out.dtype.type(2)
    if number == SILU:
        for k in range(n):
            s = _sigmoid(x[k], one)
            out[k] = s * (one + x[k] * (one - s))
    elif number == SSP:
        for k in range(n):
            out[k] = _sigmoid(x[k], one)
    elif number == SIGMOID:
        for k in range(n):
            s = _sigmoid(x[k], one)
            out[k] = s * (one - s)
    elif number == TANH:
        for k in range(n):
            s = _sigmoid(two * x[k], one)
            out[k] = two * two * s * (one - s)
    else:
        for k in range(n):
            out[k] = one / (two * np.sqrt(x[k] + out.dtype.type(EPSILON)))


@bare
def _curvature(number, x, out, n):
    """f″."""
    one, two = out.dtype.type(1), out.dtype.type(2)
    if number == SILU:
        for k in range(n):
            s = _sigmoid(x[k], one)
            out[k] = s * (one - s) * (two + x[k] * (one - two * s))
    elif number == SSP:
        for k in range(n):
            s = _sigmoid(x[k], one)
            out[k] = s * (one - s)
    elif number == SIGMOID:
        for k in range(n):
            s = _sigmoid(x[k], one)
            out[k] = s * (one - s) * (one - two * s)
    elif number == TANH:
        for k in range(n):
            s = _sigmoid(two * x[k], one)
            out[k] = two * two * two * s * (one - s) * (one - two * s)
    else:
        for k in range(n):
            root = np.sqrt(x[k] + out.dtype.type(EPSILON))
            out[k] = -one / (two * two * root * root * root)


@inlined
def _scaled(out, out0, n, x, x0, factor, fresh):
    """out += factor x; = if fresh."""
    if fresh:
        put_scaled(out, out0, n, x, x0, factor)
    else:
        add_scaled(out, out0, n, x, x0, factor)


@bare
def value(begin, end, s, plan, workspace):
    """y += factor f(x)."""
    n, factor, y = s[N_READ] * s[CHANNELS], workspace.values.dtype.type(plan.numbers[s[KAPPA]]), workspace.values
    f = stack(n, y)
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        _function(s[FUNCTION], workspace.values[x0 : x0 + n], f, n)
        _scaled(y, y0, n, f, 0, factor, s[FRESH])


@bare
def tangent(begin, end, s, plan, workspace):
    """ẏ += factor f′(x) ẋ."""
    n, factor, y = s[N_READ] * s[CHANNELS], workspace.values.dtype.type(plan.numbers[s[KAPPA]]), workspace.dots
    f = stack(n, y)
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        _slope(s[FUNCTION], workspace.values[x0 : x0 + n], f, n)
        add_scaled_product(y, y0, n, f, 0, y, x0, factor)


@bare
def adjoint(begin, end, s, plan, workspace):
    """x̄ += factor f′(x) ȳ."""
    n, factor, g = s[N_READ] * s[CHANNELS], workspace.values.dtype.type(plan.numbers[s[KAPPA]]), workspace.adjoints
    f = stack(n, g)
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        _slope(s[FUNCTION], workspace.values[x0 : x0 + n], f, n)
        if s[FRESH_BACK]:
            put_scaled_product(g, x0, n, f, 0, g, y0, factor)
        else:
            add_scaled_product(g, x0, n, f, 0, g, y0, factor)


@bare
def both_adjoints(begin, end, s, plan, workspace):
    """x̄ += factor (f′(x) ȳ + f″(x) ẋ g)."""
    n, factor = s[N_READ] * s[CHANNELS], workspace.values.dtype.type(plan.numbers[s[KAPPA]])
    back, dots, g = workspace.backs, workspace.dots, workspace.adjoints
    f, f2 = stack(n, back), stack(n, back)
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        x, x_dot = workspace.values[x0 : x0 + n], dots[x0 : x0 + n]
        _slope(s[FUNCTION], x, f, n)
        _curvature(s[FUNCTION], x, f2, n)
        for k in range(n):
            f2[k] *= x_dot[k]
        add_scaled_product(back, x0, n, f, 0, back, y0, factor)
        add_scaled_product(back, x0, n, f2, 0, g, y0, factor)


@bare
def copy(begin, end, s, array, workspace, fresh):
    """y += x in one array, forward; = if fresh."""
    n, one = s[N_READ] * s[CHANNELS], array.dtype.type(1)
    for i in range(begin, end):
        _scaled(array, target_of(i, s, workspace), n, array, source_of(i, s, workspace), one, fresh)


@bare
def copy_back(begin, end, s, array, workspace, fresh):
    """x̄ += ȳ in one array; = if fresh."""
    n, one = s[N_READ] * s[CHANNELS], array.dtype.type(1)
    for i in range(begin, end):
        _scaled(array, source_of(i, s, workspace), n, array, target_of(i, s, workspace), one, fresh)


@bare
def embed(begin, end, s, plan, workspace):
    """y += W[z]."""
    n, one = s[N_WRITTEN] * s[OUT_CHANNELS], workspace.values.dtype.type(1)
    for i in range(begin, end):
        row = s[WEIGHTS] + workspace.element[i] * n
        _scaled(workspace.values, target_of(i, s, workspace), n, plan.weights, row, one, s[FRESH])


@bare
def embed_back(begin, end, s, plan, workspace, w_bar):
    """W̄[z] += ȳ."""
    n, one = s[N_WRITTEN] * s[OUT_CHANNELS], w_bar.dtype.type(1)
    for i in range(begin, end):
        add_scaled(
            w_bar, s[WEIGHTS] + workspace.element[i] * n, n, workspace.backs, target_of(i, s, workspace), one
        )


@bare
def _row_of(i, s, workspace):
    """Where the weights of a readout begin for atom i."""
    return s[WEIGHTS] + (workspace.element[i] * s[CHANNELS] if s[BY_ELEMENT] else 0)


@bare
def read(begin, end, s, plan, workspace):
    """b += w · x + bias."""
    for i in range(begin, end):
        row = _row_of(i, s, workspace)
        workspace.b[i] += dot(workspace.values, source_of(i, s, workspace), s[CHANNELS], plan.weights, row)
        if s[BIAS] >= 0:
            workspace.b[i] += plan.weights[s[BIAS] + (workspace.element[i] if s[BIAS_BY_ELEMENT] else 0)]


@bare
def unread(begin, end, s, plan, workspace, seeds, array, fresh):
    """x̄ += b̄ w in an array; = if fresh."""
    for i in range(begin, end):
        row, w = source_of(i, s, workspace), _row_of(i, s, workspace)
        _scaled(array, row, s[CHANNELS], plan.weights, w, seeds[i], fresh)


@bare
def unread_weights(begin, end, s, plan, workspace, w_bar):
    """w̄ += b̄ x + s ẋ and the bias."""
    for i in range(begin, end):
        x0, row = source_of(i, s, workspace), _row_of(i, s, workspace)
        add_scaled(w_bar, row, s[CHANNELS], workspace.values, x0, workspace.b_bar[i])
        add_scaled(w_bar, row, s[CHANNELS], workspace.dots, x0, workspace.seeds[i])
        if s[BIAS] >= 0:
            w_bar[s[BIAS] + (workspace.element[i] if s[BIAS_BY_ELEMENT] else 0)] += workspace.b_bar[i]
