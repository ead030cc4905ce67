"""Energy and forces of SchNet on knots as one native call: no autograd, no tensor of edges × channels.

The forward and the backward pass are written out. With x^l the messages, a^l the hidden layer of an update, s^l
its slope, g = ∂E/∂h the gradient of the features and q^l = ((g W₂ᵀ) ∘ s^l) W₁ᵀ that of a sum over neighbors,

    forward   m_i = Σ_j w^l(d_ij) ∘ x_j^l      a = m W₁ + b₁     h ← h + act(a) W₂ + b₂     x^{l+1} = h W_in
    backward  g_i ← g_i + (Σ_j w^l(d_ij) ∘ q_j^l) W_inᵀ        D_ij ← D_ij + Σ_f w^l′(d_ij) (q_i x_j + q_j x_i)

D_ij is ∂E/∂d_ij + ∂E/∂d_ji; atoms go by blocks (see `pairs`).

The first messages depend on the element alone, so the first layer has neither a product before it nor a way back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.outer_terms import smooth_step, switch_on
from mlpot.kernels.pairs import Pairs, conv, forces, lay, pull
from mlpot.kernels.simd import compiled, copy_rows, dense, inner, silu, wait_for_all

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
    polynomials: (
        Array  # (n_powers, 2 n_coefficients): those of a spline, then of its derivative, see `stages.spline_grid`
    )
    stride: int  # rows of a table from one interval to the next
    # (n_elements, 7) float64: scale, shift, lone energy, last bias, reference energy in eV; low and high of crowds
    per_element: Array
    index: Array  # (MAX_Z + 1,) int64, of each atomic number among the elements, -1 if it is not one
    cutoff: float  # Å
    nuclei: Array  # (n_elements, 3) float64: Z, Z^0.23, 1 or for a ghost 0
    limits: (
        Array  # (n_elements, n_elements, 3) float64, Å: low and high of the core repulsion, end of ZBL; 0 without
    )
    screenings: Array  # (4, 2) float64, share and decay of its terms


class State(NamedTuple):
    """Everything that is computed, kept from step to step."""

    pairs: Pairs
    sums: Array  # (n_atoms, n_features), over neighbors
    x: Array  # (n_layers, n_atoms, n_features)
    slope: Array  # (n_layers, n_atoms, n_features)
    q: Array  # (n_layers, n_atoms, n_features)
    h: Array  # (n_atoms, n_features), and then g
    shifting: Array  # (n_atoms,) float64, derivative of the shift's energy by the crowd
    energy: Array  # (n_atoms,) float64, reference energies included
    virial: Array  # (n_atoms, 3, 3) float64, that of a pair with the atom that took it


class Answer(NamedTuple):
    """float64."""

    energy: Array  # (n_graphs,) eV
    forces: Array  # (n_atoms, 3) eV/Å
    virial: Array  # (n_graphs, 3, 3) eV


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
                _begin(block, stop, structure, net, state)
            elif stage <= n_layers:
                _forward(stage - 1, block, stop, structure, net, state)
            else:
                _backward(2 * n_layers - stage, block, stop, structure, net, state, answer)


@compiled
def totals(batch, energy, virial, answer):  # type: ignore[no-untyped-def]
    """Energies and virials of the graphs from those of their atoms."""
    answer.energy[:] = 0
    answer.virial[:] = 0
    for i in range(len(batch)):
        answer.energy[batch[i]] += energy[i]
        for a in range(3):
            for b in range(3):
                answer.virial[batch[i], a, b] += virial[i, a, b]


@inner
def _begin(begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """The edges of a block, and the features and first messages of its elements."""
    lay(begin, end, structure, net, state.pairs)
    element, first, features, x, h = structure.element, net.first, net.features, state.x[0], state.h
    for i in range(begin, end):
        for f in range(x.shape[1]):
            x[i, f], h[i, f] = first[element[i], f], features[element[i], f]


@inner
def _forward(layer, begin, end, structure, net, state):  # type: ignore[no-untyped-def]
    """A convolution, the update, and the messages of the next layer or the energies and the first gradient."""
    n_layers, n_features = net.tables.shape[0], net.tables.shape[2]
    a, b = np.empty((TILE, n_features), net.first.dtype), np.empty((TILE, n_features), net.first.dtype)
    sums, h = state.sums, state.h
    conv(begin, end, structure.row_ptr, state.pairs, net.tables[layer], state.x[layer], sums)
    for start in range(begin, end, TILE):
        n = min(TILE, end - start)
        copy_rows(net.hidden_bias[layer], b, n)
        dense(sums[start : start + n], net.hidden[layer], b, n)
        silu(b, state.slope[layer, start : start + n], n)
        copy_rows(net.update_bias[layer], a, n)
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
            read_out(start, n, g, structure, state.pairs.crowd, net, state)
            _through_update(n, g, b, net.from_update[layer], state.slope[layer, start : start + n],
                            net.from_hidden[layer], state.q[layer, start : start + n])  # fmt: skip


@inner
def read_out(start, n, h, structure, crowd, net, state):  # type: ignore[no-untyped-def]
    """Energies of n atoms from their features h, (n, n_features), and the gradient in the same place."""
    n_hidden = len(net.last)
    a, slope = np.empty((n, n_hidden), h.dtype), np.empty((n, n_hidden), h.dtype)
    copy_rows(net.read_bias, a, n)
    dense(h, net.read, a, n)
    silu(a, slope, n)
    element, per_element, last = structure.element, net.per_element, net.last
    shifting, energy = state.shifting, state.energy
    for i in range(n):
        scale, shift, lone, bias, reference, low, high = per_element[element[start + i]]
        share, share_slope = smooth_step(crowd[start + i], low, high)
        value = bias - lone
        for f in range(n_hidden):
            value += a[i, f] * last[f]
            slope[i, f] *= last[f] * h.dtype.type(share * scale)
        shifted, shift_slope = switch_on(crowd[start + i], shift)
        shifting[start + i] = shift_slope + share_slope * scale * value
        energy[start + i] = reference + (share * scale * value + shifted if crowd[start + i] != 0 else 0)
    h[:] = 0
    dense(slope, net.unread, h, n)


@inner
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


@inner
def _backward(layer, begin, end, structure, net, state, answer):  # type: ignore[no-untyped-def]
    """D of a layer, and q of the one before it; forces once the first layer is done."""
    table, x, q = net.tables[layer], state.x[layer], state.q[layer]
    pull(begin, end, structure.row_ptr, state.pairs, table, x, q)
    if layer == 0:
        forces(begin, end, structure, net, state.pairs, state.shifting, state.energy, answer.forces, state.virial)
        return
    conv(begin, end, structure.row_ptr, state.pairs, table, q, state.sums)
    b = np.empty((TILE, x.shape[1]), x.dtype)
    for start in range(begin, end, TILE):
        n = min(TILE, end - start)
        g = state.h[start : start + n]
        dense(state.sums[start : start + n], net.from_message[layer], g, n)
        _through_update(n, g, b, net.from_update[layer - 1], state.slope[layer - 1, start : start + n],
                        net.from_hidden[layer - 1], state.q[layer - 1, start : start + n])  # fmt: skip
