"""Convolutions with radial functions on knots, differentiable any number of times.

The three operations of `reference` are closed under differentiation:

    ∂ conv       / ∂x = conv(g; v reversed)   / ∂table = table_grad    / ∂d = v edge_dot′   / ∂v = edge_dot
    ∂ edge_dot   / ∂x = conv(g; v reversed)   / ∂table = table_grad    / ∂d = v edge_dot′   / ∂g = conv(x)
    ∂ table_grad / ∂x = conv(g; v reversed)   / ∂v = edge_dot          / ∂d = v edge_dot′   / ∂g = conv(x)

A derivative nobody asks for must not be computed: forces want no gradient of the table, a loss on forces none of
the distances. A Function is told which of its inputs need a gradient, not which are asked for; but autograd does
skip whole branches. So an operation is a sum of branches, one for each argument: the first brings the value, the
others bring zero, and each knows one derivative.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from mlpot.kernels import opaque, reference
from mlpot.stages.spline_grid import KnotEdges

Derivative = Callable[[Tensor], Tensor]


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None = None, order: int = 0) -> Tensor:
    """Σ_j v_ij f^(order)(d_ij) ∘ x_j for each atom i.

    Args:
        x: (n_atoms, n_features).
        table: (n_rows, n_features), f on knots.
        on: the edges on the grid of the table.
        weights: v, (n_edges,), one if not given.
        order: derivative of f by distance.
    """
    if torch.compiler.is_dynamo_compiling():
        return opaque.conv(x, table, on, weights, order)
    value = _home(x, table, on.d, weights).conv(_plain(x), _plain(table), on, _plain(weights), order)
    return _branches(
        value,
        (x, lambda g: conv(g, table, on, _reversed(weights, on), order)),
        (table, lambda g: table_grad(x, g, on, weights, order)),
        (on.d, lambda g: _times(weights, edge_dot(x, g, table, on, order + 1))),
        (weights, lambda g: edge_dot(x, g, table, on, order)),
    )


def edge_dot(x: Tensor, g: Tensor, table: Tensor, on: KnotEdges, order: int = 0) -> Tensor:
    """Σ_f f^(order)(d_ij) g_i x_j for each edge (i, j), (n_edges,); arguments as for `conv`."""
    value = _home(x, g, table, on.d).edge_dot(_plain(x), _plain(g), _plain(table), on, order)
    return _branches(
        value,
        (x, lambda v: conv(g, table, on, _reversed(v, on), order)),
        (g, lambda v: conv(x, table, on, v, order)),
        (table, lambda v: table_grad(x, g, on, v, order)),
        (on.d, lambda v: v * edge_dot(x, g, table, on, order + 1)),
    )


def table_grad(x: Tensor, g: Tensor, on: KnotEdges, weights: Tensor | None = None, order: int = 0) -> Tensor:
    """Gradient of Σ_i g_i · conv(x)_i with respect to the table, (n_rows, n_features)."""
    value = _home(x, g, on.d, weights).table_grad(_plain(x), _plain(g), on, _plain(weights), order)
    return _branches(
        value,
        (x, lambda table: conv(g, table, on, _reversed(weights, on), order)),
        (g, lambda table: conv(x, table, on, weights, order)),
        (on.d, lambda table: _times(weights, edge_dot(x, g, table, on, order + 1))),
        (weights, lambda table: edge_dot(x, g, table, on, order)),
    )


class _Zero(torch.autograd.Function):
    """A zero that depends on one tensor, with a given derivative."""

    @staticmethod
    def forward(ctx: Any, argument: Tensor, shape: torch.Size, derivative: Derivative) -> Tensor:
        ctx.derivative = derivative
        return argument.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.derivative(g[0]), None, None


class _Plus(torch.autograd.Function):
    """A value plus zeros: no arithmetic."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *zeros: Tensor) -> Tensor:
        ctx.n_zeros = len(zeros)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        return (None,) + ctx.n_zeros * g


def _branches(value: Tensor, *parts: tuple[Tensor | None, Derivative]) -> Tensor:
    if not torch.is_grad_enabled():
        return value
    wanted = [(a, f) for a, f in parts if a is not None and a.requires_grad]
    zeros = [_Zero.apply(a, value.shape, f) for a, f in wanted]  # type: ignore[no-untyped-call]
    return cast("Tensor", _Plus.apply(value, *zeros)) if zeros else value  # type: ignore[no-untyped-call]


def _home(x: Tensor, *others: Tensor | None) -> ModuleType:
    """The one seam: which code computes, by where the data are.

    Raises:
        TypeError: numbers of several types, as of autocast, which loops would take for one.
    """
    if found := {str(t.dtype) for t in others if t is not None and t.dtype != x.dtype}:
        raise TypeError(
            f"A sum over neighbors takes numbers of one type, and got {x.dtype} with {', '.join(sorted(found))}. "
            "Convert them, or compute without autocast."
        )
    return _module(x.device.type) if x.dtype in (torch.float32, torch.float64) else reference


@cache
def _module(device: str) -> ModuleType:
    """Imported when it is first needed, so that `import mlpot.models` stays light."""
    if device == "cpu" and has_loops():
        from mlpot.kernels import cpu

        return cpu
    if device == "cuda" and importlib.util.find_spec("triton"):
        from mlpot.gpu import conv

        return conv
    return reference


@cache
def loops_obstacle() -> str | None:
    """Why there are no compiled loops in this process; None if there are."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed"
    return "NUMBA_DISABLE_JIT is set" if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else None


def has_loops() -> bool:
    """Whether Numba is installed, and may compile."""
    return loops_obstacle() is None


def _plain(t: Tensor | None) -> Any:
    return None if t is None else t.detach().contiguous()


def _reversed(weights: Tensor | None, on: KnotEdges) -> Tensor | None:
    return None if weights is None else weights.index_select(0, on.edges.reverse)


def _times(weights: Tensor | None, s: Tensor) -> Tensor:
    return s if weights is None else weights * s


opaque.register(_home)
