"""What a few edges of one atom do, in vectors over channels: T and T′ from a table, and sums to both ends.

A call serves `EDGES` edges of an atom i for one group of terms: one path, one component of what is read, harmonics
of one parity, so that the reverse of an edge has g with one sign σ. With n the other atom of an edge,

    value      y_i += g T ∘ x_n                       and for pairs also  y_n += σ g T ∘ x_i
    tangent    the same of T ∘ ẋ + ḋ T′ ∘ x, and ġ T ∘ x
    adjoint    x̄_i += σ T ∘ Σ g ȳ_n                                      x̄_n += T ∘ Σ g ȳ_i
    both       likewise of ȳ and of the adjoints q of tangents; and T̄, T̄′

A group of one term with κ = 1 and degree 0 is plain: it has no g. A sum over edges has their order, and a sum over
channels that of a line of 64 bytes, so bits depend neither on `EDGES` nor on the width of a vector.
"""

from __future__ import annotations

from typing import Any

from mlpot.cpu.edge_writer import EDGES, Edges, intrinsics
from mlpot.kernels.simd import VECTORS


def _plain_value(e: Edges, pair: bool, n_coefficients: int) -> None:
    """y_i += T ∘ x_n, y_n += T ∘ x_i."""
    x, y, radial = e.theirs("x", "x"), e.theirs("y", "y"), e.radial(n_coefficients)
    own_x, own_y = e.own("x", "own_x"), e.own("y", "own_y")
    with e.channels(e.k["channels"], 1) as (f, _):
        x_i, total = e.load(own_x, f), e.load(own_y, f)
        for n in range(EDGES):
            t, _ = radial(n, f)
            total = e.fma(t, e.load(x[n], f), total)
            if pair:
                e.add_to(y[n], f, (t, x_i))
        e.store(total, own_y, f)


def _value(e: Edges, pair: bool) -> None:
    """y_i += g T ∘ x_n, y_n += σ g T ∘ x_i, two vectors at a time."""
    x, y, radial = e.theirs("x", "x"), e.theirs("y", "y"), e.radial(0)
    own_x, own_y = e.own("x", "own_x"), e.own("y", "own_y")
    with e.channels(e.k["channels"], 2) as (f, _):
        t = [[radial(n, f, v)[0] for v in range(2)] for n in range(EDGES)]
        there = [[e.mul(t[n][v], e.load(x[n], f, v)) for v in range(2)] for n in range(EDGES)]
        x_i = [e.signed(e.load(own_x, f, v)) for v in range(2)]
        back = [[e.mul(t[n][v], x_i[v]) for v in range(2)] for n in range(EDGES)]

        def term(k: Any, places: list[Any]) -> None:
            to = e.plus(own_y, k)
            sums = [e.load(to, f, v) for v in range(2)]
            for n, place in enumerate(places):
                g = e.factor("g", place)
                sums = [e.fma(g, there[n][v], sums[v]) for v in range(2)]
                for v in range(2 if pair else 0):
                    e.add_to(e.plus(y[n], k), f, (g, back[n][v]), v=v)
            for v in range(2):
                e.store(sums[v], to, f, v)

        e.terms(term)


value, value_4, value_6 = intrinsics(("x", "y", "others", "g", "lists"), _plain_value, _value)
"""x and y are values; both for values alone."""


def _moved(e: Edges) -> list[Any]:
    """ḋ of each edge, in all places of a vector."""
    first = e.plus(e.arrays["d_dot"], e.k["edge"])
    return [e.number(e.plus(first, e.k["edge"].type(n))) for n in range(EDGES)]


