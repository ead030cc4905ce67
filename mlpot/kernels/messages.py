"""Messages of EGNN in compiled loops, some edges at a time, and their way back.

For an edge e = (i, j) with radial basis e(s) of its length s, and activation φ = SiLU,

    z = a_i + b_j + C e(s)     y = W φ(z) + w     m = φ(y)     t = v · φ(M m + μ)     out_i = Σ_e u σ(p · m + q) m

t is how far the atom moves along the edge, σ the gate of attention; either may be missing. Edges go by tiles that
stay in the first cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.simd import copy_rows, dense, exp, inner, row_dot, row_sum, silu

Array = Any  # NDArray of the weights' type unless said

TILE = 48  # edges that go through the dense layers together


class Layers(NamedTuple):
    """Weights of φ_e and what reads its messages, (n_layers, …); matrices packed (see `simd.dense`), both ways."""

    distance: Array
    from_distance: Array
    second: Array
    from_second: Array
    bias: Array  # w
    move: Array
    from_move: Array
    move_bias: Array  # μ
    along: Array  # v; empty if nothing moves
    gate: Array  # p; empty without attention
    gate_bias: Array  # q
    centers: Array  # (n_radial,) of Gaussians, Å
    width: float  # of Gaussians, Å


class Tile(NamedTuple):
    """Room for some edges, (TILE, n_features) unless said."""

    y: Array
    x: Array
    basis: Array  # (TILE, n_radial and zeros)
    basis_bar: Array  # (TILE, n_radial and zeros)
    moved: Array  # (TILE, 3) float64, Å, what s is the length of
    length: Array  # s, (TILE,), and then the gradient by it
    t_bar: Array  # (TILE,)
    step: Array  # (TILE, 3) float64, the gradient by `moved` of a step along it
    m: Array
    y_slope: Array
    x_slope: Array


class Way(NamedTuple):
    """What the way back needs of the way forward, (n_edges of a tile, n_features)."""

    m: Array
    y_slope: Array
    x_slope: Array
    z_slope: Array  # and then the gradient by z


@inner
def tile_of(n_features, layers, kind):  # type: ignore[no-untyped-def]
    """A tile, with as many columns for a basis as its packed matrix has rows."""
    n_radial = layers.distance.shape[2]
    wide, narrow = np.zeros((5, TILE, n_features), kind), np.zeros((2, TILE, n_radial), kind)
    one, xyz = np.zeros((2, TILE), kind), np.zeros((2, TILE, 3))
    return Tile(wide[0], wide[1], narrow[0], narrow[1], xyz[0], one[0], one[1], xyz[1], wide[2], wide[3], wide[4])


@inner
def measure(start, n, ends, vector, displacement, softening, tile):  # type: ignore[no-untyped-def]
    """r_e + D_j − D_i of a tile of edges, and its length s; softening is zero where nothing has moved yet."""
    moved = tile.moved
    for k in range(n):
        i, j = ends[start + k]
        squared = softening
        for c in range(3):
            moved[k, c] = vector[start + k, c]
            if softening > 0:
                moved[k, c] += displacement[j, c] - displacement[i, c]
            squared += moved[k, c] ** 2
        tile.length[k] = np.sqrt(squared)


@inner
def forward(layer, start, n, ends, a, b, layers, tile, way):  # type: ignore[no-untyped-def]
    """m of the edges from start, between the atoms `ends`, and the slopes of its two activations."""
    y, m, centers = tile.y, way.m, layers.centers
    half, per_width = y.dtype.type(-0.5), y.dtype.type(1 / layers.width)
    for k in range(n):
        i, j = ends[start + k]
        for f in range(y.shape[1]):
            y[k, f] = a[i, f] + b[j, f]
        for c in range(len(centers)):
            x = (tile.length[k] - centers[c]) * per_width
            tile.basis[k, c] = exp(half * x * x)
    dense(tile.basis, layers.distance[layer], y, n)
    silu(y, way.z_slope, n)
    copy_rows(layers.bias[layer], m, n)
    dense(y, layers.second[layer], m, n)
    silu(m, way.y_slope, n)


@inner
def move(layer, n, layers, tile, way):  # type: ignore[no-untyped-def]
    """φ(M m + μ) in tile.x, and its slope."""
    copy_rows(layers.move_bias[layer], tile.x, n)
    dense(way.m, layers.move[layer], tile.x, n)
    silu(tile.x, way.x_slope, n)


@inner
def gate_of(m, gates, bias):  # type: ignore[no-untyped-def]
    """σ(p · m + q) of one edge, one if there are no gates (0 or 1, n_features)."""
    if len(gates) == 0:
        return m.dtype.type(1)
    return m.dtype.type(1) / (m.dtype.type(1) + exp(-(row_dot(m, gates[0]) + bias[0])))


@inner
def add_up(layer, start, n, ends, weight, layers, way, out):  # type: ignore[no-untyped-def]
    """out_i += Σ_e u σ m."""
    gates, bias = layers.gate[layer : layer + 1], layers.gate_bias[layer : layer + 1]
    for k in range(n):
        m, sums = way.m[k], out[ends[start + k, 0]]
        scaled = gate_of(m, gates, bias) * weight[start + k]
        for f in range(len(m)):
            sums[f] += scaled * m[f]


@inner
def through_sum(layer, start, n, ends, weight, g, layers, tile, way, weight_bar):  # type: ignore[no-untyped-def]
    """Gradients from that by out, g: by u, which is added to weight_bar, and by m, to that in tile.y."""
    gates, bias = layers.gate[layer : layer + 1], layers.gate_bias[layer : layer + 1]
    one = tile.y.dtype.type(1)
    for k in range(n):
        m, m_bar, out_bar = way.m[k], tile.y[k], g[ends[start + k, 0]]
        gate, pulled = gate_of(m, gates, bias), row_dot(m, out_bar)
        weight_bar[start + k] += gate * pulled
        scaled = gate * weight[start + k]
        for f in range(len(m)):
            m_bar[f] += scaled * out_bar[f]
        if len(gates):
            opened = weight[start + k] * pulled * gate * (one - gate)
            for f in range(len(m)):
                m_bar[f] += opened * gates[0, f]


@inner
def through_move(layer, n, layers, tile, way):  # type: ignore[no-untyped-def]
    """The gradient by m, in tile.y, from that by t."""
    tile.y[:n] = 0
    for k in range(n):
        for f in range(tile.x.shape[1]):
            tile.x[k, f] = tile.t_bar[k] * layers.along[layer, f] * way.x_slope[k, f]
    dense(tile.x, layers.from_move[layer], tile.y, n)


@inner
def backward(layer, n, layers, tile, way):  # type: ignore[no-untyped-def]
    """The gradient by z, in way.z_slope, and that by e, in tile.basis_bar, from that by m in tile.y."""
    m_bar, z_bar = tile.y, tile.x
    for k in range(n):
        for f in range(m_bar.shape[1]):
            m_bar[k, f] *= way.y_slope[k, f]
            z_bar[k, f] = 0
    dense(m_bar, layers.from_second[layer], z_bar, n)
    for k in range(n):
        for f in range(m_bar.shape[1]):
            way.z_slope[k, f] *= z_bar[k, f]
    tile.basis_bar[:n] = 0
    dense(way.z_slope, layers.from_distance[layer], tile.basis_bar, n)
    _through_basis(n, layers, tile)


@inner
def _through_basis(n, layers, tile):  # type: ignore[no-untyped-def]
    """The gradient by s in its place."""
    centers, kind = layers.centers, tile.length.dtype
    half, per_width = kind.type(-0.5), kind.type(1 / layers.width)
    for k in range(n):
        length, row = tile.length[k], tile.basis_bar[k]
        for c in range(len(centers)):
            x = (length - centers[c]) * per_width
            row[c] *= exp(half * x * x) * x
        tile.length[k] = -row_sum(row) * per_width


@inner
def through_step(start, n, ends, weight, t, bar, weight_bar, tile):  # type: ignore[no-untyped-def]
    """Gradients by t, in its place, by u, and of the step along r_e + D_j − D_i, from that by displacements."""
    for k in range(n):
        e = start + k
        i, pulled = ends[e, 0], 0.0
        for c in range(3):
            pulled -= tile.moved[k, c] * bar[i, c]
            tile.step[k, c] = -t[e] * weight[e] * bar[i, c]
        weight_bar[e] += t[e] * pulled
        tile.t_bar[k] = pulled * weight[e]


@inner
def through_length(start, n, softening, vector_bar, moved_bar, tile):  # type: ignore[no-untyped-def]
    """The gradient by r_e + D_j − D_i, from that by its length and of the step."""
    for k in range(n):
        squared = softening
        for c in range(3):
            squared += tile.moved[k, c] ** 2
        along = tile.length[k] / np.sqrt(squared)
        for c in range(3):
            bar = along * tile.moved[k, c] + tile.step[k, c]
            vector_bar[start + k, c] += bar
            moved_bar[start + k, c] = bar
