"""Functions of distance on knots: splines on a uniform grid, rebuilt whenever weights change.

    W(d) = u(d) · network( e(d) )        e a radial basis, u an envelope

In training the table is a differentiable function of the weights and is built once in each evaluation, so the
potential that is trained is the potential that is run: to the bit where radial functions are linear in their
weights. Of networks with layers, tables that stay are found in float64 and rounded once, so that in float32 forces
differ by the rounding of those in training. The force is the derivative of the spline, so energy is conserved
whatever the table's error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mlpot.kernels import loops
from mlpot.kernels.ops import has_loops
from mlpot.stages.spline_grid import SplineGrid
from mlpot.torch_settings import usual_settings

TRACE = 1e-30  # of a radial function; each has values of about one


class Activation(Protocol):
    """A function with its first two derivatives, element by element."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def slope(self, x: Tensor) -> Tensor: ...

    def curvature(self, x: Tensor) -> Tensor: ...


class RadialTable(nn.Module):
    """Radial functions as rows for `kernels`, see `stages.spline_grid`.

    Args:
        basis: (n,) Å -> (n, n_radial).
        envelope: (n,) Å -> (n,); it ends at the cutoff with two zero derivatives. None for a basis that does so
            itself, and networks that keep zero.
        cutoff: Å, end of the last interval.
        n_knots: number of intervals, each of length h.
        degree: 3, cubic B-splines from values alone, or 5, quintic Hermite polynomials from f, h f′ and h² f″.

    Raises:
        ValueError: another degree, or too few knots.
    """

    exact_basis: Tensor
    exact_envelope: Tensor
    exact_products: Tensor
    kept: Tensor

    def __init__(
        self, basis: nn.Module, envelope: nn.Module | None, *, cutoff: float, n_knots: int, degree: int = 3
    ):
        super().__init__()
        if degree not in (3, 5) or n_knots < 8:
            raise ValueError(f"A table needs degree 3 or 5 and 8 knots, got degree {degree} and {n_knots} knots.")
        self.cutoff, self.n_knots, self.degree = cutoff, n_knots, degree
        self._functions = basis, envelope  # in a tuple, so that the network's state has them once
        nothing = torch.empty(0, dtype=torch.float32, device="cpu")
        # No buffers, which averages of weights copy from one network to the other: found when they are needed.
        self.exact_basis, self.exact_envelope, self.exact_products = (nothing.clone() for _ in range(3))
        self.register_buffer("kept", nothing.clone(), persistent=False)
        self.keeps = False
        if not any(buffer.is_meta for function in self._functions if function for buffer in function.buffers()):
            self._take_derivatives()  # now, before the basis may be rounded
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @property
    def grid(self) -> SplineGrid:
        """Where the knots are."""
        return SplineGrid(self.cutoff, self.n_knots, self.degree)

    def forward(self, networks: Sequence[nn.Sequential]) -> tuple[Tensor, ...]:
        """A table (n_rows, n_features) for each network of equal layers from basis to features."""
        return self.stacked(networks).unbind()

    def stacked(self, networks: Sequence[nn.Sequential]) -> Tensor:
        """The same as (n_networks, n_rows, n_features)."""
        if len(self.kept):
            return self.kept
        if not self.keeps:
            return self._build(networks)
        with torch.no_grad():
            self.kept = self._build(networks).to(self.kept.dtype)
        return self.kept

    def freeze(self) -> None:
        """Keep the next tables, for weights that no longer change, until the next `freeze` or `train`."""
        self.keeps, self.kept = True, self.kept.new_empty(0)

    def train(self, mode: bool = True) -> RadialTable:
        """As nn.Module.train; tables that were kept are forgotten."""
        if mode:
            self.keeps, self.kept = False, self.kept.new_empty(0)
        super().train(mode)
        return self

    def _build(self, networks: Sequence[nn.Sequential]) -> Tensor:
        """(n_networks, n_rows, n_features), all networks in one product a layer."""
        if not len(self.exact_basis) or _without_gradient(self.exact_basis):  # a copy made where autograd was off
            self._take_derivatives()
        if all(len(network) < 2 and all(map(_is_matrix, network)) for network in networks):
            return self._linear_in_products(networks)
        # Rounded once, at their end, changes from knot to knot have all digits: worth its time if tables stay.
        dtype = torch.float64 if self.keeps else self.kept.dtype
        if dtype == self.kept.dtype and self._in_one_pass(networks):
            return _fused_rows(self.exact_basis.to(dtype), self.exact_envelope[..., 0].to(dtype), networks)
        f = [row.expand(len(networks), -1, -1) for row in self.exact_basis.to(dtype)]
        for same in zip(*networks, strict=True):
            if isinstance(same[0], nn.Linear):
                f = _linear(f, cast("Sequence[nn.Linear]", same))
            else:
                f = _activate(f, cast("Activation", same[0]))
        return self._rows_of(_product(list(self.exact_envelope.to(dtype)), f))

    def _rows_of(self, f: list[Tensor]) -> Tensor:
        """Rows of a table from (n_networks, n_knots + 1, n_features) of each derivative."""
        if self.degree == 3:
            return _b_spline(f[0])
        value, slope, curvature = f
        change = value.diff(dim=1, append=value[:, -1:])
        rows = torch.stack([slope, curvature, value, change], dim=2).flatten(1, 2)
        return rows[:, : self.grid.n_rows]

    def _linear_in_products(self, networks: Sequence[nn.Sequential]) -> Tensor:
        """u W e = W (u e), in one product with what no weight changes; without layers W is one."""
        products = self.exact_products.to(self.kept.dtype)
        if not len(networks[0]):
            return products.expand(len(networks), -1, -1)
        weight = torch.stack([cast("Tensor", network[0].weight) for network in networks]).mT
        return torch.matmul(products, weight)

    def _in_one_pass(self, networks: Sequence[nn.Sequential]) -> bool:
        """Whether the compiled loops of `kernels.radial_derivatives` know these networks."""
        if torch.compiler.is_compiling():
            return False
        if self.kept.dtype not in (torch.float32, torch.float64):
            return False
        if self.degree != 5 or self.kept.device.type != "cpu" or not has_loops():
            return False
        linear, between = ([layer for net in networks for layer in list(net)[k::2]] for k in (0, 1))
        has_bias = all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in linear)
        return len(networks[0]) % 2 == 1 and has_bias and all(isinstance(layer, nn.SiLU) for layer in between)

    def _take_derivatives(self) -> None:
        """Of basis and envelope as they are now, in float64 on the CPU: a file may have another basis."""
        with usual_settings(), torch.enable_grad():
            knots = torch.linspace(0, self.cutoff, self.n_knots + 1, dtype=torch.float64, device="cpu")
            knots[0] = 1e-3 * knots[1]  # some bases divide by the distance
            basis, envelope = (_without_traces(self._derivatives(function, knots)) for function in self._functions)
        device = self.kept.device
        products = self._rows_of(_product(list(envelope[:, None, :, None]), list(basis[:, None])))
        products = _without_traces(products)
        self.exact_basis, self.exact_envelope = basis.to(device), envelope[..., None].to(device)
        self.exact_products = products.to(device)

    def _derivatives(self, function: nn.Module | None, knots: Tensor) -> Tensor:
        """What the table needs of f, h f′, h² f″: (1 or 3, n_knots + 1, …) float64."""
        if function is None:  # one
            return torch.stack(
                [torch.ones_like(knots), *[torch.zeros_like(knots)] * 2][: 3 if self.degree == 5 else 1]
            )
        exact, h = copy.deepcopy(function).to("cpu", torch.float64), self.cutoff / self.n_knots
        rows: list[Callable[[Tensor], Tensor]] = [exact]
        for _ in range(2 if self.degree == 5 else 0):
            rows.append(_slope(rows[-1], h))
        return torch.stack([row(knots).detach() for row in rows])

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        exact = self.exact_basis, self.exact_envelope, self.exact_products
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Moved, but never rounded; tables of another type or device are built when they are needed.
        self.exact_basis, self.exact_envelope, self.exact_products = (t.to(self.kept.device) for t in exact)
        self.kept = self.kept.new_empty(0)
        return self


