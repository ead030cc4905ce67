"""Networks on edges as `stages.edge_network`: sums at the centers, and adjoints in two passes over the edges.

The first backward pass finds, at the center of each edge, the adjoints of what it reads: that of z and that of R.
They stay in arrays of edges until every thread is there; in the second each atom collects those of the edges that
point to it. So every atom writes to itself alone, and sums have one order whatever the number of threads. Two such
arrays are used alternately, as one network may begin where another thread still collects of the next.
"""

from __future__ import annotations

from mlpot.cpu import edge_tiles as t
from mlpot.cpu.edge_functions import basis, scale, through_activation
from mlpot.cpu.edge_tiles import TILE, again, edge_tiles_of, filled_up, tangents, through
from mlpot.cpu.plan import LISTS, STATIC, TARGET_ROW, source_of, target_of
from mlpot.cpu.tiles import add_outer, apart, multiply
from mlpot.cpu.vectors import add_scaled, dot
from mlpot.kernels.simd import bare


@bare
def value(begin, end, place, s, plan, workspace, near):
    """y_i += Σ_j u g m, and steps −Σ_j u t R."""
    q, target = edge_tiles_of(begin, place, s, plan, workspace, near), target_of(0, s, workspace)
    out = workspace.values
    one, width, net = q.single, q.net[t.WIDTH], q.net
    for start in range(0, len(q.edge), TILE):
        n = min(TILE, len(q.edge) - start)
        through(start, n, q)
        for k in range(n):
            y0, u = target + q.center[start + k] * s[TARGET_ROW], one[t.U * TILE + k]
            add_scaled(out, y0, width, q.work, (t.M * TILE + k) * width, u * one[t.G * TILE + k])
            if net[t.MOVES]:
                scaled = u * one[t.T * TILE + k]
                for c in range(3):
                    out[y0 + width + c] -= scaled * q.xyz[3 * k + c]


@bare
def tangent(begin, end, place, s, plan, workspace, near):
    """ẏ_i += Σ_j (u̇ g + u ġ) m + u g ṁ, and −Σ_j (u̇ t + u ṫ) R + u t Ṙ."""
    q, target = edge_tiles_of(begin, place, s, plan, workspace, near), target_of(0, s, workspace)
    out = workspace.dots
    one, width, net, unit = q.single, q.net[t.WIDTH], q.net, workspace.dots.dtype.type(1)
    for start in range(0, len(q.edge), TILE):
        n = min(TILE, len(q.edge) - start)
        again(1, start, n, q)
        tangents(0, start, n, q)
        for k in range(n):
            y0, u, u_dot = (
                target + q.center[start + k] * s[TARGET_ROW],
                one[t.U * TILE + k],
                one[t.U_DOT * TILE + k],
            )
            g, m0 = one[t.G * TILE + k], (t.M * TILE + k) * width
            opened = u_dot * g + u * g * (unit - g) * one[t.Q_DOT * TILE + k]
            add_scaled(out, y0, width, q.work, m0, opened)
            add_scaled(out, y0, width, q.work, m0 + filled_up(n) * width, u * g)
            if net[t.MOVES]:
                scaled = u * one[t.T * TILE + k]
                moved = u_dot * one[t.T * TILE + k] + u * one[t.T_DOT * TILE + k]
                for c in range(3):
                    r, r_dot = q.xyz[3 * k + c], q.xyz[3 * (t.R_DOT * TILE + k) + c]
                    out[y0 + width + c] -= moved * r + scaled * r_dot


@bare
def adjoint(begin, end, place, s, plan, workspace, near):
    """The first backward pass: ā_i += Σ_j z̄, and z̄, R̄ and ū u′ of each edge into their arrays."""
    q, target = edge_tiles_of(begin, place, s, plan, workspace, near), target_of(0, s, workspace)
    g = workspace.adjoints
    for start in range(0, len(q.edge), TILE):
        n = min(TILE, len(q.edge) - start)
        again(1, start, n, q)
        _from_sums(start, n, q, g, target, s[TARGET_ROW])
        _through_layers(n, q)
        _leave(start, n, q, g, not s[STATIC], near.edge_bars, near.edge_moves)
        _to_vectors(start, n, q, near.gradient)


