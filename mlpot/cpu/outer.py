"""What a potential adds around a network, once for all networks: see `potential` for the formula.

Edges are measured from positions in float64; the network sees them as core repulsion lets it, d → φ(d). The scale
of an element is ∂E/∂b unless atoms have fewer neighbors than in training. After the walk over the stages, what the
network and the outer terms pull at an edge becomes forces and virials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.cpu.harmonics import harmonics, pull_back, tangents
from mlpot.kernels.pairs import envelope, envelope_slope, seen_of, smooth_step, switch_on, with_nuclei
from mlpot.kernels.simd import inner

Array = Any  # NDArray of float64


class Outer(NamedTuple):
    """What a potential knows of its elements."""

    # (n_elements, 7): scale, shift, output for the isolated atom, 0, reference energy in eV; both limits of the
    # coordination
    per_element: Array
    nuclei: Array  # (n_elements, 3): Z, Z^0.23, 1 or for a ghost 0
    limits: Array  # (n_elements, n_elements, 3) Å: both ends of core repulsion, end of ZBL; 0 without
    screenings: Array  # (4, 2), share and decay of the terms of ZBL
    cutoff: float  # Å, of the coordination; 0 without any outer terms


class Answer(NamedTuple):
    """By atom, float64."""

    coordination: Array  # (n_atoms,), Σ_j u(d_ij)
    by_coordination: Array  # (n_atoms,), ∂E by it
    energy: Array  # (n_atoms,) eV, references included
    added: Array  # (n_atoms,) eV, the part of it that does not depend on the network
    forces: Array  # (n_atoms, 3) eV/Å
    virial: Array  # (n_atoms, 3, 3) eV, half of that of each pair


@inner
def seed(begin, end, outer, room, answer):  # type: ignore[no-untyped-def]
    """The coordination of some atoms, and ∂E/∂b."""
    for i in range(begin, end):
        coordination = 0.0
        for e in range(room.row_ptr[i], room.near[i]):
            if room.d[e] < outer.cutoff:
                coordination += envelope(room.d[e] / outer.cutoff)
        answer.coordination[i] = coordination
        scale, _, _, _, _, low, high = outer.per_element[room.kind[i]]
        room.seeds[i] = smooth_step(coordination, low, high)[0] * scale


@inner
def energies(begin, end, outer, room, answer):  # type: ignore[no-untyped-def]
    """The energies of some atoms but for nuclei, and their derivative by the coordination."""
    for i in range(begin, end):
        scale, shift, isolated, _, reference, low, high = outer.per_element[room.kind[i]]
        coordination, value = answer.coordination[i], room.b[i] - isolated
        share, share_slope = smooth_step(coordination, low, high)
        shifted, shift_slope = switch_on(coordination, shift)
        answer.by_coordination[i] = shift_slope + share_slope * scale * value
        answer.added[i] = shifted
        answer.energy[i] = reference + (share * scale * value + shifted if coordination != 0 else 0)


@inner
def to_vectors(begin, end, room):  # type: ignore[no-untyped-def]
    """∂E/∂r of the edges of some atoms, of what they give to their centers, from distances and harmonics."""
    t_ = room.by_harmonic.dtype.type
    for i in range(begin, end):
        for e in range(room.row_ptr[i], room.near[i]):
            u, per_d, gradient = room.unit[e], 1 / room.d[e], room.gradient[room.original[e]]
            x, y, z = pull_back(t_(u[0]), t_(u[1]), t_(u[2]), room.by_harmonic[e])
            along, by_distance = x * u[0] + y * u[1] + z * u[2], room.by_distance[e]
            gradient[0] = by_distance * u[0] + (x - along * u[0]) * per_d
            gradient[1] = by_distance * u[1] + (y - along * u[1]) * per_d
            gradient[2] = by_distance * u[2] + (z - along * u[2]) * per_d


@inner
def forces(begin, end, outer, room, answer):  # type: ignore[no-untyped-def]
    """Forces and virials of some atoms, from both directions of their edges, and the energy of nuclei."""
    by_atom, cutoff, pull = answer.by_coordination, outer.cutoff, np.empty(3)
    answer.forces[begin:end] = 0
    answer.virial[begin:end] = 0
    for i in range(begin, end):
        for e in range(room.row_ptr[i], room.near[i]):
            j, edge, d, u = room.neighbor[e], room.original[e], room.distance[e], room.unit[e]
            one, other = room.kind[i], room.kind[j]
            seen, seen_slope, repelled, slope = with_nuclei(
                d, outer.nuclei[one], outer.nuclei[other], outer.limits[one, other], outer.screenings
            )
            there, back, along = room.gradient[edge], room.gradient[room.reverse[edge]], 0.0
            for a in range(3):
                pull[a] = there[a] - back[a]
                along += pull[a] * u[a]
            turned, radial = seen / d, slope
            if seen < cutoff:
                radial += seen_slope * (by_atom[i] + by_atom[j]) * envelope_slope(seen / cutoff) / cutoff
            answer.energy[i] += repelled / 2
            answer.added[i] += repelled / 2
            for a in range(3):
                total = (seen_slope * along + radial) * u[a] + turned * (pull[a] - along * u[a])
                answer.forces[i, a] += total
                for b in range(3):
                    answer.virial[i, b, a] += d * u[b] * total / 2


@inner
def find(begin, end, plan, outer, room):  # type: ignore[no-untyped-def]
    """Neighbors, distances and directions of the edges of some atoms; the list may go beyond the cutoff."""
    r, periodic, cutoff = room.positions, len(room.offset) > 0, plan.cutoff
    for i in range(begin, end):
        n = room.row_ptr[i]
        for e in range(room.row_ptr[i], room.row_ptr[i + 1]):
            j = room.listed[e]
            x, y, z = r[j, 0] - r[i, 0], r[j, 1] - r[i, 1], r[j, 2] - r[i, 2]
            if periodic:
                x, y, z = x + room.offset[e, 0], y + room.offset[e, 1], z + room.offset[e, 2]
            squared = x * x + y * y + z * z
            if squared >= cutoff * cutoff:  # NaN goes on, into the energy
                continue
            d = np.sqrt(squared)
            room.neighbor[n], room.original[n], room.distance[n], room.d[n] = j, e, d, d
            if outer.cutoff > 0:
                room.d[n], _ = seen_of(d, outer.limits[room.kind[i], room.kind[j]])
            room.unit[n, 0], room.unit[n, 1], room.unit[n, 2] = x / d, y / d, z / d
            n += 1
        room.near[i] = n
        _lay(room.row_ptr[i], n, plan, room)


@inner
def _lay(begin, end, plan, room):  # type: ignore[no-untyped-def]
    """Harmonics of some edges, and their places on each grid."""
    t_ = room.harmonics.dtype.type
    room.by_distance[begin:end] = 0
    room.by_harmonic[begin:end] = 0
    for e in range(begin, end):
        u = room.unit[e]
        harmonics(t_(u[0]), t_(u[1]), t_(u[2]), room.harmonics[e])
    for grid in range(len(plan.grids)):
        last, n_c, polynomials = plan.grids[grid, 0] - 1, plan.grids[grid, 1], plan.polynomials[grid]
        for e in range(begin, end):
            place, c = room.d[e] * plan.per_length[grid], room.coefficients[grid, e]
            knot = min(max(int(place), 0), last)
            room.knots[grid, e], t = knot, t_(place - knot)
            for k in range(2 * n_c):
                c[k] = polynomials[n_c - 1, k]
            for power in range(n_c - 2, -1, -1):
                for k in range(2 * n_c):
                    c[k] = c[k] * t + polynomials[power, k]
            if t >= 1:
                c[:] = 0


@inner
def move(begin, end, forces, virials, room):  # type: ignore[no-untyped-def]
    """How distances and harmonics change as the atoms move by −F̄ and strain by W̄, see `stages.run`.

    Both by atom: forces (n_atoms, 3), virials (n_atoms, 3, 3), the gradients of the loss.
    """
    v, w, t_ = np.empty(3), np.empty(3), room.d_dot.dtype.type
    for i in range(begin, end):
        for e in range(room.row_ptr[i], room.near[i]):
            j, u, d, along = room.neighbor[e], room.unit[e], room.distance[e], 0.0
            for a in range(3):
                v[a] = forces[i, a] - forces[j, a]
                for b in range(3):
                    v[a] += virials[i, b, a] * u[b] * d
                along += v[a] * u[a]
            for a in range(3):
                w[a] = (v[a] - along * u[a]) / d
            room.d_dot[e] = along
            tangents(t_(u[0]), t_(u[1]), t_(u[2]), t_(w[0]), t_(w[1]), t_(w[2]), room.harmonics_dot[e])
