"""Loops over channels in vectors, written for LLVM: all that the stages do between numbers of one atom.

Arrays are flat and places are given as offsets, so that no view is made in a loop. Channels are padded to whole
panels (two vectors) and to whole lines of 64 bytes, so that no loop has a rest and sums over channels have one
order, however wide a vector is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from mlpot.kernels.simd import LINE, VECTORS, Writer, bare


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


@intrinsic  # type: ignore[misc]  # Numba has no types
def stack(typing, n, like):
    """n numbers of the type of an array, with anything in them, until the function returns, inlined or not."""
    kind = types.Array(like.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        count = context.cast(builder, arguments[0], signature.args[0], types.intp)
        size = like.dtype.bitwidth // 8
        data = builder.alloca(context.get_data_type(like.dtype), count)
        data.align = LINE
        array = context.make_array(kind)(context, builder)
        whole = context.get_constant(types.intp, size)
        populate_array(array, data=data, shape=[count], strides=[whole], itemsize=whole, meminfo=None)
        return array._getvalue()

    return kind(n, like), generate


def _rows(n: int) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def add_product(typing, x, xs, first, weight, place, n_in, column, y, ys, fresh):
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
            with b.if_else(b.icmp_signed("!=", w.index(9), zero)) as (is_fresh, is_not):
                with is_fresh:
                    for target, two in zip(targets, sums, strict=True):
                        for v in range(2):
                            w.store(b.load(two[v]), target, zero, v)
                with is_not:
                    for target, two in zip(targets, sums, strict=True):
                        for v in range(2):
                            w.store(b.fadd(w.load(target, zero, v), b.load(two[v])), target, zero, v)

        i = types.intp
        return types.void(x, xs, i, weight, i, i, i, y, ys, i), _void(write)

    return add_product


_one, _two, _three, _four, _five, _six = (_rows(n) for n in range(1, 7))


@bare
def add_products(x, xs, n_rows, weight, place, n_in, n_panels, width, y, ys, fresh):
    """y[ys[r]:] += x[xs[r]:] @ matrix for some rows, the matrix packed as (n_panels, n_in, width); = if fresh."""
    for panel in range(n_panels):
        column, at = panel * width, place + panel * width * n_in
        r = 0
        while r + 6 <= n_rows:
            _six(x, xs, r, weight, at, n_in, column, y, ys, fresh)
            r += 6
        left = n_rows - r
        if left == 5:
            _five(x, xs, r, weight, at, n_in, column, y, ys, fresh)
        elif left == 4:
            _four(x, xs, r, weight, at, n_in, column, y, ys, fresh)
        elif left == 3:
            _three(x, xs, r, weight, at, n_in, column, y, ys, fresh)
        elif left == 2:
            _two(x, xs, r, weight, at, n_in, column, y, ys, fresh)
        elif left == 1:
            _one(x, xs, r, weight, at, n_in, column, y, ys, fresh)


@intrinsic  # type: ignore[misc]  # Numba has no types
def dot(typing, x, x0, cp, v, v0):
    """Σ x v of two rows."""

    def generate(context, builder, signature, arguments):
        w = Flat(context, builder, signature, arguments)
        x, v = w.plus(w.data(0), w.index(1)), w.plus(w.data(3), w.index(4))
        sums = w.sums()
        with w.channels(w.index(2), VECTORS) as (f, _):
            for k, total in enumerate(sums):
                builder.store(w.fma(w.load(x, f, k), w.load(v, f, k), builder.load(total)), total)
        return w.sum_of(sums)

    return x.dtype(x, types.intp, types.intp, v, types.intp), generate


@intrinsic  # type: ignore[misc]  # Numba has no types
def drain(typing, lines, n, totals):
    """totals[k] ← the sum of the numbers of line k, in halves as `Writer.sum_of`; the lines are zero afterwards.

    n lines are a multiple of the numbers of a line: as many lines go at a time, two of them into one vector by
    each addition.
    """

    def write(w: Flat) -> None:
        per_line = LINE // w.size
        whole, index = ir.VectorType(w.scalar, per_line), ir.IntType(32)
        lines, totals, step = w.data(0), w.data(2), w.index(1).type(per_line)

        def shuffled(a: Any, b: Any, places: list[int]) -> Any:
            return w.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(index, per_line), places))

        with cgutils.for_range_slice(w.builder, step.type(0), w.index(1), step, inc=True) as (first, _):
            own = []
            for k in range(per_line):
                place = w.plus(lines, w.times(w.builder.add(first, step.type(k)), per_line))
                place = w.builder.bitcast(place, whole.as_pointer())
                own.append(w.builder.load(place, align=w.size))
                w.builder.store(ir.Constant(whole, None), place, align=w.size)
            size = per_line  # of the numbers that are left of a line
            while size > 1:
                size //= 2
                low = [k for k in range(2 * per_line) if k // size % 2 == 0]
                high = [k + size for k in low]
                own = [
                    w.builder.fadd(shuffled(a, b, low), shuffled(a, b, high))
                    for a, b in zip(own[::2], own[1::2], strict=True)
                ]
            to = w.builder.bitcast(w.plus(totals, first), whole.as_pointer())
            w.builder.store(own[0], to, align=w.size)

    return types.void(lines, types.intp, totals), _void(write)


def _listed(gives: bool) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def run(typing, rows, e, lists, lists0, numbers, numbers0, n, g, g0):
        """Row e of an array and g, n numbers, by the places in the row that a list has for them."""

        def write(w: Flat) -> None:
            b = w.builder
            row = w.plus(w.data(0), w.times(w.index(1), w.length(w.array(0))))
            places, factors = w.plus(w.data(2), w.index(3)), w.plus(w.data(4), w.index(5))
            g = w.plus(w.data(7), w.index(8))
            with cgutils.for_range(b, w.index(6)) as loop:
                there, here = w.plus(row, b.load(w.plus(places, loop.index))), w.plus(g, loop.index)
                factor = b.load(w.plus(factors, loop.index))
                if gives:
                    b.store(b.fadd(b.load(there), b.fmul(factor, b.load(here))), there)
                else:
                    b.store(b.fmul(factor, b.load(there)), here)

        i = types.intp
        return types.void(rows, i, lists, i, numbers, i, i, g, i), _void(write)

    return run


take, give = _listed(False), _listed(True)
"""g[u] ← κ_u row[b_u], and row[b_u] += κ_u g[u]."""


def _scaled(adds: bool) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def run(typing, out, out0, cp, x, x0, factor):
        """factor x for n numbers of two rows."""

        def write(w: Flat) -> None:
            out, x = w.plus(w.data(0), w.index(1)), w.plus(w.data(3), w.index(4))
            factor = w.spread(5)
            with w.channels(w.index(2), 1) as (f, _):
                x_f = w.load(x, f)
                w.store(w.fma(factor, x_f, w.load(out, f)) if adds else w.builder.fmul(factor, x_f), out, f)

        n = types.intp
        return types.void(out, n, n, x, n, out.dtype), _void(write)

    return run


def _scaled_product(adds: bool) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def run(typing, out, out0, cp, a, a0, b, b0, factor):
        """factor a ∘ b for n numbers of three rows."""

        def write(w: Flat) -> None:
            out, a, b = (w.plus(w.data(k), w.index(k + 1)) for k in (0, 3, 5))
            factor = w.spread(7)
            with w.channels(w.index(2), 1) as (f, _):
                scaled, b_f = w.builder.fmul(factor, w.load(a, f)), w.load(b, f)
                w.store(w.fma(scaled, b_f, w.load(out, f)) if adds else w.builder.fmul(scaled, b_f), out, f)

        n = types.intp
        return types.void(out, n, n, a, n, b, n, out.dtype), _void(write)

    return run


add_scaled, put_scaled = _scaled(True), _scaled(False)
"""out += factor x, and out = factor x."""
add_scaled_product, put_scaled_product = _scaled_product(True), _scaled_product(False)
"""out += factor a ∘ b, and out = factor a ∘ b."""