@bare
def _dot3(a, a0, b, b0):
    return a[a0] * b[b0] + a[a0 + 1] * b[b0 + 1] + a[a0 + 2] * b[b0 + 2]


@bare
def _from_sums(start, n, q, g_, target, target_row):
    """m̄ and x̄ from ȳ and δ̄; ū u′ stands in u̇, and R̄ begins with −u t δ̄."""
    apart()
    one, work, net, weights, width = q.single, q.work, q.net, q.weights, q.net[t.WIDTH]
    unit, kind, area = work.dtype.type(1), work.dtype.type, TILE * q.net[t.WIDTH]
    t.clear(work, t.X_BAR * area, area)
    t.clear(work, t.M_BAR * area, area)
    for k in range(n):
        y0, u, gate = target + q.center[start + k] * target_row, one[t.U * TILE + k], one[t.G * TILE + k]
        m0, m_bar, r = t.M * area + k * width, t.M_BAR * area + k * width, 3 * (t.R_BAR * TILE + k)
        pulled = dot(work, m0, width, g_, y0)
        u_bar = gate * pulled
        add_scaled(work, m_bar, width, g_, y0, u * gate)
        if net[t.GATED]:
            add_scaled(work, m_bar, width, weights, net[t.GATE], u * pulled * gate * (unit - gate))
        t.clear(q.xyz, r, 3)
        if net[t.MOVES]:
            along = kind(_dot3(q.xyz, 3 * k, g_, y0 + width))
            step, t_bar = one[t.T * TILE + k], -u * along
            u_bar -= step * along
            for c in range(3):
                q.xyz[r + c] = -u * step * g_[y0 + width + c]
            x_bar, slope = work[t.X_BAR * area + k * width :], work[t.X_SLOPE * area + k * width :]
            v = weights[net[t.ALONG] :]
            for f in range(width):
                x_bar[f] = t_bar * v[f] * slope[f]
        one[t.U_DOT * TILE + k] = u_bar * one[t.U_SLOPE * TILE + k]


@bare
def _through_layers(n, q):
    """From m̄ and x̄ to z̄, which stands in the slot of f̄, and to R̄; without displacements s̄ joins ū u′."""
    apart()
    rows, net, work, weights, width, one = filled_up(n), q.net, q.work, q.weights, q.net[t.WIDTH], q.single
    area, panel, n_numbers, n_radial = TILE * width, net[t.PANEL], rows * width, net[t.RADIAL]
    m, f = t.M_BAR * area, t.F_BAR * area
    if net[t.MOVES]:
        multiply(work, t.X_BAR * area, rows, width, weights, net[t.FROM_MOVE], panel, work, m, width)
    if net[t.DEEP]:
        scale(work, m, t.Y_SLOPE * area, n_numbers)
        t.clear(work, f, area)
        multiply(work, m, rows, width, weights, net[t.FROM_SECOND], panel, work, f, width)
    else:
        t.copy(work, m, n_numbers, work, f)
    scale(work, f, t.Z_SLOPE * area, n_numbers)
    bars = 2 * TILE * n_radial
    t.clear(q.e, bars, TILE * n_radial)
    multiply(work, f, rows, width, weights, net[t.FROM_DISTANCE], panel, q.e, bars, n_radial)
    t.radial(1, n, 0, q)
    for k in range(n):
        s_bar = dot(q.e, k * n_radial, n_radial, q.e, bars + k * n_radial)
        if net[t.DISPLACED]:
            for c in range(3):
                q.xyz[3 * (t.R_BAR * TILE + k) + c] += s_bar / one[t.S * TILE + k] * q.xyz[3 * k + c]
        else:
            one[t.U_DOT * TILE + k] += s_bar


