"""A convolution as one operator that torch.compile does not look into, with its first derivatives.

torch.compile cannot follow the branches of `ops`, and needs none: what it compiles is differentiated once, by all
that requires a gradient. Values come from the same kernels, by the seam that `register` is given.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from mlpot.graph import Edges
from mlpot.stages.spline_grid import SPLINES, KnotEdges

_ON = "Tensor c, Tensor first, int n_knots, Tensor center, Tensor neighbor, Tensor row_ptr, Tensor reverse"
_SCHEMAS = {
    "mlpot::conv": f"(Tensor x, Tensor table, Tensor? weights, Tensor d, Tensor slope, {_ON}) -> Tensor",
    "mlpot::edge_dot": f"(Tensor x, Tensor g, Tensor table, {_ON}) -> Tensor",
    "mlpot::table_grad": f"(Tensor x, Tensor g, Tensor? weights, {_ON}) -> Tensor",
}


def conv(x: Tensor, table: Tensor, on: KnotEdges, weights: Tensor | None, order: int) -> Tensor:
    """As `ops.conv`, in a function that is being compiled."""
    edges = on.edges.center, on.edges.neighbor, on.edges.row_ptr, on.edges.reverse
    c, slope = on.coefficients(order), on.coefficients(order + 1)
    return cast("Tensor", torch.ops.mlpot.conv(x, table, weights, on.d, slope, c, on.first, on.n_knots, *edges))


def register(home: Callable[..., ModuleType]) -> None:
    """Tell PyTorch of the operators; `home` says which kernels compute them."""
    values: dict[str, Callable[..., Tensor]] = {
        "mlpot::conv": lambda x, table, v, d, slope, *on: home(x, table, v, d).conv(x, table, _Laid(*on), v, 0),
        "mlpot::edge_dot": lambda x, g, table, *on: home(x, g, table).edge_dot(x, g, table, _Laid(*on), 0),
        "mlpot::table_grad": lambda x, g, v, *on: home(x, g, v).table_grad(x, g, _Laid(*on), v, 0),
    }
    shapes: dict[str, Callable[..., Tensor]] = {
        "mlpot::conv": lambda x, *_: x.new_empty(x.shape),
        "mlpot::edge_dot": lambda x, g, table, c, *_: x.new_empty(len(c)),
        "mlpot::table_grad": lambda x, g, v, *on: x.new_empty(_Laid(*on).n_rows, x.shape[1]),
    }
    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)
        torch.library.impl(name, ("cpu", "cuda"), _on_plain_tensors(values[name]))
        torch.library.register_fake(name, shapes[name])
    torch.library.register_autograd("mlpot::conv", _derivatives, setup_context=_keep)


class _Laid(KnotEdges):
    """Edges on knots, the polynomials of one order found already."""

    def __init__(self, c: Tensor, first: Tensor, n_knots: int, *edges: Tensor):
        self.edges, self.first, self.n_knots, self.spline = Edges(*edges), first, n_knots, SPLINES[c.shape[1] - 1]
        self.ones = c.new_ones(len(c))
        self._coefficients, self._by_knot, self.kept = {0: c}, None, {}

    @property
    def n_rows(self) -> int:
        return self.spline.n_rows(self.n_knots)


def _on_plain_tensors(value: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def plain(argument: Any) -> Any:
        return argument.detach().contiguous() if isinstance(argument, Tensor) else argument

    return lambda *arguments: value(*map(plain, arguments))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.n_knots, center, neighbor, row_ptr, reverse = inputs
    ctx.save_for_backward(*tensors, center, neighbor, row_ptr, reverse)


def _derivatives(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Those of `ops.conv`, for what requires a gradient."""
    x, table, v, d, slope, c, first, *edges = ctx.saved_tensors
    operators, on = torch.ops.mlpot, (first, ctx.n_knots, *edges)
    for_x, for_table, for_v, for_d = ctx.needs_input_grad[:4]
    reversed_v = None if v is None else v.index_select(0, edges[-1])
    dx = operators.conv(g, table, reversed_v, d, slope, c, *on) if for_x else None
    dtable = operators.table_grad(x, g, v, c, *on) if for_table else None
    dv = operators.edge_dot(x, g, table, c, *on) if for_v else None
    dd = operators.edge_dot(x, g, table, slope, *on) if for_d else None
    if dd is not None and v is not None:
        dd = dd * v
    return dx, dtable, dv, dd, *(8 * [None])
