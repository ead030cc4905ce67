"""Energies and forces of SchNet on knots, and the gradient of a loss on them: training without autograd's graph.

A loss gives ē_i = ∂L/∂b_i of every atom, F̄_i and W̄ of forces and virials. The forces are derivatives, so theirs
is one of second order, but along one direction: let every distance change at the rate δd_ij at which it does when
the atoms move by −F̄ and strain by W̄; then

    Σ_i F̄_i F_i + W̄ : W  =  Σ_ij δd_ij ∂E/∂d_ij  =  Σ_i s_i ḃ_i,     and so     ∂L = ∂ Σ_i (ē_i b_i + s_i ḃ_i).

A dot is the derivative along δd (B. A. Pearlmutter, Neural Comput. 6, 147 (1994)). Values, dots and the adjoints
of both stand side by side: for x and ẋ, [k, 0] and [k, 1] of an array. The adjoint of a dot is the gradient of the
energy that the forces took, so `energies` leaves it behind; `gradients` finds the dots on the way forward and the
adjoints of the values on the way back. With m, u, s the sum over neighbors, the hidden layer of an update and its
activation,

    ṁ_i = Σ_j w ∘ ẋ_j + δd w′ ∘ x_j           u̇ = ṁ W₁     ṡ = act′ ∘ u̇     ḣ ← ḣ + ṡ W₂     ẋ = ḣ W_in
    ū = act′ ∘ (h̄ W₂ᵀ) + act″ ∘ u̇ ∘ (g W₂ᵀ)     m̄ = ū W₁ᵀ     x̄_i = Σ_j w ∘ m̄_j + δd w′ ∘ q_j     h̄ ← h̄ + x̄ W_inᵀ

Gradients of the matrices are then products of whole arrays, for a BLAS; those of the tables are `tables`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.edges import turned_conv, turned_grad
from mlpot.kernels.outer_terms import switch_on
from mlpot.kernels.pairs import Pairs, conv, forces, lay, pull
from mlpot.kernels.simd import compiled, copy_rows, dense, inner, silu, silu_curvature, wait_for_all

Array = Any  # NDArray of the weights' type unless said

TILE = 48  # atoms that go through the dense layers together: their rows stay in the first cache


class Tape(NamedTuple):
    """All that the forward pass leaves for the backward pass; (…, 2, n_atoms, n_features) unless said."""

    pairs: Pairs
    h: Array  # [n_layers + 1], features, the first those of the elements
    x: Array  # [n_layers], messages
    m: Array  # [n_layers]
    s: Array  # [n_layers]
    z: Array  # (2, n_atoms, n_hidden), the hidden layer of the readout, activated
    h_bar: Array  # [n_layers], adjoint of h of the next layer; 1: ∂E/∂h
    x_bar: Array
    m_bar: Array
    u_bar: Array
    r_bar: Array  # (2, n_atoms, n_hidden), before the activation
    u: Array  # (n_layers, n_atoms, n_features)
    u_dot: Array  # (n_layers, n_atoms, n_features)
    slope: Array  # (n_layers, n_atoms, n_features), act′(u)
    v: Array  # (n_layers, n_atoms, n_features), g W₂ᵀ
    r: Array  # (n_atoms, n_hidden)
    r_slope: Array  # (n_atoms, n_hidden)
    turn: Array  # (n_edges,), δd
    b: Array  # (n_atoms,) float64, what the readout gives
    shifted: Array  # (n_atoms,) float64, eV, energy of the shift and of nuclei
    shifting: Array  # (n_atoms,) float64, its derivative by the crowd
    forces: Array  # (n_atoms, 3) float64
    virial: Array  # (n_atoms, 3, 3) float64, that of a pair with the atom that took it


class Pulls(NamedTuple):
    """Gradients of a loss by what `energies` gave, float64."""

    b: Array  # (n_atoms,)
    forces: Array  # (n_atoms, 3)
    virial: Array  # (n_atoms, 3, 3), that of its graph


@compiled
def energies(begin, end, n_threads, counter, structure, net, tape):  # type: ignore[no-untyped-def]
    """Up through the layers and back to the forces, for whole blocks of atoms, as `native.stages`."""
    n_layers = net.tables.shape[0]
    for stage in range(2 * n_layers + 1):
        if stage > 0 and n_threads > 1:
            wait_for_all(counter, n_threads)
        for block in range(begin, end, structure.block):
            stop = min(block + structure.block, end)
            if stage == 0:
                _begin(block, stop, structure, net, tape)
            elif stage <= n_layers:
                _up(stage - 1, block, stop, structure, net, tape)
            else:
                _down(2 * n_layers - stage, block, stop, structure, net, tape)


@compiled
def gradients(begin, end, n_threads, counter, structure, net, tape, pulls):  # type: ignore[no-untyped-def]
    """The dots and the adjoints of the values, likewise."""
    n_layers = net.tables.shape[0]
    for stage in range(2 * n_layers):
        if stage > 0 and n_threads > 1:
            wait_for_all(counter, n_threads)
        for block in range(begin, end, structure.block):
            stop = min(block + structure.block, end)
            if stage == 0:
                _turn(block, stop, structure, tape, pulls)
            if stage < n_layers:
                _dots(stage, block, stop, structure, net, tape, pulls)
            else:
                _adjoints(2 * n_layers - 1 - stage, block, stop, structure, net, tape)


@inner
def _begin(begin, end, structure, net, tape):  # type: ignore[no-untyped-def]
    """The edges of a block, and the features and first messages of its elements, which no edge turns."""
    lay(begin, end, structure, net, tape.pairs)
    element, h, x = structure.element, tape.h[0], tape.x[0]
    h[1, begin:end] = 0
    x[1, begin:end] = 0
    for i in range(begin, end):
        for f in range(x.shape[2]):
            h[0, i, f], x[0, i, f] = net.features[element[i], f], net.first[element[i], f]


@inner
def _up(layer, begin, end, structure, net, tape):  # type: ignore[no-untyped-def]
    """A convolution, the update, and the messages of the next layer or the energies and the first gradient."""
    m, u, s, before, after = (
        tape.m[layer, 0],
        tape.u[layer],
        tape.s[layer, 0],
        tape.h[layer, 0],
        tape.h[layer + 1, 0],
    )
    conv(begin, end, structure.row_ptr, tape.pairs, net.tables[layer], tape.x[layer, 0], m)
    for start in range(begin, end, TILE):
        stop = min(start + TILE, end)
        n = stop - start
        copy_rows(net.hidden_bias[layer], u[start:stop], n)
        dense(m[start:stop], net.hidden[layer], u[start:stop], n)
        s[start:stop] = u[start:stop]
        silu(s[start:stop], tape.slope[layer, start:stop], n)
        copy_rows(net.update_bias[layer], after[start:stop], n)
        dense(s[start:stop], net.update[layer], after[start:stop], n)
        after[start:stop] += before[start:stop]
        if layer + 1 < len(tape.u):
            _product(after, net.to_message[layer + 1], tape.x[layer + 1, 0], start, stop)
        else:
            _read_out(start, stop, structure, net, tape)
            _through_update(layer, start, stop, net, tape)


@inner
def _product(a, packed, out, start, stop):  # type: ignore[no-untyped-def]
    """out = a @ matrix for some rows."""
    out[start:stop] = 0
    dense(a[start:stop], packed, out[start:stop], stop - start)


@inner
def _product_onto(before, a, packed, out, start, stop):  # type: ignore[no-untyped-def]
    """out = before + a @ matrix for some rows."""
    out[start:stop] = before[start:stop]
    dense(a[start:stop], packed, out[start:stop], stop - start)


@inner
def _read_out(start, stop, structure, net, tape):  # type: ignore[no-untyped-def]
    """b of some atoms, and ∂E/∂h."""
    n_layers, n = net.tables.shape[0], stop - start
    r, z, slope, r_bar, last = tape.r, tape.z[0], tape.r_slope, tape.r_bar[1], net.last
    copy_rows(net.read_bias, r[start:stop], n)
    dense(tape.h[n_layers, 0, start:stop], net.read, r[start:stop], n)
    z[start:stop] = r[start:stop]
    silu(z[start:stop], slope[start:stop], n)
    for i in range(start, stop):
        scale, shift, _, value, _, _, _ = net.per_element[structure.element[i]]
        for f in range(len(last)):
            value += z[i, f] * last[f]
            r_bar[i, f] = slope[i, f] * (last[f] * last.dtype.type(scale))
        tape.b[i] = value
        tape.shifted[i], tape.shifting[i] = switch_on(tape.pairs.crowd[i], shift)
    _product(r_bar, net.unread, tape.h_bar[n_layers - 1, 1], start, stop)


@inner
def _through_update(layer, start, stop, net, tape):  # type: ignore[no-untyped-def]
    """∂E/∂m of some atoms from ∂E/∂h after an update."""
    v, u_bar, slope = tape.v[layer], tape.u_bar[layer, 1], tape.slope[layer]
    _product(tape.h_bar[layer, 1], net.from_update[layer], v, start, stop)
    for i in range(start, stop):
        for f in range(v.shape[1]):
            u_bar[i, f] = v[i, f] * slope[i, f]
    _product(u_bar, net.from_hidden[layer], tape.m_bar[layer, 1], start, stop)


@inner
def _down(layer, begin, end, structure, net, tape):  # type: ignore[no-untyped-def]
    """D of a layer, and ∂E/∂m of the one before it; forces once the first layer is done."""
    row_ptr, table, q = structure.row_ptr, net.tables[layer], tape.m_bar[layer, 1]
    pull(begin, end, row_ptr, tape.pairs, table, tape.x[layer, 0], q)
    if layer == 0:
        forces(begin, end, structure, net, tape.pairs, tape.shifting, tape.shifted, tape.forces, tape.virial)
        return
    x_bar, before, g = tape.x_bar[layer, 1], tape.h_bar[layer, 1], tape.h_bar[layer - 1, 1]
    conv(begin, end, row_ptr, tape.pairs, table, q, x_bar)
    for start in range(begin, end, TILE):
        stop = min(start + TILE, end)
        _product_onto(before, x_bar, net.from_message[layer], g, start, stop)
        _through_update(layer - 1, start, stop, net, tape)


@inner
def _turn(begin, end, structure, tape, pulls):  # type: ignore[no-untyped-def]
    """δd of the edges that a block takes."""
    pairs, turn = tape.pairs, tape.turn
    for i in range(begin, end):
        for e in range(structure.row_ptr[i], pairs.later[i]):
            j, rate = pairs.neighbor[e], 0.0
            for a in range(3):
                rate += pairs.unit[e, a] * (pulls.forces[i, a] - pulls.forces[j, a])
                for b in range(3):
                    rate += pairs.d[e] * pairs.unit[e, a] * pulls.virial[i, a, b] * pairs.unit[e, b]
            turn[e] = rate


@inner
def _turned_conv(begin, end, row_ptr, pairs, turn, table, x, y, out):  # type: ignore[no-untyped-def]
    """out_i = Σ_j w ∘ x_j + δd w′ ∘ y_j for a block, in the order of `pairs.conv`."""
    c, row, neighbor = pairs.coefficients, pairs.row, pairs.neighbor
    out[begin:end] = 0
    for i in range(begin, end):
        for e in range(row_ptr[i], pairs.earlier[i]):
            turned_conv(c, turn, table, x, y, out, e, row[e], i, neighbor[e], False)
    for i in range(begin, end):
        for e in range(pairs.earlier[i], pairs.later[i]):
            j = neighbor[e]
            turned_conv(c, turn, table, x, y, out, e, row[e], i, j, i < j < end)


@inner
def _dots(layer, begin, end, structure, net, tape, pulls):  # type: ignore[no-untyped-def]
    """How a layer turns with the edges."""
    x, m, u_dot, s = tape.x[layer], tape.m[layer, 1], tape.u_dot[layer], tape.s[layer, 1]
    before, after, slope = tape.h[layer, 1], tape.h[layer + 1, 1], tape.slope[layer]
    _turned_conv(begin, end, structure.row_ptr, tape.pairs, tape.turn, net.tables[layer], x[1], x[0], m)
    for start in range(begin, end, TILE):
        stop = min(start + TILE, end)
        _product(m, net.hidden[layer], u_dot, start, stop)
        for i in range(start, stop):
            for f in range(s.shape[1]):
                s[i, f] = slope[i, f] * u_dot[i, f]
        _product_onto(before, s, net.update[layer], after, start, stop)
        if layer + 1 < len(tape.u):
            _product(after, net.to_message[layer + 1], tape.x[layer + 1, 1], start, stop)
        else:
            _back_from_readout(start, stop, structure, net, tape, pulls)
            _back_through_update(layer, start, stop, net, tape)


@inner
def _back_from_readout(start, stop, structure, net, tape, pulls):  # type: ignore[no-untyped-def]
    """The dot of the readout, and the adjoint of h before it."""
    n_layers, last = net.tables.shape[0], net.last
    z_dot, slope, r_bar = tape.z[1], tape.r_slope, tape.r_bar[0]
    _product(tape.h[n_layers, 1], net.read, z_dot, start, stop)
    silu_curvature(tape.r[start:stop], r_bar[start:stop], stop - start)
    for i in range(start, stop):
        scale, pulled = last.dtype.type(net.per_element[structure.element[i], 0]), last.dtype.type(pulls.b[i])
        for f in range(len(last)):
            r_bar[i, f] = last[f] * (slope[i, f] * pulled + r_bar[i, f] * z_dot[i, f] * scale)
            z_dot[i, f] *= slope[i, f]
    _product(r_bar, net.unread, tape.h_bar[n_layers - 1, 0], start, stop)


@inner
def _back_through_update(layer, start, stop, net, tape):  # type: ignore[no-untyped-def]
    """The adjoint of m of some atoms from that of h after an update."""
    n, u_bar, slope, u_dot, v = (
        stop - start,
        tape.u_bar[layer, 0],
        tape.slope[layer],
        tape.u_dot[layer],
        tape.v[layer],
    )
    s_bar = np.zeros((TILE, v.shape[1]), v.dtype)
    dense(tape.h_bar[layer, 0, start:stop], net.from_update[layer], s_bar, n)
    silu_curvature(tape.u[layer, start:stop], u_bar[start:stop], n)
    for i in range(start, stop):
        for f in range(v.shape[1]):
            u_bar[i, f] = slope[i, f] * s_bar[i - start, f] + u_bar[i, f] * u_dot[i, f] * v[i, f]
    _product(u_bar, net.from_hidden[layer], tape.m_bar[layer, 0], start, stop)


@inner
def _adjoints(layer, begin, end, structure, net, tape):  # type: ignore[no-untyped-def]
    """The adjoint of the messages of a layer, and of m of the one before it."""
    m_bar, x_bar = tape.m_bar[layer], tape.x_bar[layer, 0]
    _turned_conv(
        begin, end, structure.row_ptr, tape.pairs, tape.turn, net.tables[layer], m_bar[0], m_bar[1], x_bar
    )
    if layer == 0:
        return
    after, before = tape.h_bar[layer, 0], tape.h_bar[layer - 1, 0]
    for start in range(begin, end, TILE):
        stop = min(start + TILE, end)
        _product_onto(after, x_bar, net.from_message[layer], before, start, stop)
        _back_through_update(layer - 1, start, stop, net, tape)


@compiled
def sort_pairs(structure, pairs, stride, pair, center, begin):  # type: ignore[no-untyped-def]
    """Each pair once, by knot, the atom that took it, and where the pairs of each knot begin: a counting sort."""
    row_ptr = structure.row_ptr
    begin[:] = 0
    for i in range(len(row_ptr) - 1):
        for e in range(row_ptr[i], pairs.later[i]):
            if i <= pairs.neighbor[e]:
                begin[pairs.row[e] // stride + 1] += 1
    for k in range(len(begin) - 1):
        begin[k + 1] += begin[k]
    place = begin.copy()
    for i in range(len(row_ptr) - 1):
        for e in range(row_ptr[i], pairs.later[i]):
            if i <= pairs.neighbor[e]:
                knot = pairs.row[e] // stride
                pair[place[knot]], center[place[knot]] = e, i
                place[knot] += 1


@compiled
def tables(begin, end, first_pair, pair, center, layer, tape, part):  # type: ignore[no-untyped-def]
    """What the pairs of the intervals begin ≤ k < end give to the rows that they read."""
    x, m_bar, neighbor, c = tape.x[layer], tape.m_bar[layer], tape.pairs.neighbor, tape.pairs.coefficients
    whole, half = x.dtype.type(1), x.dtype.type(0.5)  # an atom meets its image twice
    for k in range(begin, end):
        part[k] = 0
        for p in range(first_pair[k], first_pair[k + 1]):
            e, i = pair[p], center[p]
            j = neighbor[e]
            turned_grad(c, tape.turn, part[k], x[0], x[1], m_bar[0], m_bar[1], e, i, j, half if i == j else whole)
