"""Sums over neighbors as `stages.neighbor_sum`: four edges at a time, no array of edges × channels.

Values and tangents gather at the center; adjoints gather too, by the same edges seen from the neighbor: of the
edge j → i the atom j finds what it gave to i, with Y_b(−u) = (−1)^l Y_b(u). So every atom writes to itself alone,
and the sums have one order whatever the number of threads.

The list of a step is the harmonic of each factor g_u = κ_u Y_b, then n_paths, and for each path: its number and
n_groups, and for each group of terms with one component of the neighbor: its place, n_terms, and (u, place of the
target / n_channels) of each. Numbers are the polynomials of the spline, then κ, then κ (−1)^l.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.cpu.harmonics import harmonics, pull_back, tangents
from mlpot.cpu.plan import (
    CHANNELS,
    FIRST_TERM,
    KAPPA,
    LENGTH,
    LISTS,
    N_COEFFICIENTS,
    N_FACTORS,
    N_KNOTS,
    N_ROWS,
    PANEL,
    POLYNOMIALS,
    READ,
    SOURCE,
    SOURCE_ROW,
    STATIC,
    STRIDE,
    TARGET,
    TARGET_ROW,
    WEIGHTS,
    WRITE,
    source_of,
    target_of,
)
from mlpot.cpu.vectors import (
    EDGES,
    add_dots,
    add_multiple,
    add_scaled,
    collect,
    collect_both,
    give_back,
    interpolate,
    lane_total,
    multiply,
    spread,
)
from mlpot.kernels.simd import inner

Array = Any


class Near(NamedTuple):
    """What the edges of one atom read, in whole groups of four; and room for four edges × channels."""

    rows: Array  # (n,) int64, first row of the table
    others: Array  # (n,) int64, the row of the other atom
    c: Array  # (n, 2, n_coefficients) flat, of T and of T′
    g: Array  # (n, n_u) flat, κ_u Y_b
    g_dot: Array  # likewise
    d_dot: Array  # (n,)
    own: Array  # (4,) int64, the row of the atom itself
    radial: Array  # T of four edges, and T′
    v: Array  # room for two rows of each of four edges, as the others
    w: Array
    lanes: Array  # adjoints of the distances and factors of four edges, a vector of each
    one: Array  # (4,)


@inner
def _near(begin, end, s, room):  # type: ignore[no-untyped-def]
    """Room for the atom with the most edges."""
    most, kind, n_four = EDGES, room.values.dtype, 2 * EDGES * s[CHANNELS]
    for i in range(begin, end):
        most = max(most, room.near[i] - room.row_ptr[i])
    most = (most + EDGES - 1) // EDGES * EDGES
    return Near(
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most * 2 * s[N_COEFFICIENTS], kind),
        np.empty(most * s[N_FACTORS], kind),
        np.empty(most * s[N_FACTORS], kind),
        np.empty(most, kind),
        np.empty(EDGES, np.int64),
        np.empty(n_four, kind),
        np.empty(n_four, kind),
        np.empty(n_four, kind),
        np.empty(s[PANEL] // 2 * EDGES * (s[N_FACTORS] + 1), kind),
        np.ones(EDGES, kind),
    )


@inner
def _lay(i, s, plan, room, kappa, base, row, near):  # type: ignore[no-untyped-def]
    """Fills `near` for atom i; how many edges there are with those that fill up the last group of four.

    These have zeros, and atom i itself.
    """
    first, n, numbers, n_u, c = room.row_ptr[i], room.near[i] - room.row_ptr[i], plan.numbers, s[N_FACTORS], near.c
    n_c, per_length, step = 2 * s[N_COEFFICIENTS], plan.per_length[s[LENGTH]], s[STRIDE] * s[N_ROWS]
    y, t_ = np.empty(16, c.dtype), c.dtype.type
    for e in range(n):
        place = room.d[first + e] * per_length
        knot = min(max(int(place), 0), s[N_KNOTS] - 1)
        t = t_(place - knot)
        near.rows[e] = s[WEIGHTS] + knot * step
        near.others[e] = base * room.n_atoms + room.neighbor[first + e] * row
        for k in range(n_c):
            value = t_(0)
            for power in range(s[N_COEFFICIENTS] - 1, -1, -1):
                value = value * t + numbers[s[POLYNOMIALS] + power * n_c + k]
            c[e * n_c + k] = value if not t >= 1 else t_(0)
        unit = room.unit[first + e]
        harmonics(t_(unit[0]), t_(unit[1]), t_(unit[2]), y)
        for u in range(n_u):
            near.g[e * n_u + u] = numbers[kappa + u] * y[plan.lists[s[LISTS] + u]]
    padded = (n + EDGES - 1) // EDGES * EDGES
    for e in range(n, padded):
        near.rows[e], near.others[e] = s[WEIGHTS], base * room.n_atoms + i * row
    c[n * n_c : padded * n_c] = 0
    near.g[n * n_u : padded * n_u] = 0
    return padded


@inner
def _move(i, padded, s, plan, room, kappa, near):  # type: ignore[no-untyped-def]
    """The motion of the factors and distances of the edges of atom i."""
    first, n, n_u = room.row_ptr[i], room.near[i] - room.row_ptr[i], s[N_FACTORS]
    y, t_ = np.empty(16, near.g_dot.dtype), near.g_dot.dtype.type
    for e in range(n):
        u, v = room.unit[first + e], room.motion[first + e]
        along, per_d = u[0] * v[0] + u[1] * v[1] + u[2] * v[2], 1 / room.d[first + e]
        near.d_dot[e] = along
        dx, dy, dz = (v[0] - along * u[0]) * per_d, (v[1] - along * u[1]) * per_d, (v[2] - along * u[2]) * per_d
        tangents(t_(u[0]), t_(u[1]), t_(u[2]), t_(dx), t_(dy), t_(dz), y)
        for k in range(n_u):
            near.g_dot[e * n_u + k] = plan.numbers[kappa + k] * y[plan.lists[s[LISTS] + k]]
    near.d_dot[n:padded] = 0
    near.g_dot[n * n_u : padded * n_u] = 0


@inner
def _radial(near, e, path, s, plan, slopes):  # type: ignore[no-untyped-def]
    """T of a path on four edges from e on, and T′ if wanted."""
    n_c, cp = s[N_COEFFICIENTS], s[CHANNELS]
    interpolate(
        near.radial, 0, cp, near.c[2 * e * n_c :], n_c, plan.weights, near.rows[e:], s[N_ROWS], path * cp, slopes
    )


@inner
def value(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """y_i += Σ_j T ∘ Z x_j."""
    near, n_u, cp, lists, x = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists, room.values
    for i in range(begin, end):
        y0 = target_of(i, s, room)
        for e in range(0, _lay(i, s, plan, room, s[KAPPA], s[SOURCE], s[SOURCE_ROW], near), EDGES):
            at, others, g = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                _radial(near, e, lists[at], s, plan, False)
                n_groups = lists[at + 1]
                at += 2
                for _ in range(n_groups):
                    multiply(near.v, 0, cp, near.radial, 0, x, others, s[READ] + lists[at])
                    spread(x, y0, cp, near.v, 0, g, n_u, lists, at + 2, lists[at + 1])
                    at += 2 + 2 * lists[at + 1]


@inner
def tangent(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """ẏ_i += Σ_j T ∘ (Z ẋ_j + Ż x_j) + ḋ T′ ∘ Z x_j."""
    near, n_u, cp, lists, half = (
        _near(begin, end, s, room),
        s[N_FACTORS],
        s[CHANNELS],
        plan.lists,
        EDGES * s[CHANNELS],
    )
    v, radial, x, x_dot = near.v, near.radial, room.values, room.dots
    for i in range(begin, end):
        y0 = target_of(i, s, room)
        n = _lay(i, s, plan, room, s[KAPPA], s[SOURCE], s[SOURCE_ROW], near)
        _move(i, n, s, plan, room, s[KAPPA], near)
        for e in range(0, n, EDGES):
            at, others = s[FIRST_TERM] + 1, near.others[e:]
            for _ in range(lists[s[FIRST_TERM]]):
                _radial(near, e, lists[at], s, plan, True)
                n_groups = lists[at + 1]
                at += 2
                for _ in range(n_groups):
                    component, n_terms = s[READ] + lists[at], lists[at + 1]
                    multiply(v, 0, cp, radial, 0, x, others, component)
                    spread(x_dot, y0, cp, v, 0, near.g_dot[e * n_u :], n_u, lists, at + 2, n_terms)
                    multiply(v, 0, cp, radial, 0, x_dot, others, component)
                    add_multiple(v, 0, cp, radial, half, x, others, component, near.d_dot[e:])
                    spread(x_dot, y0, cp, v, 0, near.g[e * n_u :], n_u, lists, at + 2, n_terms)
                    at += 2 + 2 * n_terms


@inner
def adjoint(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ_i), and ∂E/∂r of the edges j → i of what j gives to i."""
    near, n_u, cp, lists, width = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists, s[PANEL] // 2
    x, bars, q, w, radial, of_factors = (
        room.values,
        room.adjoints,
        near.v,
        near.w,
        near.radial,
        near.lanes[EDGES * width :],
    )
    for i in range(begin, end):
        near.own[:] = source_of(i, s, room)
        for e in range(0, _lay(i, s, plan, room, s[KAPPA] + n_u, s[TARGET], s[TARGET_ROW], near), EDGES):
            near.lanes[:] = 0
            at, others, g = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                _radial(near, e, lists[at], s, plan, True)
                n_groups = lists[at + 1]
                at += 2
                for _ in range(n_groups):
                    own, n_terms, y = near.own[0] + lists[at], lists[at + 1], bars[s[WRITE] :]
                    multiply(q, 0, cp, radial, 0, x, near.own, lists[at])
                    w[: EDGES * cp] = 0
                    collect_both(w, 0, cp, y, others, g, n_u, lists, at + 2, n_terms, q, 0, of_factors)
                    add_dots(near.lanes, cp, radial, EDGES * cp, w, 0, x, own)
                    if not s[STATIC]:
                        give_back(bars, own, cp, radial, 0, w, 0)
                    at += 2 + 2 * n_terms
            _to_vectors(i, e, s, plan, room, near.lanes)


