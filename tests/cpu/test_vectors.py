"""Sums over the lanes of vectors, and numbers that lists pick from a row."""

from __future__ import annotations

import numpy as np
import pytest

from mlpot.cpu.vectors import drain, give, take
from mlpot.kernels.simd import LINE, compiled


@compiled
def drained(lines, totals):
    drain(lines, len(totals), totals)


@compiled
def taken_and_given(rows, e, lists, numbers, g, back):
    take(rows, e, lists, 1, numbers, 2, len(g), g, 0)
    give(back, e, lists, 1, numbers, 2, len(g), g, 0)


def in_halves(line: np.ndarray) -> float:
    """The sum of a line, of its first half and its second, and so on."""
    while len(line) > 1:
        line = line[: len(line) // 2] + line[len(line) // 2 :]
    return line[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_lines_are_summed_in_halves_and_are_zero_afterwards(dtype: type, n_blocks: int) -> None:
    per_line = LINE // np.dtype(dtype).itemsize
    lines = np.random.default_rng(0).normal(size=(n_blocks * per_line, per_line)).astype(dtype)
    expected, totals, flat = [in_halves(line) for line in lines], np.full(len(lines), np.nan, dtype), lines.ravel()
    drained(flat, totals)
    assert totals.tolist() == [float(total) for total in expected]
    assert not flat.any()


def test_factors_are_picked_from_a_row_and_their_adjoints_added_to_it() -> None:
    rng = np.random.default_rng(1)
    rows, back = rng.normal(size=(2, 3, 16))
    lists, numbers = np.array([99, 5, 0, 5, 15]), np.array([99.0, 99.0, 1.0, -0.5, 2.0, 3.0])
    g, expected = np.empty(4), back.copy()
    taken_and_given(rows, 1, lists, numbers, g, back)
    assert g.tolist() == (numbers[2:] * rows[1, lists[1:]]).tolist()
    np.add.at(expected[1], lists[1:], numbers[2:] * g)
    assert np.array_equal(back, expected)
