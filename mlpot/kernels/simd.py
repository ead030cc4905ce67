"""Dense products and activations for compiled loops: many small ones at nearly the speed of the arithmetic.

A BLAS is made for large matrices and is called from outside a loop; here nine atoms times a layer of weights is
a few microseconds inside it. Numba has no vectors of its own, so the innermost loop is written for LLVM directly:
six rows by two vectors of the product stay in registers while the sum runs (K. Goto and R. van de Geijn, ACM
Trans. Math. Softw. 34, 12 (2008)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import literal_unroll
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

BYTES = 32  # of a vector; a panel of a matrix is two of them wide

OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},  # NaN and infinity keep their meaning
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
}
SOURCES = hashlib.sha256(
    b"".join(
        path.read_bytes()
        for room in ("kernels", "cpu")
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py"))
    )
).digest()


def _compiler(**options: bool) -> Callable[[Callable[..., Any]], Any]:
    """Numba's compiler, whose cache holds until any kernel changes.

    Numba compiles anew when the file of a function changes, but not when that of a function it calls does: after
    an upgrade half of a kernel would be the old one.
    """

    def compiler(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**OPTIONS, **options)(function)
        dispatcher._cache._cache_file._source_stamp = SOURCES
        return dispatcher

    return compiler


# Compiled functions have no annotations: Numba finds the types of each call, in either precision and with tuples
# that mypy cannot follow. So they are marked `no-untyped-def`, here and wherever these decorators are used.
compiled = _compiler()
# For what only compiled functions call: unpacking Python's objects is most of the code, and time to compile, else.
inner = _compiler(no_cpython_wrapper=True, no_cfunc_wrapper=True)


class Writer:
    """Writes LLVM code: arrays as pointers to rows, and vectors of consecutive numbers."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any):
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments
        number = signature.args[0].dtype
        self.size = number.bitwidth // 8
        self.width = BYTES // self.size
        self.scalar = context.get_data_type(number)
        self.vector = ir.VectorType(self.scalar, self.width)
        name = f"llvm.fma.v{self.width}f{number.bitwidth}"
        self.fma_type = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fused = cgutils.get_or_insert_function(builder.module, self.fma_type, name)

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
        zero = self.length(array).type(0)
        step = zero.type(self.width)
        return cgutils.for_range_slice(self.builder, zero, self.length(array), step, inc=True)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        return self.builder.call(self.fused, [x, y, z])

    def variable(self) -> Any:
        """A vector that LLVM keeps in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), place)
        return place


def _tile(n_rows: int) -> Callable[..., None]:
    """c[i : i + n_rows] += a[i : i + n_rows] @ panel, on one panel of columns."""

    @intrinsic  # type: ignore[misc]
    def add_product(typing, a, packed, c, panel, i):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            w = Writer(context, builder, signature, arguments)
            left, right, out = (w.array(k) for k in range(3))
            panel, i = arguments[3:]
            n_inner = w.length(left)
            column = builder.mul(panel, panel.type(2 * w.width))
            b = builder.gep(right.data, [builder.mul(column, n_inner)])
            rows = [(w.row(left, i, r), w.row(out, i, r)) for r in range(n_rows)]
            sums = [[w.variable() for _ in range(2)] for _ in rows]
            with cgutils.for_range(builder, n_inner) as loop:
                b_k = [w.load(b, builder.mul(loop.index, panel.type(2 * w.width)), v) for v in range(2)]
                for (a_row, _), two in zip(rows, sums, strict=True):
                    a_k = w.everywhere(a_row, loop.index)
                    for v in range(2):
                        builder.store(w.fma(a_k, b_k[v], builder.load(two[v])), two[v])
            for (_, c_row), two in zip(rows, sums, strict=True):
                for v in range(2):
                    w.store(builder.fadd(w.load(c_row, column, v), builder.load(two[v])), c_row, column, v)
            return context.get_dummy_value()

        return types.void(a, packed, c, types.intp, types.intp), generate

    return add_product


_one, _two, _three, _four, _five, _six = (_tile(n) for n in range(1, 7))


@inner
def dense(a, packed, out, n_rows):  # type: ignore[no-untyped-def]
    """out[:n_rows] += a[:n_rows] @ matrix, the matrix packed as (n_panels, n_in, columns of a panel)."""
    for panel in range(packed.shape[0]):
        i = 0
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


@intrinsic  # type: ignore[misc]
def _arrive(typing, counter, number):  # type: ignore[no-untyped-def]
    """counter[0] += number, seen by all threads in one order; the value after it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        before = builder.atomic_rmw("add", place, arguments[1], "seq_cst")
        return builder.add(before, arguments[1])

    return types.int64(counter, types.int64), generate


