"""Energy and forces of EGNN as one native call: no autograd, and what edges leave for the way back in place.

With the messages of a layer as in `messages`, r_e the edge vectors, D_i the displacements of atoms and u_e the
weight of an edge, layer l computes

    s_e = |r_e + D_j − D_i|      D_i ← D_i − Σ_e u_e t_e (r_e + D_j − D_i)      a, b = A h, B h
    h_i ← h_i + U₂ φ(U₁ h_i + U₁′ out_i + μ₁) + μ₂

The way back of the layer goes over the same edges: they leave the gradients by z_e, by r_e + D_j − D_i and by u_e.
The first two belong to both atoms of an edge; each collects those of its own edges and of their reverses, and no
two threads write to one place. What an edge computes on the way forward is kept for the way back as long as there
is memory for it, else it is computed again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.messages import (
    TILE,
    Layers,
    Way,
    add_up,
    backward,
    forward,
    measure,
    move,
    through_length,
    through_move,
    through_step,
    through_sum,
    tile_of,
)
from mlpot.kernels.outer_terms import envelope, envelope_slope, seen_of, with_nuclei
from mlpot.kernels.simd import compiled, copy_rows, dense, inner, row_dot, silu, wait_for_all
from mlpot.kernels.structure import read_out

Array = Any  # NDArray of the weights' type unless said


class Network(NamedTuple):
    """Weights as the loops read them, see `native.Network` for what both have."""

    features: Array  # (n_elements, n_features), embedding of each element
    layers: Layers
    from_center: Array  # A; packed, (n_layers, panels), as all matrices here
    to_center: Array
    center_bias: Array  # (n_layers, n_features), as all biases
    from_neighbor: Array  # B
    to_neighbor: Array
    own: Array  # U₁
    from_own: Array
    sums: Array  # U₁′
    from_sums: Array
    hidden_bias: Array
    update: Array  # U₂
    from_update: Array
    update_bias: Array
    read: Array
    unread: Array
    read_bias: Array
    last: Array
    per_element: Array
    index: Array
    cutoff: float
    nuclei: Array
    limits: Array
    screenings: Array
    n_moves: int  # so many of the layers move the atoms, the first ones
    weight: float  # of a message beside its envelope
    softening: float  # Å², of the lengths between displaced atoms


class Tape(NamedTuple):
    """What edges keep from the way forward, see `messages.Way`."""

    z: Array  # (n_layers, n_edges, n_features); of two layers in turn if the others are not kept
    m: Array  # (n_layers, n_edges, n_features) or empty, as the others
    y_slope: Array
    x_slope: Array


class State(NamedTuple):
    """Everything that is computed, kept from step to step; of edges only those within the cutoff."""

    slot: Array  # (n_edges,) int64, where an edge of the list stands among those within the cutoff, −1 for others
    first: Array  # (n_atoms,) int64, the first edge of an atom; those of a block stand together
    last: Array  # (n_atoms,) int64, the one after its last
    ends: Array  # (n_edges, 2) int64, its atoms
    reverse: Array  # (n_edges,) int64, the edge that points back
    vector: Array  # (n_edges, 3) float64, Å, r_e as it is shown to the layers, see `terms.core_repulsion`
    d: Array  # (n_edges,) float64, Å, its length
    true: Array  # (n_edges,) float64, Å, the length that it has
    weight: Array  # (n_edges,), u
    t: Array  # (n_layers, n_edges)
    tape: Tape
    vector_bar: Array  # (n_edges, 3) float64, ∂E/∂r_e
    weight_bar: Array  # (n_edges,) float64, ∂E/∂u_e
    moved_bar: Array  # (2, n_edges, 3) float64, gradients by r_e + D_j − D_i of two layers in turn
    a: Array  # (n_layers, n_atoms, n_features)
    b: Array  # (n_layers, n_atoms, n_features)
    slope: Array  # (n_layers, n_atoms, n_features), of the update's activation
    sums: Array  # (n_atoms, n_features), out, and on the way back the gradient by it and then by a
    h: Array  # (n_atoms, n_features), and then its gradient
    displacement: Array  # (n_layers + 1, n_atoms, 3) float64, Å
    displacement_bar: Array  # (n_atoms, 3) float64
    crowd: Array  # (n_atoms,) float64, Σ_j u(d_ij)
    shifting: Array  # (n_atoms,) float64, derivative of the shift's energy by the crowd
    energy: Array  # (n_atoms,) float64, reference energies included
    virial: Array  # (n_atoms, 3, 3) float64


@compiled
def stages(begin, end, n_threads, counter, structure, net, state, answer):  # type: ignore[no-untyped-def]
    """All stages for atoms begin ≤ i < end, whole blocks; all threads finish a stage before any begins the next.

    There are 2 n_layers + 1: the edges, each layer, the way back of each layer but the last, for which it follows
    at once, and the forces.
    """
    n_layers = len(state.a)
    tile = tile_of(net.features.shape[1], net.layers, net.features.dtype)
    for stage in range(2 * n_layers + 1):
        if stage > 0 and n_threads > 1:
            wait_for_all(counter, n_threads)
        for block in range(begin, end, structure.block):
            stop = min(block + structure.block, end)
            if stage == 0:
                _begin(block, stop, structure, net, state)
                _send(stage, block, stop, net, state)
            elif stage <= n_layers:
                _up(stage - 1, block, stop, structure, net, state, tile)
            elif stage < 2 * n_layers:
                _collect(2 * n_layers - stage, block, stop, net, state)
            else:
                _forces(block, stop, state, answer)
            if n_layers <= stage < 2 * n_layers:
                _down(2 * n_layers - stage - 1, block, stop, structure, net, state, tile)


@inner
def _begin(begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """The edges of a block within the cutoff, and features of its atoms."""
    row_ptr, r, offset, periodic = (
        structure.row_ptr,
        structure.positions,
        structure.offset,
        len(structure.offset) > 0,
    )
    near = row_ptr[begin]
    for i in range(begin, end):
        state.first[i], state.crowd[i] = near, 0
        for f in range(net.features.shape[1]):
            state.h[i, f] = net.features[structure.element[i], f]
        for k in range(3):
            state.displacement[0, i, k] = 0
            state.displacement_bar[i, k] = 0
        for e in range(row_ptr[i], row_ptr[i + 1]):
            j, squared = structure.neighbor[e], 0.0
            for k in range(3):
                x = r[j, k] - r[i, k] + (offset[e, k] if periodic else 0.0)
                state.vector[near, k] = x
                squared += x * x
            state.slot[e] = -1
            if squared >= net.cutoff * net.cutoff:  # NaN goes on, into the energy
                continue
            true = np.sqrt(squared)
            d, _ = seen_of(true, net.limits[structure.element[i], structure.element[j]])
            u = envelope(d / net.cutoff)
            state.slot[e], state.ends[near, 0], state.ends[near, 1] = near, i, j
            state.d[near], state.true[near] = d, true
            state.weight[near], state.weight_bar[near] = u * net.weight, 0
            for k in range(3):
                state.vector_bar[near, k] = 0
                if d != true:
                    state.vector[near, k] *= d / true
            state.crowd[i] += u
            near += 1
        state.last[i] = near


@inner
def _send(layer, begin, end, net, state):  # type: ignore[no-untyped-def]
    """a and b of a block from its features."""
    h, a, b = state.h[begin:end], state.a[layer, begin:end], state.b[layer, begin:end]
    copy_rows(net.center_bias[layer], a, end - begin)
    dense(h, net.from_center[layer], a, end - begin)
    b[:] = 0
    dense(h, net.from_neighbor[layer], b, end - begin)


@inner
def _way(layer, start, n, tape, tile):  # type: ignore[no-untyped-def]
    """Where a tile keeps what the way back needs."""
    stop, z_slope = start + n, tape.z[layer % len(tape.z), start : start + n]
    if len(tape.m):
        return Way(
            tape.m[layer, start:stop], tape.y_slope[layer, start:stop], tape.x_slope[layer, start:stop], z_slope
        )
    return Way(tile.m[:n], tile.y_slope[:n], tile.x_slope[:n], z_slope)


@inner
def _up(layer, begin, end, structure, net, state, tile):  # type: ignore[no-untyped-def]
    """The messages of a block, its update, and what it sends next, or its energies and their gradient."""
    n, h, sums = end - begin, state.h[begin:end], state.sums[begin:end]
    for i in range(n):
        for f in range(h.shape[1]):
            sums[i, f] = 0
        for c in range(3):
            state.displacement[layer + 1, begin + i, c] = state.displacement[layer, begin + i, c]
    for start in range(state.first[begin], state.last[end - 1], TILE):
        _messages(layer, start, min(TILE, state.last[end - 1] - start), net, state, tile)
    hidden = np.empty_like(h)
    copy_rows(net.hidden_bias[layer], hidden, n)
    dense(h, net.own[layer], hidden, n)
    dense(sums, net.sums[layer], hidden, n)
    silu(hidden, state.slope[layer, begin:end], n)
    for i in range(n):
        for f in range(h.shape[1]):
            h[i, f] += net.update_bias[layer, f]
    dense(hidden, net.update[layer], h, n)
    if layer + 1 < len(state.a):
        _send(layer + 1, begin, end, net, state)
    else:
        _reverse(begin, end, structure, state)
        read_out(begin, n, h, structure, state.crowd, net, state)


@inner
def _messages(layer, start, n, net, state, tile):  # type: ignore[no-untyped-def]
    """Their sum, and how far atoms move by them."""
    way = _forward(layer, start, n, net, state, tile)
    add_up(layer, start, n, state.ends, state.weight, net.layers, way, state.sums)
    if layer < net.n_moves:
        along, t, weight, ends = net.layers.along[layer], state.t[layer], state.weight, state.ends
        after = state.displacement[layer + 1]
        for k in range(n):
            t[start + k] = row_dot(tile.x[k], along)
            for c in range(3):
                after[ends[start + k, 0], c] -= t[start + k] * weight[start + k] * tile.moved[k, c]


@inner
def _forward(layer, start, n, net, state, tile):  # type: ignore[no-untyped-def]
    """m of a tile of edges, and φ(M m + μ) in tile.x if they move atoms."""
    way = _way(layer, start, n, state.tape, tile)
    measure(start, n, state.ends, state.vector, state.displacement[layer], _softening(layer, net), tile)
    forward(layer, start, n, state.ends, state.a[layer], state.b[layer], net.layers, tile, way)
    if layer < net.n_moves:
        move(layer, n, net.layers, tile, way)
    return way


@inner
def _softening(layer, net):  # type: ignore[no-untyped-def]
    return net.softening if layer > 0 and net.n_moves > 0 else 0.0


@inner
def _reverse(begin, end, structure, state):  # type: ignore[no-untyped-def]
    """Where the reverse of each edge of a block stands."""
    for e in range(structure.row_ptr[begin], structure.row_ptr[end]):
        if state.slot[e] >= 0:
            state.reverse[state.slot[e]] = state.slot[structure.reverse[e]]


@inner
def _down(layer, begin, end, structure, net, state, tile):  # type: ignore[no-untyped-def]
    """Gradients by what the edges of a block read, from that by its features after the layer."""
    n, g, sums_bar = end - begin, state.h[begin:end], state.sums[begin:end]
    hidden_bar = np.zeros_like(g)
    dense(g, net.from_update[layer], hidden_bar, n)
    for i in range(n):
        for f in range(g.shape[1]):
            hidden_bar[i, f] *= state.slope[layer, begin + i, f]
            sums_bar[i, f] = 0
    dense(hidden_bar, net.from_own[layer], g, n)
    dense(hidden_bar, net.from_sums[layer], sums_bar, n)
    a_bar = np.zeros_like(g)
    for start in range(state.first[begin], state.last[end - 1], TILE):
        _messages_back(layer, begin, start, min(TILE, state.last[end - 1] - start), net, state, tile, a_bar)
    if layer > 0:
        dense(a_bar, net.to_center[layer], g, n)
    else:
        _by_vector(begin, end, structure, net, state)


@inner
def _messages_back(layer, begin, start, n, net, state, tile, a_bar):  # type: ignore[no-untyped-def]
    """The way back of a tile of edges; gradients by a are summed for the atoms from begin."""
    if len(state.tape.m):
        way = _way(layer, start, n, state.tape, tile)
        measure(start, n, state.ends, state.vector, state.displacement[layer], _softening(layer, net), tile)
    else:
        way = _forward(layer, start, n, net, state, tile)
    ends, weight, bar = state.ends, state.weight, state.displacement_bar
    tile.y[:n] = 0
    if layer < net.n_moves:
        through_step(start, n, ends, weight, state.t[layer], bar, state.weight_bar, tile)
        through_move(layer, n, net.layers, tile, way)
    else:
        tile.step[:n] = 0
    through_sum(layer, start, n, ends, weight, state.sums, net.layers, tile, way, state.weight_bar)
    backward(layer, n, net.layers, tile, way)
    through_length(start, n, _softening(layer, net), state.vector_bar, state.moved_bar[layer % 2], tile)
    for k in range(n):
        sums = a_bar[ends[start + k, 0] - begin]
        for f in range(len(sums)):
            sums[f] += way.z_slope[k, f]


@inner
def _collect(layer, begin, end, net, state):  # type: ignore[no-untyped-def]
    """Gradients by features and displacements before a layer, from its edges to a block of atoms."""
    z_bar, moved_bar = state.tape.z[layer % len(state.tape.z)], state.moved_bar[layer % 2]
    b_bar = np.zeros((end - begin, z_bar.shape[1]), z_bar.dtype)
    for i in range(begin, end):
        sums, pull = b_bar[i - begin], state.displacement_bar[i]
        for e in range(state.first[i], state.last[i]):
            back = state.reverse[e]
            row = z_bar[back]
            for f in range(len(sums)):
                sums[f] += row[f]
            if net.n_moves:
                for c in range(3):
                    pull[c] += moved_bar[back, c] - moved_bar[e, c]
    dense(b_bar, net.to_neighbor[layer], state.h[begin:end], end - begin)


@inner
def _by_vector(begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """∂E/∂r_e of the edges of a block: what the layers left, envelopes, and nuclei."""
    element, nuclei, cutoff = structure.element, net.nuclei, net.cutoff
    for i in range(begin, end):
        one = element[i]
        for e in range(state.first[i], state.last[i]):
            d, true, other = state.d[e], state.true[e], element[state.ends[e, 1]]
            _, seen_slope, repelled, slope = with_nuclei(
                true, nuclei[one], nuclei[other], net.limits[one, other], net.screenings
            )
            state.energy[i] += repelled / 2
            pulled = (state.weight_bar[e] * net.weight + state.shifting[i]) * envelope_slope(d / cutoff) / cutoff
            along = 0.0
            for c in range(3):
                along += state.vector_bar[e, c] * state.vector[e, c] / d
            # What is shown, (d / true) r_e, changes in length by another factor than across.
            pulled = seen_slope * (along + pulled) + slope / 2 - d / true * along
            for c in range(3):
                state.vector_bar[e, c] = d / true * state.vector_bar[e, c] + pulled / d * state.vector[e, c]


@inner
def _forces(begin, end, state, answer):  # type: ignore[no-untyped-def]
    """F_i = Σ_e ∂E/∂r_e − ∂E/∂r_(e reversed), and the virials Σ_e r_e ⊗ ∂E/∂r_e."""
    forces, virial, vector_bar = answer.forces, state.virial, state.vector_bar
    for i in range(begin, end):
        for c in range(3):
            forces[i, c] = 0
            for k in range(3):
                virial[i, c, k] = 0
        for e in range(state.first[i], state.last[i]):
            back, stretch = state.reverse[e], state.true[e] / state.d[e]
            for c in range(3):
                forces[i, c] += vector_bar[e, c] - vector_bar[back, c]
                for k in range(3):
                    virial[i, c, k] += stretch * state.vector[e, k] * vector_bar[e, c]
