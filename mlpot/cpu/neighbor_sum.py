"""Sums over neighbors as `stages.neighbor_sum`: four edges at a time, no array of edges × channels.

Values and tangents gather at the center; adjoints gather too, by the same edges seen from the neighbor: of the
edge j → i the atom j finds what it gave to i, with Y_b(−u) = (−1)^l Y_b(u). So every atom writes to itself alone,
and the sums have one order whatever the number of threads.

The list of a step is the harmonic of each factor g_u = κ_u Y_b, then n_groups, and for each group of terms with
one path and one component of the neighbor: path, place of the component, n_terms, and (u, target) of each. Numbers
are κ, then κ (−1)^l.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mlpot.cpu.plan import (
    CHANNELS,
    FIRST_TERM,
    GRID,
    KAPPA,
    LISTS,
    N_COEFFICIENTS,
    N_FACTORS,
    N_ROWS,
    PANEL,
    READ,
    SOURCE,
    SOURCE_ROW,
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
    add_scaled,
    interpolate,
    lane_total,
    pull,
    pull_both,
    spread,
    spread_turned,
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
    radial: Array  # T of four edges, all paths, then T′
    bars: Array  # their adjoints
    lanes: Array  # adjoints of the distances and factors of four edges, a vector of each


@inner
def _near(begin, end, s, room):  # type: ignore[no-untyped-def]
    """Room for the atom with the most edges."""
    most, kind = EDGES, room.values.dtype
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
        np.empty(2 * EDGES * s[N_ROWS], kind),
        np.empty(2 * EDGES * s[N_ROWS], kind),
        np.empty(s[PANEL] // 2 * EDGES * (s[N_FACTORS] + 1), kind),
    )


@inner
def _lay(i, s, plan, room, kappa, base, row, near):  # type: ignore[no-untyped-def]
    """Fills `near` for atom i; how many edges there are with those that fill up the last group of four.

    These have zeros, and atom i itself.
    """
    first, n, numbers, n_u = room.row_ptr[i], room.near[i] - room.row_ptr[i], plan.numbers, s[N_FACTORS]
    n_c, step, grid = 2 * s[N_COEFFICIENTS], s[STRIDE] * s[N_ROWS], s[GRID]
    for e in range(n):
        near.rows[e] = s[WEIGHTS] + room.knots[grid, first + e] * step
        near.others[e] = base * room.n_atoms + room.neighbor[first + e] * row
        for k in range(n_c):
            near.c[e * n_c + k] = room.coefficients[grid, first + e, k]
        for u in range(n_u):
            near.g[e * n_u + u] = numbers[kappa + u] * room.harmonics[first + e, plan.lists[s[LISTS] + u]]
    padded = (n + EDGES - 1) // EDGES * EDGES
    for e in range(n, padded):
        near.rows[e], near.others[e] = s[WEIGHTS], base * room.n_atoms + i * row
    near.c[n * n_c : padded * n_c] = 0
    near.g[n * n_u : padded * n_u] = 0
    return padded


@inner
def _move(i, padded, s, plan, room, kappa, near):  # type: ignore[no-untyped-def]
    """The motion of the factors and distances of the edges of atom i."""
    first, n, n_u = room.row_ptr[i], room.near[i] - room.row_ptr[i], s[N_FACTORS]
    for e in range(n):
        near.d_dot[e] = room.d_dot[first + e]
        for u in range(n_u):
            y_dot = room.harmonics_dot[first + e, plan.lists[s[LISTS] + u]]
            near.g_dot[e * n_u + u] = plan.numbers[kappa + u] * y_dot
    near.d_dot[n:padded] = 0
    near.g_dot[n * n_u : padded * n_u] = 0


@inner
def _radial(near, e, s, plan, slopes):  # type: ignore[no-untyped-def]
    """T of all paths on four edges from e on, and T′ if wanted."""
    n_c, width = s[N_COEFFICIENTS], s[N_ROWS]
    interpolate(near.radial, width, near.c[2 * e * n_c :], n_c, plan.weights, near.rows[e:], width, slopes)


@inner
def value(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """y_i += Σ_j T ∘ Z x_j."""
    near, n_u, cp, lists = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists
    t, x, width = near.radial, room.values, s[N_ROWS]
    for i in range(begin, end):
        y0 = target_of(i, s, room)
        for e in range(0, _lay(i, s, plan, room, s[KAPPA], s[SOURCE], s[SOURCE_ROW], near), EDGES):
            _radial(near, e, s, plan, False)
            at, others, g = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                path, n = lists[at] * cp, lists[at + 2]
                spread(x, y0, cp, t, path, width, x, others, s[READ] + lists[at + 1], g, n_u, lists, at + 3, n)
                at += 3 + 2 * n


@inner
def tangent(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """ẏ_i += Σ_j T ∘ (Z ẋ_j + Ż x_j) + ḋ T′ ∘ Z x_j."""
    near, n_u, cp, lists = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists
    t, x, x_dot, width = near.radial, room.values, room.dots, s[N_ROWS]
    for i in range(begin, end):
        y0 = target_of(i, s, room)
        n_edges = _lay(i, s, plan, room, s[KAPPA], s[SOURCE], s[SOURCE_ROW], near)
        _move(i, n_edges, s, plan, room, s[KAPPA], near)
        for e in range(0, n_edges, EDGES):
            _radial(near, e, s, plan, True)
            _turn(t, width, near.d_dot[e:])
            at, others, g, g_dot = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :], near.g_dot[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                path, a, n = lists[at] * cp, s[READ] + lists[at + 1], lists[at + 2]
                spread(x_dot, y0, cp, t, path, width, x, others, a, g_dot, n_u, lists, at + 3, n)
                spread_turned(x_dot, y0, cp, t, path, width, x, x_dot, others, a, g, n_u, lists, at + 3, n)
                at += 3 + 2 * n


@inner
def adjoint(begin, end, s, plan, room):  # type: ignore[no-untyped-def]
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ_i), and ∂E/∂r of the edges j → i of what j gives to i."""
    near, n_u, cp, lists = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists
    x, bars, t, width = room.values, room.adjoints, near.radial, s[N_ROWS]
    y = bars[s[WRITE] :]
    for i in range(begin, end):
        x0 = source_of(i, s, room)
        for e in range(0, _lay(i, s, plan, room, s[KAPPA] + n_u, s[TARGET], s[TARGET_ROW], near), EDGES):
            near.lanes[:] = 0
            _radial(near, e, s, plan, True)
            at, others, g = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                path, a, n = lists[at] * cp, x0 + lists[at + 1], lists[at + 2]
                pull(bars, x, a, cp, t, path, width, y, others, g, n_u, lists, at + 3, n, near.lanes)
                at += 3 + 2 * n
            _to_edges(i, e, s, plan, room, near.lanes)


