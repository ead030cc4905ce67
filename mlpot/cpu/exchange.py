"""Passes over a list of stages with stops, where processes exchange what neighbors send (`stages.exchange`).

The forward pass stops before a sum over neighbors that reads what edges decided. The backward pass stops when such
a sum has left the adjoints of what it read at ghosts, and before anything else reads those of own atoms.
"""

from __future__ import annotations

from typing import NamedTuple

from mlpot.cpu.plan import Extent, Plan
from mlpot.stages.exchange import Halo, Sent


class Exchanges(NamedTuple):
    """Of one evaluation of own atoms, which come first, and ghosts."""

    n_own: int
    halo: Halo


class Stop(NamedTuple):
    """A part of the passes, and what is exchanged after it; None at the end."""

    extent: Extent
    sent: Sent | None
    back: bool


def whole(plan: Plan, n_parts: int) -> list[Stop]:
    """Both passes in one part."""
    return [Stop(Extent(1, 0, len(plan.segments), 0, 2 * len(plan.segments_back), 1, n_parts), None, False)]


def forward(plan: Plan, n_parts: int) -> list[Stop]:
    """The forward pass alone, for arrays at atoms."""
    return [Stop(Extent(1, 0, len(plan.segments), 0, 0, 0, n_parts), None, False)]


def stops(plan: Plan, known: list[Sent | None], n_parts: int) -> list[Stop]:
    """Both passes in parts. `known` is what each sum over neighbors needs; the first n_parts are of own atoms."""
    n_forward, n_back = len(plan.segments), len(plan.segments_back)
    out: list[Stop] = []
    begins, at = 1, 0
    for n, sent in enumerate(known, 1):
        if sent is not None:
            out.append(Stop(Extent(begins, at, n, 0, 0, 0, n_parts), sent, False))
            begins, at = 0, n
    half = 0
    for n, sent in zip(range(n_back - len(known), n_back), reversed(known), strict=True):
        if sent is not None:
            out.append(Stop(Extent(begins, at, n_forward, half, 2 * n + 1, 0, n_parts), sent, True))
            begins, at, half = 0, n_forward, 2 * n + 1
    out.append(Stop(Extent(begins, at, n_forward, half, 2 * n_back, 1, n_parts), None, False))
    return out