@inner
def _to_vectors(i, e, s, plan, room, lanes):  # type: ignore[no-untyped-def]
    """∂E/∂r of four edges from e on, from the adjoints of their distances and factors, which stand in lanes."""
    t_, kappa, n_u = lanes.dtype.type, s[KAPPA] + s[N_FACTORS], s[N_FACTORS]
    bars = np.empty(16, lanes.dtype)
    for n in range(min(EDGES, room.near[i] - room.row_ptr[i] - e)):
        edge = room.row_ptr[i] + e + n
        bars[:] = 0
        for u in range(n_u):
            total = lane_total(lanes, EDGES + n * n_u + u)
            bars[plan.lists[s[LISTS] + u]] += plan.numbers[kappa + u] * total
        unit, per_d = room.unit[edge], 1 / room.d[edge]
        x, y, z = pull_back(t_(unit[0]), t_(unit[1]), t_(unit[2]), bars)
        along, by_distance = x * unit[0] + y * unit[1] + z * unit[2], lane_total(lanes, n)
        gradient = room.gradient[room.original[edge]]
        gradient[0] += by_distance * unit[0] + (x - along * unit[0]) * per_d
        gradient[1] += by_distance * unit[1] + (y - along * unit[1]) * per_d
        gradient[2] += by_distance * unit[2] + (z - along * unit[2]) * per_d


