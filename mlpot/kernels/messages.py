"""Messages of EGNN in compiled loops: no tensor of edges × channels on the way forward, one on the way back.

For an edge e = (i, j) with radial basis e_k, and activation φ = SiLU,

    z = a_i + b_j + C e     y = W φ(z) + w     m = φ(y)     t_e = v · φ(M m + μ)     out_i = Σ_e u_e σ(p · m + q) m

t is how far the atom moves along the edge, σ the gate of attention; either may be missing. Edges go by tiles that
stay in the first cache, and the way back computes the way forward again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.simd import compiled, copy_rows, dense, exp, silu

Array = Any  # NDArray of the weights' type unless said

TILE = 48  # edges that go through the dense layers together


class Layer(NamedTuple):
    """Weights of φ_e and what reads its messages; matrices packed (see `simd.dense`), both ways."""

    distance: Array
    from_distance: Array
    second: Array
    from_second: Array
    bias: Array  # w
    move: Array
    from_move: Array
    move_bias: Array  # μ
    along: Array  # v, empty if nothing moves
    gate: Array  # p, empty without attention
    centers: Array  # of Gaussians, Å; empty for another basis
    gate_bias: float
    width: float  # of Gaussians, Å


class Inputs(NamedTuple):
    """What an edge reads."""

    center: Array  # (n_edges,) int64
    neighbor: Array  # (n_edges,) int64
    from_center: Array  # a, (n_atoms, n_features)
    from_neighbor: Array  # b, (n_atoms, n_features)
    radial: Array  # (n_edges, n_radial), or (n_edges, 1) distances in Å for Gaussians
    weight: Array  # u, (n_edges,)


class Tile(NamedTuple):
    """Room for some edges, (TILE, n_features) unless said."""

    z_slope: Array
    y: Array
    y_slope: Array
    m: Array
    x: Array
    x_slope: Array
    basis: Array  # (TILE, n_radial and zeros)
    basis_bar: Array  # (TILE, n_radial and zeros)


@compiled
def _room(n_features, layer, kind):  # type: ignore[no-untyped-def]
    """A tile, with as many columns for a basis as its packed matrix has rows."""
    shape, basis = (TILE, n_features), (TILE, layer.distance.shape[1])
    return Tile(
        np.empty(shape, kind), np.empty(shape, kind), np.empty(shape, kind), np.empty(shape, kind),
        np.empty(shape, kind), np.empty(shape, kind), np.zeros(basis, kind), np.empty(basis, kind),
    )  # fmt: skip


@compiled
def _fill_basis(start, n, radial, layer, basis):  # type: ignore[no-untyped-def]
    """e of the edges from start, `radial.GaussianBasis` where there are centers."""
    half, per_width = radial.dtype.type(-0.5), radial.dtype.type(1 / layer.width)
    for k in range(n):
        if len(layer.centers):
            for c in range(len(layer.centers)):
                x = (radial[start + k, 0] - layer.centers[c]) * per_width
                basis[k, c] = exp(half * x * x)
        else:
            for c in range(radial.shape[1]):
                basis[k, c] = radial[start + k, c]


@compiled
def _through_basis(start, n, radial, layer, tile, radial_bar):  # type: ignore[no-untyped-def]
    """The gradient by what `_fill_basis` read."""
    per_square = radial.dtype.type(-1 / layer.width**2)
    for k in range(n):
        if len(layer.centers):
            total = radial.dtype.type(0)
            for c in range(len(layer.centers)):
                total += tile.basis_bar[k, c] * tile.basis[k, c] * (radial[start + k, 0] - layer.centers[c])
            radial_bar[start + k, 0] = total * per_square
        else:
            for c in range(radial.shape[1]):
                radial_bar[start + k, c] = tile.basis_bar[k, c]


@compiled
def _forward(start, n, inputs, layer, tile):  # type: ignore[no-untyped-def]
    """m of the edges from start, and the slopes of its two activations."""
    y, m = tile.y, tile.m
    for k in range(n):
        i, j = inputs.center[start + k], inputs.neighbor[start + k]
        for f in range(y.shape[1]):
            y[k, f] = inputs.from_center[i, f] + inputs.from_neighbor[j, f]
    _fill_basis(start, n, inputs.radial, layer, tile.basis)
    dense(tile.basis, layer.distance, y, n)
    silu(y, tile.z_slope, n)
    copy_rows(layer.bias, m, n)
    dense(y, layer.second, m, n)
    silu(m, tile.y_slope, n)


@compiled
def _moving(n, layer, tile):  # type: ignore[no-untyped-def]
    """φ(M m + μ) in x, and its slope."""
    copy_rows(layer.move_bias, tile.x, n)
    dense(tile.m, layer.move, tile.x, n)
    silu(tile.x, tile.x_slope, n)


@compiled
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = a.dtype.type(0)
    for f in range(len(a)):
        total += a[f] * b[f]
    return total


@compiled
def _gate(m, layer):  # type: ignore[no-untyped-def]
    if len(layer.gate) == 0:
        return m.dtype.type(1)
    return m.dtype.type(1) / (m.dtype.type(1) + exp(-(_dot(m, layer.gate) + m.dtype.type(layer.gate_bias))))


@compiled
def send(begin, end, row_ptr, inputs, layer, out, moves):  # type: ignore[no-untyped-def]
    """out and t of the edges of atoms begin ≤ i < end."""
    tile = _room(out.shape[1], layer, out.dtype)
    out[begin:end] = 0
    for start in range(row_ptr[begin], row_ptr[end], TILE):
        n = min(TILE, row_ptr[end] - start)
        _forward(start, n, inputs, layer, tile)
        for k in range(n):
            m, sums = tile.m[k], out[inputs.center[start + k]]
            scaled = _gate(m, layer) * inputs.weight[start + k]
            for f in range(len(m)):
                sums[f] += scaled * m[f]
        if len(layer.along):
            _moving(n, layer, tile)
            for k in range(n):
                moves[start + k] = _dot(tile.x[k], layer.along)


@compiled
def pull_back(begin, end, row_ptr, inputs, layer, g, moves_bar, z_bar, radial_bar, weight_bar, center_bar):  # type: ignore[no-untyped-def]
    """Gradients of Σ g · out + moves_bar · t by what the edges of atoms begin ≤ i < end read, but b."""
    n_features = g.shape[1]
    tile = _room(n_features, layer, g.dtype)
    center_bar[begin:end] = 0
    for start in range(row_ptr[begin], row_ptr[end], TILE):
        n = min(TILE, row_ptr[end] - start)
        _forward(start, n, inputs, layer, tile)
        m_bar = tile.y  # φ(z) is needed no more
        m_bar[:n] = 0
        if len(layer.along):
            _moving(n, layer, tile)
            for k in range(n):
                for f in range(n_features):
                    tile.x[k, f] = moves_bar[start + k] * layer.along[f] * tile.x_slope[k, f]
            dense(tile.x, layer.from_move, m_bar, n)
        for k in range(n):
            _through_sum(start + k, tile.m[k], g[inputs.center[start + k]], inputs, layer, m_bar[k], weight_bar)
            for f in range(n_features):
                m_bar[k, f] *= tile.y_slope[k, f]
        rows = z_bar[start : start + n]
        rows[:] = 0
        dense(m_bar, layer.from_second, rows, n)
        for k in range(n):
            sums = center_bar[inputs.center[start + k]]
            for f in range(n_features):
                rows[k, f] *= tile.z_slope[k, f]
                sums[f] += rows[k, f]
        tile.basis_bar[:n] = 0
        dense(rows, layer.from_distance, tile.basis_bar, n)
        _through_basis(start, n, inputs.radial, layer, tile, radial_bar)


@compiled
def _through_sum(e, m, g, inputs, layer, m_bar, weight_bar):  # type: ignore[no-untyped-def]
    """m_bar of one edge from that of the sum, through the gate."""
    gate, pulled = _gate(m, layer), _dot(m, g)
    weight_bar[e] = gate * pulled
    scaled = gate * inputs.weight[e]
    for f in range(len(m)):
        m_bar[f] += scaled * g[f]
    if len(layer.gate):
        opened = inputs.weight[e] * pulled * gate * (m.dtype.type(1) - gate)
        for f in range(len(m)):
            m_bar[f] += opened * layer.gate[f]


@compiled
def to_neighbors(begin, end, row_ptr, reverse, z_bar, neighbor_bar):  # type: ignore[no-untyped-def]
    """The gradient by b: of atom j, over the edges that point to it, the reverse of its own."""
    neighbor_bar[begin:end] = 0
    for j in range(begin, end):
        for e in range(row_ptr[j], row_ptr[j + 1]):
            row, sums = z_bar[reverse[e]], neighbor_bar[j]
            for f in range(len(sums)):
                sums[f] += row[f]
