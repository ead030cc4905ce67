"""Linear maps of channels: between components, never mixing the components of a spherical tensor.

    y[n, k, d] = Σ_(a, k, m) Σ_c x[n, a, c] W[z_n, m, c, d]  (+ b[z_n, k, d])

A block (a, k, m) is a component that is read, one that is written, and the matrix between them. The components of
one tensor share their matrix, or the map would have a preferred direction; only scalars may have a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mlpot.stages.constants import indices
from mlpot.stages.stage import Environments, Weights, by_element, fits, of_element


class Block(NamedTuple):
    """A matrix of a `Linear` and what is between."""

    source: int
    target: int
    matrix: int


def per_degree(degrees: Sequence[int]) -> tuple[Block, ...]:
    """Each component to itself, with one matrix for each of the tensors of these degrees, side by side."""
    numbers = [k for k, degree in enumerate(degrees) for _ in range(2 * degree + 1)]
    return tuple(Block(n, n, k) for n, k in enumerate(numbers))


SCALAR = (Block(0, 0, 0),)


@dataclass(eq=False)
class Linear:
    """See above.

    Args:
        weight: (n_matrices, c, d), or (n_elements, n_matrices, c, d) for another map at each element.
        blocks: each matrix may stand in several.
        bias: (n_written, d), or (n_elements, n_written, d).

    Raises:
        ValueError: a block names a matrix that there is not.
    """

    weight: Tensor
    blocks: tuple[Block, ...] = SCALAR
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() == 3:
            self.weight = self.weight[None]
        if self.bias is not None and self.bias.dim() == 2:
            self.bias = self.bias[None]
        self.blocks, self._n_read, self._n_written = _checked(tuple(self.blocks), self.weight.shape[1])

    @property
    def weights(self) -> Weights:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def n_read(self) -> int:
        return self._n_read

    @property
    def n_written(self) -> int:
        return self._n_written

    def n_channels(self, n: int) -> int:
        fits(n, self.weight.shape[2], "Linear")
        return self.weight.shape[3]

    def value(self, at: Environments, x: Tensor) -> Tensor:
        y = self.tangent(at, x, x)
        return y if self.bias is None else y + of_element(self.bias, at)

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        out = x_dot.new_zeros(len(x_dot), self.n_written, self.weight.shape[3])
        for matrix, (sources, targets) in self._by_matrix(x_dot):
            product = _times(x_dot[:, sources], self.weight[:, matrix], at)
            out = out.index_add(1, targets, product)
        return out

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        out = y_bar.new_zeros(len(x), self.n_read, self.weight.shape[2])
        for matrix, (sources, targets) in self._by_matrix(x):
            product = _times(y_bar[:, targets], self.weight[:, matrix].mT, at)
            out = out.index_add(1, sources, product)
        return out, None

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        weight = torch.zeros_like(self.weight)
        for matrix, (sources, targets) in self._by_matrix(x):
            outer = torch.einsum("nkc,nkd->ncd", x[:, sources], y_bar[:, targets])
            outer = outer + torch.einsum("nkc,nkd->ncd", x_dot[:, sources], g[:, targets])
            weight[:, matrix] += by_element(outer, len(weight), at)
        x_bar, _ = self.adjoint(at, x, y_bar)
        return x_bar, (weight,) if self.bias is None else (weight, by_element(y_bar, len(self.bias), at))

    def _by_matrix(self, like: Tensor) -> list[tuple[int, list[Tensor]]]:
        own = grouped(self.blocks)
        return [(m, [indices(rows, like.device) for rows in both]) for m, both in own]


@lru_cache(256)
def _checked(blocks: tuple[Block, ...], n_matrices: int) -> tuple[tuple[Block, ...], int, int]:
    """The blocks, and how many components they read and write; a training asks in every step."""
    named = tuple(Block(*b) for b in blocks)
    if not all(0 <= b.matrix < n_matrices and min(b.source, b.target) >= 0 for b in named):
        raise ValueError(f"The blocks {named} name a matrix (of {n_matrices}) or component amiss.")
    return named, 1 + max(b.source for b in named), 1 + max(b.target for b in named)


@cache
def grouped(blocks: tuple[Block, ...]) -> list[tuple[int, tuple[list[int], list[int]]]]:
    """For each matrix its number, sources and targets."""
    out = []
    for matrix in sorted({b.matrix for b in blocks}):
        own = [b for b in blocks if b.matrix == matrix]
        out.append((matrix, ([b.source for b in own], [b.target for b in own])))
    return out


def _times(x: Tensor, matrices: Tensor, at: Environments) -> Tensor:
    return x @ matrices[0] if len(matrices) == 1 else torch.bmm(x, matrices.index_select(0, at.element))
