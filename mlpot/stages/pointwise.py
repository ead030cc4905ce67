"""Functions of single numbers: y = f(x) for every component and channel.

Only scalars may go through them: a function of one component of a vector has a preferred direction. Vectors are
gated by `products`: σ(s) v is an `Activation` of s and a `Products` of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mlpot.stages.stage import Environments, Weights

EPSILON = 1e-8  # of `root`: slope and curvature at zero are finite


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _silu_curvature(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


def _sigmoid_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def _sigmoid_curvature(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (1 - 2 * s)


def _root(x: Tensor) -> Tensor:
    return (x + EPSILON).sqrt()


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "silu": (functional.silu, _silu_slope, _silu_curvature),
    "ssp": (lambda x: functional.softplus(x, 1.0, 40.0) - math.log(2.0), torch.sigmoid, _sigmoid_slope),
    "sigmoid": (torch.sigmoid, _sigmoid_slope, _sigmoid_curvature),
    "tanh": (
        torch.tanh,
        lambda x: 1 - torch.tanh(x) ** 2,
        lambda x: -2 * torch.tanh(x) * (1 - torch.tanh(x) ** 2),
    ),
    "root": (_root, lambda x: 0.5 / _root(x), lambda x: -0.25 / _root(x) ** 3),
}
"""f, f′ and f″: x σ(x), ln(1 + eˣ) − ln 2, σ(x), tanh(x), and √(x + ε) of a sum of squares."""

SECOND_MOMENT = 1.6791767923989418
"""1/√⟨silu²⟩ over a normal distribution, e3nn's factor; it keeps the size of what goes through."""
TANH_SECOND_MOMENT = 1.5937334472592695
"""That of tanh."""


@dataclass(eq=False)
class Activation:
    """factor · f(x).

    Args:
        function: a name in `FUNCTIONS`.
        n_components: scalars that it is applied to.
        factor: see `SECOND_MOMENT`.

    Raises:
        ValueError: there is no such function.
    """

    function: str = "silu"
    n_components: int = 1
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ValueError(f"Unknown function {self.function!r}. Choose one of {', '.join(sorted(FUNCTIONS))}.")

    @property
    def weights(self) -> Weights:
        return ()

    @property
    def n_read(self) -> int:
        return self.n_components

    @property
    def n_written(self) -> int:
        return self.n_components

    def n_channels(self, n: int) -> int:
        return n

    def value(self, at: Environments, x: Tensor) -> Tensor:
        return self.factor * FUNCTIONS[self.function][0](x)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        return self.factor * FUNCTIONS[self.function][1](x) * x_dot

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        return self.factor * FUNCTIONS[self.function][1](x) * y_bar, None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        _, slope, curvature = FUNCTIONS[self.function]
        return self.factor * (slope(x) * y_bar + curvature(x) * x_dot * g), ()
