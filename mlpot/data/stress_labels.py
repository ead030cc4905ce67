"""Which part of a stress a potential can learn: that along the periodic directions of a cell with a volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FLAT = 1e-9  # of the product of its edges: a cell of a smaller volume is flat
TINY = 1e-9  # of a unit vector: rounding

NO_VOLUME = (
    "stress left out, as the structure has no volume: no direction is periodic, or the cell is flat; where the "
    "calculation was periodic, as of slabs in plane waves, --pbc TTT says so"
)
NO_VOLUME_ZERO = "stress left out, which is zero, as the structure has no volume"
IN_PLANE = (
    "of a stress the part along the periodic directions taken, as that of the cell's volume; --key stress=none "
    "leaves it out where it is that of another volume"
)
ZERO_IN_PLANE = "stress left out, as it is zero throughout along the periodic directions: it was not computed"


def has_volume(pbc: NDArray[np.bool_], cell: Floats) -> bool:
    """Whether a stress (energy over volume) exists: something is periodic, and the cell is not flat."""
    volume = abs(float(np.linalg.det(cell)))
    return bool(pbc.any()) and volume > FLAT * float(np.linalg.norm(cell, axis=1).prod())


def learnable(stress: Floats, pbc: NDArray[np.bool_], cell: Floats) -> Floats:
    """What a potential can learn of a stress, all NaN if that is nothing.

    Of a slab or wire that is P σ P with the projection P on the span of the periodic cell vectors, which is what
    a potential predicts (`forces`); a stress that is zero there was not computed. Compare, count and show it in
    the slab's own axes (`error_table.in_periodic_axes`), in which its directions are known and no others.

    Args:
        stress: (3, 3) eV/Å³.
        pbc: (3,) periodic directions.
        cell: (3, 3) Å.
    """
    if not has_volume(pbc, cell):
        return np.full((3, 3), np.nan)
    part = along_periodic(stress, pbc, cell)
    return part if pbc.all() or part.any() else np.full((3, 3), np.nan)


def along_periodic(stress: Floats, pbc: NDArray[np.bool_], cell: Floats) -> Floats:
    """P σ P of a stress or virial (3, 3), P the projection on the span of the periodic cell vectors."""
    if pbc.all():
        return stress
    onto = np.linalg.pinv(cell[pbc]) @ cell[pbc]
    onto[np.abs(onto) < TINY] = 0.0
    part: Floats = onto @ stress @ onto
    return part


def told(stress: Floats, pbc: NDArray[np.bool_], cell: Floats) -> str | None:
    """What is to be said of a stress label (6,) or (3, 3), None if all of it is learned."""
    if not has_volume(pbc, cell):
        return NO_VOLUME if np.any(stress) else NO_VOLUME_ZERO
    if pbc.all():
        return None
    whole = stress[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])] if np.size(stress) == 6 else stress.reshape(3, 3)
    return ZERO_IN_PLANE if np.isnan(learnable(whole, pbc, cell)).all() else IN_PLANE
