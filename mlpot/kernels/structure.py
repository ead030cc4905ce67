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
def order_edges(first, second, shift, at, order, place, center, neighbor, row_ptr, reverse, cell_shift):
    """Both directions of pairs, sorted by (center, neighbor, shift): counted by neighbors, then by centers.

    Direction 2 e goes from the first atom of pair e to the second, 2 e + 1 back.

    Args:
        first, second, shift: of each pair, which is given once.
        at: scratch, as long as row_ptr, which is 0.
        order, place: scratch, as long as the edges.
        center, neighbor, row_ptr, reverse, cell_shift: are written.
    """
    n_pairs, n_atoms = len(first), len(row_ptr) - 1
    for e in range(n_pairs):
        row_ptr[first[e] + 1] += 1
        row_ptr[second[e] + 1] += 1
    for i in range(n_atoms):
        row_ptr[i + 1] += row_ptr[i]
    at[:] = row_ptr  # an atom is as often a neighbor as a center
    for e in range(n_pairs):
        i, j = first[e], second[e]
        place[at[j]] = 2 * e
        at[j] += 1
        place[at[i]] = 2 * e + 1
        at[i] += 1
    at[:] = row_ptr
    for k in range(2 * n_pairs):
        e = place[k] >> 1
        i = second[e] if place[k] & 1 else first[e]
        order[at[i]] = place[k]
        at[i] += 1
    for i in range(n_atoms):
        for k in range(row_ptr[i], row_ptr[i + 1]):
            d = order[k]
            e, sign = d >> 1, 1 - 2 * (d & 1)
            center[k], neighbor[k] = i, first[e] if d & 1 else second[e]
            a, b, c = sign * shift[e, 0], sign * shift[e, 1], sign * shift[e, 2]
            m = k  # images of one atom are few
            while m > row_ptr[i] and neighbor[m - 1] == neighbor[k]:
                before = cell_shift[m - 1]
                if (before[0], before[1], before[2]) < (a, b, c):
                    break
                order[m] = order[m - 1]
                cell_shift[m, 0], cell_shift[m, 1], cell_shift[m, 2] = before[0], before[1], before[2]
                m -= 1
            order[m] = d
            cell_shift[m, 0], cell_shift[m, 1], cell_shift[m, 2] = a, b, c
    for k in range(2 * n_pairs):
        place[order[k]] = k
    for k in range(2 * n_pairs):
        reverse[k] = place[order[k] ^ 1]


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
