"""Products of tiles, some rows that lie in the first caches, with matrices, written for LLVM as `vectors`.

Tiles have whole groups of `ROWS` rows, and columns in whole panels of two vectors, so that no loop has a rest.
Every sum runs in one order, whatever the width of a vector.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.cpu.vectors import Flat, _void
from mlpot.kernels.simd import BYTES, LINE, bare

ROWS = 6  # as many sums as registers hold
COLUMNS = 8 if BYTES == LINE else 4  # rows of the matrix x ⊗ y at a time, likewise; they divide a panel


@intrinsic  # type: ignore[misc]  # Numba has no types
def apart(typing):
    """The function that says so is compiled once, and not into each of those that call it."""

    def generate(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def _product(n_rows: int, turned: bool) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def add_product(typing, a, a0, lda, n_inner, b, b0, ldb, c, c0, ldc):
        def write(w: Flat) -> None:
            builder = w.builder
            a, b, c = (w.plus(w.data(k), w.index(k + 1)) for k in (0, 4, 7))
            lda, n_inner, ldb, ldc = (w.index(k) for k in (2, 3, 6, 9))
            zero = n_inner.type(0)
            rows = [w.plus(a, n_inner.type(r) if turned else w.times(lda, r)) for r in range(n_rows)]
            sums = [[w.variable() for _ in range(2)] for _ in rows]
            with cgutils.for_range(builder, n_inner) as loop:
                b_row, step = w.plus(b, w.times(ldb, loop.index)), loop.index
                b_k = [w.load(b_row, zero, v) for v in range(2)]
                if turned:
                    step = w.times(lda, loop.index)
                for row, two in zip(rows, sums, strict=True):
                    a_k = w.number(w.plus(row, step))
                    for b_kv, total in zip(b_k, two, strict=True):
                        builder.store(w.fma(a_k, b_kv, builder.load(total)), total)
            for r, two in enumerate(sums):
                c_row = w.plus(c, w.times(ldc, r))
                for v, total in enumerate(two):
                    w.store(builder.fadd(w.load(c_row, zero, v), builder.load(total)), c_row, zero, v)

        n = types.intp
        return types.void(a, n, n, n, b, n, n, c, n, n), _void(write)

    return add_product


_rows, _columns = _product(ROWS, False), _product(COLUMNS, True)


def _outer(n_columns: int) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def add_outer(typing, x, xs, k, n_rows, y, ys, column, out, place, panel):
        """Σ over rows of some numbers of x by a panel of y, to as many rows of out."""

        def write(w: Flat) -> None:
            builder = w.builder
            x, y = w.plus(w.data(0), w.index(2)), w.plus(w.data(4), w.index(6))
            xs, ys, n_rows = w.data(1), w.data(5), w.index(3)
            zero = n_rows.type(0)
            sums = [[w.variable() for _ in range(2)] for _ in range(n_columns)]
            with cgutils.for_range(builder, n_rows) as loop:
                source = w.plus(x, builder.load(w.plus(xs, loop.index)))
                target = w.plus(y, builder.load(w.plus(ys, loop.index)))
                y_r = [w.load(target, zero, v) for v in range(2)]
                for j, two in enumerate(sums):
                    x_r = w.number(w.plus(source, n_rows.type(j)))
                    for y_rv, total in zip(y_r, two, strict=True):
                        builder.store(w.fma(x_r, y_rv, builder.load(total)), total)
            out, panel = w.plus(w.data(7), w.index(8)), w.index(9)
            for j, two in enumerate(sums):
                row = w.plus(out, w.times(panel, j))
                for v, total in enumerate(two):
                    w.store(builder.fadd(w.load(row, zero, v), builder.load(total)), row, zero, v)

        n = types.intp
        return types.void(x, xs, n, n, y, ys, n, out, n, n), _void(write)

    return add_outer


_several, _single = _outer(COLUMNS), _outer(1)


@bare
def multiply(a, a0, n_rows, n_inner, weights, place, panel, c, c0, width):
    """c[c0:] += a[a0:] @ matrix, rows of n_inner and of width numbers; packed as (n_panels, n_inner, panel)."""
    apart()
    for column in range(0, width, panel):
        b0 = place + column * n_inner
        for i in range(0, n_rows, ROWS):
            _rows(a, a0 + i * n_inner, n_inner, n_inner, weights, b0, panel, c, c0 + i * width + column, width)


@bare
def add_outer(x, x0, n_x, y, y0, n_y, n_rows, out, place, panel):
    """out += Σ x[x0:] ⊗ y[y0:] over n_rows; the matrix packed as that of `multiply`."""
    apart()
    for column in range(0, n_y, panel):
        for k in range(0, n_x, COLUMNS):
            to = place + column * n_x + k * panel
            _columns(x, x0 + k, n_x, n_rows, y, y0 + column, n_y, out, to, panel)


@bare
def add_outer_of_rows(x, xs, n_in, y, ys, wide, n_rows, out, place, panel):
    """out += Σ x[xs[r]:] ⊗ y[ys[r]:] over n_rows wherever they stand; out packed as the matrix of `multiply`."""
    for column in range(0, wide, panel):
        k, to = 0, place + column * n_in
        while k + COLUMNS <= n_in:
            _several(x, xs, k, n_rows, y, ys, column, out, to + k * panel, panel)
            k += COLUMNS
        while k < n_in:
            _single(x, xs, k, n_rows, y, ys, column, out, to + k * panel, panel)
            k += 1