def _plain_tangent(e: Edges, pair: bool, n_coefficients: int) -> None:
    """ẏ_i += T ∘ ẋ_n + Ṫ ∘ x_n, ẏ_n += T ∘ ẋ_i + Ṫ ∘ x_i, with Ṫ = ḋ T′."""
    (x, dots, y), radial, d_dot = (e.theirs(*p) for p in TANGENT), e.radial(n_coefficients), _moved(e)
    own_x, own_dot, own_y = (e.own(name, "own_" + place) for name, place in TANGENT)
    with e.channels(e.k["channels"], 1) as (f, _):
        x_i, dot_i, total = e.load(own_x, f), e.load(own_dot, f), e.load(own_y, f)
        for n in range(EDGES):
            t, slope = radial(n, f)
            slope = e.mul(d_dot[n], slope)
            total = e.fma(t, e.load(dots[n], f), e.fma(slope, e.load(x[n], f), total))
            if pair:
                e.add_to(y[n], f, (slope, x_i), (t, dot_i))
        e.store(total, own_y, f)


def _tangent(e: Edges, pair: bool) -> None:
    """ẏ_i += g (T ∘ ẋ_n + Ṫ ∘ x_n) + ġ T ∘ x_n, and with σ the same for n."""
    (x, dots, y), radial, d_dot = (e.theirs(*p) for p in TANGENT), e.radial(0), _moved(e)
    own_x, own_dot, own_y = (e.own(name, "own_" + place) for name, place in TANGENT)
    with e.channels(e.k["channels"], 1) as (f, _):
        t, slopes = zip(*(radial(n, f) for n in range(EDGES)), strict=True)
        slope = [e.mul(d_dot[n], slopes[n]) for n in range(EDGES)]
        x_i, dot_i = e.signed(e.load(own_x, f)), e.signed(e.load(own_dot, f))
        there = [e.mul(t[n], e.load(x[n], f)) for n in range(EDGES)]
        turned = [e.fma(t[n], e.load(dots[n], f), e.mul(slope[n], e.load(x[n], f))) for n in range(EDGES)]
        back = [e.mul(t[n], x_i) for n in range(EDGES)]
        turned_back = [e.fma(t[n], dot_i, e.mul(slope[n], x_i)) for n in range(EDGES)]

        def term(k: Any, places: list[Any]) -> None:
            to = e.plus(own_y, k)
            total = e.load(to, f)
            for n, place in enumerate(places):
                g, g_dot = e.factor("g", place), e.factor("g_dot", place)
                total = e.fma(g, turned[n], e.fma(g_dot, there[n], total))
                if pair:
                    e.add_to(e.plus(y[n], k), f, (g_dot, back[n]), (g, turned_back[n]))
            e.store(total, to, f)

        e.terms(term)


TANGENT = (("x", "x"), ("dots", "x"), ("dots", "y"))
tangent, tangent_4, tangent_6 = intrinsics(
    ("x", "dots", "d_dot", "others", "g", "g_dot", "lists"), _plain_tangent, _tangent
)
"""x are values; tangents of what is read and of sums stand in dots."""


def _to_distances(e: Edges, sums: list[list[Any]]) -> None:
    """Adds up lines of D of each edge, where the edge keeps ∂E/∂d."""
    first = e.plus(e.arrays["by_distance"], e.k["edge"])
    for n, own in enumerate(sums):
        place = e.plus(first, e.k["edge"].type(n))
        e.builder.store(e.builder.fadd(e.builder.load(place), e.sum_of(own)), place)


def _to_lanes(e: Edges, sums: list[list[Any]]) -> None:
    """Adds lines of D of each edge to those behind the lines of the factors."""
    line, zero = VECTORS * e.width, e.k["edge"].type(0)
    for n, own in enumerate(sums):
        number = e.builder.add(e.times(e.k["n_factors"], EDGES), zero.type(n))
        place = e.plus(e.arrays["lanes"], e.times(number, line))
        for v, total in enumerate(own):
            e.store(e.builder.fadd(e.load(place, zero, v), e.builder.load(total)), place, zero, v)


def _plain_adjoint(e: Edges, pair: bool, n_coefficients: int) -> None:
    """x̄_i += T ∘ ȳ_n, x̄_n += T ∘ ȳ_i unless nothing moves x; D += T′ · (x_i ȳ_n + x_n ȳ_i)."""
    with e.branch("is_static") as (static, moves):
        for side, has_bars in ((static, False), (moves, True)):
            with side:
                _plain_adjoint_of(e, pair, n_coefficients, has_bars)


