"""Elements and periodic images of atoms, as native calls read them."""

from __future__ import annotations

from typing import Any

from mlpot.kernels.simd import compiled

Array = Any  # NDArray


@compiled
def elements(numbers, index, out):
    """The index of each atom's element; whether all are known."""
    known = True
    for i in range(len(numbers)):
        out[i] = index[numbers[i]] if 0 <= numbers[i] < len(index) else -1
        known &= out[i] >= 0
    return known


@compiled
def offsets(row_ptr, batch, shift, cell, out):
    """shift · cell of each edge, (n_edges, 3) Å."""
    for i in range(len(row_ptr) - 1):
        a, b, c = cell[batch[i]]
        for e in range(row_ptr[i], row_ptr[i + 1]):
            for k in range(3):
                out[e, k] = shift[e, 0] * a[k] + shift[e, 1] * b[k] + shift[e, 2] * c[k]
