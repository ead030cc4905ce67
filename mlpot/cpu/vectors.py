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

    def halved(self, value: Any) -> Any:
        """The sum of the places of a vector: its halves are added until one number is left."""
        b, n = self.builder, self.width
        while n > 1:
            n //= 2
            index = ir.VectorType(ir.IntType(32), n)
            halves = [
                b.shuffle_vector(
                    value, ir.Constant(value.type, ir.Undefined), ir.Constant(index, list(range(k, k + n)))
                )
                for k in (0, n)
            ]
            value = b.fadd(*halves)
        return b.extract_element(value, ir.IntType(32)(0))

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


def _interpolate(n_coefficients: int, n_outs: int) -> Any:
    @intrinsic  # type: ignore[misc]
    def interpolate(typing, out, width, c, table, rows, stride):  # type: ignore[no-untyped-def]
        def write(w: Flat) -> None:
            b = w.builder
            out, c, table, rows = (w.data(k) for k in (0, 2, 3, 4))
            width, stride = w.index(1), w.index(5)
            for n in range(EDGES):
                first = w.plus(table, w.integer(rows, n))
                sources = [w.plus(first, w.times(stride, r)) for r in range(n_coefficients)]
                factors = [
                    [
                        w.number(w.plus(c, width.type((2 * n + q) * n_coefficients + r)))
                        for r in range(n_coefficients)
                    ]
                    for q in range(n_outs)
                ]
                places = [w.plus(out, w.times(width, q * EDGES + n)) for q in range(n_outs)]
                with w.channels(width, 1) as (f, _):
                    values = [w.load(source, f) for source in sources]
                    for place, own in zip(places, factors, strict=True):
                        total = b.fmul(own[0], values[0])
                        for factor, value in zip(own[1:], values[1:], strict=True):
                            total = w.fma(factor, value, total)
                        w.store(total, place, f)

        n = types.intp
        return types.void(out, n, c, table, rows, n), _void(write)

    return interpolate


_values_4, _values_6, _both_4, _both_6 = (_interpolate(n, q) for q in (1, 2) for n in (4, 6))


@inner
def interpolate(out, width, c, n_coefficients, table, rows, stride, slopes):  # type: ignore[no-untyped-def]
    """out[n width:] = Σ_r c_nr table[rows[n] + r stride:], all paths of four edges; T′ behind them if wanted.

    The coefficients c (4, 2, n) of an edge are those of T, then those of T′.
    """
    if n_coefficients == 4:
        if slopes:
            _both_4(out, width, c, table, rows, stride)
        else:
            _values_4(out, width, c, table, rows, stride)
    elif slopes:
        _both_6(out, width, c, table, rows, stride)
    else:
        _values_6(out, width, c, table, rows, stride)


def _spread(turned: bool) -> Any:
    @intrinsic  # type: ignore[misc]
    def spread(typing, y, y0, cp, t, t0, width, x, x_dot, xs, component, g, n_g, terms, first, n_terms):  # type: ignore[no-untyped-def]
        def write(w: Flat) -> None:
            b = w.builder
            y, t, x, x_dot, xs, g, terms = (w.data(k) for k in (0, 3, 6, 7, 8, 10, 12))
            y0, cp, t0, width, component, n_g, first, n_terms = (w.index(k) for k in (1, 2, 4, 5, 9, 11, 13, 14))
            y, t, terms = w.plus(y, y0), w.plus(t, t0), w.plus(terms, first)
            places = [b.add(w.integer(xs, n), component) for n in range(EDGES)]
            with w.channels(cp, 2) as (f, _):
                rows = []
                for n in range(EDGES):
                    radial, source = w.plus(t, w.times(width, n)), w.plus(x, places[n])
                    if turned:
                        dots, slope = w.plus(x_dot, places[n]), w.plus(t, w.times(width, EDGES + n))
                    row = []
                    for q in range(2):
                        value = b.fmul(w.load(radial, f, q), w.load(dots if turned else source, f, q))
                        row.append(w.fma(w.load(slope, f, q), w.load(source, f, q), value) if turned else value)
                    rows.append(row)
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
        return types.void(y, n, n, t, n, n, x, x_dot, xs, n, g, n, terms, n, n), _void(write)

    return spread


