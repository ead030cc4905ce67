"""Derivatives by finite differences of functions that only give values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STENCILS = {
    4: {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
    6: {-3: -1 / 60, -2: 3 / 20, -1: -3 / 4, 1: 3 / 4, 2: -3 / 20, 3: 1 / 60},
}
"""Order of the error -> weight of f(x + k h) in h f'(x)."""


def derivative(f: Callable[[list[float]], NDArray], h: float, order: int = 4) -> NDArray:
    """f'(0) of a function that takes a list of steps and returns a row of values for each."""
    stencil = STENCILS[order]
    values = np.asarray(f([k * h for k in stencil]))
    return np.tensordot(list(stencil.values()), values, axes=1) / h
