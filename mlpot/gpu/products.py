"""Products of the components of an atom as `stages.products`, in Triton: no array of atoms × terms × channels.

A program takes TILE channels of ATOMS atoms. Its terms are written out when it is compiled, so that long lists are
cut into several kernels, one after another, which add to the same array. `_forward` gives
values and tangents, which are products of x + ε ẋ with ε² = 0. `_backward` gives both kinds of adjoints: of
g + ε ȳ times all factors but one the ε part is x̄ of that one; times all factors, the gradient of the weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlpot.gpu.registers import (
    TILE,
    components,
    is_used,
    launch,
    n_items,
    n_tiles,
    path_of,
    rows_of,
    strides,
    zeros,
)
from mlpot.stages.products import Product, Products
from mlpot.stages.stage import Environments, Weights, by_element

ATOMS = 4  # of a program: one for each warp
MOST_TERMS = 96  # of a kernel: what compiling takes grows faster than their number

Paths = tuple[tuple[int, tuple[tuple[int, tuple[tuple[float, tuple[int, ...]], ...]], ...]], ...]
"""Of each path its number and, for each target, (κ, factors) of its terms."""


class TritonProducts(Products):
    """`Products` whose four functions are these kernels; values only, nothing that autograd follows."""

    def value(self, at: Environments, x: Tensor) -> Tensor:
        """Σ w κ Π x."""
        return self._forward(at, x, None)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        """Σ w κ (Π x)˙."""
        return self._forward(at, x, x_dot)

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        """x̄_q = Σ w κ ȳ Π_{p≠q} x_p."""
        return self._backward(at, x, x, y_bar, y_bar, moving=False)[0], None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        """x̄ of values and tangents, and the gradient of the weights."""
        x_bar, by_atom = self._backward(at, x, x_dot, y_bar, g, moving=True)
        return x_bar, () if self.weight is None else (by_element(by_atom, len(self.weight), at),)

    def _forward(self, at: Environments, x: Tensor, x_dot: Tensor | None) -> Tensor:
        moving, x = x_dot is not None, rows_of(x)
        x_dot = x if x_dot is None else rows_of(x_dot)
        out = x.new_zeros(len(x), self.n_written, x.shape[2])
        for constants in self._kernels():
            launch(
                _forward, self._grid(x), x, x_dot, self._weight(x), at.element, out, len(x), x.shape[2],
                *strides(x, x_dot), self.n_written, **constants, MOVING=moving,
            )  # fmt: skip
        return out

    def _backward(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor, *, moving: bool
    ) -> tuple[Tensor, Tensor]:
        """x̄ and, if there are weights and motion, what each atom gives to them, (n_atoms, n_paths, n_channels)."""
        arrays = [rows_of(t) for t in (x, x_dot, y_bar, g)]
        out = torch.zeros_like(arrays[0], memory_format=torch.contiguous_format)
        n_paths = self.weight.shape[1] if moving and self.weight is not None else 0
        by_atom = out.new_zeros(len(x), n_paths, x.shape[2])
        for constants in self._kernels():
            launch(
                _backward, self._grid(x), *arrays, self._weight(x), at.element, out, by_atom, len(x), x.shape[2],
                *strides(*arrays), self.n_read, **constants, MOVING=moving,
            )  # fmt: skip
        return out, by_atom

    def _grid(self, x: Tensor) -> tuple[int, int]:
        return triton.cdiv(len(x), ATOMS), triton.cdiv(x.shape[2], TILE)

    def _weight(self, x: Tensor) -> Tensor:
        return x if self.weight is None else self.weight.detach().contiguous()

    def _kernels(self) -> Iterator[dict[str, Any]]:
        """The constants of each kernel."""
        rows, n_paths = (0, 0) if self.weight is None else self.weight.shape[:2]
        for terms in _cut(self.terms, MOST_TERMS):
            yield {
                "PATHS": _by_path(terms), "USED": tuple(sorted({a for t in terms for a in t.factors})),
                "TARGETS": tuple(sorted({t.target for t in terms})), "N_WEIGHTS": n_paths, "BY_ELEMENT": rows > 1,
                "ATOMS": ATOMS, "TILE": TILE,
            }  # fmt: skip


@triton.jit
def _forward(x, x_dot, weight, element, out, n_atoms, n_channels, x_atom, x_row, dot_atom, dot_row, n_written,
             PATHS: tl.constexpr, USED: tl.constexpr, TARGETS: tl.constexpr, N_WEIGHTS: tl.constexpr,
             BY_ELEMENT: tl.constexpr, ATOMS: tl.constexpr, TILE: tl.constexpr, MOVING: tl.constexpr):  # fmt: skip
    """Values or tangents of a few atoms."""
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    f = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (i < n_atoms)[:, None] & (f < n_channels)
    xs = components(x + i[:, None] * x_atom, x_row, f, inside, USED)
    dots = xs
    if MOVING:
        dots = components(x_dot + i[:, None] * dot_atom, dot_row, f, inside, USED)
    totals = zeros(out, n_tiles(TARGETS), ATOMS, TILE)
    for p in tl.static_range(n_items(PATHS)):
        w = _weight_of(
            weight, element, i, i < n_atoms, f, inside, n_channels, path_of(PATHS, p), N_WEIGHTS, BY_ELEMENT
        )
        for t in tl.static_range(_n_targets(PATHS, p)):
            total = tl.zeros((ATOMS, TILE), out.dtype.element_ty)
            for n in tl.static_range(_n_terms(PATHS, p, t)):
                value = _kappa(PATHS, p, t, n) * xs[_factor(PATHS, p, t, n, 0)]
                dot = _kappa(PATHS, p, t, n) * dots[_factor(PATHS, p, t, n, 0)]
                for q in tl.static_range(1, _order(PATHS, p, t, n)):
                    dot = dot * xs[_factor(PATHS, p, t, n, q)] + value * dots[_factor(PATHS, p, t, n, q)]
                    value *= xs[_factor(PATHS, p, t, n, q)]
                total += dot if MOVING else value
            total = totals[_target(PATHS, p, t)] + w * total
            totals = totals[: _target(PATHS, p, t)] + (total,) + totals[_target(PATHS, p, t) + 1 :]
    for k in tl.static_range(n_tiles(TARGETS)):
        if is_used(TARGETS, k):
            _add(out + (i * n_written + k)[:, None] * n_channels + f, totals[k], inside)


@triton.jit
def _backward(x, x_dot, y_bar, g, weight, element, out, by_atom, n_atoms, n_channels, x_atom, x_row, dot_atom,
              dot_row, bar_atom, bar_row, g_atom, g_row, n_read, PATHS: tl.constexpr, USED: tl.constexpr,
              TARGETS: tl.constexpr, N_WEIGHTS: tl.constexpr, BY_ELEMENT: tl.constexpr, ATOMS: tl.constexpr,
              TILE: tl.constexpr, MOVING: tl.constexpr):  # fmt: skip
    """Adjoints of a few atoms."""
    i = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    f = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = (i < n_atoms)[:, None] & (f < n_channels)
    xs = components(x + i[:, None] * x_atom, x_row, f, inside, USED)
    ys = components(y_bar + i[:, None] * bar_atom, bar_row, f, inside, TARGETS)
    dots, gs = xs, ys
    if MOVING:
        dots = components(x_dot + i[:, None] * dot_atom, dot_row, f, inside, USED)
        gs = components(g + i[:, None] * g_atom, g_row, f, inside, TARGETS)
    bars = zeros(out, n_tiles(USED), ATOMS, TILE)
    for p in tl.static_range(n_items(PATHS)):
        w = _weight_of(
            weight, element, i, i < n_atoms, f, inside, n_channels, path_of(PATHS, p), N_WEIGHTS, BY_ELEMENT
        )
        of_weight = tl.zeros((ATOMS, TILE), out.dtype.element_ty)
        for t in tl.static_range(_n_targets(PATHS, p)):
            y, g_k = ys[_target(PATHS, p, t)], gs[_target(PATHS, p, t)]
            for n in tl.static_range(_n_terms(PATHS, p, t)):
                for q in tl.static_range(_order(PATHS, p, t, n) + (1 if N_WEIGHTS > 0 else 0)):  # or without none
                    bar, seed = _kappa(PATHS, p, t, n) * y, _kappa(PATHS, p, t, n) * g_k
                    for r in tl.static_range(_order(PATHS, p, t, n)):
                        if r != q:
                            bar *= xs[_factor(PATHS, p, t, n, r)]
                            if MOVING:
                                bar += seed * dots[_factor(PATHS, p, t, n, r)]
                                seed *= xs[_factor(PATHS, p, t, n, r)]
                    if q == _order(PATHS, p, t, n):
                        of_weight += bar
                    else:
                        bar = bars[_factor(PATHS, p, t, n, q)] + w * bar
                        bars = bars[: _factor(PATHS, p, t, n, q)] + (bar,) + bars[_factor(PATHS, p, t, n, q) + 1 :]
        if MOVING and N_WEIGHTS > 0:
            _add(by_atom + (i * N_WEIGHTS + path_of(PATHS, p))[:, None] * n_channels + f, of_weight, inside)
    for a in tl.static_range(n_tiles(USED)):
        if is_used(USED, a):
            _add(out + (i * n_read + a)[:, None] * n_channels + f, bars[a], inside)


@triton.jit
def _add(at, values, inside):
    """To what the kernels before left there."""
    tl.store(at, tl.load(at, inside, 0) + values, inside)


@triton.jit
def _weight_of(weight, element, i, valid, f, inside, n_channels, path: tl.constexpr, N_WEIGHTS: tl.constexpr,
               BY_ELEMENT: tl.constexpr):  # fmt: skip
    """w of a path at atoms, or one."""
    if N_WEIGHTS == 0:
        w = tl.full(inside.shape, 1, weight.dtype.element_ty)
    else:
        row = i * 0 + path
        if BY_ELEMENT:
            row += tl.load(element + i, valid, 0) * N_WEIGHTS
        w = tl.load(weight + row[:, None] * n_channels + f, inside, 0)
    return w


@triton.constexpr_function
def _n_targets(paths, p):
    return len(paths[p][1])


@triton.constexpr_function
def _target(paths, p, t):
    return paths[p][1][t][0]


@triton.constexpr_function
def _n_terms(paths, p, t):
    return len(paths[p][1][t][1])


@triton.constexpr_function
def _kappa(paths, p, t, n):
    return paths[p][1][t][1][n][0]


@triton.constexpr_function
def _factor(paths, p, t, n, q):
    return paths[p][1][t][1][n][1][q]


@triton.constexpr_function
def _order(paths, p, t, n):
    return len(paths[p][1][t][1][n][1])


@cache
def _cut(terms: tuple[Product, ...], most: int) -> list[tuple[Product, ...]]:
    """Terms by path and target, so many a kernel."""
    ordered = sorted(terms, key=lambda t: (t.path, t.target))
    return [tuple(ordered[k : k + most]) for k in range(0, len(ordered), most)]


@cache
def _by_path(terms: tuple[Product, ...]) -> Paths:
    out = []
    for path in sorted({t.path for t in terms}):
        of_path = []
        for target in sorted({t.target for t in terms if t.path == path}):
            own = tuple((float(t.value), t.factors) for t in terms if (t.path, t.target) == (path, target))
            of_path.append((target, own))
        out.append((path, tuple(of_path)))
    return tuple(out)
