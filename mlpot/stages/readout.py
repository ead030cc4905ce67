"""Where a list of stages begins and ends: features of elements, and energies of atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlpot.stages.stage import Environments, Weights, by_element, fits, of_element


@dataclass(eq=False)
class Embedding:
    """y[n] = W[z_n], whatever it reads.

    Args:
        weight: (n_elements, n_components, n_channels), or (n_elements, n_channels) for one component.
    """

    weight: Tensor

    def __post_init__(self) -> None:
        if self.weight.dim() == 2:
            self.weight = self.weight[:, None]

    @property
    def weights(self) -> Weights:
        return (self.weight,)

    @property
    def n_read(self) -> int:
        return 0

    @property
    def n_written(self) -> int:
        return self.weight.shape[1]

    def n_channels(self, n: int) -> int:
        return self.weight.shape[2]

    def value(self, at: Environments, x: Tensor) -> Tensor:
        return self.weight.index_select(0, at.element)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        return self.weight.new_zeros(len(at.element), *self.weight.shape[1:])

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(x), None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        weight = self.weight.new_zeros(self.weight.shape).index_add(0, at.element, y_bar)
        return torch.zeros_like(x), (weight,)


@dataclass(eq=False)
class Readout:
    """b_n = Σ_c w[z_n, c] x[n, 0, c] + b[z_n]: what a list of stages adds to the energy of an atom.

    Args:
        weight: (n_channels,), or (n_elements, n_channels).
        bias: (1,), or (n_elements,).
    """

    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() == 1:
            self.weight = self.weight[None]

    @property
    def weights(self) -> Weights:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def n_read(self) -> int:
        return 1

    @property
    def n_written(self) -> int:
        return 1

    def n_channels(self, n: int) -> int:
        fits(n, self.weight.shape[1], "Readout")
        return 1

    def value(self, at: Environments, x: Tensor) -> Tensor:
        y = self.tangent(at, x, x)
        return y if self.bias is None else y + of_element(self.bias, at)[:, None, None]

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        return (x_dot * of_element(self.weight, at)[:, None]).sum(2, keepdim=True)

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        return y_bar * of_element(self.weight, at)[:, None], None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        weight = by_element((x * y_bar + x_dot * g)[:, 0], len(self.weight), at)
        x_bar = self.adjoint(at, x, y_bar)[0]
        return x_bar, (weight,) if self.bias is None else (weight, by_element(y_bar[:, 0, 0], len(self.bias), at))