_spread_values, spread_turned = _spread(False), _spread(True)


@inner
def spread(y, y0, cp, t, t0, width, x, xs, component, g, n_g, terms, first, n_terms):  # type: ignore[no-untyped-def]
    """y[y0 + k cp:] += Σ_n g[n, u] T_n ∘ x[xs[n] + component:] over terms (u, k) of one component, for four edges.

    T_n stands at t[t0 + n width:]. `spread_turned` has T_n ∘ ẋ + Ṫ_n ∘ x instead, Ṫ of the edges behind their T.
    """
    _spread_values(y, y0, cp, t, t0, width, x, x, xs, component, g, n_g, terms, first, n_terms)


@intrinsic  # type: ignore[misc]
def pull(typing, x_bar, x, x0, cp, t, t0, width, y, ys, g, n_g, terms, first, n_terms, lanes):  # type: ignore[no-untyped-def]
    """The way back of `spread`, at the atom whose component begins at x0, from its edges to those with y.

    With w_n = Σ_t g[n, u] y[ys[n] + k cp:], x_bar += Σ_n T_n ∘ w_n; lanes[n] += T′_n ∘ x ∘ w_n, the adjoint of a
    distance; and after those of the four edges, lanes[n, u] += T_n ∘ x ∘ y, those of the factors.
    """

    def write(w: Flat) -> None:
        b = w.builder
        x_bar, x, t, y, ys, g, terms, lanes = (w.data(k) for k in (0, 1, 4, 7, 8, 9, 11, 14))
        x0, cp, t0, width, n_g, first, n_terms = (w.index(k) for k in (2, 3, 5, 6, 10, 12, 13))
        x_bar, x, t, terms, zero = (
            w.plus(x_bar, x0),
            w.plus(x, x0),
            w.plus(t, t0),
            w.plus(terms, first),
            cp.type(0),
        )
        rows = [w.plus(y, w.integer(ys, n)) for n in range(EDGES)]
        of_factors = w.plus(lanes, cp.type(EDGES * w.width))
        with w.channels(cp, 1) as (f, _):
            own = w.load(x, f)
            radial = [w.load(w.plus(t, w.times(width, n)), f) for n in range(EDGES)]
            pairs = [b.fmul(value, own) for value in radial]
            sums = [w.variable() for _ in range(EDGES)]
            for place in sums:
                b.store(w.zero(), place)
            with cgutils.for_range(b, n_terms) as loop:
                term = w.plus(terms, w.times(loop.index, 2))
                u, k = w.integer(term), w.times(w.integer(term, 1), cp)
                for n in range(EDGES):
                    value = w.load(w.plus(rows[n], k), f)
                    place = b.add(w.times(n_g, n), u)
                    b.store(w.fma(w.number(w.plus(g, place)), value, b.load(sums[n])), sums[n])
                    lane = w.plus(of_factors, w.times(place, w.width))
                    w.store(w.fma(pairs[n], value, w.load(lane, zero)), lane, zero)
            total = w.load(x_bar, f)
            for n in range(EDGES):
                collected = b.load(sums[n])
                total = w.fma(radial[n], collected, total)
                slope = w.load(w.plus(t, w.times(width, EDGES + n)), f)
                turned = w.fma(slope, b.fmul(own, collected), w.load(lanes, zero, n))
                w.store(turned, lanes, zero, n)
            w.store(total, x_bar, f)

    n = types.intp
    return types.void(x_bar, x, n, n, t, n, n, y, ys, g, n, terms, n, n, lanes), _void(write)


