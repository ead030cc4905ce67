"""Sums over neighbors as `stages.neighbor_sum`, in Triton: no array of edges × channels, and no atomics.

A program takes TILE channels of one atom, of a few edges, or of one interval of the grid, and reads EDGES edges at
a time. All terms of a stage are written out when its kernels are compiled, so that the components of a sum stay in
registers. Three kernels give the four functions:

    gather        y_i = Σ_j T ∘ Z x_j             value
                  … + T ∘ Ż x_j + Ṫ ∘ Z x_j       tangent
                  x̄_j of both                     the same with targets and sources exchanged, by the reverse edges
    edge_grads    ∂E/∂d and ∂E/∂Y_b of each edge
    table_grads   what the edges of one interval give to the rows of the table that they read

The adjoint is a second gather: each atom sums what its own neighbors send back. Every sum has one order.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlpot.gpu.registers import TILE as TILE
from mlpot.gpu.registers import components, launch, n_items, path_of, rows_of, strides, zeros
from mlpot.stages.harmonics import N_HARMONICS, pulled_back
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.spline_grid import SplineGrid
from mlpot.stages.stage import Environments, Weights

EDGES = 4  # that a program reads at a time: one for each warp
BLOCK = 16  # the same where an interval is summed
MOST_TARGETS = 64  # components that one program sums: they stand in registers
LONG = 256  # edges of an average interval that are worth one more program
MAX_SHARES = 16  # programs for one interval

Paths = tuple[tuple[int, tuple[int, ...], tuple[int, ...], tuple[tuple[int, int, int, float], ...]], ...]
"""Of each path its number, sources, targets, and (harmonic, source, target, κ) of its terms."""


class _Group(NamedTuple):
    """Terms to targets side by side."""

    first: int  # target
    n_targets: int
    paths: Paths


class TritonSum(NeighborSum):
    """A `NeighborSum` whose four functions are these kernels; values only, nothing that autograd follows."""

    def value(self, at: Environments, x: Tensor) -> Tensor:
        """Σ_j T ∘ Z x."""
        return self._by_kernels(at, x, None, turned=False)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        """Σ_j T ∘ (Z ẋ + Ż x) + Ṫ ∘ Z x."""
        return self._by_kernels(at, x, x_dot, turned=False)

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, Tensor]:
        """x̄_j = Σ_i Zᵀ (T ∘ ȳ), and ∂E/∂r."""
        return self._by_kernels(at, y_bar, None, turned=True), self._edge_gradient(at, x, y_bar)

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """x̄_j = Σ_i Zᵀ (T ∘ ȳ + Ṫ ∘ g) + Żᵀ (T ∘ g), and the gradient of the table."""
        return self._by_kernels(at, g, y_bar, turned=True), (self._table_gradient(at, x, x_dot, y_bar, g),)

    def _by_kernels(self, at: Environments, x: Tensor, x_dot: Tensor | None, *, turned: bool) -> Tensor:
        n_written = self.n_read if turned else self.n_written
        x, table, moving = rows_of(x), self.table.detach().contiguous(), x_dot is not None
        x_dot = x if x_dot is None else rows_of(x_dot)
        out = x.new_zeros(len(x), n_written, x.shape[2])  # targets that no term has are zero
        first, c, slope = at.on_knots(self.grid)
        y, edges = at.harmonics.contiguous(), at.edges
        y_dot, d_dot = (at.harmonics_dot.contiguous(), at.distances_dot) if moving else (y, y)
        for group in _groups(self.terms, turned, MOST_TARGETS):
            launch(
                gather, (len(x), n_tiles(x)), edges.row_ptr, edges.neighbor, edges.reverse, first, c, slope, y,
                y_dot, d_dot, table, x, x_dot, out, x.shape[2], *strides(x, x_dot), n_written,
                group.first, PATHS=group.paths, N_TABLE=table.shape[1], N_TARGETS=group.n_targets,
                N_C=c.shape[1], N_Y=N_HARMONICS, MOVING=moving, TURNED=turned, EDGES=EDGES, TILE=TILE,
            )  # fmt: skip
        return out

    def _edge_gradient(self, at: Environments, x: Tensor, y_bar: Tensor) -> Tensor:
        """∂E/∂r (n_edges, 3) = (Σ T′ ∘ Z x · ȳ) u + Σ_b Ȳ_b ∂Y_b/∂r."""
        x, y_bar, table = rows_of(x), rows_of(y_bar), self.table.detach().contiguous()
        first, c, slope = at.on_knots(self.grid)
        n_edges, ((_, _, paths), *_) = len(at.edges), _groups(self.terms, False, self.n_written)
        by_distance = x.new_empty(n_edges)
        by_harmonic = x.new_zeros(n_edges, N_HARMONICS)
        launch(
            edge_grads, (triton.cdiv(n_edges, EDGES), 1), at.edges.center, at.edges.neighbor, first, c, slope,
            at.harmonics.contiguous(), table, x, y_bar, by_distance, by_harmonic, n_edges, x.shape[2],
            *strides(x, y_bar), PATHS=paths, N_TABLE=table.shape[1], N_C=c.shape[1], N_Y=N_HARMONICS,
            EDGES=EDGES, TILE=TILE,
        )  # fmt: skip
        gradient = by_distance[:, None] * at.directions
        if all(t.harmonic == 0 for t in self.terms):
            return gradient
        return gradient + pulled_back(at.directions, at.distances, by_harmonic)

    def _table_gradient(self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor) -> Tensor:
        arrays = [rows_of(t) for t in (x, x_dot, y_bar, g)]
        _, c, slope = at.on_knots(self.grid)
        edge, begin = _by_interval(at, self.grid)
        ((_, _, paths), *_) = _groups(self.terms, False, self.n_written)
        part = room_for_rows(x, len(at.edges), self.grid.n_knots, c.shape[1], self.table.shape[1])
        launch(
            table_grads, (self.grid.n_knots, len(part), len(paths) * n_tiles(x)), begin, edge, at.edges.center,
            at.edges.neighbor, c, slope, at.harmonics.contiguous(), at.harmonics_dot.contiguous(),
            at.distances_dot, *arrays, part, x.shape[2], *strides(*arrays), PATHS=paths,
            N_TABLE=self.table.shape[1], N_C=c.shape[1], N_Y=N_HARMONICS, MOVING=True, BLOCK=BLOCK, TILE=TILE,
        )  # fmt: skip
        return rows_of_table(part, self.grid.n_rows, self.grid.stride)


def room_for_rows(x: Tensor, n_edges: int, n_knots: int, n_c: int, n_paths: int) -> Tensor:
    """Where `table_grads` writes: zeros (n_shares, n_c, n_knots, n_paths, n_channels)."""
    n_shares = min(1 + n_edges // (n_knots * LONG), MAX_SHARES)
    return x.new_zeros(n_shares, n_c, n_knots, n_paths, x.shape[-1])


def rows_of_table(part: Tensor, n_rows: int, stride: int) -> Tensor:
    """Gradient of a table (n_rows, n_paths, n_channels) from what each share gives to rows of each interval."""
    out = part.new_zeros(n_rows, *part.shape[3:])
    for r, rows in enumerate(part.sum(0)):
        out[r::stride][: part.shape[2]] += rows
    return out


def n_tiles(x: Tensor) -> int:
    """Programs that share the channels of an array."""
    return triton.cdiv(x.shape[-1], TILE)


@triton.jit
def gather(row_ptr, neighbor, reverse, first, c, slope, y, y_dot, d_dot, table, x, x_dot, out, n_channels, x_atom,
           x_row, dot_atom, dot_row, n_written, first_target, PATHS: tl.constexpr, N_TABLE: tl.constexpr,
           N_TARGETS: tl.constexpr, N_C: tl.constexpr, N_Y: tl.constexpr, MOVING: tl.constexpr,
           TURNED: tl.constexpr, EDGES: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Some components of the sum of one atom, TURNED by the edges that point to it."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * TILE + tl.arange(0, TILE)
    totals = zeros(out, N_TARGETS, EDGES, TILE)
    end = tl.load(row_ptr + i + 1)
    for begin in range(tl.load(row_ptr + i), end, EDGES):
        e = begin + tl.arange(0, EDGES)
        valid = e < end
        inside = valid[:, None] & (f < n_channels)
        j = tl.load(neighbor + e, valid, 0)
        if TURNED:
            e = tl.load(reverse + e, valid, 0)
        ys = _harmonics(y, e, valid, PATHS, N_Y)
        for p in tl.static_range(n_items(PATHS)):
            xs = components(x + j[:, None] * x_atom, x_row, f, inside, _used(PATHS, p, 1))
            t = _radial(table, first, c, e, valid, inside, f, n_channels, path_of(PATHS, p), N_TABLE, N_C)
            if MOVING:
                ys_dot = _harmonics(y_dot, e, valid, PATHS, N_Y)
                dots = components(x_dot + j[:, None] * dot_atom, dot_row, f, inside, _used(PATHS, p, 1))
                t_dot = _radial(
                    table, first, slope, e, valid, inside, f, n_channels, path_of(PATHS, p), N_TABLE, N_C
                )
                t_dot *= tl.load(d_dot + e, valid, 0)[:, None]
            for n in tl.static_range(_n_terms(PATHS, p)):
                z = (_term(PATHS, p, n, 3) * ys[_term(PATHS, p, n, 0)])[:, None]
                a = xs[_term(PATHS, p, n, 1)]
                message = t * (z * a)
                if MOVING:
                    z_dot = (_term(PATHS, p, n, 3) * ys_dot[_term(PATHS, p, n, 0)])[:, None]
                    message = t * (z * dots[_term(PATHS, p, n, 1)] + z_dot * a) + t_dot * (z * a)
                before, after = totals[: _term(PATHS, p, n, 2)], totals[_term(PATHS, p, n, 2) + 1 :]
                totals = before + (totals[_term(PATHS, p, n, 2)] + message,) + after
    for k in tl.static_range(N_TARGETS):
        at = out + (i * n_written + first_target + k) * n_channels + f
        tl.store(at, tl.sum(totals[k], 0), f < n_channels)


@triton.jit
def edge_grads(center, neighbor, first, c, slope, y, table, x, y_bar, by_distance, by_harmonic, n_edges,
               n_channels, x_atom, x_row, bar_atom, bar_row, PATHS: tl.constexpr, N_TABLE: tl.constexpr,
               N_C: tl.constexpr, N_Y: tl.constexpr, EDGES: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """∂E/∂d and ∂E/∂Y_b of a few edges, all channels; Y_0 is constant."""
    e = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    valid = e < n_edges
    i, j = tl.load(center + e, valid, 0), tl.load(neighbor + e, valid, 0)
    ys = _harmonics(y, e, valid, PATHS, N_Y)
    bars, slopes = zeros(by_distance, N_Y, EDGES, TILE), tl.zeros((EDGES, TILE), by_distance.dtype.element_ty)
    for begin in range(0, n_channels, TILE):
        f = begin + tl.arange(0, TILE)
        inside = valid[:, None] & (f < n_channels)
        for p in tl.static_range(n_items(PATHS)):
            xs = components(x + j[:, None] * x_atom, x_row, f, inside, _used(PATHS, p, 1))
            gs = components(y_bar + i[:, None] * bar_atom, bar_row, f, inside, _used(PATHS, p, 2))
            t = _radial(table, first, c, e, valid, inside, f, n_channels, path_of(PATHS, p), N_TABLE, N_C)
            t_slope = _radial(
                table, first, slope, e, valid, inside, f, n_channels, path_of(PATHS, p), N_TABLE, N_C
            )
            for n in tl.static_range(_n_terms(PATHS, p)):
                pair = xs[_term(PATHS, p, n, 1)] * gs[_term(PATHS, p, n, 2)]
                slopes += (_term(PATHS, p, n, 3) * ys[_term(PATHS, p, n, 0)])[:, None] * (t_slope * pair)
                if _term(PATHS, p, n, 0) > 0:
                    bar = bars[_term(PATHS, p, n, 0)] + _term(PATHS, p, n, 3) * (t * pair)
                    bars = bars[: _term(PATHS, p, n, 0)] + (bar,) + bars[_term(PATHS, p, n, 0) + 1 :]
    tl.store(by_distance + e, tl.sum(slopes, 1), valid)
    for b in tl.static_range(1, N_Y):
        if _has_harmonic(PATHS, b):
            tl.store(by_harmonic + e * N_Y + b, tl.sum(bars[b], 1), valid)


@triton.jit
def table_grads(begin, edge, center, neighbor, c, slope, y, y_dot, d_dot, x, x_dot, y_bar, g, part, n_channels,
                x_atom, x_row, dot_atom, dot_row, bar_atom, bar_row, g_atom, g_row, PATHS: tl.constexpr,
                N_TABLE: tl.constexpr, N_C: tl.constexpr, N_Y: tl.constexpr, MOVING: tl.constexpr,
                BLOCK: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """What an equal share of an interval's edges gives to each row that they read, of one path."""
    k, share, n_shares = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    f = tl.program_id(2) // n_items(PATHS) * TILE + tl.arange(0, TILE)
    r = tl.arange(0, 4 if N_C == 4 else 8)
    start = tl.load(begin + k)
    length = tl.load(begin + k + 1) - start
    stop, start = start + length * (share + 1) // n_shares, start + length * share // n_shares
    for p in tl.static_range(n_items(PATHS)):
        if tl.program_id(2) % n_items(PATHS) == p:
            total = tl.zeros((4 if N_C == 4 else 8, TILE), part.dtype.element_ty)
            for place in range(start, stop, BLOCK):
                q = place + tl.arange(0, BLOCK)
                e = tl.load(edge + q, q < stop, 0)
                valid = q < stop
                inside = valid[:, None] & (f < n_channels)
                i, j = tl.load(center + e, valid, 0), tl.load(neighbor + e, valid, 0)
                ys = _harmonics(y, e, valid, PATHS, N_Y)
                xs = components(x + j[:, None] * x_atom, x_row, f, inside, _used(PATHS, p, 1))
                bars = components(y_bar + i[:, None] * bar_atom, bar_row, f, inside, _used(PATHS, p, 2))
                if MOVING:
                    ys_dot = _harmonics(y_dot, e, valid, PATHS, N_Y)
                    dots = components(x_dot + j[:, None] * dot_atom, dot_row, f, inside, _used(PATHS, p, 1))
                    gs = components(g + i[:, None] * g_atom, g_row, f, inside, _used(PATHS, p, 2))
                by_radial = tl.zeros((BLOCK, TILE), part.dtype.element_ty)
                by_slope = tl.zeros((BLOCK, TILE), part.dtype.element_ty)
                for n in tl.static_range(_n_terms(PATHS, p)):
                    z = (_term(PATHS, p, n, 3) * ys[_term(PATHS, p, n, 0)])[:, None]
                    pair = z * xs[_term(PATHS, p, n, 1)]
                    by_radial += bars[_term(PATHS, p, n, 2)] * pair
                    if MOVING:
                        z_dot = (_term(PATHS, p, n, 3) * ys_dot[_term(PATHS, p, n, 0)])[:, None]
                        pair_dot = z * dots[_term(PATHS, p, n, 1)] + z_dot * xs[_term(PATHS, p, n, 1)]
                        by_radial += gs[_term(PATHS, p, n, 2)] * pair_dot
                        by_slope += gs[_term(PATHS, p, n, 2)] * pair
                reads = valid[:, None] & (r < N_C)
                c_e = tl.load(c + e[:, None] * N_C + r, reads, 0)
                total += tl.sum(c_e[:, :, None] * by_radial[:, None, :], 0)
                if MOVING:
                    by_slope *= tl.load(d_dot + e, valid, 0)[:, None]
                    slope_e = tl.load(slope + e[:, None] * N_C + r, reads, 0)
                    total += tl.sum(slope_e[:, :, None] * by_slope[:, None, :], 0)
            row = ((share * N_C + r) * tl.num_programs(0) + k) * N_TABLE + path_of(PATHS, p)
            tl.store(part + row[:, None] * n_channels + f, total, (r < N_C)[:, None] & (f < n_channels))