def _plain_adjoint_of(e: Edges, pair: bool, n_coefficients: int, has_bars: bool) -> None:
    x, bars, y = e.theirs("x", "x"), e.theirs("bars", "x"), e.theirs("bars", "y")
    radial = e.radial(n_coefficients)
    own_x, own_bar, own_y = e.own("x", "own_x"), e.own("bars", "own_x"), e.own("bars", "own_y")
    sums = [e.clean(VECTORS) for _ in range(EDGES)]
    with e.channels(e.k["channels"], VECTORS) as (f, _):
        for v in range(VECTORS):
            x_i, y_i = e.load(own_x, f, v), e.load(own_y, f, v)
            total = e.load(own_bar, f, v) if has_bars else None
            for n in range(EDGES):
                y_n, (t, slope) = e.load(y[n], f, v), radial(n, f, v)
                met = e.mul(x_i, y_n)
                if pair:
                    met = e.fma(e.load(x[n], f, v), y_i, met)
                e.grow(sums[n][v], (slope, met))
                if has_bars:
                    total = e.fma(t, y_n, total)
                    if pair:
                        e.add_to(bars[n], f, (t, y_i), v=v)
            if has_bars:
                e.store(total, own_bar, f, v)
    (_to_distances if n_coefficients else _to_lanes)(e, sums)


def _adjoint(e: Edges, pair: bool) -> None:
    """With w_n = Σ g ȳ_n, w_i = Σ g ȳ_i: x̄_i += σ T ∘ w_n, x̄_n += T ∘ w_i, D += T′ · (σ x_i w_n + x_n w_i).

    To the lanes of each factor go T ∘ (σ x_i ȳ_n + x_n ȳ_i), the adjoint of g.
    """
    with e.branch("is_static") as (static, moves):
        for side, has_bars in ((static, False), (moves, True)):
            with side:
                sums = [e.clean(VECTORS) for _ in range(EDGES)]
                with e.channels(e.k["channels"], VECTORS) as (f, _):
                    for v in range(VECTORS):
                        _adjoint_of_vector(e, pair, has_bars, f, v, [own[v] for own in sums])
                _to_lanes(e, sums)


def _adjoint_of_vector(e: Edges, pair: bool, has_bars: bool, f: Any, v: int, sums: list[Any]) -> None:
    x, bars, y = e.theirs("x", "x"), e.theirs("bars", "x"), e.theirs("bars", "y")
    own_bar, own_y, lanes = e.own("bars", "own_x"), e.own("bars", "own_y"), e.arrays["lanes"]
    radial = e.radial(0)
    x_i = e.signed(e.load(e.own("x", "own_x"), f, v))
    t, slopes = zip(*(radial(n, f, v) for n in range(EDGES)), strict=True)
    x_n = [e.load(row, f, v) for row in x]
    there, back = [e.mul(t[n], x_i) for n in range(EDGES)], [e.mul(t[n], x_n[n]) for n in range(EDGES)]
    of_n, of_i = e.clean(EDGES), e.clean(EDGES)

    def term(k: Any, places: list[Any]) -> None:
        y_i = e.load(e.plus(own_y, k), f, v)
        for n, place in enumerate(places):
            g, y_n = e.factor("g", place), e.load(e.plus(y[n], k), f, v)
            number = e.builder.sub(place, e.k["g"])
            lane = e.plus(lanes, e.times(number, VECTORS * e.width))
            e.grow(of_n[n], (g, y_n))
            products = [(there[n], y_n)]
            if pair:
                e.grow(of_i[n], (g, y_i))
                products.append((back[n], y_i))
            e.add_to(lane, k.type(0), *products, v=v)

    e.terms(term)
    total = e.load(own_bar, f, v)
    for n in range(EDGES):
        w_n = e.builder.load(of_n[n])
        total, met = e.fma(e.signed(t[n]), w_n, total), e.mul(x_i, w_n)
        if pair:
            w_i = e.builder.load(of_i[n])
            met = e.fma(x_n[n], w_i, met)
            if has_bars:
                e.add_to(bars[n], f, (t[n], w_i), v=v)
        e.grow(sums[n], (slopes[n], met))
    if has_bars:
        e.store(total, own_bar, f, v)


