"""Products of the components of an atom, as `stages.products`, in nested form.

The terms of a target k are a tree: with x_a, x_b, x_c the factors and w a weight for each node,

    y_k = Σ_a x_a S_a        S_a = w_a + Σ_b x_b s_ab        s_ab = w_ab + Σ_c w_abc x_c

so that a product of three costs one multiplication. Tangents are the same with x + ε ẋ, ε² = 0, and the adjoint
of that, from g + ε ȳ, holds in its ε part x̄ of the values and the gradients of the weights: one code for all four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

from mlpot.cpu.plan import BY_ELEMENT, CHANNELS, LISTS, N_ROWS, WEIGHTS, source_of, target_of
from mlpot.cpu.vectors import Flat, _void, stack
from mlpot.kernels.simd import bare
from mlpot.stages.products import Products

Vector = tuple[Any, ...]  # of LLVM: (value,), or (value, dot)


def tree(stage: Products, width: int) -> tuple[list[int], Tensor]:
    """The list of integers that the loops read, and κ (n_nodes, n_paths) float64 from weights of paths to nodes.

    The list is n_targets and then k, n_a, and for each a: a, node, n_b, and for each b: b, node, n_c, and for each
    c: c, node. Components and nodes are given as the first numbers of their rows, which have `width` numbers.
    """
    n_paths = 1 if stage.weight is None else stage.weight.shape[1]
    roots: dict[int, dict[int, Any]] = {}
    rows: list[np.ndarray] = []

    def child(nodes: dict[int, Any], component: int) -> tuple[int, dict[int, Any]]:
        if component not in nodes:
            nodes[component] = (len(rows), {})
            rows.append(np.zeros(n_paths))
        return nodes[component]

    for term in stage.terms:
        nodes, number = roots.setdefault(term.target, {}), -1
        for component in sorted(term.factors):
            number, nodes = child(nodes, component)
        rows[number][term.path] += term.value
    numbers = [len(roots)]
    for target, first in sorted(roots.items()):
        numbers += [target * width, len(first)]
        for a, (node_a, second) in sorted(first.items()):
            numbers += [a * width, node_a * width, len(second)]
            for b, (node_b, third) in sorted(second.items()):
                numbers += [b * width, node_b * width, len(third)]
                for c, (node_c, _) in sorted(third.items()):
                    numbers += [c * width, node_c * width]
    return numbers, torch.from_numpy(np.stack(rows))


class _Tree:
    """Writes the passes through a tree, for real numbers or for those with a dot.

    Every vector is one of a whole panel, which LLVM splits: so integers are read once for two vectors.
    """

    def __init__(self, w: Flat, cp: Any, numbers: Any, arrays: dict[str, Any], dual: bool):
        self.w, self.b, self.cp, self.arrays, self.dual = w, w.builder, cp, arrays, dual
        self.numbers, self.cursor = numbers, cgutils.alloca_once(w.builder, ir.IntType(64))

    def next(self) -> Any:
        """The next integer."""
        at = self.b.load(self.cursor)
        self.b.store(self.b.add(at, at.type(1)), self.cursor)
        return self.b.load(self.w.plus(self.numbers, at))

    def place(self, name: str, row: Any) -> Any:
        return self.w.plus(self.arrays[name], row)

    def get(self, name: str, row: Any) -> Any:
        return self.w.load(self.place(name, row), self.f)

    def both(self, row: Any) -> Vector:
        """A factor, with its dot."""
        return (self.get("x", row), self.get("x_dot", row)) if self.dual else (self.get("x", row),)

    def times(self, a: Vector, b: Vector) -> Vector:
        value = self.b.fmul(a[0], b[0])
        return (value, self.w.fma(a[0], b[1], self.b.fmul(a[1], b[0]))) if self.dual else (value,)

    def add_to(self, places: list[Any], a: Vector, b: Vector) -> None:
        """places += a b."""
        b_ = self.b
        b_.store(self.w.fma(a[0], b[0], b_.load(places[0])), places[0])
        if self.dual:
            b_.store(self.w.fma(a[1], b[0], self.w.fma(a[0], b[1], b_.load(places[1]))), places[1])

    def variable(self, value: Any = None) -> list[Any]:
        """Zero, or a real vector, that may change."""
        places = [self.w.variable() for _ in range(1 + self.dual)]
        for place in places:
            self.b.store(self.w.zero(), place)
        if value is not None:
            self.b.store(value, places[0])
        return places

    def load(self, places: list[Any]) -> Vector:
        return tuple(self.b.load(place) for place in places)

    def weighted(self, a: Vector, weight: Any) -> Vector:
        return tuple(self.b.fmul(v, weight) for v in a)

    def store(self, name: str, row: Any, a: Any) -> None:
        """Adds to what stands there."""
        place = self.place(name, row)
        self.w.store(self.b.fadd(self.w.load(place, self.f), a), place, self.f)

    def write(self) -> None:
        """Over the vectors of a row, and the targets of each."""
        with self.w.channels(self.cp, 1) as (self.f, _):
            self.b.store(self.cp.type(0), self.cursor)
            with cgutils.for_range(self.b, self.next()):
                target, n_a = self.next(), self.next()
                self.target(target, n_a)

    def target(self, target: Any, n_a: Any) -> None:
        """y_k."""
        y = self.variable()
        with cgutils.for_range(self.b, n_a):
            a, node, n_b = self.next(), self.next(), self.next()
            outer = self.variable(self.get("w", node))
            with cgutils.for_range(self.b, n_b):
                b, node, n_c = self.next(), self.next(), self.next()
                between = self.variable(self.get("w", node))
                with cgutils.for_range(self.b, n_c):
                    c, node = self.next(), self.next()
                    weight = self.get("w", node)
                    for place, factor in zip(between, self.both(c), strict=True):
                        self.b.store(self.w.fma(weight, factor, self.b.load(place)), place)
                self.add_to(outer, self.both(b), self.load(between))
            self.add_to(y, self.both(a), self.load(outer))
        self.store("y", target, self.load(y)[-1])


class _Adjoint(_Tree):
    """From the adjoints of the targets to those of the factors, and, with dots, of the weights."""

    def target(self, target: Any, n_a: Any) -> None:
        """x̄_a += ȳ S_a, x̄_b += ȳ x_a s_ab, x̄_c += ȳ x_a x_b w_abc."""
        pulled = (self.get("g", target), self.get("y", target)) if self.dual else (self.get("y", target),)
        with cgutils.for_range(self.b, n_a):
            a, node, n_b = self.next(), self.next(), self.next()
            outer, by_a = self.variable(self.get("w", node)), self.times(pulled, self.both(a))
            self.to_weight(node, by_a)
            with cgutils.for_range(self.b, n_b):
                b, node, n_c = self.next(), self.next(), self.next()
                x_b = self.both(b)
                between, by_b = self.variable(self.get("w", node)), self.times(by_a, x_b)
                self.to_weight(node, by_b)
                with cgutils.for_range(self.b, n_c):
                    c, node = self.next(), self.next()
                    x_c, weight = self.both(c), self.get("w", node)
                    self.to_weight(node, self.times(by_b, x_c) if self.dual else by_b)
                    for place, factor in zip(between, x_c, strict=True):
                        self.b.store(self.w.fma(weight, factor, self.b.load(place)), place)
                    self.store("x_bar", c, self.b.fmul(weight, by_b[-1]))
                s = self.load(between)
                self.add_to(outer, x_b, s)
                self.store("x_bar", b, self.times(by_a, s)[-1])
            self.store("x_bar", a, self.times(pulled, self.load(outer))[-1])

    def to_weight(self, node: Any, a: Vector) -> None:
        if self.dual:
            self.store("w_bar", node, a[-1])


NAMES = ("x", "x_dot", "w", "y", "g", "x_bar", "w_bar")


def _generator(kind: type[_Tree], dual: bool) -> Any:
    @intrinsic  # type: ignore[misc]  # Numba has no types
    def run(typing, x, x_dot, w, y, g, x_bar, w_bar, place, numbers, first, cp):
        def write(w: Flat) -> None:
            offsets = w.data(7)
            arrays = {name: w.plus(w.data(k), w.integer(offsets, k)) for k, name in enumerate(NAMES)}
            w.widen()
            kind(w, w.index(10), w.plus(w.data(8), w.index(9)), arrays, dual).write()

        n = types.intp
        return types.void(x, x_dot, w, y, g, x_bar, w_bar, place, numbers, n, n), _void(write)

    return run


_value, _tangent = _generator(_Tree, False), _generator(_Tree, True)
_adjoint, _both_adjoints = _generator(_Adjoint, False), _generator(_Adjoint, True)


@bare
def value(begin, end, s, plan, workspace):
    """y of atoms begin ≤ n < end."""
    x, y, w, place = workspace.values, workspace.values, plan.weights, stack(7, plan.lists)
    for n in range(begin, end):
        _places(n, s, workspace, place)
        _value(x, x, w, y, x, x, x, place, plan.lists, s[LISTS], s[CHANNELS])


@bare
def tangent(begin, end, s, plan, workspace):
    """ẏ likewise."""
    x, y, w, place = workspace.values, workspace.dots, plan.weights, stack(7, plan.lists)
    for n in range(begin, end):
        _places(n, s, workspace, place)
        _tangent(x, workspace.dots, w, y, x, x, x, place, plan.lists, s[LISTS], s[CHANNELS])


@bare
def adjoint(begin, end, s, plan, workspace):
    """x̄ likewise."""
    x, w, g, place = workspace.values, plan.weights, workspace.adjoints, stack(7, plan.lists)
    for n in range(begin, end):
        _places(n, s, workspace, place)
        _adjoint(x, x, w, g, x, g, x, place, plan.lists, s[LISTS], s[CHANNELS])


@bare
def both_adjoints(begin, end, s, plan, workspace, w_bar):
    """x̄ and w̄ likewise, added to."""
    x, w, back, place = workspace.values, plan.weights, workspace.backs, stack(7, plan.lists)
    for n in range(begin, end):
        _places(n, s, workspace, place)
        _both_adjoints(
            x, workspace.dots, w, back, workspace.adjoints, back, w_bar, place, plan.lists, s[LISTS], s[CHANNELS]
        )


@bare
def _places(n, s, workspace, place):
    """Where the arrays of atom n begin, in the order of NAMES."""
    source, target = source_of(n, s, workspace), target_of(n, s, workspace)
    weights = s[WEIGHTS] + (workspace.element[n] * s[N_ROWS] * s[CHANNELS] if s[BY_ELEMENT] else 0)
    place[0], place[1], place[2], place[3] = source, source, weights, target
    place[4], place[5], place[6] = target, source, weights
