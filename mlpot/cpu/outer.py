"""What a potential adds around a network, once for all networks: see `potential` for the formula.

Edges are measured from positions in float64; the network sees them as core repulsion lets it, d → φ(d). Two atoms
of one part have one edge, at one of them; atoms of different parts have one each. The scale of an element is ∂E/∂b
unless atoms have fewer neighbors than in training. After both passes over the stages, the derivatives of the
network and of the outer terms by an edge become forces and virials.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.cpu.edge_writer import EDGES
from mlpot.cpu.harmonics import harmonics, pull_back, tangents
from mlpot.cpu.plan import COEFFICIENTS
from mlpot.cpu.radial_table import spline_coefficients
from mlpot.cpu.vectors import stack
from mlpot.kernels.outer_terms import (
    effective_distance,
    envelope,
    envelope_slope,
    smooth_step,
    switch_on,
    with_nuclei,
)
from mlpot.kernels.simd import bare, inlined

Array = Any  # NDArray of float64


class Outer(NamedTuple):
    """What a potential knows of its elements."""

    # (n_elements, 6): scale, shift, output for the isolated atom, reference energy in eV; both limits of the
    # coordination
    per_element: Array
    nuclei: Array  # (n_elements, 5): Z, Z^0.23, 1 or for a ghost 0, and Z, Z^p of ZBL
    # (n_elements, n_elements, 5): both ends of core repulsion, end of ZBL, Å; exponent of its end; the core's k
    limits: Array
    screenings: Array  # (4, 4), share and decay of the terms, universal and of ZBL
    cutoff: float  # Å, of the coordination; 0 without any outer terms


class Answer(NamedTuple):
    """By atom, float64."""

    coordination: Array  # (n_atoms,), Σ_j u(d_ij)
    by_coordination: Array  # (n_atoms,), ∂E by it
    energy: Array  # (n_atoms,) eV, references included
    added: Array  # (n_atoms,) eV, the part of it that does not depend on the network
    forces: Array  # (n_atoms, 3) eV/Å
    virial: Array  # (n_atoms, 3, 3) eV, half of that of each edge
    is_shared: bool  # if not, of two atoms of one part that half too is with the other one


@bare
def seed(begin, end, outer, workspace, near, answer):
    """The coordination of the atoms of a part, and ∂E/∂b."""
    coordination = answer.coordination
    coordination[begin:end] = 0
    for i in range(begin, end):
        for pair in range(2):
            for e in range(near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]):
                d = near.exact[e, 1]
                u = envelope(d / outer.cutoff) if d < outer.cutoff else 0.0
                coordination[i] += u
                if pair:
                    coordination[near.other[e]] += u
    for i in range(begin, end):
        scale, _, _, _, low, high = outer.per_element[workspace.kind[i]]
        workspace.seeds[i] = smooth_step(coordination[i], low, high)[0] * scale


@bare
def energies(begin, end, outer, workspace, answer):
    """The energies of some atoms but for nuclei, and their derivative by the coordination."""
    for i in range(begin, end):
        scale, shift, isolated, reference, low, high = outer.per_element[workspace.kind[i]]
        coordination, value = answer.coordination[i], workspace.b[i] - isolated
        share, share_slope = smooth_step(coordination, low, high)
        shifted, shift_slope = switch_on(coordination, shift)
        answer.by_coordination[i] = shift_slope + share_slope * scale * value
        answer.added[i] = shifted
        answer.energy[i] = reference + (share * scale * value + shifted if coordination != 0 else 0)


@bare
def to_vectors(begin, end, plan, near):
    """∂E/∂r of the edges that some atoms take, from distances and harmonics."""
    t_ = near.by_harmonic.dtype.type
    for i in range(begin, end):
        for pair in range(2):
            for e in range(near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]):
                _, d, x, y, z = near.exact[e]
                gradient, along = near.gradient[near.original[e]], float(near.by_distance[e])
                gx, gy, gz = 0.0, 0.0, 0.0
                if plan.harmonics:
                    gx, gy, gz = pull_back(t_(x), t_(y), t_(z), near.by_harmonic[e])
                    gx, gy, gz = gx / d, gy / d, gz / d
                    along -= gx * x + gy * y + gz * z
                gradient[0], gradient[1] = gradient[0] + along * x + gx, gradient[1] + along * y + gy
                gradient[2] += along * z + gz


@bare
def forces(begin, end, outer, workspace, near, answer):
    """Forces and virials of the atoms of a part, and the energy of nuclei."""
    answer.forces[begin:end] = 0
    answer.virial[begin:end] = 0
    for i in range(begin, end):
        for pair in range(2):
            for e in range(near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]):
                _forces_of_edge(i, e, pair, outer, workspace, near, answer)


@inlined
def _forces_of_edge(i, e, pair, outer, workspace, near, answer):
    """Adds the force of an edge to its center, and that of a pair to both atoms."""
    by_atom, cutoff = answer.by_coordination, outer.cutoff
    j, edge, u, d = near.other[e], near.original[e], near.exact[e, 2:], near.exact[e, 0]
    one, other = workspace.kind[i], workspace.kind[j]
    effective, effective_slope, repelled, slope = with_nuclei(
        d, outer.nuclei[one], outer.nuclei[other], outer.limits[one, other], outer.screenings
    )
    there, back = near.gradient[edge], near.gradient[near.reverse[edge]]
    x, y, z = there[0] - back[0], there[1] - back[1], there[2] - back[2]
    along, turned, radial = x * u[0] + y * u[1] + z * u[2], effective / d, slope
    if effective < cutoff:
        radial += effective_slope * (by_atom[i] + by_atom[j]) * envelope_slope(effective / cutoff) / cutoff
    radial += effective_slope * along - turned * along
    total = radial * u[0] + turned * x, radial * u[1] + turned * y, radial * u[2] + turned * z
    gives = pair and answer.is_shared
    half, weight = repelled / 2, d if pair and not gives else d / 2
    of_one, of_other = half, half
    if (
        answer.is_shared and outer.nuclei[one][2] != outer.nuclei[other][2]
    ):  # all of it is of the one that is no ghost
        of_one, of_other = repelled * outer.nuclei[one][2], repelled * outer.nuclei[other][2]
    answer.energy[i] += of_one
    answer.added[i] += of_one
    for a in range(3):
        answer.forces[i, a] += total[a]
        for b in range(3):
            answer.virial[i, b, a] += weight * u[b] * total[a]
            if gives:
                answer.virial[j, b, a] += weight * u[b] * total[a]
    if pair:
        answer.energy[j] += of_other
        answer.added[j] += of_other
        for a in range(3):
            answer.forces[j, a] -= total[a]


@bare
def find(begin, end, plan, outer, workspace, near):
    """The edges within the cutoff that the atoms of a part take; the list may go beyond it.

    First come edges to other parts, and to images of the atom, then those of pairs within the part. One of two
    atoms takes the pair, the lower one if their numbers are both even or both odd, so that each takes half of its
    own.
    """
    for i in range(begin, end):
        e = near.row_ptr[i] + 2 * EDGES * i
        for pair in range(2):
            near.ends[i, 2 * pair] = e
            for listed in range(near.row_ptr[i], near.row_ptr[i + 1]):
                j = near.listed[listed]
                if (begin <= j < end and j != i) == pair and (pair == 0 or (j > i) == ((i + j) % 2 == 0)):
                    e += _measure(i, j, listed, e, plan, outer, workspace, near)
            near.ends[i, 2 * pair + 1] = e
            while (e - near.ends[i, 2 * pair]) % EDGES:
                _fill(i, e, plan, near)
                e += 1


@inlined
def _measure(i, j, listed, e, plan, outer, workspace, near):
    """Writes an edge unless it is beyond the cutoff; how many were written."""
    r, cutoff = near.positions, max(plan.cutoff, outer.cutoff)
    x, y, z = r[j, 0] - r[i, 0], r[j, 1] - r[i, 1], r[j, 2] - r[i, 2]
    if len(near.offset):
        x, y, z = x + near.offset[listed, 0], y + near.offset[listed, 1], z + near.offset[listed, 2]
    squared = x * x + y * y + z * z
    if squared >= cutoff * cutoff:  # NaN goes on, into the energy
        return 0
    d = np.sqrt(squared)
    effective, exact, t_ = d, near.exact[e], near.harmonics.dtype.type
    if outer.cutoff > 0:
        effective, _ = effective_distance(d, outer.limits[workspace.kind[i], workspace.kind[j]])
    near.other[e], near.original[e], near.by_distance[e] = j, listed, 0
    exact[0], exact[1], exact[2], exact[3], exact[4] = d, effective, x / d, y / d, z / d
    if plan.harmonics:
        harmonics(t_(exact[2]), t_(exact[3]), t_(exact[4]), near.harmonics[e])
        near.by_harmonic[e] = 0
    for grid in range(len(plan.grids)):
        _lay(e, grid, effective, plan, near)
    return 1


@inlined
def _lay(e, grid, d, plan, near):
    """The knot of an edge on a grid, and the coefficients of the rows that it reads."""
    n = len(near.other)
    place, at = d * plan.per_length[grid], grid * n + e
    knot = min(max(int(place), 0), plan.grids[grid, 0] - 1)
    near.knots[at], t = knot, near.coefficients.dtype.type(place - knot)
    if place >= plan.grids[grid, 0]:  # beyond this grid; t is rounded to 1 just before each knot too
        near.coefficients[COEFFICIENTS * at : COEFFICIENTS * (at + 1)] = 0
    else:
        spline_coefficients(plan.polynomials, grid, plan.grids[grid, 1], t, near.coefficients, COEFFICIENTS * at)


@inlined
def _fill(i, e, plan, near):
    """An edge of an atom to itself that reads nothing."""
    n = len(near.other)
    near.other[e], near.by_distance[e] = i, 0
    if plan.harmonics:
        near.harmonics[e] = 0
    for grid in range(len(plan.grids)):
        near.knots[grid * n + e] = 0
        at = grid * n + e
        near.coefficients[COEFFICIENTS * at : COEFFICIENTS * (at + 1)] = 0


@bare
def move(begin, end, forces, virials, plan, near):
    """How distances and harmonics change as the atoms move by −F̄ and strain by W̄, see `stages.run`.

    Both by atom: forces (n_atoms, 3), virials (n_atoms, 3, 3), the gradients of the loss.
    """
    v, t_ = stack(3, near.exact), near.d_dot.dtype.type
    for i in range(begin, end):
        for pair in range(2):
            e = near.ends[i, 2 * pair]
            while e < near.ends[i, 2 * pair + 1]:
                j, d, u, along = near.other[e], near.exact[e, 0], near.exact[e, 2:], 0.0
                for a in range(3):
                    v[a] = forces[i, a] - forces[j, a]
                    for b in range(3):
                        v[a] += virials[i, b, a] * u[b] * d
                    along += v[a] * u[a]
                near.d_dot[e] = along
                if plan.harmonics:
                    x, y, z = (v[0] - along * u[0]) / d, (v[1] - along * u[1]) / d, (v[2] - along * u[2]) / d
                    tangents(t_(u[0]), t_(u[1]), t_(u[2]), t_(x), t_(y), t_(z), near.harmonics_dot[e])
                e += 1
            while (e - near.ends[i, 2 * pair]) % EDGES:
                near.d_dot[e] = 0
                if plan.harmonics:
                    near.harmonics_dot[e] = 0
                e += 1