@bare
def _leave(start, n, q, array, reads, edge_bars, edge_moves):
    """ā_i += z̄ in an array if its adjoint is wanted; z̄ and R̄ at the places of the edges in the list."""
    apart()
    unit, width, parity = array.dtype.type(1), q.net[t.WIDTH], q.net[t.PARITY]
    if not reads:
        return
    for k in range(n):
        edge, z = q.edge[start + k], (t.F_BAR * TILE + k) * width
        add_scaled(array, q.source + q.center[start + k] * q.source_row, width, q.work, z, unit)
        t.copy(q.work, z, width, edge_bars[parity, edge], 0)
        for c in range(3):
            edge_moves[parity, edge, c] = q.xyz[3 * (t.R_BAR * TILE + k) + c]


@bare
def _to_vectors(start, n, q, gradient):
    """∂E/∂r += R̄ + ū u′ r/d, of what edges give to their centers."""
    for k in range(n):
        own, along = gradient[q.edge[start + k]], q.single[t.U_DOT * TILE + k]
        for c in range(3):
            own[c] += q.xyz[3 * (t.R_BAR * TILE + k) + c] + along * q.separation[start + k, 1 + c]


@bare
def silence(begin, s, plan, near):
    """Instead of the first backward pass, of a part whose atoms are ghosts: their edges give nothing."""
    net = plan.lists[s[LISTS] :]
    parity, first = net[t.PARITY], near.row_ptr[begin]
    for n in range(first, first + near.n_near[begin]):
        t.clear(near.edge_bars[parity, near.edge[n]], 0, net[t.WIDTH])
        near.edge_moves[parity, near.edge[n]] = 0


@bare
def collect(begin, end, s, plan, workspace, near, array, reads):
    """The second backward pass: b̄_j += Σ_i z̄, and D̄_j += Σ_i R̄ − its own, if they are wanted."""
    net, unit = plan.lists[s[LISTS] :], array.dtype.type(1)
    width, parity, first = net[t.WIDTH], net[t.PARITY], near.row_ptr[begin]
    moves, bars = near.edge_moves[parity], near.edge_bars[parity]
    if not reads:
        return
    for n in range(first, first + near.n_near[begin]):
        x0, own = source_of(near.center[n], s, workspace), near.edge[n]
        back = near.reverse[own]
        add_scaled(array, x0 + width, width, bars[back], 0, unit)
        if net[t.DISPLACED]:
            for c in range(3):
                array[x0 + 2 * width + c] += moves[back, c] - moves[own, c]


@bare
def both_adjoints(begin, end, place, s, plan, workspace, near, w_bar):
    """The first backward pass of training, and the gradients of the weights."""
    q, target = edge_tiles_of(begin, place, s, plan, workspace, near), target_of(0, s, workspace)
    for start in range(0, len(q.edge), TILE):
        n = min(TILE, len(q.edge) - start)
        again(2, start, n, q)
        t.radial(0, n, 0, q)
        tangents(1, start, n, q)
        _both_from_sums(start, n, q, workspace.backs, workspace.adjoints, target, s[TARGET_ROW])
        _both_through_layers(n, q)
        _leave(start, n, q, workspace.backs, True, near.edge_bars, near.edge_moves)
        _to_weights(n, q, w_bar)