@inner
def both_adjoints(begin, end, s, plan, room, w_bar):  # type: ignore[no-untyped-def]
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ + ḋ T′ ∘ g) + Żᵀ (T ∘ g), and what the edges give to the table."""
    near, n_u, cp, lists, half = (
        _near(begin, end, s, room),
        s[N_FACTORS],
        s[CHANNELS],
        plan.lists,
        EDGES * s[CHANNELS],
    )
    w, radial, by_table, own, back, adjoints = near.w, near.radial, near.v, near.own, room.backs, room.adjoints
    for i in range(begin, end):
        own[:] = source_of(i, s, room)
        n = _lay(i, s, plan, room, s[KAPPA] + n_u, s[TARGET], s[TARGET_ROW], near)
        _move(i, n, s, plan, room, s[KAPPA] + n_u, near)
        for e in range(0, n, EDGES):
            at, others, g, g_dot = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :], near.g_dot[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                path, n_groups = lists[at], lists[at + 1]
                _radial(near, e, path, s, plan, True)
                _turn(radial, cp, near.d_dot[e:])
                by_table[:] = 0
                at += 2
                for _ in range(n_groups):
                    component, n_terms = lists[at], lists[at + 1]
                    w[:] = 0
                    collect(w, 0, cp, back[s[WRITE] :], others, g, n_u, lists, at + 2, n_terms)
                    collect(w, 0, cp, adjoints[s[WRITE] :], others, g_dot, n_u, lists, at + 2, n_terms)
                    collect(w, half, cp, adjoints[s[WRITE] :], others, g, n_u, lists, at + 2, n_terms)
                    give_back(back, own[0] + component, cp, radial, 0, w, 0)
                    give_back(back, own[0] + component, cp, radial, half, w, half)
                    add_multiple(by_table, 0, cp, w, 0, room.values, own, component, near.one)
                    add_multiple(by_table, 0, cp, w, half, room.dots, own, component, near.one)
                    add_multiple(by_table, half, cp, w, half, room.values, own, component, near.one)
                    at += 2 + 2 * n_terms
                _to_table(w_bar, path, e, s, cp, near, by_table)


@inner
def _turn(radial, cp, d_dot):  # type: ignore[no-untyped-def]
    """T′ becomes ḋ T′."""
    for n in range(EDGES):
        row = radial[(EDGES + n) * cp : (EDGES + n + 1) * cp]
        for f in range(cp):
            row[f] *= d_dot[n]


@inner
def _to_table(w_bar, path, e, s, cp, near, by_table):  # type: ignore[no-untyped-def]
    """What four edges give to the rows that they read: c T̄ + ḋ c′ T̄′."""
    n_c, c = s[N_COEFFICIENTS], near.c
    for n in range(EDGES):
        for r in range(n_c):
            place, k = near.rows[e + n] + r * s[N_ROWS] + path * cp, (e + n) * 2 * n_c + r
            if c[k] != 0 or c[k + n_c] != 0:
                add_scaled(w_bar, place, cp, by_table, n * cp, c[k])
                add_scaled(w_bar, place, cp, by_table, (EDGES + n) * cp, c[k + n_c] * near.d_dot[e + n])
