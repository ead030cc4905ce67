"""Rows of a table for a few edges, as `stages.spline_grid`: T and T′ of all paths, and back to the rows."""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.cpu.edge_writer import EDGES
from mlpot.cpu.plan import COEFFICIENTS
from mlpot.cpu.vectors import Flat, _void
from mlpot.kernels.simd import inlined


@intrinsic  # type: ignore[misc]  # Numba has no types
def spline_coefficients(typing, polynomials, grid, n_powers, t, out, first):
    """out[first:] ← the polynomials in t of one grid, (n_grids, 6, COEFFICIENTS) by power."""

    def write(w: Flat) -> None:
        b, powers = w.builder, w.index(2)
        own, out = w.plus(w.data(0), w.times(w.index(1), 6 * COEFFICIENTS)), w.plus(w.data(4), w.index(5))
        t = w.spread(3)
        n_vectors = COEFFICIENTS // w.width
        last = b.sub(powers, powers.type(1))
        sums = [w.variable() for _ in range(n_vectors)]
        for v, total in enumerate(sums):
            b.store(w.load(w.plus(own, w.times(last, COEFFICIENTS)), last.type(0), v), total)
        with cgutils.for_range(b, last) as loop:
            row = w.plus(own, w.times(b.sub(b.sub(last, loop.index), last.type(1)), COEFFICIENTS))
            for v, total in enumerate(sums):
                b.store(w.fma(b.load(total), t, w.load(row, last.type(0), v)), total)
        for v, total in enumerate(sums):
            w.store(b.load(total), out, last.type(0), v)

    i = types.intp
    return types.void(polynomials, i, i, out.dtype, out, i), _void(write)


ALL, VALUES, SLOPES = range(3)
"""T and T′, T alone, T′ alone."""


def _interpolate(n_coefficients: int, n_outs: int) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def interpolate(typing, out, place, width, c, first, table, table0, knots, edge, step):
        def write(w: Flat) -> None:
            b = w.builder
            out, c, table = w.plus(w.data(0), w.index(1)), w.data(3), w.data(5)
            knots = w.plus(w.data(7), w.index(8))
            width, first, step = w.index(2), w.index(4), w.index(9)
            table = w.plus(table, w.index(6))
            for n in range(EDGES):
                row = w.plus(table, w.times(w.integer(knots, n), step))
                sources = [w.plus(row, w.times(width, r)) for r in range(n_coefficients)]
                own = w.plus(c, first, first.type(COEFFICIENTS * n))
                factors = [
                    [w.number(w.plus(own, first.type(q * n_coefficients + r))) for r in range(n_coefficients)]
                    for q in range(2)
                ]
                places = [w.plus(out, w.times(width, 2 * n + q)) for q in range(2)]
                with w.channels(width, 1) as (f, _):
                    values = [w.load(source, f) for source in sources]
                    for q in (range(2), (0,), (1,))[n_outs]:
                        total = b.fmul(factors[q][0], values[0])
                        for factor, value in zip(factors[q][1:], values[1:], strict=True):
                            total = w.fma(factor, value, total)
                        w.store(total, places[q], f)

        n = types.intp
        return types.void(out, n, n, c, n, table, n, knots, n, n), _void(write)

    return interpolate


_all_4, _all_6, _values_4, _values_6, _slopes_4, _slopes_6 = (_interpolate(n, q) for q in range(3) for n in (4, 6))


@inlined
def interpolate(outs, out, place, width, c, first, n_coefficients, table, table0, knots, edge, step):
    """T = Σ_r c_r table[r + step knot] of all paths of the edges from one on, T′ behind it, or one of them.

    The coefficients c of an edge stand from first on: those of T, then those of T′.
    """
    if n_coefficients == 4:
        if outs == ALL:
            _all_4(out, place, width, c, first, table, table0, knots, edge, step)
        elif outs == VALUES:
            _values_4(out, place, width, c, first, table, table0, knots, edge, step)
        else:
            _slopes_4(out, place, width, c, first, table, table0, knots, edge, step)
    elif outs == ALL:
        _all_6(out, place, width, c, first, table, table0, knots, edge, step)
    elif outs == VALUES:
        _values_6(out, place, width, c, first, table, table0, knots, edge, step)
    else:
        _slopes_6(out, place, width, c, first, table, table0, knots, edge, step)


def _collect(n_coefficients: int) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def collect(typing, table, table0, width, c, first, turn, bars, bars0):
        def write(w: Flat) -> None:
            width, first, c = w.index(2), w.index(4), w.data(3)
            row = w.plus(w.data(0), w.index(1))
            rows = [w.plus(row, w.times(width, r)) for r in range(n_coefficients)]
            own = [w.number(w.plus(c, first, first.type(r))) for r in range(2 * n_coefficients)]
            turn, bar = w.spread(5), w.plus(w.data(6), w.index(7))
            slopes = [w.builder.fmul(turn, factor) for factor in own[n_coefficients:]]
            with w.channels(width, 1) as (f, _):
                by_value, by_slope = w.load(bar, f), w.load(w.plus(bar, width), f)
                for r, to in enumerate(rows):
                    total = w.fma(slopes[r], by_slope, w.fma(own[r], by_value, w.load(to, f)))
                    w.store(total, to, f)

        n = types.intp
        return types.void(table, n, n, c, n, table.dtype, bars, n), _void(write)

    return collect


_collect_4, _collect_6 = _collect(4), _collect(6)


@inlined
def collect(table, table0, width, c, first, n_coefficients, turn, bars, bars0):
    """What an edge gives to the rows that it reads: c_r T̄ + ḋ c′_r T̄′, of all paths."""
    if n_coefficients == 4:
        _collect_4(table, table0, width, c, first, turn, bars, bars0)
    else:
        _collect_6(table, table0, width, c, first, turn, bars, bars0)
