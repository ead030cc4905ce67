"""The edges within the cutoff, from positions in float64: the last place that knows positions."""

from __future__ import annotations

import numpy as np

from mlpot.kernels.simd import inner


@inner
def find(begin, end, cutoff, room):  # type: ignore[no-untyped-def]
    """Neighbors, distances and directions of the edges of some atoms; the list may go beyond the cutoff."""
    r, periodic = room.positions, len(room.offset) > 0
    for i in range(begin, end):
        n = room.row_ptr[i]
        for e in range(room.row_ptr[i], room.row_ptr[i + 1]):
            j = room.listed[e]
            x, y, z = r[j, 0] - r[i, 0], r[j, 1] - r[i, 1], r[j, 2] - r[i, 2]
            if periodic:
                x, y, z = x + room.offset[e, 0], y + room.offset[e, 1], z + room.offset[e, 2]
            squared = x * x + y * y + z * z
            if squared >= cutoff * cutoff:  # NaN goes on, into the energy
                continue
            d = np.sqrt(squared)
            room.neighbor[n], room.original[n], room.d[n] = j, e, d
            room.unit[n, 0], room.unit[n, 1], room.unit[n, 2] = x / d, y / d, z / d
            n += 1
        room.near[i] = n


@inner
def move(begin, end, forces, virials, room):  # type: ignore[no-untyped-def]
    """ṙ of the edges as the atoms move by −F̄ and strain by W̄, see `stages.run`.

    Both by atom: forces (n_atoms, 3), virials (n_atoms, 3, 3), the gradients of the loss.
    """
    for i in range(begin, end):
        for e in range(room.row_ptr[i], room.near[i]):
            j = room.neighbor[e]
            for a in range(3):
                rate = forces[i, a] - forces[j, a]
                for b in range(3):
                    rate += virials[i, b, a] * room.unit[e, b] * room.d[e]
                room.motion[e, a] = rate