@triton.jit
def _radial(table, first, c, e, valid, inside, f, n_channels, path: tl.constexpr, N_TABLE: tl.constexpr,
            N_C: tl.constexpr):  # fmt: skip
    """T of one path on edges, or its derivative if c are those of the polynomials."""
    row = tl.load(first + e, valid, 0)
    t = tl.zeros(inside.shape, table.dtype.element_ty)
    for r in tl.static_range(N_C):
        rows = tl.load(table + ((row + r)[:, None] * N_TABLE + path) * n_channels + f, inside, 0)
        t += tl.load(c + e * N_C + r, valid, 0)[:, None] * rows
    return t


@triton.jit
def _harmonics(y, e, valid, PATHS: tl.constexpr, N_Y: tl.constexpr):
    """Y_b of edges that some term has, all N_Y in a tuple."""
    out = ()
    for b in tl.static_range(N_Y):
        if _has_harmonic(PATHS, b):
            out += (tl.load(y + e * N_Y + b, valid, 0),)
        else:
            out += (0,)
    return out


@triton.constexpr_function
def _used(paths, p, which):
    return paths[p][which]


@triton.constexpr_function
def _n_terms(paths, p):
    return len(paths[p][3])


@triton.constexpr_function
def _term(paths, p, n, which):
    return paths[p][3][n][which]


