"""Energy and forces of SchNet on knots as one native call: no autograd, no tensor of edges × channels.

The forward and the backward pass are written out. With x^l the messages, a^l the hidden layer of an update, s^l
its slope, g = ∂E/∂h the gradient of the features and q^l = ((g W₂ᵀ) ∘ s^l) W₁ᵀ that of a sum over neighbours,

    forward   m_i = Σ_j w^l(d_ij) ∘ x_j^l      a = m W₁ + b₁     h ← h + act(a) W₂ + b₂     x^{l+1} = h W_in
    backward  g_i ← g_i + (Σ_j w^l(d_ij) ∘ q_j^l) W_inᵀ        D_ij ← D_ij + Σ_f w^l′(d_ij) (q_i x_j + q_j x_i)

D_ij is ∂E/∂d_ij + ∂E/∂d_ji, and w(d_ij) = w(d_ji): two atoms of one block are met once and serve each other, which
halves the reading of the table. Between blocks each side takes its own, so a stage writes only to the atoms of its
block, threads share blocks without locks, and the sums have one order whatever the number of threads.

The first messages depend on the element alone, so the first layer has neither a product before it nor a way back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.edges import plain_conv, pull
from mlpot.kernels.simd import compiled, dense, silu, wait_for_all

Array = Any  # NDArray of the weights' type unless said

TILE = 48  # atoms that go through the dense layers together: their rows stay in the first cache


class Network(NamedTuple):
    """Weights as the loops read them; n_features and n_hidden are padded to whole panels (see `simd.pack`)."""

    features: Array  # (n_elements, n_features), embedding of each element
    first: Array  # (n_elements, n_features), messages of the first layer
    tables: Array  # (n_layers, n_rows, n_features), filters on knots
    to_message: Array  # (n_layers, panels), packed, as all matrices; that of the first layer is not used
    from_message: Array
    hidden: Array
    from_hidden: Array
    update: Array
    from_update: Array
    hidden_bias: Array  # (n_layers, n_features)
    update_bias: Array  # (n_layers, n_features)
    read: Array  # packed, n_features -> n_hidden
    unread: Array  # packed, n_hidden -> n_features
    read_bias: Array  # (n_hidden,)
    last: Array  # (n_hidden,)
    polynomials: Array  # (n_powers, 2 n_coefficients): those of a spline, then of its derivative, see `splines`
    stride: int  # rows of a table from one interval to the next
    per_element: Array  # (n_elements, 5) float64, eV: scale, shift, lone energy, last bias, reference energy
    index: Array  # (MAX_Z + 1,) int64, of each atomic number among the elements, -1 if it is not one
    cutoff: float  # Å


class State(NamedTuple):
    """Everything that is computed, kept from step to step.

    The edges that atom i takes stand from row_ptr[i]: first those to atoms before its block, up to earlier[i],
    then those to itself and to later atoms, up to later[i].
    """

    earlier: Array  # (n_atoms,) int64
    later: Array  # (n_atoms,) int64
    neighbor: Array  # (n_edges,) int32
    row: Array  # (n_edges,) int32, first row of the table
    t: Array  # (n_edges,), place within the interval
    coefficients: Array  # (2 n_coefficients, n_edges)
    unit: Array  # (n_edges, 3) float64
    d: Array  # (n_edges,) float64, Å
    pull: Array  # (n_edges,), D
    crowd: Array  # (n_atoms,) float64, Σ_j u(d_ij)
    sums: Array  # (n_atoms, n_features), over neighbours
    x: Array  # (n_layers, n_atoms, n_features)
    slope: Array  # (n_layers, n_atoms, n_features)
    q: Array  # (n_layers, n_atoms, n_features)
    h: Array  # (n_atoms, n_features), and then g
    shifting: Array  # (n_atoms,) float64, derivative of the shift's energy by the crowd
    energy: Array  # (n_atoms,) float64, reference energies included
    virial: Array  # (n_atoms, 3, 3) float64, that of a pair with the atom that took it


class Structure(NamedTuple):
    """What changes with the atoms: positions in Å, float64, edges at least as far as the cutoff."""

    positions: Array  # (n_atoms, 3)
    element: Array  # (n_atoms,) int64, index among the elements of the potential
    row_ptr: Array  # (n_atoms + 1,) int64
    neighbor: Array  # (n_edges,) int64
    offset: Array  # (n_edges, 3), shift · cell; empty if nothing is periodic
    batch: Array  # (n_atoms,) int64
    block: int  # atoms of a block


class Answer(NamedTuple):
    """float64."""

    energy: Array  # (n_graphs,) eV
    forces: Array  # (n_atoms, 3) eV/Å
    virial: Array  # (n_graphs, 3, 3) eV


@compiled
def elements(numbers, index, out):  # type: ignore[no-untyped-def]
    """The index of each atom's element; whether all are known."""
    known = True
    for i in range(len(numbers)):
        out[i] = index[numbers[i]] if 0 <= numbers[i] < len(index) else -1
        known &= out[i] >= 0
    return known