@intrinsic  # type: ignore[misc]
def pull_both(typing, x_bar, x, x_dot, x0, cp, t, t0, width, y, q, ys, g, g_dot, n_g, terms, first, n_terms, out):  # type: ignore[no-untyped-def]
    """The way back of `spread` and `spread_turned`, from the adjoints y of values and q of tangents.

    With w_n = Σ_t g y + ġ q and v_n = Σ_t g q, x_bar += Σ_n T_n ∘ w_n + Ṫ_n ∘ v_n; the adjoints of T and T′ are
    added to out as T stands in t: x ∘ w_n + ẋ ∘ v_n, and x ∘ v_n (without ḋ).
    """

    def write(w: Flat) -> None:
        b = w.builder
        x_bar, x, x_dot, t, y, q, ys, g, g_dot, terms, out = (
            w.data(k) for k in (0, 1, 2, 5, 8, 9, 10, 11, 12, 14, 17)
        )
        x0, cp, t0, width, n_g, first, n_terms = (w.index(k) for k in (3, 4, 6, 7, 13, 15, 16))
        x_bar, x, x_dot = (w.plus(array, x0) for array in (x_bar, x, x_dot))
        t, out, terms = w.plus(t, t0), w.plus(out, t0), w.plus(terms, first)
        shifts = [w.integer(ys, n) for n in range(EDGES)]
        with w.channels(cp, 1) as (f, _):
            sums = [[w.variable() for _ in range(2)] for _ in range(EDGES)]
            for place in itertools.chain(*sums):
                b.store(w.zero(), place)
            with cgutils.for_range(b, n_terms) as loop:
                term = w.plus(terms, w.times(loop.index, 2))
                u, k = w.integer(term), w.times(w.integer(term, 1), cp)
                for n, (one, two) in enumerate(sums):
                    of_value, of_dot = (w.load(w.plus(array, shifts[n], k), f) for array in (y, q))
                    place = b.add(w.times(n_g, n), u)
                    weight, turned = w.number(w.plus(g, place)), w.number(w.plus(g_dot, place))
                    b.store(w.fma(turned, of_dot, w.fma(weight, of_value, b.load(one))), one)
                    b.store(w.fma(weight, of_dot, b.load(two)), two)
            total, own, own_dot = w.load(x_bar, f), w.load(x, f), w.load(x_dot, f)
            for n, places in enumerate(sums):
                one, two = (b.load(place) for place in places)
                at, behind = w.times(width, n), w.times(width, EDGES + n)
                total = w.fma(w.load(w.plus(t, behind), f), two, w.fma(w.load(w.plus(t, at), f), one, total))
                to, to_slope = w.plus(out, at), w.plus(out, behind)
                w.store(w.fma(own_dot, two, w.fma(own, one, w.load(to, f))), to, f)
                w.store(w.fma(own, two, w.load(to_slope, f)), to_slope, f)
            w.store(total, x_bar, f)

    n = types.intp
    return types.void(x_bar, x, x_dot, n, n, t, n, n, y, q, ys, g, g_dot, n, terms, n, n, out), _void(write)


@intrinsic  # type: ignore[misc]
def dot(typing, x, x0, cp, v, v0):  # type: ignore[no-untyped-def]
    """Σ x v of two rows."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        w = Flat(context, builder, signature, arguments)
        x, v = w.plus(w.data(0), w.index(1)), w.plus(w.data(3), w.index(4))
        total = w.variable()
        with w.channels(w.index(2), 1) as (f, _):
            builder.store(w.fma(w.load(x, f), w.load(v, f), builder.load(total)), total)
        return w.halved(builder.load(total))

    return x.dtype(x, types.intp, types.intp, v, types.intp), generate


@intrinsic  # type: ignore[misc]
def lane_total(typing, lanes, k):  # type: ignore[no-untyped-def]
    """The sum of the numbers of the k-th vector."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        w = Flat(context, builder, signature, arguments)
        k = w.index(1)
        return w.halved(w.load(w.plus(w.data(0), w.times(k, w.width)), k.type(0)))

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