@triton.constexpr_function
def _has_harmonic(paths, b):
    return any(t[0] == b for path in paths for t in path[3])


@cache
def _groups(terms: tuple[Term, ...], turned: bool, most: int) -> tuple[_Group, ...]:
    """Terms by path, in groups of so many targets; turned, targets and sources are exchanged."""
    own = [Term(t.path, t.harmonic, t.target, t.source, t.value) if turned else t for t in terms]
    out = []
    for begin in range(0, 1 + max(t.target for t in own), most):
        some = [t for t in own if begin <= t.target < begin + most]
        if some:
            paths = tuple(
                _of_path(p, (t for t in some if t.path == p), begin) for p in sorted({t.path for t in some})
            )
            out.append(_Group(begin, 1 + max(t.target for t in some) - begin, paths))
    return tuple(out)


def _of_path(path: int, terms: Iterable[Term], begin: int) -> Any:
    own = sorted((t.source, t.target - begin, t.harmonic, float(t.value)) for t in terms)
    sources, targets = (tuple(sorted({t[which] for t in own})) for which in (0, 1))
    return path, sources, targets, tuple((b, a, k, kappa) for a, k, b, kappa in own)


def _by_interval(at: Environments, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Edges in order of their interval (n_edges,), and where each interval's begin (n_knots + 1,)."""
    kept = at.kept.get(("by_interval", grid))
    if kept is None:
        knot = torch.div(at.on_knots(grid)[0], grid.stride, rounding_mode="floor")
        knot, order = torch.sort(knot, stable=True)
        begin = torch.searchsorted(knot, torch.arange(grid.n_knots + 1, device=knot.device))
        at.kept["by_interval", grid] = kept = order, begin
    return kept
