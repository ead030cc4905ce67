"""Functions of distance on knots: values and exact derivatives on a uniform grid, rebuilt whenever weights change.

    W(d) = u(d) · network( e(d) )        e a radial basis, u an envelope

In training the table is a differentiable function of the weights and is built once in each evaluation, so the
potential that is trained is the potential that is run, to the bit. The force is the derivative of the interpolant,
so energy is conserved whatever the table's error. Derivatives are carried forward by the chain rule, all in units
of the spacing h: f, h f′, and for quintic interpolants h² f″. Those of e and u do not change and are found once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn


class Activation(Protocol):
    """A function with its first two derivatives, element by element."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def slope(self, x: Tensor) -> Tensor: ...

    def curvature(self, x: Tensor) -> Tensor: ...


class RadialTable(nn.Module):
    """Radial functions as rows for `kernels`: at each knot f, h f′, and for degree 5 also h² f″.

    Args:
        basis: (n,) Å -> (n, n_radial).
        envelope: (n,) Å -> (n,); it ends at the cutoff, with as many zero derivatives as the table holds.
        cutoff: Å, distance of the last knot.
        n_knots: number of intervals, each of length h.
        degree: of the polynomials between knots: 3, once continuously differentiable, or 5, twice.

    Raises:
        ValueError: another degree, or no knots.
    """

    exact_basis: Tensor
    exact_envelope: Tensor
    kept: Tensor

    def __init__(self, basis: nn.Module, envelope: nn.Module, *, cutoff: float, n_knots: int, degree: int = 3):
        super().__init__()
        if degree not in (3, 5) or n_knots < 1:
            raise ValueError(
                f"A table needs degree 3 or 5 and some knots, got degree {degree}, n_knots {n_knots}."
            )
        self.cutoff, self.n_knots, self.degree, self.n_rows = cutoff, n_knots, degree, (degree + 1) // 2
        knots = torch.linspace(0, cutoff, n_knots + 1, dtype=torch.float64)
        knots[0] = 1e-3 * knots[1]  # some bases divide by the distance
        self.register_buffer("exact_basis", self._derivatives(basis, knots), persistent=False)
        self.register_buffer("exact_envelope", self._derivatives(envelope, knots)[..., None], persistent=False)
        self.register_buffer("kept", torch.empty(0), persistent=False)
        self.keeps = False

    def forward(self, networks: Sequence[nn.Sequential]) -> tuple[Tensor, ...]:
        """A table (n_rows (n_knots + 1), n_features) for each network of equal layers from basis to features."""
        if len(self.kept):
            return self.kept.unbind()
        tables = self._build(networks)
        if self.keeps:
            self.kept = tables.detach()
        return tables.unbind()

    def freeze(self) -> None:
        """Keep the next tables until `train` is called, because weights no longer change."""
        self.keeps = True

    def train(self, mode: bool = True) -> RadialTable:
        """As nn.Module.train; tables that were kept are forgotten."""
        if mode:
            self.keeps, self.kept = False, self.kept.new_empty(0)
        super().train(mode)
        return self

    def _build(self, networks: Sequence[nn.Sequential]) -> Tensor:
        """(n_networks, n_rows (n_knots + 1), n_features): the rows of two neighboring knots lie side by side."""
        dtype = self.kept.dtype
        f = [row.expand(len(networks), -1, -1) for row in self.exact_basis.to(dtype)]
        for same in zip(*networks, strict=True):
            if isinstance(same[0], nn.Linear):
                f = _linear(f, cast("Sequence[nn.Linear]", same))
            else:
                f = _activate(f, cast("Activation", same[0]))
        return torch.stack(_product(list(self.exact_envelope.to(dtype)), f), dim=2).flatten(1, 2)

    def _derivatives(self, function: nn.Module, knots: Tensor) -> Tensor:
        """f, h f′, … (n_rows, n_knots + 1, …) float64."""
        exact, h = copy.deepcopy(function).double(), self.cutoff / self.n_knots
        rows: list[Callable[[Tensor], Tensor]] = [exact]
        for _ in range(self.n_rows - 1):
            rows.append(_slope(rows[-1], h))
        return torch.stack([row(knots) for row in rows])

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        exact = self.exact_basis, self.exact_envelope
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Moved, but never rounded; tables of another type or device are built when they are needed.
        self.exact_basis, self.exact_envelope = (t.to(self.kept.device) for t in exact)
        self.kept = self.kept.new_empty(0)
        return self


def _slope(f: Callable[[Tensor], Tensor], h: float) -> Callable[[Tensor], Tensor]:
    """h f′ of a function of many distances, one by one: the pull-back of the linear pull-back."""

    def slope(d: Tensor) -> Tensor:
        value, pull = torch.func.vjp(f, d)
        _, push = torch.func.vjp(lambda w: pull(w)[0], torch.zeros_like(value))
        return cast("Tensor", push(torch.full_like(d, h))[0])

    return slope


def _linear(f: list[Tensor], layers: Sequence[nn.Linear]) -> list[Tensor]:
    """(W f + b, W f′, W f″), all networks in one product."""
    weight = torch.stack([layer.weight for layer in layers])
    rows = torch.bmm(torch.cat(f, dim=1), weight.mT)
    value, *derivatives = rows.chunk(len(f), dim=1)
    if layers[0].bias is not None:
        value = value + torch.stack([layer.bias for layer in layers])[:, None]
    return [value, *derivatives]


def _activate(f: list[Tensor], a: Activation) -> list[Tensor]:
    """(a(f), a′ f′, a″ f′² + a′ f″)."""
    slope = a.slope(f[0])
    chain = [a(f[0]), slope * f[1]]
    return chain if len(f) == 2 else [*chain, a.curvature(f[0]) * f[1].square() + slope * f[2]]


def _product(u: list[Tensor], f: list[Tensor]) -> list[Tensor]:
    """(u f, u′ f + u f′, u″ f + 2 u′ f′ + u f″)."""
    chain = [u[0] * f[0], u[1] * f[0] + u[0] * f[1]]
    return chain if len(f) == 2 else [*chain, u[2] * f[0] + 2 * u[1] * f[1] + u[0] * f[2]]