@compiled
def stages(begin, end, n_threads, counter, structure, net, state, answer):  # type: ignore[no-untyped-def]
    """All stages for atoms begin ≤ i < end, whole blocks; all threads finish a stage before any begins the next.

    There are 2 n_layers + 1: the edges and each layer, and back through each layer, the last with the forces.
    """
    n_layers = net.tables.shape[0]
    for stage in range(2 * n_layers + 1):
        if stage > 0 and n_threads > 1:
            wait_for_all(counter, n_threads)
        for block in range(begin, end, structure.block):
            stop = min(block + structure.block, end)
            if stage == 0:
                _edges(block, stop, structure, net, state)
            elif stage <= n_layers:
                _forward(stage - 1, block, stop, structure, net, state)
            else:
                _backward(2 * n_layers - stage, block, stop, structure, net, state, answer)


@compiled
def totals(structure, state, answer):  # type: ignore[no-untyped-def]
    """Energies and virials of the graphs."""
    batch, energy, virial = structure.batch, answer.energy, answer.virial
    energy[:] = 0
    virial[:] = 0
    for i in range(len(batch)):
        energy[batch[i]] += state.energy[i]
        for a in range(3):
            for b in range(3):
                virial[batch[i], a, b] += state.virial[i, a, b]


@compiled
def _edges(begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """Distances, directions and spline coefficients of the edges within the cutoff that a block takes."""
    n_knots = (net.tables.shape[1] - net.polynomials.shape[1] // 2) // net.stride + 1
    stride, cutoff, per_length, periodic = net.stride, net.cutoff, n_knots / net.cutoff, len(structure.offset) > 0
    row_ptr, theirs, offset, r = structure.row_ptr, structure.neighbor, structure.offset, structure.positions
    earlier, later, neighbor, row, t = state.earlier, state.later, state.neighbor, state.row, state.t
    unit, distance, crowd = state.unit, state.d, state.crowd
    crowd[begin:end] = 0
    for i in range(begin, end):
        near = row_ptr[i]
        earlier[i] = near
        for e in range(row_ptr[i], row_ptr[i + 1]):
            j = theirs[e]
            if begin <= j < i:
                continue
            x, y, z = r[j, 0] - r[i, 0], r[j, 1] - r[i, 1], r[j, 2] - r[i, 2]
            if periodic:
                x, y, z = x + offset[e, 0], y + offset[e, 1], z + offset[e, 2]
            squared = x * x + y * y + z * z
            if squared >= cutoff * cutoff:  # NaN goes on, into the energy
                continue
            d = np.sqrt(squared)
            place, per_d = d * per_length, 1 / d
            knot = min(max(int(place), 0), n_knots - 1)
            neighbor[near], row[near], t[near], distance[near] = j, knot * stride, place - knot, d
            unit[near, 0], unit[near, 1], unit[near, 2] = x * per_d, y * per_d, z * per_d
            u = _envelope(d / cutoff)
            crowd[i] += u
            if i < j < end:
                crowd[j] += u
            near += 1
            if j < begin:
                earlier[i] = near
        later[i] = near
    state.pull[row_ptr[begin] : row_ptr[end]] = 0
    _polynomials(row_ptr[begin], row_ptr[end], t, net.polynomials, state.coefficients)
    element, first, features, x, h = structure.element, net.first, net.features, state.x[0], state.h
    for i in range(begin, end):
        for f in range(x.shape[1]):
            x[i, f], h[i, f] = first[element[i], f], features[element[i], f]


@compiled
def _polynomials(begin, end, t, polynomials, c):  # type: ignore[no-untyped-def]
    """All polynomials at t of the edges begin ≤ e < end, and of what is left in the gaps between them."""
    last = len(polynomials) - 1
    for r in range(len(c)):
        row = c[r]
        for e in range(begin, end):
            row[e] = polynomials[last, r]
        for power in range(last - 1, -1, -1):
            for e in range(begin, end):
                row[e] = row[e] * t[e] + polynomials[power, r]


@compiled
def _envelope(x):  # type: ignore[no-untyped-def]
    """`radial.PolynomialEnvelope` of exponent 6, x < 1."""
    return 1 - x**6 * (28 - x * (48 - x * 21))


@compiled
def _envelope_slope(x):  # type: ignore[no-untyped-def]
    return -168 * x**5 * (1 - x) * (1 - x)


@compiled
def _forward(layer, begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """A convolution, the update, and the messages of the next layer or the energies and the first gradient."""
    n_layers, n_features = net.tables.shape[0], net.tables.shape[2]
    a, b = np.empty((TILE, n_features), net.first.dtype), np.empty((TILE, n_features), net.first.dtype)
    sums, h = state.sums, state.h
    _conv(begin, end, structure.row_ptr, state.earlier, state.later, state.neighbor, state.row, state.coefficients,
          net.tables[layer], state.x[layer], sums)  # fmt: skip
    for start in range(begin, end, TILE):
        n = min(TILE, end - start)
        _copy_rows(net.hidden_bias[layer], b, n)
        dense(sums[start : start + n], net.hidden[layer], b, n)
        silu(b, state.slope[layer, start : start + n], n)
        _copy_rows(net.update_bias[layer], a, n)
        dense(b, net.update[layer], a, n)
        for i in range(n):
            for f in range(n_features):
                h[start + i, f] += a[i, f]
        if layer + 1 < n_layers:
            x = state.x[layer + 1, start : start + n]
            x[:] = 0
            dense(h[start : start + n], net.to_message[layer + 1], x, n)
        else:
            g = h[start : start + n]
            _read_out(start, n, g, structure, net, state)
            _through_update(n, g, b, net.from_update[layer], state.slope[layer, start : start + n],
                            net.from_hidden[layer], state.q[layer, start : start + n])  # fmt: skip


@compiled
def _copy_rows(row, out, n):  # type: ignore[no-untyped-def]
    """The same row n times."""
    for i in range(n):
        for f in range(len(row)):
            out[i, f] = row[f]


@compiled
def _read_out(start, n, h, structure, net, state):  # type: ignore[no-untyped-def]
    """Energies of n atoms from their features h, (n, n_features), and the gradient in the same place."""
    n_hidden = len(net.last)
    a, slope = np.empty((n, n_hidden), h.dtype), np.empty((n, n_hidden), h.dtype)
    _copy_rows(net.read_bias, a, n)
    dense(h, net.read, a, n)
    silu(a, slope, n)
    element, per_element, last, crowd = structure.element, net.per_element, net.last, state.crowd
    shifting, energy = state.shifting, state.energy
    for i in range(n):
        scale, shift, lone, bias, reference = per_element[element[start + i]]
        value = bias - lone
        for f in range(n_hidden):
            value += a[i, f] * last[f]
            slope[i, f] *= last[f] * h.dtype.type(scale)
        crowding = crowd[start + i]
        switch = np.exp(-crowding * crowding)
        shifting[start + i] = 2 * shift * crowding * switch
        if crowding != 0:
            reference += scale * value + shift * (1 - switch)
        energy[start + i] = reference
    h[:] = 0
    dense(slope, net.unread, h, n)


@compiled
def _through_update(n, g, b, from_update, slope, from_hidden, q):  # type: ignore[no-untyped-def]
    """q of n atoms from g, (n, n_features) as all; b is room for as many."""
    for i in range(n):
        for f in range(b.shape[1]):
            b[i, f] = 0
    dense(g, from_update, b, n)
    for i in range(n):
        for f in range(b.shape[1]):
            b[i, f] *= slope[i, f]
    q[:] = 0
    dense(b, from_hidden, q, n)


@compiled
def _backward(layer, begin, end, structure, net, state, answer):  # type: ignore[no-untyped-def]
    """D of a layer, and q of the one before it; forces once the first layer is done."""
    row_ptr, later, neighbor, row, c = (
        structure.row_ptr,
        state.later,
        state.neighbor,
        state.row,
        state.coefficients,
    )
    table, x, q = net.tables[layer], state.x[layer], state.q[layer]
    _pull(begin, end, row_ptr, later, neighbor, row, c, table, x, q, state.pull)
    if layer == 0:
        _forces(begin, end, structure, net, state, answer)
        return
    _conv(begin, end, row_ptr, state.earlier, later, neighbor, row, c, table, q, state.sums)
    b = np.empty((TILE, x.shape[1]), x.dtype)
    for start in range(begin, end, TILE):
        n = min(TILE, end - start)
        g = state.h[start : start + n]
        dense(state.sums[start : start + n], net.from_message[layer], g, n)
        _through_update(n, g, b, net.from_update[layer - 1], state.slope[layer - 1, start : start + n],
                        net.from_hidden[layer - 1], state.q[layer - 1, start : start + n])  # fmt: skip


@compiled
def _conv(begin, end, row_ptr, earlier, later, neighbor, row, c, table, x, out):  # type: ignore[no-untyped-def]
    """out_i = Σ_j w(d_ij) ∘ x_j for a block, in the order of j."""
    out[begin:end] = 0
    for i in range(begin, end):
        for e in range(row_ptr[i], earlier[i]):
            plain_conv(c, table, x, out, e, row[e], i, neighbor[e], False)
    for i in range(begin, end):
        for e in range(earlier[i], later[i]):
            j = neighbor[e]
            plain_conv(c, table, x, out, e, row[e], i, j, i < j < end)


@compiled
def _pull(begin, end, row_ptr, later, neighbor, row, c, table, x, q, pulls):  # type: ignore[no-untyped-def]
    """D_ij of one layer added for all edges that a block takes."""
    for i in range(begin, end):
        for e in range(row_ptr[i], later[i]):
            pulls[e] += pull(c, table, x, q, e, row[e], i, neighbor[e])


@compiled
def _forces(begin, end, structure, net, state, answer):  # type: ignore[no-untyped-def]
    """Forces and virials of a block from D of its edges and from the shift that neighbours switch on."""
    forces, virial, shifting, cutoff = answer.forces, state.virial, state.shifting, net.cutoff
    row_ptr, later, neighbor, distance, unit, pulls = (
        structure.row_ptr, state.later, state.neighbor, state.d, state.unit, state.pull
    )  # fmt: skip
    forces[begin:end] = 0
    virial[begin:end] = 0
    for i in range(begin, end):
        for e in range(row_ptr[i], later[i]):
            j, d = neighbor[e], distance[e]
            pull = pulls[e] + (shifting[i] + shifting[j]) * _envelope_slope(d / cutoff) / cutoff
            both = i < j < end
            for a in range(3):
                along = pull * unit[e, a]
                forces[i, a] += along
                if both:
                    forces[j, a] -= along
                for b in range(3):
                    virial[i, a, b] += along * d * unit[e, b] / (1 if both else 2)