def _without_traces(values: Tensor) -> Tensor:
    """Zero for tails of Gaussians that change no sum.

    In float32 they are subnormal, or become so in products, and a product of matrices with a few subnormal numbers
    takes Intel's CPUs ten times as long.
    """
    return torch.where(values.abs() < TRACE, 0.0, values)


def _slope(f: Callable[[Tensor], Tensor], h: float) -> Callable[[Tensor], Tensor]:
    """h f′ of a function of many distances, one by one: the gradient of a gradient that is linear in its weights.

    Not by torch.func or gradients of more than a number, for which PyTorch imports for a second.
    """

    def slope(d: Tensor) -> Tensor:
        d = d if d.requires_grad else d.detach().requires_grad_()
        value = f(d)
        weights = torch.zeros_like(value, requires_grad=True)
        (weighted,) = torch.autograd.grad((value * weights).sum(), d, create_graph=True)
        return torch.autograd.grad((h * weighted).sum(), weights, create_graph=True)[0]

    return slope


def _forget(table: RadialTable, _: object) -> None:
    """A network that was given other weights may have been given another basis."""
    for name in ("exact_basis", "exact_envelope", "exact_products", "kept"):
        setattr(table, name, getattr(table, name).new_empty(0))


def _is_matrix(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and layer.bias is None


class _BSpline(torch.autograd.Function):
    """Coefficients b (n_networks, n_knots + 3, n_features) of values f (n_networks, n_knots + 1, n_features).

    Values of a cubic B-spline are b_i − δb_i/6, δ the negated second difference; so b = f + δf/6 + δ²f/36 + O(h⁶).
    The last three are zero, and with them value, slope and curvature at the cutoff, as for f. The first three only
    matter below 3 h, where no atom is.
    """

    FILTER = (1 / 36, -10 / 36, 54 / 36, -10 / 36, 1 / 36)

    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        n = f.shape[1] - 4
        out = f.new_zeros(f.shape[0], n + 6, f.shape[2])
        inner = out[:, 3:-3]
        for k, factor in enumerate(_BSpline.FILTER):
            inner.add_(f[:, k : k + n], alpha=factor)
        out[:, :3] = inner[:, :1]
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        n = g.shape[1] - 6
        inner = g[:, 3:-3].clone()
        inner[:, 0] += g[:, :3].sum(1)
        f = g.new_zeros(g.shape[0], n + 4, g.shape[2])
        for k, factor in enumerate(_BSpline.FILTER):
            f[:, k : k + n].add_(inner, alpha=factor)
        return f


def _without_gradient(values: Tensor) -> bool:
    """Whether they were made in inference mode, of which torch.compile cannot ask."""
    return not torch.compiler.is_dynamo_compiling() and values.is_inference()


def _fused_rows(basis: Tensor, envelope: Tensor, networks: Sequence[nn.Sequential]) -> Tensor:
    """Rows (n_networks, n_rows, n_features) of quintic tables, by compiled loops around products."""
    f, bias = basis.expand(len(networks), -1, -1, -1), torch.empty(0)
    for k, same in enumerate(zip(*networks, strict=True)):
        if k % 2 == 0:
            linear = cast("Sequence[nn.Linear]", same)
            weight, bias = torch.stack([x.weight for x in linear]), torch.stack([x.bias for x in linear])
            f = torch.bmm(f.flatten(1, 2), weight.mT).view(*f.shape[:3], -1)
        else:
            f = _Activated.apply(f, bias)  # type: ignore[no-untyped-call]
    return cast("Tensor", _Enveloped.apply(f, bias, envelope))  # type: ignore[no-untyped-call]


class _Activated(torch.autograd.Function):
    """`kernels.radial_derivatives.activate`."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(f, bias)
        out = torch.empty_like(f)
        loops.subnormals.flushed(loops.radial_derivatives.activate, *(t.detach().numpy() for t in (f, bias, out)))
        return out

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        f, bias = ctx.saved_tensors
        by_f, by_bias = torch.empty_like(f), torch.empty_like(bias)
        arrays = (t.detach().numpy() for t in (f, bias, g.contiguous(), by_f, by_bias))
        loops.subnormals.flushed(loops.radial_derivatives.activate_adjoint, *arrays)
        return by_f, by_bias


class _Enveloped(torch.autograd.Function):
    """`kernels.radial_derivatives.envelop`."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, bias: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(f, bias, u)
        out = f.new_empty(f.shape[0], 4 * f.shape[2] - 2, f.shape[3])
        loops.subnormals.flushed(
            loops.radial_derivatives.envelop, *(t.detach().numpy() for t in (f, bias, u, out))
        )
        return out

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        f, bias, u = ctx.saved_tensors
        by_f, by_bias = torch.empty_like(f), torch.empty_like(bias)
        loops.subnormals.flushed(
            loops.radial_derivatives.envelop_adjoint,
            *(t.detach().numpy() for t in (u, g.contiguous(), by_f, by_bias)),
        )
        return by_f, by_bias, None


def _b_spline(f: Tensor) -> Tensor:
    return cast("Tensor", _BSpline.apply(f))  # type: ignore[no-untyped-call]


def _linear(f: list[Tensor], layers: Sequence[nn.Linear]) -> list[Tensor]:
    """W f + b, W f′, W f″."""
    weight = torch.stack([layer.weight for layer in layers]).mT.to(f[0].dtype)
    if layers[0].bias is None:
        return [torch.bmm(row, weight) for row in f]
    bias = torch.stack([layer.bias for layer in layers])[:, None].to(f[0].dtype)
    return [torch.baddbmm(bias, f[0], weight), *(torch.bmm(row, weight) for row in f[1:])]


def _activate(f: list[Tensor], a: Activation) -> list[Tensor]:
    """a(f), a′ f′, a″ f′² + a′ f″."""
    if len(f) == 1:
        return [a(f[0])]
    slope = a.slope(f[0])
    return [a(f[0]), slope * f[1], a.curvature(f[0]) * f[1].square() + slope * f[2]]


def _product(u: list[Tensor], f: list[Tensor]) -> list[Tensor]:
    """u f, u′ f + u f′, u″ f + 2 u′ f′ + u f″."""
    if len(f) == 1:
        return [u[0] * f[0]]
    return [u[0] * f[0], u[1] * f[0] + u[0] * f[1], u[2] * f[0] + 2 * u[1] * f[1] + u[0] * f[2]]
