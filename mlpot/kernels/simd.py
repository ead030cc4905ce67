"""Dense products and activations for compiled loops: many small ones at nearly the speed of the arithmetic.

A BLAS is made for large matrices and is called from outside a loop; here nine atoms times a layer of weights is
a few microseconds inside it. Numba has no vectors of its own, so the innermost loop is written for LLVM directly:
six rows by two or four vectors of the product stay in registers while the sum runs (K. Goto and R. van de Geijn,
ACM Trans. Math. Softw. 34, 12 (2008)).

Vectors are as wide as the CPU has them (`compiler.BYTES`); what is laid out in memory, and the order of every sum,
is that of 64 bytes. So weights and bits are the same on a CPU of any width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from mlpot.kernels.compiler import BYTES, bare, compiled, expanded, inlined, inner

__all__ = ["BYTES", "LINE", "Writer", "bare", "compiled", "expanded", "inlined", "inner"]

LINE = 64  # bytes: rows are padded to so many, and a panel of a matrix is so wide, on every CPU
VECTORS = LINE // BYTES  # of a line


class Writer:
    """Writes LLVM code: arrays as pointers to rows, and vectors of consecutive numbers."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any):
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments
        number = signature.args[0].dtype
        self.size = number.bitwidth // 8
        self.scalar = context.get_data_type(number)
        self._vectors_of(BYTES // self.size)

    def _vectors_of(self, width: int) -> None:
        self.width, self.vector = width, ir.VectorType(self.scalar, width)
        name = f"llvm.fma.v{width}f{8 * self.size}"
        self.fma_type = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fused = cgutils.get_or_insert_function(self.builder.module, self.fma_type, name)

    def widen(self) -> None:
        """Takes two vectors of the machine as one from here on."""
        self._vectors_of(2 * self.width)

    def array(self, argument: int) -> Any:
        """The array that is the argument of that number."""
        kind = self.signature.args[argument]
        return self.context.make_array(kind)(self.context, self.builder, self.arguments[argument])

    def length(self, array: Any) -> Any:
        """Of the last axis."""
        return cgutils.unpack_tuple(self.builder, array.shape)[-1]

    def whole(self, argument: int) -> Any:
        """An integer argument as an index."""
        return self.context.cast(self.builder, self.arguments[argument], self.signature.args[argument], types.intp)

    def row(self, array: Any, i: Any, k: int = 0) -> Any:
        """Pointer to row i + k."""
        b = self.builder
        return b.gep(array.data, [b.mul(b.add(i, i.type(k)), self.length(array))])

    def at(self, row: Any, f: Any, v: int = 0) -> Any:
        """Pointer to the v-th vector that begins at column f."""
        b = self.builder
        place = b.gep(row, [b.add(f, f.type(v * self.width))])
        return b.bitcast(place, self.vector.as_pointer())

    def load(self, row: Any, f: Any, v: int = 0) -> Any:
        """The v-th vector from column f."""
        return self.builder.load(self.at(row, f, v), align=self.size)

    def store(self, value: Any, row: Any, f: Any, v: int = 0) -> None:
        """Write the v-th vector from column f."""
        self.builder.store(value, self.at(row, f, v), align=self.size)

    def everywhere(self, row: Any, f: Any) -> Any:
        """The number at column f in all places of a vector."""
        return self._spread(self.builder.load(self.builder.gep(row, [f])))

    def _spread(self, number: Any) -> Any:
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(
            one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
        )

    def spread(self, argument: int) -> Any:
        """A number given as an argument in all places of a vector."""
        return self._spread(self.arguments[argument])

    def total(self, value: Any) -> Any:
        """The sum of the places of a vector, in halves."""
        parts = [self.builder.extract_element(value, ir.IntType(32)(k)) for k in range(self.width)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]

    def columns(self, array: Any) -> Any:
        """A loop over the first columns of the vectors that make a row."""
        return self._steps(array, self.width)

    def lines(self, array: Any) -> Any:
        """A loop over the first columns of the lines that make a row, `VECTORS` vectors each."""
        return self._steps(array, VECTORS * self.width)

    def _steps(self, array: Any, step: int) -> Any:
        zero = self.length(array).type(0)
        return cgutils.for_range_slice(self.builder, zero, self.length(array), zero.type(step), inc=True)

    def sums(self) -> list[Any]:
        """A variable for each vector of a line, for a sum over columns."""
        return [self.variable() for _ in range(VECTORS)]

    def sum_of(self, variables: list[Any]) -> Any:
        """The total of such variables, in halves of a line: one order for every width."""
        values = [self.builder.load(variable) for variable in variables]
        while len(values) > 1:
            half = len(values) // 2
            values = [self.builder.fadd(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
        return self.total(values[0])

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        return self.builder.call(self.fused, [x, y, z])

    def variable(self) -> Any:
        """A vector that LLVM keeps in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), place)
        return place


def _tile(n_rows: int, n_panels: int = 1) -> Callable[..., None]:
    """c[i : i + n_rows] += a[i : i + n_rows] @ panels, on the columns of one or two panels side by side."""

    @intrinsic  # type: ignore[misc]  # Numba has no types
    def add_product(typing, a, packed, c, panel, i):
        def generate(context, builder, signature, arguments):
            w = Writer(context, builder, signature, arguments)
            left, right, out = (w.array(k) for k in range(3))
            panel, i = arguments[3:]
            n_inner, width = w.length(left), panel.type(VECTORS * w.width)
            first = builder.mul(panel, width)
            columns = [builder.add(first, width.type(p * VECTORS * w.width)) for p in range(n_panels)]
            b = [builder.gep(right.data, [builder.mul(column, n_inner)]) for column in columns]
            rows = [(w.row(left, i, r), w.row(out, i, r)) for r in range(n_rows)]
            parts = [(p, v) for p in range(n_panels) for v in range(VECTORS)]
            sums = [[w.variable() for _ in parts] for _ in rows]
            with cgutils.for_range(builder, n_inner) as loop:
                place = builder.mul(loop.index, width)
                b_k = [w.load(b[p], place, v) for p, v in parts]
                for (a_row, _), of_row in zip(rows, sums, strict=True):
                    a_k = w.everywhere(a_row, loop.index)
                    for b_kv, total in zip(b_k, of_row, strict=True):
                        builder.store(w.fma(a_k, b_kv, builder.load(total)), total)
            for (_, c_row), of_row in zip(rows, sums, strict=True):
                for (p, v), total in zip(parts, of_row, strict=True):
                    w.store(builder.fadd(w.load(c_row, columns[p], v), builder.load(total)), c_row, columns[p], v)
            return context.get_dummy_value()

        return types.void(a, packed, c, types.intp, types.intp), generate

    return add_product


_one, _two, _three, _four, _five, _six = (_tile(n) for n in range(1, 7))
_six_wide = _tile(6, 2)
BY_TWO = BYTES == LINE  # twelve sums run side by side, as many as it takes to hide how long one takes


@inner
def _rows(a, packed, out, panel, start, n_rows):
    """The rows start ≤ i < n_rows on one panel."""
    i = start
    while i + 6 <= n_rows:
        _six(a, packed, out, panel, i)
        i += 6
    left = n_rows - i
    if left == 5:
        _five(a, packed, out, panel, i)
    elif left == 4:
        _four(a, packed, out, panel, i)
    elif left == 3:
        _three(a, packed, out, panel, i)
    elif left == 2:
        _two(a, packed, out, panel, i)
    elif left == 1:
        _one(a, packed, out, panel, i)


@inner
def dense(a, packed, out, n_rows):
    """out[:n_rows] += a[:n_rows] @ matrix, the matrix packed as (n_panels, n_in, columns of a panel)."""
    for panel in range(0, packed.shape[0], 2):
        start = 0
        if BY_TWO and panel + 1 < packed.shape[0]:
            while start + 6 <= n_rows:
                _six_wide(a, packed, out, panel, start)
                start += 6
        for one in range(panel, min(panel + 2, packed.shape[0])):
            _rows(a, packed, out, one, start, n_rows)


@intrinsic  # type: ignore[misc]  # Numba has no types
def _arrive(typing, counter, number):
    """counter[0] += number, seen by all threads in one order; the value after it."""

    def generate(context, builder, signature, arguments):
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        before = builder.atomic_rmw("add", place, arguments[1], "seq_cst")
        return builder.add(before, arguments[1])

    return types.int64(counter, types.int64), generate


@intrinsic  # type: ignore[misc]  # Numba has no types
def _now(typing, counter):
    """counter[0], as all threads see it."""

    def generate(context, builder, signature, arguments):
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(counter), generate


def _pause(name: str, *arguments: int) -> Callable[[], None]:
    """A call of the C library by which a thread lets others run."""

    @intrinsic  # type: ignore[misc]  # Numba has no types
    def pause(typing):
        def generate(context, builder, signature, _):
            whole = ir.IntType(32)
            kind = ir.FunctionType(whole, [whole] * len(arguments))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [whole(k) for k in arguments])
            return context.get_dummy_value()

        return types.void(), generate

    return pause


_yield, _sleep = _pause("sched_yield"), _pause("usleep", 50)
SPINS, YIELDS = 2000, 2000  # some microseconds, and then some milliseconds where no other thread wants to run


@inner
def wait_for_all(counter, n_threads):
    """Every one of n_threads gets here before any goes on.

    A stage takes too little to put a thread to sleep at once. But where there are more threads than processors,
    the one that is waited for may need this processor: after a while a thread yields, and then sleeps. If the
    counter has a second place, it counts how many threads did.
    """
    number = _arrive(counter, 1)
    turn = (number + n_threads - 1) // n_threads * n_threads
    n_waits = 0
    while _now(counter) < turn:
        n_waits += 1
        if n_waits > SPINS:
            if len(counter) > 1 and n_waits == SPINS + 1:
                counter[1] += 1
            if n_waits > SPINS + YIELDS:
                _sleep()
            else:
                _yield()


def _multiply_add(context: Any, builder: Any, kind: Any) -> Callable[[Any, Any, Any], Any]:
    number = context.get_data_type(kind)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(number, [number] * 3), f"llvm.fma.f{kind.bitwidth}"
    )
    return lambda x, y, z: builder.call(function, [x, y, z])


TERMS = {32: (87.0, 7), 64: (708.0, 13)}  # by bits of a number: the range of exp, and terms of its series


@intrinsic  # type: ignore[misc]  # Numba has no types
def _exp(typing, x):
    """eˣ = 2ⁿ eʳ by a Taylor series of r, |r| ≤ ln 2 / 2: LLVM makes vectors of it, not of a call of C's exp."""

    def generate(context, builder, signature, arguments):
        kind = signature.return_type
        number, whole = context.get_data_type(kind), ir.IntType(kind.bitwidth)
        fma = _multiply_add(context, builder, kind)
        limit, n_terms = TERMS[kind.bitwidth]
        (x,) = arguments
        for bound, beyond in ((limit, ">"), (-limit, "<")):  # NaN stays
            x = builder.select(builder.fcmp_ordered(beyond, x, number(bound)), number(bound), x)
        floor = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(number, [number]), f"llvm.floor.f{kind.bitwidth}"
        )
        high = 0.693145751953125
        n = builder.call(floor, [fma(x, number(_rounded(1 / np.log(2.0), kind)), number(0.5))])
        r = fma(n, number(-high), x)
        r = fma(n, number(_rounded(high - np.log(2.0), kind)), r)
        factors = [1 / float(np.prod(np.arange(1.0, k + 1))) for k in range(n_terms, -1, -1)]
        series = number(_rounded(factors[0], kind))
        for factor in factors[1:]:
            series = fma(series, r, number(_rounded(factor, kind)))
        mantissa, bias = {32: (23, 127), 64: (52, 1023)}[kind.bitwidth]
        shifted = builder.shl(builder.add(builder.fptosi(n, whole), whole(bias)), whole(mantissa))
        return builder.fmul(series, builder.bitcast(shifted, number))

    return x(x), generate


def _rounded(value: float, kind: Any) -> float:
    return float(np.float32(value)) if kind.bitwidth == 32 else float(value)


def exp(x: Any) -> Any:
    """eˣ of one number in a compiled loop; beyond the range of the type, its ends."""
    return np.exp(x)


@overload(exp)
def _compiled_exp(x):
    if isinstance(x, types.Float):
        return lambda x: _exp(x)
    return lambda x: _exp(float(x))
