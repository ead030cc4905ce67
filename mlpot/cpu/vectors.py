"""Loops over channels in vectors, written for LLVM: all that the stages do between numbers of one atom.

Arrays are flat and places are given as offsets, so that no view is made in a loop. Channels are padded to whole
panels (two vectors), so that no loop has a rest. Four edges go together: what is added up is then loaded and
stored once for four.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.kernels.simd import Writer, inner

EDGES = 4  # that go through the loops together


class Flat(Writer):
    """A writer whose arrays are flat."""

    def data(self, argument: int) -> Any:
        """Pointer to the first number of an array."""
        return self.array(argument).data

    def index(self, argument: int) -> Any:
        """An integer argument."""
        return self.whole(argument)

    def plus(self, pointer: Any, *offsets: Any) -> Any:
        """The pointer moved by some numbers."""
        for offset in offsets:
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def times(self, a: Any, b: Any) -> Any:
        """Product of integers."""
        return self.builder.mul(a, b if not isinstance(b, int) else a.type(b))

    def number(self, pointer: Any) -> Any:
        """What stands there, in all places of a vector."""
        return self._spread(self.builder.load(pointer))

    def integer(self, pointer: Any, k: int = 0) -> Any:
        """An integer of a list."""
        return self.builder.load(self.builder.gep(pointer, [ir.IntType(64)(k)]))

    def channels(self, n: Any, n_vectors: int) -> Any:
        """A loop over groups of vectors of channels."""
        return cgutils.for_range_slice(self.builder, n.type(0), n, n.type(n_vectors * self.width), inc=True)

    def zero(self) -> Any:
        """A vector of zeros."""
        return ir.Constant(self.vector, None)


def _void(write: Callable[[Flat], None]) -> Any:
    """What Numba asks of an intrinsic that gives nothing back."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        write(Flat(context, builder, signature, arguments))
        return context.get_dummy_value()

    return generate


def _rows(n: int) -> Any:
    @intrinsic  # type: ignore[misc]
    def add_product(typing, x, xs, first, weight, place, n_in, column, y, ys):  # type: ignore[no-untyped-def]
        def write(w: Flat) -> None:
            b = w.builder
            first, n_in, column = w.index(2), w.index(5), w.index(6)
            xs, ys = w.plus(w.data(1), first), w.plus(w.data(8), first)
            matrix, zero = w.plus(w.data(3), w.index(4)), n_in.type(0)
            sources = [w.plus(w.data(0), w.integer(xs, r)) for r in range(n)]
            targets = [w.plus(w.data(7), w.integer(ys, r), column) for r in range(n)]
            sums = [[w.variable() for _ in range(2)] for _ in range(n)]
            for place in itertools.chain(*sums):
                b.store(w.zero(), place)
            with cgutils.for_range(b, n_in) as loop:
                row = w.plus(matrix, w.times(loop.index, 2 * w.width))
                b_k = [w.load(row, zero, v) for v in range(2)]
                for source, two in zip(sources, sums, strict=True):
                    a_k = w.number(w.plus(source, loop.index))
                    for v in range(2):
                        b.store(w.fma(a_k, b_k[v], b.load(two[v])), two[v])
            for target, two in zip(targets, sums, strict=True):
                for v in range(2):
                    w.store(b.fadd(w.load(target, zero, v), b.load(two[v])), target, zero, v)

        i = types.intp
        return types.void(x, xs, i, weight, i, i, i, y, ys), _void(write)

    return add_product


_one, _two, _three, _four, _five, _six = (_rows(n) for n in range(1, 7))


@inner
def add_products(x, xs, n_rows, weight, place, n_in, n_panels, width, y, ys):  # type: ignore[no-untyped-def]
    """y[ys[r]:] += x[xs[r]:] @ matrix for some rows, the matrix packed as (n_panels, n_in, width)."""
    for panel in range(n_panels):
        column, at = panel * width, place + panel * width * n_in
        r = 0
        while r + 6 <= n_rows:
            _six(x, xs, r, weight, at, n_in, column, y, ys)
            r += 6
        left = n_rows - r
        if left == 5:
            _five(x, xs, r, weight, at, n_in, column, y, ys)
        elif left == 4:
            _four(x, xs, r, weight, at, n_in, column, y, ys)
        elif left == 3:
            _three(x, xs, r, weight, at, n_in, column, y, ys)
        elif left == 2:
            _two(x, xs, r, weight, at, n_in, column, y, ys)
        elif left == 1:
            _one(x, xs, r, weight, at, n_in, column, y, ys)


