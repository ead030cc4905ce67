"""Structures as native calls read them, and what they give."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.outer_terms import smooth_step, switch_on
from mlpot.kernels.simd import compiled, copy_rows, dense, inner, silu

Array = Any  # NDArray


class Structure(NamedTuple):
    """What changes with the atoms: positions in Å, float64, edges at least as far as the cutoff."""

    positions: Array  # (n_atoms, 3)
    element: Array  # (n_atoms,) int64, index among the elements of the potential
    row_ptr: Array  # (n_atoms + 1,) int64
    neighbor: Array  # (n_edges,) int64
    reverse: Array  # (n_edges,) int64, the edge that points back
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
def offsets(row_ptr, batch, shift, cell, out):  # type: ignore[no-untyped-def]
    """shift · cell of each edge, (n_edges, 3) Å."""
    for i in range(len(row_ptr) - 1):
        a, b, c = cell[batch[i]]
        for e in range(row_ptr[i], row_ptr[i + 1]):
            for k in range(3):
                out[e, k] = shift[e, 0] * a[k] + shift[e, 1] * b[k] + shift[e, 2] * c[k]


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
