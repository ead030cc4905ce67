"""Which slices of a dataset to read for rows that are wanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GAP = 16  # unwanted rows that are read rather than starting another slice
SLICE = 1024  # rows of one slice

Slices = list[tuple[int, int, int, int]]
"""(lo, hi, a, b): file rows lo to hi hold the wanted rows numbered a to b."""


def slices_of(rows: NDArray[np.integer]) -> Slices:
    """The slices to read for ascending rows: joined across small gaps, split when they grow long."""
    n = len(rows)
    if n and rows[-1] - rows[0] == n - 1:  # one behind the other
        ends = [(a, min(a + SLICE, n)) for a in range(0, n, SLICE)]
        return [(int(rows[a]), int(rows[b - 1]) + 1, a, b) for a, b in ends]
    slices = []
    a = 0
    for b in range(1, len(rows) + 1):
        if b == len(rows) or rows[b] - rows[b - 1] > GAP or rows[b] - rows[a] >= SLICE:
            slices.append((int(rows[a]), int(rows[b - 1]) + 1, a, b))
            a = b
    return slices