@bare
def _both_from_sums(start, n, q, back, g_, target, target_row):
    """Both adjoints of m and x from those of the sums and steps."""
    apart()
    one, work, net, weights, width = q.single, q.work, q.net, q.weights, q.net[t.WIDTH]
    unit, area, rows = work.dtype.type(1), TILE * q.net[t.WIDTH], filled_up(n)
    t.clear(work, t.X_BAR * area, 2 * area)
    t.clear(work, t.M_BAR * area, 2 * area)
    for k in range(n):
        y0, u, u_dot = target + q.center[start + k] * target_row, one[t.U * TILE + k], one[t.U_DOT * TILE + k]
        gate, q_dot = one[t.G * TILE + k], one[t.Q_DOT * TILE + k]
        m0, m_bar = t.M * area + k * width, t.M_BAR * area + k * width
        m_dot, m_of_g = m0 + rows * width, m_bar + rows * width
        gate_slope = gate * (unit - gate)
        add_scaled(work, m_bar, width, back, y0, u * gate)
        add_scaled(work, m_bar, width, g_, y0, u_dot * gate + u * gate_slope * q_dot)
        add_scaled(work, m_of_g, width, g_, y0, u * gate)
        if net[t.GATED]:
            pulled = dot(work, m0, width, g_, y0)
            q_bar = u * dot(work, m0, width, back, y0) + u_dot * pulled + u * dot(work, m_dot, width, g_, y0)
            q_bar = q_bar * gate_slope + u * pulled * gate_slope * (unit - gate - gate) * q_dot
            one[t.Q_BAR * TILE + k], one[t.Q_OF_G * TILE + k] = q_bar, u * pulled * gate_slope
            add_scaled(work, m_bar, width, weights, net[t.GATE], q_bar)
            add_scaled(work, m_of_g, width, weights, net[t.GATE], u * pulled * gate_slope)
        t.clear(q.xyz, 3 * (t.R_BAR * TILE + k), 3)
        if net[t.MOVES]:
            _both_from_step(k, rows, y0 + width, q, back, g_)


@bare
def _both_from_step(k, rows, y0, q, back, g_):
    """Both adjoints of x and the first part of R̄, from those of the steps at y0."""
    one, work, net, width, kind = q.single, q.work, q.net, q.net[t.WIDTH], q.work.dtype.type
    u, u_dot, step, r_dot = one[t.U * TILE + k], one[t.U_DOT * TILE + k], one[t.T * TILE + k], t.R_DOT * TILE + k
    along = _dot3(q.xyz, 3 * k, back, y0) + _dot3(q.xyz, 3 * r_dot, g_, y0)
    of_g, moved = _dot3(q.xyz, 3 * k, g_, y0), u_dot * step + u * one[t.T_DOT * TILE + k]
    bar, bar_of_g = kind(-u * along - u_dot * of_g), kind(-u * of_g)
    one[t.T_BAR * TILE + k], one[t.T_OF_G * TILE + k] = bar, bar_of_g
    for c in range(3):
        q.xyz[3 * (t.R_BAR * TILE + k) + c] = -u * step * back[y0 + c] - moved * g_[y0 + c]
    row, area, v = k * width, TILE * width, q.weights[net[t.ALONG] :]
    x, x_of_g = work[t.X_BAR * area + row :], work[t.X_BAR * area + row + rows * width :]
    slope, curvature = work[t.X_SLOPE * area + row :], work[t.X_CURVATURE * area + row :]
    x_dot = work[t.X_DOT * area + row :]
    for f in range(width):
        x[f] = v[f] * (bar * slope[f] + bar_of_g * curvature[f] * x_dot[f])
        x_of_g[f] = v[f] * bar_of_g * slope[f]


@bare
def _both_through_layers(n, q):
    """As `_through_layers` for both adjoints; s̄ only where atoms are displaced."""
    apart()
    rows, net, work, weights, width = filled_up(n), q.net, q.work, q.weights, q.net[t.WIDTH]
    area, panel, n_numbers, n_radial = TILE * width, net[t.PANEL], rows * width, net[t.RADIAL]
    m, f = t.M_BAR * area, t.F_BAR * area
    if net[t.MOVES]:
        multiply(work, t.X_BAR * area, 2 * rows, width, weights, net[t.FROM_MOVE], panel, work, m, width)
    if net[t.DEEP]:
        through_activation(
            work, m, m + n_numbers, n_numbers, t.Y_SLOPE * area, t.Y_CURVATURE * area, t.Y_DOT * area
        )
        t.clear(work, f, 2 * area)
        multiply(work, m, 2 * rows, width, weights, net[t.FROM_SECOND], panel, work, f, width)
    else:
        t.copy(work, m, 2 * n_numbers, work, f)
    through_activation(work, f, f + n_numbers, n_numbers, t.Z_SLOPE * area, t.Z_CURVATURE * area, t.Z_DOT * area)
    if net[t.DISPLACED]:
        bars = 2 * TILE * n_radial
        t.clear(q.e, bars, 2 * TILE * n_radial)
        multiply(work, f, 2 * rows, width, weights, net[t.FROM_DISTANCE], panel, q.e, bars, n_radial)
        _both_through_length(n, rows, q, bars)


