"""What one edge does, in vectors over channels: loops that need no proof that their rows do not overlap.

The edge (i, j) reads n rows of a table from row r, with n coefficients c: w = Σ_k c_k table[r + k]. Its reverse
has the same w, so an edge can serve both its atoms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.extending import intrinsic

from mlpot.kernels.simd import VECTORS, Writer, compiled, inner


def _radial(w: Writer, factors: list[Any], table: Any, r: Any) -> Callable[..., Any]:
    """The function that writes the v-th vector of w from column f on."""
    rows = [w.row(table, r, k) for k in range(len(factors))]

    def at(f: Any, v: int = 0) -> Any:
        value = w.builder.fmul(factors[0], w.load(rows[0], f, v))
        for factor, row in zip(factors[1:], rows[1:], strict=True):
            value = w.fma(factor, w.load(row, f, v), value)
        return value

    return at


def _by_edge(w: Writer, c: Any, e: Any, n: int) -> list[Any]:
    """Coefficients c[e, :n]."""
    return [w.everywhere(w.row(c, e), e.type(k)) for k in range(n)]


def _conv(n: int, both: bool) -> Callable[..., None]:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def conv(typing, c, table, x, out, e, r, i, j, v, v_back):
        def generate(context, builder, signature, arguments):
            w = Writer(context, builder, signature, arguments)
            c, table, x, out = (w.array(k) for k in range(4))
            e, r, i, j = (w.whole(k) for k in range(4, 8))
            radial = _radial(w, _by_edge(w, c, e, n), table, r)
            ends = [(w.row(out, i), w.row(x, j), w.spread(8)), (w.row(out, j), w.row(x, i), w.spread(9))]
            with w.columns(x) as (f, _):
                value = radial(f)
                for to, source, v in ends[: 1 + both]:
                    weight = builder.fmul(v, value)
                    w.store(w.fma(weight, w.load(source, f), w.load(to, f)), to, f)
            return context.get_dummy_value()

        return types.void(c, table, x, out, e, r, i, j, x.dtype, x.dtype), generate

    return conv


def _dot(n: int) -> Callable[..., Any]:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def dot(typing, c, table, x, g, e, r, i, j):
        def generate(context, builder, signature, arguments):
            w = Writer(context, builder, signature, arguments)
            c, table, x, g = (w.array(k) for k in range(4))
            e, r, i, j = (w.whole(k) for k in range(4, 8))
            radial = _radial(w, _by_edge(w, c, e, n), table, r)
            ends = [(w.row(g, i), w.row(x, j), w.sums()), (w.row(g, j), w.row(x, i), w.sums())]
            with w.lines(x) as (f, _):
                for v in range(VECTORS):
                    value = radial(f, v)
                    for left, right, totals in ends:
                        pair = builder.fmul(w.load(left, f, v), w.load(right, f, v))
                        builder.store(w.fma(value, pair, builder.load(totals[v])), totals[v])
            sums = [w.sum_of(totals) for *_, totals in ends]
            return context.make_tuple(builder, signature.return_type, sums)

        two = types.UniTuple(x.dtype, 2)  # type: ignore[attr-defined]
        return two(c, table, x, g, e, r, i, j), generate

    return dot


def _grad(n: int) -> Callable[..., None]:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def grad(typing, c, rows, x, g, e, i, j, v, v_back):
        def generate(context, builder, signature, arguments):
            w = Writer(context, builder, signature, arguments)
            c, rows, x, g = (w.array(k) for k in range(4))
            e, i, j = (w.whole(k) for k in range(4, 7))
            factors = _by_edge(w, c, e, n)
            places = [w.row(rows, i.type(k)) for k in range(n)]
            ends = [(w.row(g, i), w.row(x, j), w.spread(7)), (w.row(g, j), w.row(x, i), w.spread(8))]
            with w.columns(x) as (f, _):
                there, back = (
                    builder.fmul(weight, builder.fmul(w.load(left, f), w.load(right, f)))
                    for left, right, weight in ends
                )
                pair = builder.fadd(there, back)
                for factor, place in zip(factors, places, strict=True):
                    w.store(w.fma(factor, pair, w.load(place, f)), place, f)
            return context.get_dummy_value()

        return types.void(c, rows, x, g, e, i, j, x.dtype, x.dtype), generate

    return grad


_conv_4, _conv_4_both, _conv_6, _conv_6_both = (_conv(n, both) for n in (4, 6) for both in (False, True))
_dot_4, _dot_6, _grad_4, _grad_6 = (make(n) for make in (_dot, _grad) for n in (4, 6))


@inner
def conv(c, table, x, out, e, r, i, j, v, v_back, both):
    """out_i += v w ∘ x_j and, for both, out_j += v_back w ∘ x_i; coefficients c[e]."""
    if c.shape[1] == 4 and both:
        _conv_4_both(c, table, x, out, e, r, i, j, v, v_back)
    elif c.shape[1] == 4:
        _conv_4(c, table, x, out, e, r, i, j, v, v_back)
    elif both:
        _conv_6_both(c, table, x, out, e, r, i, j, v, v_back)
    else:
        _conv_6(c, table, x, out, e, r, i, j, v, v_back)


@inner
def dot(c, table, x, g, e, r, i, j):
    """Σ_f (w g_i x_j)_f and Σ_f (w g_j x_i)_f."""
    if c.shape[1] == 4:
        return _dot_4(c, table, x, g, e, r, i, j)
    return _dot_6(c, table, x, g, e, r, i, j)


@inner
def grad(c, rows, x, g, e, i, j, v, v_back):
    """rows[k] += c[e, k] (v g_i x_j + v_back g_j x_i)."""
    if c.shape[1] == 4:
        _grad_4(c, rows, x, g, e, i, j, v, v_back)
    else:
        _grad_6(c, rows, x, g, e, i, j, v, v_back)


@compiled
def sum_intervals(part, stride, out):
    """Each row of the table from all intervals that read it, in order."""
    n_knots, n_coefficients, n_features = part.shape
    out[:] = 0
    for k in range(n_knots):
        for r in range(n_coefficients):
            row, more = out[k * stride + r], part[k, r]
            for f in range(n_features):
                row[f] += more[f]