def _interpolate(n_outs: int) -> Any:
    @intrinsic  # type: ignore[misc]
    def interpolate(typing, out, out0, cp, c, n_coefficients, table, rows, stride, column):  # type: ignore[no-untyped-def]
        def write(w: Flat) -> None:
            b = w.builder
            out, c, table, rows = (w.data(k) for k in (0, 3, 5, 6))
            out0, cp, n_c, stride, column = (w.index(k) for k in (1, 2, 4, 7, 8))
            for n in range(EDGES):
                start = w.plus(table, w.integer(rows, n), column)
                factors = w.plus(c, w.times(n_c, 2 * n))
                with w.channels(cp, 2) as (f, _):
                    sums = [[w.variable() for _ in range(2)] for _ in range(n_outs)]
                    for two in sums:
                        for place in two:
                            b.store(w.zero(), place)
                    with cgutils.for_range(b, n_c) as loop:
                        row = w.plus(start, w.times(loop.index, stride))
                        values = [w.load(row, f, v) for v in range(2)]
                        for q, two in enumerate(sums):
                            factor = w.number(w.plus(factors, w.times(n_c, q), loop.index))
                            for v in range(2):
                                b.store(w.fma(factor, values[v], b.load(two[v])), two[v])
                    for q, two in enumerate(sums):
                        place = w.plus(out, out0, w.times(cp, q * EDGES + n))
                        for v in range(2):
                            w.store(b.load(two[v]), place, f, v)

        n = types.intp
        return types.void(out, n, n, c, n, table, rows, n, n), _void(write)

    return interpolate


_interpolate_1, _interpolate_2 = _interpolate(1), _interpolate(2)


@inner
def interpolate(out, out0, cp, c, n_coefficients, table, rows, stride, column, slopes):  # type: ignore[no-untyped-def]
    """out[out0 + n cp:] = Σ_r c_nr table[rows[n] + r stride + column:] for four edges; T′ behind them if wanted.

    The coefficients c (4, 2, n) of an edge are those of T, then those of T′.
    """
    if slopes:
        _interpolate_2(out, out0, cp, c, n_coefficients, table, rows, stride, column)
    else:
        _interpolate_1(out, out0, cp, c, n_coefficients, table, rows, stride, column)


@intrinsic  # type: ignore[misc]
def multiply(typing, out, out0, cp, a, a0, x, xs, component):  # type: ignore[no-untyped-def]
    """out_n = a_n ∘ x[xs[n] + component:] for four edges."""

    def write(w: Flat) -> None:
        out, a, x, xs = (w.data(k) for k in (0, 3, 5, 6))
        out0, cp, a0, component = (w.index(k) for k in (1, 2, 4, 7))
        for n in range(EDGES):
            shift = w.times(cp, n)
            to, left = w.plus(out, out0, shift), w.plus(a, a0, shift)
            right = w.plus(x, w.integer(xs, n), component)
            with w.channels(cp, 1) as (f, _):
                w.store(w.builder.fmul(w.load(left, f), w.load(right, f)), to, f)

    n = types.intp
    return types.void(out, n, n, a, n, x, xs, n), _void(write)


@intrinsic  # type: ignore[misc]
def add_multiple(typing, out, out0, cp, a, a0, x, xs, component, factors):  # type: ignore[no-untyped-def]
    """out_n += factors[n] a_n ∘ x[xs[n] + component:] for four edges."""

    def write(w: Flat) -> None:
        out, a, x, xs, factors = (w.data(k) for k in (0, 3, 5, 6, 8))
        out0, cp, a0, component = (w.index(k) for k in (1, 2, 4, 7))
        for n in range(EDGES):
            shift = w.times(cp, n)
            to, left = w.plus(out, out0, shift), w.plus(a, a0, shift)
            right, factor = w.plus(x, w.integer(xs, n), component), w.number(w.plus(factors, cp.type(n)))
            with w.channels(cp, 1) as (f, _):
                product = w.builder.fmul(factor, w.load(left, f))
                w.store(w.fma(product, w.load(right, f), w.load(to, f)), to, f)

    n = types.intp
    return types.void(out, n, n, a, n, x, xs, n, factors), _void(write)


