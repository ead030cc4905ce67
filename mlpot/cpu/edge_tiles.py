"""Tiles of edges in an `EdgeNetwork`: values and tangents, as in `stages.edge_network`.

The edges of a part go by tiles that stay in the first caches. What they compute in the forward pass, z, y and x of
every edge, is kept for the three other functions as long as memory suffices, else computed again.
Arrays are flat and places are given as offsets; an array of a tile is a slot of `work`, TILE rows of channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from mlpot.cpu.edge_functions import activate, basis, envelope, times
from mlpot.cpu.plan import KAPPA, LISTS, SOURCE_ROW, source_of
from mlpot.cpu.tiles import ROWS, apart, multiply
from mlpot.cpu.vectors import dot
from mlpot.kernels.simd import bare, exp

Array = Any

TILE = 48  # edges, whole groups of rows

# What the integers of a list are: of the function, the layers, the basis and the envelope (0 for the cosine);
FUNCTION, DEEP, GATED, MOVES, DISPLACED, BASIS, EXPONENT, N_RADIAL, RADIAL = range(9)
# where weights begin; which of two arrays of adjoints the stage takes, numbers of a row that earlier stages keep;
PLACES, DISTANCE, FROM_DISTANCE, SECOND, FROM_SECOND, BIAS, GATE, GATE_BIAS = range(9, 17)
MOVE, FROM_MOVE, MOVE_BIAS, ALONG, PARITY, KEPT_BEFORE = range(17, 23)
WIDTH, PANEL = 23, 24  # of rows and panels
FACTOR, CUTOFF, ONE, OTHER, SOFTENING = range(5)  # numbers: of the envelope and the basis; ε²

# Slots of `work`: values, tangents behind those of functions, derivatives of the activations, tangents, adjoints.
Z, Y, X, F, F_DOT, M, M_DOT, K, K_DOT = range(9)
Z_SLOPE, Y_SLOPE, X_SLOPE, Z_CURVATURE, Y_CURVATURE, X_CURVATURE, Z_DOT, Y_DOT, X_DOT = range(9, 18)
X_BAR, M_BAR, F_BAR, N_SLOTS = 18, 20, 22, 24  # two each: of the loss, and of energies behind them
# Rows of `single`: numbers of an edge, s, u, its slope by the distance, g, t, their tangents, and adjoints
S, S_DOT, U, U_SLOPE, U_DOT, G, Q_DOT, T, T_DOT, T_BAR, T_OF_G, Q_BAR, Q_OF_G, N_SINGLE = range(14)
R, R_DOT, R_BAR = range(3)  # of `xyz`


class EdgeTiles(NamedTuple):
    """The edges of a part, and the arrays for a tile of them."""

    center: Array  # (n,) int64, of each edge within the cutoff
    edge: Array  # (n,) int64, its place in the list
    separation: Array  # (n, 4) float64, see `plan.Near`
    separation_dot: Array  # (n, 4) float64
    row: int  # where the rows of the part begin among those that are kept
    n_rows: int  # that are kept
    net: Array  # integers, see above
    numbers: Array
    weights: Array
    work: Array
    e: Array  # (6, TILE, radial) flat: e and ė, two adjoints, and two derivatives
    single: Array  # (N_SINGLE, TILE) flat
    xyz: Array  # (3, TILE, 3) flat
    source: int  # where what is read begins, and numbers of an atom there
    source_row: int
    values: Array  # those of `plan.Workspace`
    dots: Array
    tape: Array
    tape_dot: Array
    neighbor: Array  # (n_listed,) int64


@bare
def edge_tiles_of(begin, place, s, plan, workspace, near):
    """Of the part that begins with an atom, with the work at a place."""
    apart()
    net, numbers = plan.lists[s[LISTS] :], plan.numbers[s[KAPPA] :]
    first = near.row_ptr[begin]
    last, work, area = first + near.n_near[begin], near.work[place], N_SLOTS * TILE * net[WIDTH]
    single = area + 6 * TILE * net[RADIAL]
    xyz = single + N_SINGLE * TILE
    clear(work, area, xyz - area)
    return EdgeTiles(
        near.center[first:last],
        near.edge[first:last],
        near.separation[first:last],
        near.separation_dot[first:last],
        first + ROWS * begin,  # groups of rows are filled up
        n_rows_kept(len(near.edge), workspace.n_atoms),
        net,
        numbers,
        plan.weights,
        work[:area],
        work[area:single],
        work[single:xyz],
        work[xyz : xyz + 9 * TILE],
        source_of(0, s, workspace),
        s[SOURCE_ROW],
        workspace.values,
        workspace.dots,
        near.tape,
        near.tape_dot,
        near.listed,
    )


def _n_rows_kept(n_edges: int, n_atoms: int) -> int:
    return n_edges + ROWS * (n_atoms + 1)


n_rows_kept = register_jitable(_n_rows_kept)


def n_work(width: int, radial: int) -> int:
    """Numbers of `work`, `e`, `single` and `xyz` together."""
    return TILE * (N_SLOTS * width + 6 * radial + N_SINGLE + 9)


@bare
def lay(begin, end, near):
    """The edges of a part within the cutoff, each from its center: those of pairs stand for two."""
    n = near.row_ptr[begin]
    for i in range(begin, end):
        for pair in range(2):
            for e in range(near.ends[i, 2 * pair], near.ends[i, 2 * pair + 1]):
                near.center[n], near.edge[n], near.separation[n, 0] = i, near.original[e], near.exact[e, 1]
                for c in range(3):
                    near.separation[n, 1 + c] = near.exact[e, 2 + c]
                n += 1
                if pair:
                    near.center[n], near.edge[n] = near.other[e], near.reverse[near.original[e]]
                    near.separation[n, 0] = near.exact[e, 1]
                    for c in range(3):
                        near.separation[n, 1 + c] = -near.exact[e, 2 + c]
                    n += 1
    near.n_near[begin] = n - near.row_ptr[begin]


@bare
def move(begin, forces, virials, near):
    """How the edges of a part move as atoms move by −F̄ and strain by W̄, see `outer.move`."""
    for n in range(near.row_ptr[begin], near.row_ptr[begin] + near.n_near[begin]):
        i, u, along = near.center[n], near.separation[n], 0.0
        j, moved = near.listed[near.edge[n]], near.separation_dot[n]
        for a in range(3):
            moved[1 + a] = forces[i, a] - forces[j, a]
            for b in range(3):
                moved[1 + a] += virials[i, b, a] * u[1 + b] * u[0]
            along += moved[1 + a] * u[1 + a]
        moved[0] = along


@bare
def filled_up(n):
    """n in whole groups of rows."""
    return (n + ROWS - 1) // ROWS * ROWS


@bare
def copy(a, a0, n, out, out0):
    """out[out0:] ← a[a0:], n numbers."""
    one, other = a[a0 : a0 + n], out[out0 : out0 + n]
    for k in range(n):
        other[k] = one[k]


@bare
def clear(a, a0, n):
    """a[a0:] ← 0, n numbers."""
    own = a[a0 : a0 + n]
    for k in range(n):
        own[k] = 0


@bare
def ends(array, source, source_row, center, edge, neighbor, start, n, width, out, out0):
    """out[out0:] ← a_i + b_j of an array for n edges, and zeros up to whole groups."""
    apart()
    for k in range(n):
        a = source + center[start + k] * source_row
        b, to = source + neighbor[edge[start + k]] * source_row + width, out0 + k * width
        row, one, other = out[to : to + width], array[a : a + width], array[b : b + width]
        for f in range(width):
            row[f] = one[f] + other[f]
    clear(out, out0 + n * width, (filled_up(n) - n) * width)


@bare
def measure(start, n, q):
    """R, s, u and its slope of a tile of edges."""
    kind, one, r, numbers = q.work.dtype.type, q.single, q.xyz, q.numbers
    for k in range(n):
        e, d, squared = q.edge[start + k], q.separation[start + k, 0], 0.0
        for c in range(3):
            r[3 * k + c] = d * q.separation[start + k, 1 + c]
        if q.net[DISPLACED]:
            own = q.source + q.center[start + k] * q.source_row + 2 * q.net[WIDTH]
            other = q.source + q.neighbor[e] * q.source_row + 2 * q.net[WIDTH]
            for c in range(3):
                r[3 * k + c] += q.values[other + c] - q.values[own + c]
                squared += r[3 * k + c] ** 2
            one[S * TILE + k] = np.sqrt(squared + numbers[SOFTENING])
        else:
            one[S * TILE + k] = d
        u, slope = envelope(d / numbers[CUTOFF], q.net[EXPONENT])
        one[U * TILE + k] = numbers[FACTOR] * kind(u)
        one[U_SLOPE * TILE + k] = numbers[FACTOR] * kind(slope / numbers[CUTOFF])


@bare
def radial(order, n, e0, q):
    """e of a tile of edges, or a derivative, from the row e0 on; zeros up to whole groups."""
    width, net = q.net[RADIAL], q.net
    for k in range(n):
        s, to = q.single[S * TILE + k], (e0 + k) * width
        one, other = q.numbers[ONE], q.numbers[OTHER]
        basis(net[BASIS], order, one, other, q.weights, net[PLACES], net[N_RADIAL], s, q.e, to)
    clear(q.e, (e0 + n) * width, (filled_up(n) - n) * width)


@bare
def place_of(number, start, q):
    """Where z, y or x of a tile of edges begins among what is kept, or in `work`."""
    width = q.net[WIDTH]
    if len(q.tape) == 0:
        return number * TILE * width
    before = number if number < 2 else 1 + q.net[DEEP]
    return (q.net[KEPT_BEFORE] + before * width) * q.n_rows + (q.row + start) * width


@bare
def forward(start, n, q, z, z0, y0, x0):
    """z, y and x of a tile of edges that was measured, in an array at z0, y0 and x0, and φ of them in `work`."""
    apart()
    net, weights, work, width = q.net, q.weights, q.work, q.net[WIDTH]
    rows, area, panel = filled_up(n), TILE * width, net[PANEL]
    radial(0, n, 0, q)
    ends(q.values, q.source, q.source_row, q.center, q.edge, q.neighbor, start, n, width, z, z0)
    multiply(q.e, 0, rows, net[RADIAL], weights, net[DISTANCE], panel, z, z0, width)
    activate(net[FUNCTION], 0, z, z0, rows * width, work, F * area, 0, 0)
    if net[DEEP]:
        for k in range(rows):
            copy(weights, net[BIAS], width, z, y0 + k * width)
        multiply(work, F * area, rows, width, weights, net[SECOND], panel, z, y0, width)
        activate(net[FUNCTION], 0, z, y0, rows * width, work, M * area, 0, 0)
    else:
        copy(work, F * area, rows * width, work, M * area)
    if net[MOVES]:
        for k in range(rows):
            copy(weights, net[MOVE_BIAS], width, z, x0 + k * width)
        multiply(work, M * area, rows, width, weights, net[MOVE], panel, z, x0, width)
        activate(net[FUNCTION], 0, z, x0, rows * width, work, K * area, 0, 0)
    gates(n, q.single, net, weights, work)


@bare
def gates(n, one, net, weights, work):
    """g and t of a tile of edges from m and φ(x)."""
    width, area, unit = net[WIDTH], TILE * net[WIDTH], work.dtype.type(1)
    for k in range(n):
        one[G * TILE + k] = unit
        if net[GATED]:
            q = dot(work, M * area + k * width, width, weights, net[GATE]) + weights[net[GATE_BIAS]]
            one[G * TILE + k] = unit / (unit + exp(-q))
        if net[MOVES]:
            one[T * TILE + k] = dot(work, K * area + k * width, width, weights, net[ALONG])


@bare
def through(start, n, q):
    """`measure` and `forward` of a tile of edges."""
    measure(start, n, q)
    z0, y0, x0 = place_of(Z, start, q), place_of(Y, start, q), place_of(X, start, q)
    if len(q.tape):
        forward(start, n, q, q.tape, z0, y0, x0)
    else:
        forward(start, n, q, q.work, z0, y0, x0)


@bare
def again(order, start, n, q):
    """What `through` finds, from what was kept if it was, with derivatives of the activations to an order."""
    apart()
    if len(q.tape):
        measure(start, n, q)
    else:
        through(start, n, q)
    net, work, area, n_numbers = q.net, q.work, TILE * q.net[WIDTH], filled_up(n) * q.net[WIDTH]
    values = q.tape if len(q.tape) else q.work
    z0, y0, x0 = place_of(Z, start, q), place_of(Y, start, q), place_of(X, start, q)
    activate(net[FUNCTION], order, values, z0, n_numbers, work, F * area, Z_SLOPE * area, Z_CURVATURE * area)
    if net[DEEP]:
        activate(net[FUNCTION], order, values, y0, n_numbers, work, M * area, Y_SLOPE * area, Y_CURVATURE * area)
    else:
        copy(work, F * area, n_numbers, work, M * area)
    if net[MOVES]:
        activate(net[FUNCTION], order, values, x0, n_numbers, work, K * area, X_SLOPE * area, X_CURVATURE * area)
    gates(n, q.single, net, q.weights, work)


@bare
def measure_dots(start, n, q):
    """Ṙ, ṡ and u̇ of a tile of edges that was measured."""
    kind, one, r, r_dot = q.work.dtype.type, q.single, q.xyz, q.xyz[R_DOT * 3 * TILE :]
    for k in range(n):
        e, along = q.edge[start + k], 0.0
        d_dot = q.separation_dot[start + k, 0]
        for c in range(3):
            r_dot[3 * k + c] = q.separation_dot[start + k, 1 + c]
        one[S_DOT * TILE + k] = d_dot
        if q.net[DISPLACED]:
            own = q.source + q.center[start + k] * q.source_row + 2 * q.net[WIDTH]
            other = q.source + q.neighbor[e] * q.source_row + 2 * q.net[WIDTH]
            for c in range(3):
                r_dot[3 * k + c] += q.dots[other + c] - q.dots[own + c]
                along += r[3 * k + c] * r_dot[3 * k + c]
            one[S_DOT * TILE + k] = along / one[S * TILE + k]
        one[U_DOT * TILE + k] = one[U_SLOPE * TILE + k] * kind(d_dot)


@bare
def keep(number, slot, start, n, q):
    """Keeps the tangents of z, y or x of a tile of edges, if memory suffices."""
    n_numbers = filled_up(n) * q.net[WIDTH] if len(q.tape_dot) else 0
    copy(q.work, slot * TILE * q.net[WIDTH], n_numbers, q.tape_dot, place_of(number, start, q))


@bare
def recall(number, slot, start, n, q):
    """What `keep` kept."""
    n_numbers = filled_up(n) * q.net[WIDTH]
    copy(q.tape_dot, place_of(number, start, q), n_numbers, q.work, slot * TILE * q.net[WIDTH])


@bare
def tangents(known, start, n, q):
    """The tangents of a tile of edges for which `again` was called; those of φ behind its values.

    Those of z, y and x are kept, if memory suffices, until they are wanted again.
    """
    apart()
    net, weights, work, width, one = q.net, q.weights, q.work, q.net[WIDTH], q.single
    rows, area, panel, is_kept = filled_up(n), TILE * width, net[PANEL], known != 0 and len(q.tape_dot) > 0
    measure_dots(start, n, q)
    radial(1, n, rows, q)
    for k in range(n):
        row, moved = q.e[(rows + k) * net[RADIAL] :], one[S_DOT * TILE + k]
        for c in range(net[RADIAL]):
            row[c] *= moved
    f, m, x = F * area + rows * width, M * area + rows * width, K * area + rows * width
    if is_kept:
        recall(Z, Z_DOT, start, n, q)
    else:
        ends(q.dots, q.source, q.source_row, q.center, q.edge, q.neighbor, start, n, width, work, Z_DOT * area)
        e0, n_radial = rows * net[RADIAL], net[RADIAL]
        multiply(q.e, e0, rows, n_radial, weights, net[DISTANCE], panel, work, Z_DOT * area, width)
        keep(Z, Z_DOT, start, n, q)
    times(work, Z_SLOPE * area, Z_DOT * area, rows * width, f)
    if net[DEEP]:
        if is_kept:
            recall(Y, Y_DOT, start, n, q)
        else:
            clear(work, Y_DOT * area, area)
            multiply(work, f, rows, width, weights, net[SECOND], panel, work, Y_DOT * area, width)
            keep(Y, Y_DOT, start, n, q)
        times(work, Y_SLOPE * area, Y_DOT * area, rows * width, m)
    else:
        copy(work, f, rows * width, work, m)
    if net[MOVES]:
        if is_kept:
            recall(X, X_DOT, start, n, q)
        else:
            clear(work, X_DOT * area, area)
            multiply(work, m, rows, width, weights, net[MOVE], panel, work, X_DOT * area, width)
            keep(X, X_DOT, start, n, q)
        times(work, X_SLOPE * area, X_DOT * area, rows * width, x)
    for k in range(n):
        if net[GATED]:
            one[Q_DOT * TILE + k] = dot(work, m + k * width, width, weights, net[GATE])
        if net[MOVES]:
            one[T_DOT * TILE + k] = dot(work, x + k * width, width, weights, net[ALONG])
