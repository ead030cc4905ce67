"""What several processes exchange so that each computes the features of its own atoms alone.

A process has its own atoms, and ghosts within one cutoff of them: atoms of others. A sum over neighbors reads
ghosts too. What an element alone decides is known everywhere; every other array that such a sum reads is sent from
the owners first. With x what is read and s the rows of the owners,

    value     y_own = x_own,   y_ghost = x_s(ghost)
    adjoint   x̄_own = ȳ_own + Σ ȳ_ghost of its ghosts,   x̄_ghost = 0

so that an exchange is a linear stage, and all derivatives follow. Ghosts have no energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.run import Program, Step
from mlpot.stages.stage import Environments, Weights


class Halo(Protocol):
    """Knows for each ghost whose it is. Arrays are (n_atoms, …); all processes call in the same order."""

    def fill(self, x: Tensor) -> None:
        """Rows of ghosts become those of their owners, in place."""
        ...

    def gather(self, x_bar: Tensor) -> None:
        """Rows of ghosts are added to those of their owners and become zero, in place."""
        ...


class Sent(NamedTuple):
    """What is exchanged before a sum over neighbors."""

    array: str
    components: slice
    n_channels: int


def exchanged(program: Program) -> list[Sent | None]:
    """For each sum over neighbors in turn what it reads at them; None if elements alone decide it."""
    out: list[Sent | None] = []
    static: dict[str | None, bool] = {None: True}
    for step in program.steps:
        is_static, sums = static[step.source], isinstance(step.stage, NeighborSum | EdgeNetwork)
        static[step.target] = static.get(step.target, True) and is_static and not sums
        if not sums:
            continue
        assert step.source is not None
        read = program.windows(step)[0]
        # Of [a, b, D] an edge reads a at its center alone.
        first = read.start + isinstance(step.stage, EdgeNetwork)
        sent = Sent(step.source, slice(first, read.stop), program.shapes[step.source].n_channels)
        out.append(None if is_static else sent)
    return out


def with_exchanges(program: Program, halo: Halo) -> Program:
    """The same list with an exchange before each sum over neighbors that needs one."""
    sums, steps = iter(exchanged(program)), []
    for number, step in enumerate(program.steps):
        if not isinstance(step.stage, NeighborSum | EdgeNetwork) or (sent := next(sums)) is None:
            steps.append(step)
            continue
        assert step.source is not None
        read, there = program.windows(step)[0], f"{step.source} for {number}"
        exchange = Exchange(halo, sent.components.start - read.start, read.stop - read.start)
        steps += [Step(exchange, step.source, there, read=read.start), step._replace(source=there, read=0)]
    return Program(steps)


@dataclass(eq=False)
class Exchange:
    """See above.

    Args:
        halo: of this process.
        first: component from which on rows of ghosts are sent.
        n_components: of what is read.
    """

    halo: Halo
    first: int
    n_components: int

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
        filled: Tensor = _Fill.apply(x, self.halo, self.first)  # type: ignore[no-untyped-call]  # torch does not type it
        return filled

    def adjoint(self, at: Environments, x: Tensor, y_bar: Tensor) -> tuple[Tensor, None]:
        gathered: Tensor = _Gather.apply(y_bar, self.halo, self.first)  # type: ignore[no-untyped-call]  # torch does not type it
        return gathered, None

    def tangent(self, at: Environments, x: Tensor, x_dot: Tensor) -> Tensor:
        return self.value(at, x_dot)

    def both_adjoints(
        self, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
    ) -> tuple[Tensor, Weights]:
        return self.adjoint(at, x, y_bar)[0], ()


class _Fill(torch.autograd.Function):
    """`Halo.fill` of a copy, and its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: Halo, first: int) -> Tensor:
        ctx.kept, y = (halo, first), x.clone()
        halo.fill(y[:, first:])
        return y

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(y_bar, *ctx.kept), None, None  # type: ignore[no-untyped-call]  # torch does not type it


class _Gather(torch.autograd.Function):
    """`Halo.gather` of a copy, and its transpose."""

    @staticmethod
    def forward(ctx: Any, y_bar: Tensor, halo: Halo, first: int) -> Tensor:
        ctx.kept, x_bar = (halo, first), y_bar.clone()
        halo.gather(x_bar[:, first:])
        return x_bar

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        return _Fill.apply(x, *ctx.kept), None, None  # type: ignore[no-untyped-call]  # torch does not type it
