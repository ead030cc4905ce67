"""Sums over neighbors as `stages.neighbor_sum`: a few edges at a time, no array of edges × channels.

Two atoms of one part meet once: what is read from the table serves both, with Y_b(−u) = (−1)^l Y_b(u). An atom of
another part is met by each side, which takes its own half; adjoints too are gathered, by the same edges seen from
the neighbor. So a part writes to its own atoms alone, and the sums have one order whatever the number of threads.

The list of a step is the harmonic of each factor g_u = κ_u Y_b, then n_groups, and for each group of terms with
one path, one component of the neighbor and harmonics of one parity: path, place of the component, the sign of the
reverse (0 for one term of degree 0 with κ = 1), n_terms, and (u, target) of each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlpot.cpu import edges
from mlpot.cpu.edge_writer import EDGES
from mlpot.cpu.plan import (
    CHANNELS,
    COEFFICIENTS,
    FIRST_TERM,
    GRID,
    IS_PLAIN,
    KAPPA,
    LISTS,
    N_COEFFICIENTS,
    N_FACTORS,
    N_ROWS,
    OUT_CHANNELS,
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
from mlpot.cpu.radial_table import ALL, SLOPES, VALUES, collect, interpolate
from mlpot.cpu.vectors import drain, give, stack, take
from mlpot.kernels.simd import LINE, bare, expanded, inlined

Array = Any


class Work(NamedTuple):
    """Arrays for the edges of one atom."""

    radial: Array  # T and T′ of a few edges, all paths
    bars: Array  # their adjoints
    g: Array  # (n, n_factors), κ_u Y_b
    g_dot: Array  # likewise
    lanes: Array  # adjoints of the factors and of the distances of a few edges, a line of each
    totals: Array  # of these lines


@expanded
def _work(begin, end, s, workspace, near):
    """Arrays for the atom with the most edges."""
    most, like = EDGES, workspace.values
    for i in range(begin, end):
        for pair in range(2):
            most = max(most, near.ends[i, 2 * pair + 1] - near.ends[i, 2 * pair] + EDGES)
    width, factors = 2 * EDGES * s[N_ROWS], most * s[N_FACTORS]
    per_line = LINE // like.itemsize
    n_lines = (EDGES * (s[N_FACTORS] + 1) + per_line - 1) // per_line * per_line
    return Work(
        stack(width, like),
        stack(width, like),
        stack(factors, like),
        stack(factors, like),
        stack(n_lines * per_line, like),
        stack(n_lines, like),
    )


@inlined
def _factors(first, last, s, plan, harmonics, g):
    """κ_u Y_b of some edges, and of those that fill up the last few, or its motion."""
    n_u, kappa, lists = s[N_FACTORS], s[KAPPA], s[LISTS]
    for e in range(first, last + (first - last) % EDGES if n_u else first):
        take(harmonics, e, plan.lists, lists, plan.numbers, kappa, n_u, g, (e - first) * n_u)


@inlined
def _radial(e, outs, s, plan, near, t):
    """Writes T or T′ or both of all paths for a few edges."""
    n = len(near.other)
    interpolate(
        outs,
        t,
        0,
        s[N_ROWS],
        near.coefficients,
        COEFFICIENTS * (s[GRID] * n + e),
        s[N_COEFFICIENTS],
        plan.weights,
        s[WEIGHTS],
        near.knots,
        s[GRID] * n + e,
        s[STRIDE] * s[N_ROWS],
    )


@inlined
def _places(i, e, first, at, pair, source, target, s, plan, workspace, near):
    """The integers of `edge_writer.PLACES` for the group at some place of the list.

    Of the rows the source is that of values and x̄, the target that of sums and ȳ.
    """
    lists = plan.lists
    sign, path, a = lists[at + 2], lists[at] * s[CHANNELS], lists[at + 1]
    shift = 0 if sign else lists[at + 5] * s[OUT_CHANNELS]
    n = workspace.n_atoms
    return (
        source + a,
        target + shift,
        s[SOURCE] * n + s[READ] + a,
        s[SOURCE_ROW],
        s[TARGET] * n + s[WRITE] + shift,
        s[TARGET_ROW],
        e,
        path,
        path,
        s[N_ROWS],
        s[CHANNELS],
        pair,
        s[STATIC],
        sign,
        at + 4,
        lists[at + 3],
        (e - first) * s[N_FACTORS],
        s[N_FACTORS],
        s[GRID] * len(near.other) + e,
        s[WEIGHTS],
        s[STRIDE] * s[N_ROWS],
    )


@inlined
def _table(plan, near):
    """The arrays of `edge_writer.TABLE`."""
    return near.coefficients, plan.weights, near.knots


@bare
def value(begin, end, s, plan, workspace, near):
    """y_i += Σ_j T ∘ Z x_j."""
    work, lists = _work(begin, end, s, workspace, near), plan.lists
    t, own = work.radial, (workspace.values, workspace.values, near.other, work.g, lists)
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        for pair in range(2):
            first, last = near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]
            _factors(first, last, s, plan, near.harmonics, work.g)
            for e in range(first, last, EDGES):
                at = s[FIRST_TERM] + 1
                if s[IS_PLAIN]:
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    arrays = own + _table(plan, near)
                    if s[N_COEFFICIENTS] == 4:
                        edges.value_4(t, arrays, k)
                    else:
                        edges.value_6(t, arrays, k)
                    continue
                _radial(e, VALUES, s, plan, near, t)
                for _ in range(lists[s[FIRST_TERM]]):
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    edges.value(t, own, k)
                    at += 4 + 2 * lists[at + 3]


@bare
def tangent(begin, end, s, plan, workspace, near):
    """ẏ_i += Σ_j T ∘ (Z ẋ_j + Ż x_j) + ḋ T′ ∘ Z x_j."""
    work, lists = _work(begin, end, s, workspace, near), plan.lists
    t = work.radial
    own = workspace.values, workspace.dots, near.d_dot, near.other, work.g, work.g_dot, lists
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        for pair in range(2):
            first, last = near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]
            _factors(first, last, s, plan, near.harmonics, work.g)
            _factors(first, last, s, plan, near.harmonics_dot, work.g_dot)
            for e in range(first, last, EDGES):
                at = s[FIRST_TERM] + 1
                if s[IS_PLAIN]:
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    arrays = own + _table(plan, near)
                    if s[N_COEFFICIENTS] == 4:
                        edges.tangent_4(t, arrays, k)
                    else:
                        edges.tangent_6(t, arrays, k)
                    continue
                _radial(e, ALL, s, plan, near, t)
                for _ in range(lists[s[FIRST_TERM]]):
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    edges.tangent(t, own, k)
                    at += 4 + 2 * lists[at + 3]


@bare
def adjoint(begin, end, s, plan, workspace, near):
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ_i), and ∂E/∂d and ∂E/∂Y of the edges: of what i gives to j, and of both for pairs."""
    work, lists = _work(begin, end, s, workspace, near), plan.lists
    t = work.radial
    outs = SLOPES if s[STATIC] and s[N_FACTORS] == 0 else ALL
    work.lanes[:] = 0
    own = workspace.values, workspace.adjoints, near.by_distance, work.lanes, near.other, work.g, lists
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        for pair in range(2):
            first, last = near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]
            _factors(first, last, s, plan, near.harmonics, work.g)
            for e in range(first, last, EDGES):
                at = s[FIRST_TERM] + 1
                if s[IS_PLAIN]:
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    arrays = own + _table(plan, near)
                    if s[N_COEFFICIENTS] == 4:
                        edges.adjoint_4(t, arrays, k)
                    else:
                        edges.adjoint_6(t, arrays, k)
                    continue
                _radial(e, outs, s, plan, near, t)
                for _ in range(lists[s[FIRST_TERM]]):
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    edges.adjoint(t, own, k)
                    at += 4 + 2 * lists[at + 3]
                _collect(e, last, s, plan, near, work)