@inner
def wait_for_all(counter, n_threads):  # type: ignore[no-untyped-def]
    """Every one of n_threads gets here before any goes on; a stage takes too little to put a thread to sleep."""
    number = _arrive(counter, 1)
    turn = (number + n_threads - 1) // n_threads * n_threads
    while _arrive(counter, 0) < turn:
        pass


@intrinsic  # type: ignore[misc]
def _power_of_two(typing, n):  # type: ignore[no-untyped-def]
    """2ⁿ of a whole number n within the exponents of a floating-point number as wide as n."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        bits = signature.args[0].bitwidth
        mantissa, bias = {32: (23, 127), 64: (52, 1023)}[bits]
        whole = ir.IntType(bits)
        shifted = builder.shl(builder.add(args[0], whole(bias)), whole(mantissa))
        return builder.bitcast(shifted, context.get_data_type(signature.return_type))

    return {32: types.float32, 64: types.float64}[n.bitwidth](n), generate  # type: ignore[operator]


def _exponential(whole: Any, limit: float, n_terms: int) -> Any:
    """eˣ = 2ⁿ eʳ by a Taylor series of r, |r| ≤ ln 2 / 2: LLVM makes vectors of it, not of a call of C's exp."""
    kind: Any = np.float32 if whole is np.int32 else np.float64
    per_ln2, high, low = kind(1 / np.log(2.0)), kind(0.693145751953125), kind(np.log(2.0) - 0.693145751953125)
    half, most, least = kind(0.5), kind(limit), kind(-limit)
    factors = tuple(kind(1 / float(np.prod(np.arange(1.0, k + 1)))) for k in range(n_terms, -1, -1))

    @inner
    def exponential(x):  # type: ignore[no-untyped-def]
        x = most if x > most else (least if x < least else x)  # NaN stays
        n = np.floor(x * per_ln2 + half)
        r = (x - n * high) - n * low
        series = factors[0]
        for factor in literal_unroll(factors[1:]):
            series = series * r + factor
        return series * _power_of_two(whole(n))

    return exponential


_exp32, _exp64 = _exponential(np.int32, 87.0, 7), _exponential(np.int64, 708.0, 13)


def exp(x: Any) -> Any:
    """eˣ of one number in a compiled loop; beyond the range of the type, its ends."""
    return np.exp(x)


@overload(exp)
def _compiled_exp(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: _exp64(x)


@inner
def copy_rows(row, out, n):  # type: ignore[no-untyped-def]
    """The same row n times."""
    for i in range(n):
        for f in range(len(row)):
            out[i, f] = row[f]


@inner
def silu(a, slope, n_rows):  # type: ignore[no-untyped-def]
    """a ← a σ(a), slope ← σ(a) (1 + a (1 − σ(a))) in the first n_rows."""
    one = a.dtype.type(1)
    for i in range(n_rows):
        for f in range(a.shape[1]):
            x = a[i, f]
            s = one / (one + exp(-x))
            slope[i, f] = s * (one + x * (one - s))
            a[i, f] = x * s


@inner
def silu_curvature(a, out, n_rows):  # type: ignore[no-untyped-def]
    """out ← σ(a) (1 − σ(a)) (2 + a (1 − 2 σ(a))), the second derivative of a σ(a), in the first n_rows."""
    one, two = a.dtype.type(1), a.dtype.type(2)
    for i in range(n_rows):
        for f in range(a.shape[1]):
            x = a[i, f]
            s = one / (one + exp(-x))
            out[i, f] = s * (one - s) * (two + x * (one - two * s))
