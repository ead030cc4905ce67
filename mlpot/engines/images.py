"""Cells of structures that are said to have no periods: engines lose a boundary, or a file never told one."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlpot.neighbors import pairs_within

Floats = NDArray[np.float64]
BONDED = 0.6
"""Part of the sum of two covalent radii: a cell whose images come closer is no cell of a crystal."""


def no_images(file: str, program: str) -> str:
    """What to warn of where images matter and the file that tells the boundary has none.

    Args:
        file: what it is, in words.
        program: whose cell has the images.
    """
    return (
        f"The {file} has no periodic directions, and images of atoms in {program}'s cell are near: they are not "
        f"computed. If it is a crystal, a slab or a wire, give a {file} with its periodic directions, such as "
        'extxyz with pbc="T T F".'
    )


def images_matter(numbers: NDArray[np.int64], positions: Floats, cell: Floats, cutoff: float) -> bool:
    """Whether images in a cell that could be a crystal's would have a part in energies, if it were periodic.

    Args:
        numbers: (n_atoms,) atomic numbers.
        positions: (n_atoms, 3) Å.
        cell: (3, 3) Å, rows are its vectors; some or all may be zero.
        cutoff: Å.
    """
    filled = np.asarray(cell.any(axis=1), bool)
    vectors = cell[filled]
    if not filled.any() or np.linalg.matrix_rank(vectors) < len(vectors):
        return False
    across = np.linalg.pinv(vectors)  # columns are normals of the cell's faces
    heights = 1 / np.linalg.norm(across, axis=0)
    extents = np.ptp(positions @ across, axis=0) * heights
    if heights.min() < BONDED * 2 * covalent_radii[numbers].min() or (heights - extents >= cutoff).all():
        return False
    first, second, shift = pairs_within(positions, cell, filled, cutoff, np.arange(len(numbers)))
    vector = positions[second] + shift @ cell - positions[first]
    of_images = shift.any(axis=1)
    bond = covalent_radii[numbers[first]] + covalent_radii[numbers[second]]
    is_crystal = np.linalg.norm(vector, axis=1) >= BONDED * bond
    return bool(of_images.any() and is_crystal[of_images].all())