@bare
def _both_through_length(n, rows, q, bars):
    """R̄ += s̄ R/s and what the tangents add: with G the adjoint of ṡ, G (Ṙ/s − ṡ R/s²)."""
    one, n_radial, r = q.single, q.net[t.RADIAL], q.xyz
    slopes, curvatures = q.e[4 * TILE * n_radial :], q.e[5 * TILE * n_radial :]
    number, i, x, y = q.net[t.BASIS], q.net[t.PLACES], q.numbers[t.ONE], q.numbers[t.OTHER]
    for k in range(n):
        s, s_dot, row = one[t.S * TILE + k], one[t.S_DOT * TILE + k], k * n_radial
        basis(number, 1, x, y, q.weights, i, q.net[t.N_RADIAL], s, slopes, row)
        basis(number, 2, x, y, q.weights, i, q.net[t.N_RADIAL], s, curvatures, row)
        of_g0 = bars + (rows + k) * n_radial
        of_g = dot(slopes, row, n_radial, q.e, of_g0)
        s_bar = dot(slopes, row, n_radial, q.e, bars + row) + s_dot * dot(curvatures, row, n_radial, q.e, of_g0)
        for c in range(3):
            own, own_dot = r[3 * k + c], r[3 * (t.R_DOT * TILE + k) + c]
            r[3 * (t.R_BAR * TILE + k) + c] += s_bar / s * own + of_g / s * (own_dot - s_dot / s * own)


@bare
def _to_weights(n, q, w_bar):
    """What a tile of edges gives to the gradients."""
    apart()
    rows, net, work, width, one, unit = filled_up(n), q.net, q.work, q.net[t.WIDTH], q.single, w_bar.dtype.type(1)
    area, panel = TILE * width, net[t.PANEL]
    n_radial, f, m, x = net[t.RADIAL], t.F_BAR * area, t.M_BAR * area, t.X_BAR * area
    add_outer(q.e, 0, n_radial, work, f, width, 2 * rows, w_bar, net[t.DISTANCE], panel)
    if net[t.DEEP]:
        add_outer(work, t.F * area, width, work, m, width, 2 * rows, w_bar, net[t.SECOND], panel)
    if net[t.MOVES]:
        add_outer(work, t.M * area, width, work, x, width, 2 * rows, w_bar, net[t.MOVE], panel)
    for k in range(n):
        row, behind = k * width, (rows + k) * width
        if net[t.DEEP]:
            add_scaled(w_bar, net[t.BIAS], width, work, m + row, unit)
        if net[t.MOVES]:
            add_scaled(w_bar, net[t.MOVE_BIAS], width, work, x + row, unit)
            add_scaled(w_bar, net[t.ALONG], width, work, t.K * area + row, one[t.T_BAR * TILE + k])
            add_scaled(w_bar, net[t.ALONG], width, work, t.K * area + behind, one[t.T_OF_G * TILE + k])
        if net[t.GATED]:
            add_scaled(w_bar, net[t.GATE], width, work, t.M * area + row, one[t.Q_BAR * TILE + k])
            add_scaled(w_bar, net[t.GATE], width, work, t.M * area + behind, one[t.Q_OF_G * TILE + k])
            w_bar[net[t.GATE_BIAS]] += one[t.Q_BAR * TILE + k]
