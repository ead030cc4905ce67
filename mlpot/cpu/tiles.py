"""Products of tiles, some rows that lie in the first caches, with matrices, written for LLVM as `vectors`.

Tiles have whole groups of `ROWS` rows, and columns in whole panels of two vectors, so that no loop has a rest.
Every sum runs in one order, whatever the width of a vector.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.cpu.vectors import Flat, _void
from mlpot.kernels.simd import bare

ROWS = 6  # as many sums as registers hold
COLUMNS = 4  # rows of the matrix x ⊗ y at a time; they divide a panel


@intrinsic  # type: ignore[misc]
def apart(typing):
    """The function that says so is compiled once, and not into each of those that call it."""

    def generate(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def _product(n_rows: int, turned: bool) -> Any:
    @intrinsic  # type: ignore[misc]
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
