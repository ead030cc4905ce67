"""The neighbors of blocks of atoms, laid on knots: what all native calls of SchNet share.

w(d_ij) = w(d_ji): two atoms of one block are met once and serve each other, which halves the reading of the table.
Between blocks each side takes its own. So a stage writes only to the atoms of its block, threads share blocks
without locks, and the sums have one order whatever the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.kernels.edges import plain_conv
from mlpot.kernels.edges import pull as edge_pull
from mlpot.kernels.outer_terms import envelope, envelope_slope, seen_of, with_nuclei
from mlpot.kernels.simd import compiled, fma, inner

Array = Any  # NDArray of the weights' type unless said


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


class Pairs(NamedTuple):
    """The edges within the cutoff that each atom takes.

    Those of atom i stand from row_ptr[i]: first those to atoms before its block, up to earlier[i], then those to
    itself and to later atoms, up to later[i].
    """

    earlier: Array  # (n_atoms,) int64
    later: Array  # (n_atoms,) int64
    neighbor: Array  # (n_edges,) int32
    row: Array  # (n_edges,) int32, first row of the table
    t: Array  # (n_edges,), place within the interval
    coefficients: Array  # (2 n_coefficients, n_edges), those of a radial function, then of its derivative
    unit: Array  # (n_edges, 3) float64
    d: Array  # (n_edges,) float64, Å
    pull: Array  # (n_edges,), D_ij = ∂E/∂d_ij + ∂E/∂d_ji
    crowd: Array  # (n_atoms,) float64, Σ_j u(d_ij)


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


@inner
def lay(begin, end, structure, net, pairs):  # type: ignore[no-untyped-def]
    """Distances, directions and spline coefficients of the edges within the cutoff that a block takes."""
    n_knots = (net.tables.shape[1] - net.polynomials.shape[1] // 2) // net.stride + 1
    stride, cutoff, per_length, periodic = net.stride, net.cutoff, n_knots / net.cutoff, len(structure.offset) > 0
    row_ptr, theirs, offset, r = structure.row_ptr, structure.neighbor, structure.offset, structure.positions
    earlier, later, neighbor, row, t = pairs.earlier, pairs.later, pairs.neighbor, pairs.row, pairs.t
    unit, distance, crowd = pairs.unit, pairs.d, pairs.crowd
    element, limits = structure.element, net.limits
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
            seen, _ = seen_of(d, limits[element[i], element[j]])
            place, per_d = seen * per_length, 1 / d
            knot = min(max(int(place), 0), n_knots - 1)
            neighbor[near], row[near], t[near], distance[near] = j, knot * stride, place - knot, d
            unit[near, 0], unit[near, 1], unit[near, 2] = x * per_d, y * per_d, z * per_d
            u = envelope(seen / cutoff)
            crowd[i] += u
            if i < j < end:
                crowd[j] += u
            near += 1
            if j < begin:
                earlier[i] = near
        later[i] = near
    pairs.pull[row_ptr[begin] : row_ptr[end]] = 0
    _polynomials(row_ptr[begin], row_ptr[end], t, net.polynomials, pairs.coefficients)


@inner
def _polynomials(begin, end, t, polynomials, c):  # type: ignore[no-untyped-def]
    """All polynomials at t of the edges begin ≤ e < end, and of what is left in the gaps between them."""
    last = len(polynomials) - 1
    for r in range(len(c)):
        row = c[r]
        for e in range(begin, end):
            row[e] = polynomials[last, r]
        for power in range(last - 1, -1, -1):
            for e in range(begin, end):
                row[e] = fma(row[e], t[e], polynomials[power, r])


@inner
def conv(begin, end, row_ptr, pairs, table, x, out):  # type: ignore[no-untyped-def]
    """out_i = Σ_j w(d_ij) ∘ x_j for a block, in the order of j."""
    c, row, neighbor = pairs.coefficients, pairs.row, pairs.neighbor
    out[begin:end] = 0
    for i in range(begin, end):
        for e in range(row_ptr[i], pairs.earlier[i]):
            plain_conv(c, table, x, out, e, row[e], i, neighbor[e], False)
    for i in range(begin, end):
        for e in range(pairs.earlier[i], pairs.later[i]):
            j = neighbor[e]
            plain_conv(c, table, x, out, e, row[e], i, j, i < j < end)


@inner
def pull(begin, end, row_ptr, pairs, table, x, q):  # type: ignore[no-untyped-def]
    """D_ij += Σ_f w′(d_ij) (q_i x_j + q_j x_i), of one layer, for all edges that a block takes."""
    for i in range(begin, end):
        for e in range(row_ptr[i], pairs.later[i]):
            pairs.pull[e] += edge_pull(pairs.coefficients, table, x, q, e, pairs.row[e], i, pairs.neighbor[e])


@inner
def forces(begin, end, structure, net, pairs, shifting, energy, forces, virial):  # type: ignore[no-untyped-def]
    """Forces and virials of a block from D of its edges, the shift that neighbors switch on, and nuclei.

    A virial (n_atoms, 3, 3) is that of a pair with the atom that took it. The energy of nuclei is added to
    `energy`.
    """
    row_ptr, neighbor, distance, unit = structure.row_ptr, pairs.neighbor, pairs.d, pairs.unit
    element, nuclei, limits, cutoff = structure.element, net.nuclei, net.limits, net.cutoff
    forces[begin:end] = 0
    virial[begin:end] = 0
    for i in range(begin, end):
        one = element[i]
        for e in range(row_ptr[i], pairs.later[i]):
            j, d = neighbor[e], distance[e]
            other, both = element[j], i < j < end
            seen, seen_slope, repelled, slope = with_nuclei(
                d, nuclei[one], nuclei[other], limits[one, other], net.screenings
            )
            pulled = pairs.pull[e] + (shifting[i] + shifting[j]) * envelope_slope(seen / cutoff) / cutoff
            pulled = seen_slope * pulled + slope
            energy[i] += repelled / 2
            if both:
                energy[j] += repelled / 2
            for a in range(3):
                along = pulled * unit[e, a]
                forces[i, a] += along
                if both:
                    forces[j, a] -= along
                for b in range(3):
                    virial[i, a, b] += along * d * unit[e, b] / (1 if both else 2)
