"""Writes loops over channels for a few edges of one atom at a time: see `edges` for what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from mlpot.cpu.plan import COEFFICIENTS
from mlpot.cpu.vectors import Flat, _void

EDGES = 2  # that go through the loops together, as many as registers hold
PLACES = ("own_x", "own_y", "x", "x_row", "y", "y_row", "edge", "t", "bars", "width", "channels", "is_pair")
GROUP = ("is_static", "sign", "first", "n_terms", "g", "n_factors", "knot", "table", "step")
"""The integers of a call. Places of the rows of the atom itself; of what is read and written, and how far it is
from atom to atom; the first edge; places of T and T̄, numbers of T of all paths; channels. Of the group: its sign,
0 if it is plain; the first of its terms in the lists, and their number; the place of g, and how far it is to the
next; the place of the knots of the edges, that of the table, and how far it is from knot to knot."""
Vector = Any
Radial = Callable[..., tuple[Vector, ...]]


class Edges(Flat):
    """Writes what the loops share; `k` holds the integers, `names` the arrays after T."""

    def __init__(self, w: Flat, names: tuple[str, ...]):
        super().__init__(w.context, w.builder, w.signature, w.arguments)
        _, kinds, whole = self.signature.args
        arrays = cgutils.unpack_tuple(self.builder, self.arguments[1])
        self.arrays = {"t": self.data(0)} | {
            name: self.context.make_array(kind)(self.context, self.builder, array).data
            for name, kind, array in zip(names, kinds.types, arrays, strict=True)
        }
        numbers = zip(cgutils.unpack_tuple(self.builder, self.arguments[2]), whole.types, strict=True)
        places = [self.context.cast(self.builder, value, kind, types.intp) for value, kind in numbers]
        self.k = dict(zip(PLACES + GROUP, places, strict=True))
        self.others = [self.integer(self.plus(self.arrays["others"], self.k["edge"]), n) for n in range(EDGES)]

    def own(self, name: str, place: str) -> Any:
        """The row of the atom itself."""
        return self.plus(self.arrays[name], self.k[place])

    def theirs(self, name: str, place: str) -> list[Any]:
        """The rows of the other atoms."""
        row = self.k[place + "_row"]
        return [self.plus(self.arrays[name], self.k[place], self.times(n, row)) for n in self.others]

    def radial(self, n_coefficients: int) -> Radial:
        """T and T′ of an edge from some channel on: from where they stand, or from so many rows of the table."""
        width = self.k["width"]
        if not n_coefficients:
            rows = [self.plus(self.arrays["t"], self.k["t"], self.times(width, 2 * n)) for n in range(EDGES)]
            slopes = [self.plus(row, width) for row in rows]
            return lambda n, f, v=0: (self.load(rows[n], f, v), self.load(slopes[n], f, v))
        knots, table = (
            self.plus(self.arrays["knots"], self.k["knot"]),
            self.plus(self.arrays["table"], self.k["table"]),
        )
        first = [self.plus(table, self.times(self.integer(knots, n), self.k["step"])) for n in range(EDGES)]
        c = self.plus(self.arrays["c"], self.times(self.k["knot"], COEFFICIENTS))
        factors = [
            [[self.number(self.plus(c, width.type(k))) for k in range(start, start + n_coefficients)]
             for start in (COEFFICIENTS * n, COEFFICIENTS * n + n_coefficients)]
            for n in range(EDGES)
        ]  # fmt: skip

        def at(n: int, f: Any, v: int = 0) -> tuple[Vector, ...]:
            rows = [self.load(self.plus(first[n], self.times(width, r)), f, v) for r in range(n_coefficients)]
            return tuple(self.combined(own, rows) for own in factors[n])

        return at

    def combined(self, factors: list[Vector], rows: list[Vector]) -> Vector:
        """Σ_r c_r rows[r], in this order."""
        total = self.mul(factors[0], rows[0])
        for factor, row in zip(factors[1:], rows[1:], strict=True):
            total = self.fma(factor, row, total)
        return total

    def signed(self, value: Vector) -> Vector:
        """σ times a vector."""
        sign = self.builder.sitofp(self.k["sign"], self.scalar)
        return self.builder.fmul(self._spread(sign), value)

    def mul(self, a: Vector, b: Vector) -> Vector:
        return self.builder.fmul(a, b)

    def add_to(self, row: Any, f: Any, *products: tuple[Vector, Vector], v: int = 0) -> None:
        """The v-th vector of a row grows by products."""
        total = self.load(row, f, v)
        for a, b in products:
            total = self.fma(a, b, total)
        self.store(total, row, f, v)

    def clean(self, n: int) -> list[Any]:
        """Variables that are zero from here on."""
        places = [self.variable() for _ in range(n)]
        for place in places:
            self.builder.store(self.zero(), place)
        return places

    def grow(self, place: Any, *products: tuple[Vector, Vector]) -> None:
        """A variable grows by products."""
        total = self.builder.load(place)
        for a, b in products:
            total = self.fma(a, b, total)
        self.builder.store(total, place)

    def terms(self, do: Callable[[Any, list[Any]], None]) -> None:
        """do(k · channels, places of g of each edge) for each term of the group."""
        terms = self.plus(self.arrays["lists"], self.k["first"])
        with cgutils.for_range(self.builder, self.k["n_terms"]) as loop:
            term = self.plus(terms, self.times(loop.index, 2))
            u, k = self.integer(term), self.times(self.integer(term, 1), self.k["channels"])
            first = self.builder.add(self.k["g"], u)
            do(k, [self.builder.add(first, self.times(self.k["n_factors"], n)) for n in range(EDGES)])

    def factor(self, name: str, place: Any) -> Vector:
        """g or ġ of an edge and a term, in all places of a vector."""
        return self.number(self.plus(self.arrays[name], place))

    def branch(self, condition: str) -> Any:
        """Both sides of a choice."""
        return self.builder.if_else(self.builder.icmp_signed("!=", self.k[condition], self.k[condition].type(0)))


Body = Callable[[Edges, bool], None]  # of a loop, for pairs or single edges
Plain = Callable[[Edges, bool, int], None]  # likewise, with the coefficients of an edge
TABLE = ("c", "table", "knots")


def intrinsics(names: tuple[str, ...], plain: Plain, general: Body) -> tuple[Any, Any, Any]:
    """Compiled functions of T, a tuple of arrays of those names, and one of integers.

    The first reads T from where it stands; those for a plain group of one path from the table, by 4 or 6 rows.
    """

    def write(w: Flat) -> None:
        e = Edges(w, names)
        with e.branch("sign") as (has_factors, is_plain):
            with has_factors:
                both_ways(e, general)
            with is_plain:
                both_ways(e, lambda e, pair: plain(e, pair, 0))

    def both_ways(e: Edges, body: Body) -> None:
        with e.branch("is_pair") as (pair, single):
            with pair:
                body(e, True)
            with single:
                body(e, False)

    def from_table(n: int) -> Callable[[Flat], None]:
        return lambda w: both_ways(Edges(w, names + TABLE), lambda e, pair: plain(e, pair, n))

    return _intrinsic(write), _intrinsic(from_table(4)), _intrinsic(from_table(6))


def _intrinsic(write: Callable[[Flat], None]) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def run(typing, t, arrays, k):
        return types.void(t, arrays, k), _void(write)

    return run