@inlined
def _collect(e, last, s, plan, near, work):
    """Adds up the adjoints of the distances and factors of a few edges, which stand in lanes."""
    kappa, n_u, totals = s[KAPPA], s[N_FACTORS], work.totals
    drain(work.lanes, len(totals), totals)
    for n in range(min(EDGES, last - e)):
        near.by_distance[e + n] += totals[EDGES * n_u + n]
        give(near.by_harmonic, e + n, plan.lists, s[LISTS], plan.numbers, kappa, n_u, totals, n * n_u)


@bare
def both_adjoints(begin, end, s, plan, workspace, near, w_bar):
    """x̄_j += Σ_i Zᵀ (T ∘ ȳ + ḋ T′ ∘ g) + Żᵀ (T ∘ g), and what the edges give to the table."""
    work, lists = _work(begin, end, s, workspace, near), plan.lists
    t = work.radial
    arenas = workspace.values, workspace.dots, workspace.backs, workspace.adjoints
    own = *arenas, near.d_dot, work.bars, near.other, work.g, work.g_dot, lists
    for i in range(begin, end):
        x0, y0 = source_of(i, s, workspace), target_of(i, s, workspace)
        for pair in range(2):
            first, last = near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]
            _factors(first, last, s, plan, near.harmonics, work.g)
            _factors(first, last, s, plan, near.harmonics_dot, work.g_dot)
            for e in range(first, last, EDGES):
                work.bars[:] = 0
                at = s[FIRST_TERM] + 1
                if s[IS_PLAIN]:
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    arrays = own + _table(plan, near)
                    if s[N_COEFFICIENTS] == 4:
                        edges.both_adjoints_4(t, arrays, k)
                    else:
                        edges.both_adjoints_6(t, arrays, k)
                    _to_table(e, last, s, near, work.bars, w_bar)
                    continue
                _radial(e, ALL, s, plan, near, t)
                for _ in range(lists[s[FIRST_TERM]]):
                    k = _places(i, e, first, at, pair, x0, y0, s, plan, workspace, near)
                    edges.both_adjoints(t, own, k)
                    at += 4 + 2 * lists[at + 3]
                _to_table(e, last, s, near, work.bars, w_bar)


@inlined
def _to_table(e, last, s, near, bars, w_bar):
    """What a few edges give to the rows that they read."""
    n, width = len(near.other), s[N_ROWS]
    for k in range(e, min(e + EDGES, last)):
        at, to = s[GRID] * n + k, 2 * (k - e) * width
        row = s[WEIGHTS] + near.knots[at] * s[STRIDE] * width
        collect(
            w_bar, row, width, near.coefficients, COEFFICIENTS * at, s[N_COEFFICIENTS], near.d_dot[k], bars, to
        )
