"""What no structure can have: all atoms in one place, periods without a cell, tensors at odds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpot.data.errors import FormatError, KeysError, LabelError

Floats = NDArray[np.float64]
LEAST_STRESS = 6e-5  # eV/Å³ (10 MPa), by which rounded numbers of a file may differ
OF_LARGEST = 0.02  # of the largest element, by which two stresses of one calculation may differ
AXES = "xyz"
APART = 0.4  # Å; no two nuclei of a calculation are nearer
LOOKED_AT, AMONG = 200, 2000  # atoms whose neighbors are searched, and among which


def check_structure(where: str, positions: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> None:
    """Refuse a structure that cannot be.

    Args:
        where: names file and frame.
        positions: (n_atoms, 3) Å.
        cell: (3, 3) Å.
        pbc: (3,) periodic directions.

    Raises:
        FormatError: all of its atoms, more than two, have the same position (of two, whoever computes says so).
        LabelError: it is periodic in a direction that its cell does not have.
    """
    if len(positions) > 2 and (positions == positions[0]).all():
        raise FormatError(
            f"{where}: all {len(positions)} atoms have the same position {positions[0].tolist()}, so there are "
            "no positions (pos). Write Cartesian positions in Å."
        )
    vectors = cell[pbc]
    if len(vectors) and np.isfinite(vectors).all() and np.linalg.matrix_rank(vectors) < len(vectors):
        directions = "".join("T" if periodic else "F" for periodic in pbc)
        raise LabelError(
            f"{where}: it is periodic (pbc {directions}), and its cell {cell.tolist()} has no vectors "
            "for that. Give the cell (Lattice in extxyz, or --key cell=NAME); if it is not periodic: mlpot data "
            "convert ... --pbc FFF."
        )


def check_apart(where: str, positions: Floats) -> None:
    """Refuse as positions what are other vectors of the atoms: programs write forces and velocities as xyz too.

    Args:
        where: names file and frame.
        positions: (n_atoms, 3) Å.

    Raises:
        FormatError: half of the atoms have another one nearer than any two nuclei are.
    """
    looked_at, among = positions[:LOOKED_AT], positions[:AMONG]
    if len(among) < 3 or not np.isfinite(among).all():  # two are perhaps a scan of their distance
        return
    apart = np.linalg.norm(looked_at[:, None] - among, axis=2)
    np.fill_diagonal(apart, np.inf)
    typical = float(np.median(apart.min(axis=1)))
    if 0 < typical < APART:
        raise FormatError(
            f"{where}: atoms would be {typical:.2g} Å apart, so these are no positions in Å: perhaps forces or "
            "velocities, as of CP2K's PROJECT-frc-1.xyz (give PROJECT-pos-1.xyz, the others are found beside it), "
            "or positions in another unit (--unit positions=nm)."
        )


def check_symmetry(where: str, stress: Floats) -> None:
    """Refuse a stress whose matrix is not symmetric, as of rows that were mixed up.

    Args:
        where: names file and frame.
        stress: (3, 3) eV/Å³.

    Raises:
        LabelError: two elements that must be equal differ by more than rounding.
    """
    difference = np.abs(stress - stress.T)
    a, b = divmod(int(np.argmax(difference)), 3)
    if difference[a, b] > OF_LARGEST * np.abs(stress).max() + 1e-6:
        raise LabelError(
            f"{where}: the stress is not symmetric: element {AXES[a]}{AXES[b]} is {stress[a, b]:g} and "
            f"{AXES[b]}{AXES[a]} is {stress[b, a]:g} eV/Å³. Correct the order of the nine numbers (row by row)."
        )


def check_agreement(where: str, stress: Floats, virial: Floats, volume: float) -> None:
    """Refuse a stress and a virial that contradict each other.

    Args:
        where: names file and frame.
        stress: (3, 3) eV/Å³.
        virial: (3, 3) eV.
        volume: Å³.

    Raises:
        KeysError: the stress is not −virial/volume.
    """
    other = -virial / volume
    if not (np.isfinite(stress).all() and np.isfinite(other).all()):
        return
    largest = max(np.abs(stress).max(), np.abs(other).max())
    a, b = divmod(int(np.argmax(np.abs(stress - other))), 3)
    if abs(stress[a, b] - other[a, b]) > OF_LARGEST * largest + LEAST_STRESS:
        raise KeysError(
            f"{where}: stress and virial contradict each other: element {AXES[a]}{AXES[b]} of the stress is "
            f"{stress[a, b]:g}, of -virial/volume {other[a, b]:g} eV/Å³. Take the one that is right: --key "
            "virial=none leaves the virial out, --key stress=none the stress; or say their units (--unit)."
        )
