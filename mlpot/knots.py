"""Functions of distance on knots: values and exact derivatives on a uniform grid, rebuilt whenever weights change.

In training the table is a differentiable function of the weights and is built once in each evaluation, so the
potential that is trained is the potential that is run, to the bit. The force is the derivative of the interpolant,
so energy is conserved whatever the table's error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Radial = Callable[[Tensor], Tensor]


class RadialTable(nn.Module):
    """Radial functions as rows for `kernels`: at knot k h the rows f, h f', and for degree 5 also h² f''.

    Args:
        cutoff: Å, distance of the last knot; the functions must end there with as many zero derivatives.
        n_knots: number of intervals of length h.
        degree: of the Hermite polynomials between knots: 3, once continuously differentiable, or 5, twice.

    Raises:
        ValueError: another degree, or no knots.
    """

    kept: Tensor

    def __init__(self, *, cutoff: float, n_knots: int, degree: int = 3):
        super().__init__()
        if degree not in (3, 5) or n_knots < 1:
            raise ValueError(f"A table needs degree 3 or 5 and a knot, got degree {degree}, {n_knots} knots.")
        self.cutoff, self.n_knots, self.degree = cutoff, n_knots, degree
        self.register_buffer("kept", torch.empty(0), persistent=False)
        self.frozen = False

    def forward(self, radial: Radial) -> tuple[Tensor, ...]:
        """Tables ((degree + 1)/2 (n_knots + 1), n_features) of functions, one for each of `radial`'s.

        Args:
            radial: (n,) Å -> (n_functions, n, n_features).
        """
        if not self.frozen:
            return self._build(radial).unbind()
        if not len(self.kept):
            self.kept = self._build(radial)
        return self.kept.unbind()

    def freeze(self) -> None:
        """Keep the next table, until `train` is called: for weights that do not change."""
        self.frozen = True

    def train(self, mode: bool = True) -> RadialTable:
        """As nn.Module.train; a table that was kept is forgotten."""
        if mode:
            self.frozen, self.kept = False, self.kept.new_empty(0)
        super().train(mode)
        return self

    def _build(self, radial: Radial) -> Tensor:
        h = self.cutoff / self.n_knots
        knots = torch.linspace(0, self.cutoff, self.n_knots + 1, dtype=self.kept.dtype, device=self.kept.device)
        knots[0] = 1e-3 * h  # some bases divide by the distance
        ones = torch.ones_like(knots)

        def slope(d: Tensor) -> tuple[Tensor, Tensor]:
            f, df = torch.func.jvp(radial, (d,), (ones,))
            return f, df * h

        if self.degree == 3:
            rows = slope(knots)
        else:
            (f, df), (_, ddf) = torch.func.jvp(slope, (knots,), (ones,))
            rows = (f, df, ddf * h)
        # (function, knot, row, feature): the rows of two neighboring knots lie side by side
        return torch.stack(rows, dim=2).flatten(1, 2)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.kept = self.kept.new_empty(0)  # of another type or device: built again when it is needed
        return self