@intrinsic  # type: ignore[misc]
def spread(typing, y, y0, cp, v, v0, g, n_g, terms, first, n_terms):  # type: ignore[no-untyped-def]
    """y[y0 + k cp:] += Σ_n g[n, u] v_n for the terms (u, k) of a path and a component of the neighbor."""

    def write(w: Flat) -> None:
        b = w.builder
        y, v, g, terms = (w.data(k) for k in (0, 3, 5, 7))
        y0, cp, v0, n_g, first, n_terms = (w.index(k) for k in (1, 2, 4, 6, 8, 9))
        y, v, terms = w.plus(y, y0), w.plus(v, v0), w.plus(terms, first)
        with w.channels(cp, 2) as (f, _):
            rows = [[w.load(w.plus(v, w.times(cp, n)), f, q) for q in range(2)] for n in range(EDGES)]
            with cgutils.for_range(b, n_terms) as loop:
                term = w.plus(terms, w.times(loop.index, 2))
                to = w.plus(y, w.times(w.integer(term, 1), cp))
                sums = [w.load(to, f, q) for q in range(2)]
                for n in range(EDGES):
                    weight = w.number(w.plus(g, w.times(n_g, n), w.integer(term)))
                    sums = [w.fma(weight, rows[n][q], sums[q]) for q in range(2)]
                for q in range(2):
                    w.store(sums[q], to, f, q)

    n = types.intp
    return types.void(y, n, n, v, n, g, n, terms, n, n), _void(write)


def _collect(with_lanes: bool) -> Any:
    @intrinsic  # type: ignore[misc]
    def collect(typing, out, out0, cp, y, ys, g, n_g, terms, first, n_terms, q, q0, lanes):  # type: ignore[no-untyped-def]
        def write(w: Flat) -> None:
            b = w.builder
            out, y, ys, g, terms, q, lanes = (w.data(k) for k in (0, 3, 4, 5, 7, 10, 12))
            out0, cp, n_g, first, n_terms, q0 = (w.index(k) for k in (1, 2, 6, 8, 9, 11))
            out, q, terms = w.plus(out, out0), w.plus(q, q0), w.plus(terms, first)
            rows = [w.plus(y, w.integer(ys, n)) for n in range(EDGES)]
            with w.channels(cp, 1) as (f, _):
                sums = [w.variable() for _ in range(EDGES)]
                for n in range(EDGES):
                    b.store(w.load(w.plus(out, w.times(cp, n)), f), sums[n])
                others = [w.load(w.plus(q, w.times(cp, n)), f) if with_lanes else None for n in range(EDGES)]
                with cgutils.for_range(b, n_terms) as loop:
                    term = w.plus(terms, w.times(loop.index, 2))
                    u, k = w.integer(term), w.times(w.integer(term, 1), cp)
                    for n in range(EDGES):
                        value = w.load(w.plus(rows[n], k), f)
                        weight = w.number(w.plus(g, w.times(n_g, n), u))
                        b.store(w.fma(weight, value, b.load(sums[n])), sums[n])
                        if with_lanes:
                            lane = w.plus(lanes, w.times(b.add(w.times(n_g, n), u), w.width))
                            w.store(w.fma(others[n], value, w.load(lane, u.type(0))), lane, u.type(0))
                for n in range(EDGES):
                    w.store(b.load(sums[n]), w.plus(out, w.times(cp, n)), f)

        n = types.intp
        return types.void(out, n, n, y, ys, g, n, terms, n, n, q, n, lanes), _void(write)

    return collect


_collect_rows, _collect_lanes = _collect(False), _collect(True)


@inner
def collect(out, out0, cp, y, ys, g, n_g, terms, first, n_terms):  # type: ignore[no-untyped-def]
    """out_n += Σ_t g[n, u] y[ys[n] + k cp:] over the terms (u, k), for four edges."""
    _collect_rows(out, out0, cp, y, ys, g, n_g, terms, first, n_terms, out, out0, out)


@inner
def collect_both(out, out0, cp, y, ys, g, n_g, terms, first, n_terms, q, q0, lanes):  # type: ignore[no-untyped-def]
    """Likewise, and lanes[n, u] += q_n ∘ y[ys[n] + k cp:], summed over the vectors of a row."""
    _collect_lanes(out, out0, cp, y, ys, g, n_g, terms, first, n_terms, q, q0, lanes)


