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
def mark_within(begin, end, row_ptr, neighbor, shift, cell, positions, squared, is_within):
    """Whether edges of some atoms are shorter than a length, whose square is given."""
    for i in range(begin, end):
        for e in range(row_ptr[i], row_ptr[i + 1]):
            total, j = 0.0, neighbor[e]
            for a in range(3):
                along = positions[j, a] - positions[i, a]
                for k in range(3):
                    along += shift[e, k] * cell[k, a]
                total += along * along
            is_within[e] = total < squared


@compiled
def take_within(
    begin, end, row_ptr, neighbor, reverse, shift, is_within, place, center_, neighbor_, reverse_, shift_
):
    """Copy the edges of some atoms that are short enough to their places among those; names of copies end in _."""
    for i in range(begin, end):
        for e in range(row_ptr[i], row_ptr[i + 1]):
            if is_within[e]:
                new = place[e]
                center_[new], neighbor_[new], reverse_[new] = i, neighbor[e], place[reverse[e]]
                for a in range(3):
                    shift_[new, a] = shift[e, a]


@compiled
def offsets(row_ptr, batch, shift, cell, out):
    """shift · cell of each edge, (n_edges, 3) Å."""
    for i in range(len(row_ptr) - 1):
        a, b, c = cell[batch[i]]
        for e in range(row_ptr[i], row_ptr[i + 1]):
            for k in range(3):
                out[e, k] = shift[e, 0] * a[k] + shift[e, 1] * b[k] + shift[e, 2] * c[k]