@inner
def _to_edges(i, e, s, plan, room, lanes):  # type: ignore[no-untyped-def]
    """Adds the adjoints of distances and harmonics of four edges from e on, which stand in lanes."""
    kappa, n_u = s[KAPPA] + s[N_FACTORS], s[N_FACTORS]
    for n in range(min(EDGES, room.near[i] - room.row_ptr[i] - e)):
        edge = room.row_ptr[i] + e + n
        bars = room.by_harmonic[edge]
        room.by_distance[edge] += lane_total(lanes, n)
        for u in range(n_u):
            total = lane_total(lanes, EDGES + n * n_u + u)
            bars[plan.lists[s[LISTS] + u]] += plan.numbers[kappa + u] * total


@inner
def both_adjoints(begin, end, s, plan, room, w_bar):  # type: ignore[no-untyped-def]
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ + ḋ T′ ∘ g) + Żᵀ (T ∘ g), and what the edges give to the table."""
    near, n_u, cp, lists = _near(begin, end, s, room), s[N_FACTORS], s[CHANNELS], plan.lists
    t, width, back, x, x_dot = near.radial, s[N_ROWS], room.backs, room.values, room.dots
    y, q = back[s[WRITE] :], room.adjoints[s[WRITE] :]
    for i in range(begin, end):
        x0 = source_of(i, s, room)
        n_edges = _lay(i, s, plan, room, s[KAPPA] + n_u, s[TARGET], s[TARGET_ROW], near)
        _move(i, n_edges, s, plan, room, s[KAPPA] + n_u, near)
        for e in range(0, n_edges, EDGES):
            _radial(near, e, s, plan, True)
            _turn(t, width, near.d_dot[e:])
            near.bars[:] = 0
            at, others, g, g_dot = s[FIRST_TERM] + 1, near.others[e:], near.g[e * n_u :], near.g_dot[e * n_u :]
            for _ in range(lists[s[FIRST_TERM]]):
                path, a, n = lists[at] * cp, x0 + lists[at + 1], lists[at + 2]
                pull_both(
                    back, x, x_dot, a, cp, t, path, width, y, q, others, g, g_dot, n_u, lists, at + 3, n, near.bars
                )
                at += 3 + 2 * n
            _to_table(w_bar, e, s, near)


@inner
def _turn(radial, width, d_dot):  # type: ignore[no-untyped-def]
    """T′ of four edges becomes Ṫ = ḋ T′."""
    for n in range(EDGES):
        row = radial[(EDGES + n) * width : (EDGES + n + 1) * width]
        for f in range(width):
            row[f] *= d_dot[n]


@inner
def _to_table(w_bar, e, s, near):  # type: ignore[no-untyped-def]
    """What four edges give to the rows that they read: c T̄ + ḋ c′ T̄′."""
    n_c, c, width = s[N_COEFFICIENTS], near.c, s[N_ROWS]
    for n in range(EDGES):
        for r in range(n_c):
            place, k = near.rows[e + n] + r * width, (e + n) * 2 * n_c + r
            if c[k] != 0 or c[k + n_c] != 0:
                add_scaled(w_bar, place, width, near.bars, n * width, c[k])
                add_scaled(w_bar, place, width, near.bars, (EDGES + n) * width, c[k + n_c] * near.d_dot[e + n])