adjoint, adjoint_4, adjoint_6 = intrinsics(
    ("x", "bars", "by_distance", "lanes", "others", "g", "lists"), _plain_adjoint, _adjoint
)
"""x are values; adjoints of what is read and of sums stand in bars."""


def _plain_both(e: Edges, pair: bool, n_coefficients: int) -> None:
    """x̄_i += T ∘ ȳ_n + Ṫ ∘ q_n, T̄ += x_i ȳ_n + ẋ_i q_n, T̄′ += x_i q_n, and the same for n."""
    _both(e, pair, True, n_coefficients)


def _both_general(e: Edges, pair: bool) -> None:
    """With w = Σ g ȳ + ġ q and v = Σ g q: x̄_i += σ (T ∘ w_n + Ṫ ∘ v_n), T̄ += σ (x_i w_n + ẋ_i v_n), and so on."""
    _both(e, pair, False, 0)


BOTH = (("x", "x"), ("dots", "x"), ("back", "x"), ("back", "y"), ("bars", "y"))


def _both(e: Edges, pair: bool, plain: bool, n_coefficients: int) -> None:
    rows, own = [e.theirs(*p) for p in BOTH], [e.own(name, "own_" + place) for name, place in BOTH]
    radial, d_dot = e.radial(n_coefficients), _moved(e)
    out = [e.plus(e.arrays["out"], e.k["bars"], e.times(e.k["width"], 2 * n)) for n in range(EDGES)]
    with e.channels(e.k["channels"], 1) as (f, _):
        sums = [e.clean(4) for _ in range(EDGES)]  # w_n, v_n, w_i, v_i

        def term(k: Any, places: list[Any] | None) -> None:
            y_i, q_i = (e.load(e.plus(own[m], k), f) for m in (3, 4))
            for n in range(EDGES):
                y_n, q_n = (e.load(e.plus(rows[m][n], k), f) for m in (3, 4))
                for (w, v), y, q in ((sums[n][:2], y_n, q_n), (sums[n][2:], y_i, q_i))[: 1 + pair]:
                    if places is None:
                        e.builder.store(y, w)
                        e.builder.store(q, v)
                    else:
                        g, g_dot = e.factor("g", places[n]), e.factor("g_dot", places[n])
                        e.grow(w, (g, y), (g_dot, q))
                        e.grow(v, (g, q))

        if plain:
            term(f.type(0), None)
        else:
            e.terms(term)
        x_i, dot_i, total = (e.load(row, f) for row in own[:3])
        for n in range(EDGES):
            w_n, v_n, w_i, v_i = (e.builder.load(place) for place in sums[n])
            if not plain:
                w_n, v_n = e.signed(w_n), e.signed(v_n)
            t, slope = radial(n, f)
            slope = e.mul(d_dot[n], slope)
            total = e.fma(slope, v_n, e.fma(t, w_n, total))
            by_value, by_slope = [(x_i, w_n), (dot_i, v_n)], [(x_i, v_n)]
            if pair:
                x_n, dot_n = e.load(rows[0][n], f), e.load(rows[1][n], f)
                by_value += [(x_n, w_i), (dot_n, v_i)]
                by_slope.append((x_n, v_i))
                e.add_to(rows[2][n], f, (t, w_i), (slope, v_i))
            e.add_to(out[n], f, *by_value)
            e.add_to(e.plus(out[n], e.k["width"]), f, *by_slope)
        e.store(total, own[2], f)


both_adjoints, both_adjoints_4, both_adjoints_6 = intrinsics(
    ("x", "dots", "back", "bars", "d_dot", "out", "others", "g", "g_dot", "lists"), _plain_both, _both_general
)
"""x and dots are values and tangents, back and bars the adjoints of the loss and of the energies; T̄, T̄′ in out."""