@intrinsic  # type: ignore[misc]
def give_back(typing, out, out0, cp, a, a0, v, v0):  # type: ignore[no-untyped-def]
    """out += Σ_n a_n ∘ v_n over four edges."""

    def write(w: Flat) -> None:
        out, a, v = (w.data(k) for k in (0, 3, 5))
        out0, cp, a0, v0 = (w.index(k) for k in (1, 2, 4, 6))
        to = w.plus(out, out0)
        with w.channels(cp, 1) as (f, _):
            total = w.load(to, f)
            for n in range(EDGES):
                shift = w.times(cp, n)
                total = w.fma(w.load(w.plus(a, a0, shift), f), w.load(w.plus(v, v0, shift), f), total)
            w.store(total, to, f)

    n = types.intp
    return types.void(out, n, n, a, n, v, n), _void(write)


@intrinsic  # type: ignore[misc]
def add_dots(typing, lanes, cp, a, a0, v, v0, x, x0):  # type: ignore[no-untyped-def]
    """lanes[n] += a_n ∘ v_n ∘ x, summed over the vectors of a row, for four edges."""

    def write(w: Flat) -> None:
        b = w.builder
        lanes, a, v, x = (w.data(k) for k in (0, 2, 4, 6))
        cp, a0, v0, x0 = (w.index(k) for k in (1, 3, 5, 7))
        sums = [w.variable() for _ in range(EDGES)]
        for n in range(EDGES):
            b.store(w.load(lanes, cp.type(0), n), sums[n])
        with w.channels(cp, 1) as (f, _):
            own = w.load(w.plus(x, x0), f)
            for n in range(EDGES):
                shift = w.times(cp, n)
                pair = b.fmul(w.load(w.plus(a, a0, shift), f), own)
                b.store(w.fma(pair, w.load(w.plus(v, v0, shift), f), b.load(sums[n])), sums[n])
        for n in range(EDGES):
            w.store(b.load(sums[n]), lanes, cp.type(0), n)

    n = types.intp
    return types.void(lanes, n, a, n, v, n, x, n), _void(write)


@intrinsic  # type: ignore[misc]
def dot(typing, x, x0, cp, v, v0):  # type: ignore[no-untyped-def]
    """Σ x v of two rows."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        w = Flat(context, builder, signature, arguments)
        x, v = w.plus(w.data(0), w.index(1)), w.plus(w.data(3), w.index(4))
        total = w.variable()
        with w.channels(w.index(2), 1) as (f, _):
            builder.store(w.fma(w.load(x, f), w.load(v, f), builder.load(total)), total)
        return w.total(builder.load(total))

    return x.dtype(x, types.intp, types.intp, v, types.intp), generate


@intrinsic  # type: ignore[misc]
def lane_total(typing, lanes, k):  # type: ignore[no-untyped-def]
    """The sum of the numbers of the k-th vector."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        w = Flat(context, builder, signature, arguments)
        k = w.index(1)
        return w.total(w.load(w.plus(w.data(0), w.times(k, w.width)), k.type(0)))

    return lanes.dtype(lanes, types.intp), generate


@intrinsic  # type: ignore[misc]
def add_scaled(typing, out, out0, cp, x, x0, factor):  # type: ignore[no-untyped-def]
    """out += factor x for n numbers of two rows."""

    def write(w: Flat) -> None:
        out, x = w.plus(w.data(0), w.index(1)), w.plus(w.data(3), w.index(4))
        factor = w.spread(5)
        with w.channels(w.index(2), 1) as (f, _):
            w.store(w.fma(factor, w.load(x, f), w.load(out, f)), out, f)

    n = types.intp
    return types.void(out, n, n, x, n, out.dtype), _void(write)


@intrinsic  # type: ignore[misc]
def add_product(typing, out, out0, cp, a, a0, b, b0):  # type: ignore[no-untyped-def]
    """out += a ∘ b for n numbers of three rows."""

    def write(w: Flat) -> None:
        out, a, b = (w.plus(w.data(k), w.index(k + 1)) for k in (0, 3, 5))
        with w.channels(w.index(2), 1) as (f, _):
            w.store(w.fma(w.load(a, f), w.load(b, f), w.load(out, f)), out, f)

    n = types.intp
    return types.void(out, n, n, a, n, b, n), _void(write)
