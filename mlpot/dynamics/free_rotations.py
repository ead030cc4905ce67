"""Motions of a structure as a whole that nothing stops: rotations that leave what is held where it is.

A molecule rotates about its center of mass, one that a single atom holds about that atom, one that two atoms
hold about the line through them, and a wire about itself. The angular momentum of such a rotation is conserved.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.data.constraints import held_coordinates

Floats = NDArray[np.float64]

NOT_HELD = 1e-5
"""A rotation moves what is held by less than this part of the size of the structure: files round positions."""
SMALLEST = 1e-6
"""u Å²: a rotation with a smaller moment of inertia moves nothing, as that of a line about itself."""
BEND = 0.05
"""Å, by which atoms on a line are moved to see how it turns once it has bent."""


def free_rotations(atoms: Atoms) -> Floats:
    """(n, n_atoms, 3) velocities of the rotations that are free, at rest as a whole, with Σ m v_a · v_b = δ_ab.

    A rigid motion is v = t + ω × r. It is free if it moves no coordinate that is held, wherever the others go, and
    no lattice vector: ω_a = 0 where it would move a held coordinate by one that is free.
    """
    held, arms = held_coordinates(atoms), atoms.positions - atoms.get_center_of_mass()
    size = max(float(np.abs(arms).max(initial=0.0)), 1.0)
    found: list[Floats] = [np.zeros((6, 6))]
    for k in range(3):
        a, b = (k + 1) % 3, (k + 2) % 3  # (ω × r)_k = ω_a r_b − ω_b r_a
        r = arms[held[:, k]] / size
        rows = np.zeros((len(r), 6))
        rows[:, k], rows[:, 3 + a], rows[:, 3 + b] = 1, r[:, b], -r[:, a]
        found.append(rows)
        if not held[held[:, k], b].all():
            found.append(np.eye(6)[[3 + a]])
        if not held[held[:, k], a].all():
            found.append(np.eye(6)[[3 + b]])
    for vector in atoms.cell.array[atoms.pbc & atoms.cell.array.any(axis=1)]:
        found.append(np.pad(np.cross(np.eye(3), vector / np.linalg.norm(vector)).T, ((0, 0), (3, 0))))
    _, values, motions = np.linalg.svd(np.concatenate(found), full_matrices=False)
    free = motions[values < NOT_HELD]
    return _rotating_alone(atoms, arms, free * np.repeat([1.0, 1 / size], 3))


def _rotating_alone(atoms: Atoms, arms: Floats, motions: Floats) -> Floats:
    """Velocities of rigid motions (t, ω), less those along the axes that are free, orthogonal by mass."""
    masses, is_free = atoms.get_masses()[:, None], ~held_coordinates(atoms).any(axis=0)
    moved = motions[:, None, :3] + np.cross(motions[:, None, 3:], arms)
    moved = moved - is_free * (masses * moved).sum(axis=1, keepdims=True) / masses.sum()
    moments, axes = np.linalg.eigh(np.einsum("aik,i,bik->ab", moved, masses[:, 0], moved))
    is_rotation = moments > SMALLEST
    velocities: Floats = (
        np.einsum("ab,aik->bik", axes[:, is_rotation], moved) / np.sqrt(moments[is_rotation])[:, None, None]
    )
    return velocities


def number_of_rotations(atoms: Atoms) -> int:
    """How many rotations are free, also those of a line of atoms about itself, which moves nothing until it bends.

    The angular momentum about a line of atoms is zero, and stays so when they leave the line: a molecule of three
    atoms bends in one plane, and 3N − 6 of its momenta vary, wherever it begins.
    """
    return len(free_rotations(_bent(atoms, np.random.default_rng(0))))


def _bent(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The structure with each coordinate that is not held somewhat elsewhere, so that no atoms are on a line."""
    bent: Atoms = atoms.copy()
    bent.positions += BEND * rng.standard_normal(bent.positions.shape) * ~held_coordinates(atoms)
    return bent


def draw_without_rotation(atoms: Atoms, velocities: Floats, rng: np.random.Generator) -> Floats:
    """Drawn velocities less the rotations that are free; atoms on a line leave it in a plane that is drawn too."""
    if number_of_rotations(atoms) > len(free_rotations(atoms)):
        velocities = without_rotation(_bent(atoms, rng), velocities)
    return without_rotation(atoms, velocities)


def without_rotation(atoms: Atoms, velocities: Floats) -> Floats:
    """Velocities less the rotations that are free."""
    rotations = free_rotations(atoms)
    return velocities - np.einsum("a,aik->ik", _along(rotations, atoms, velocities), rotations)


def rotational_motion(atoms: Atoms) -> float:
    """Twice the kinetic energy of the rotations that are free, eV."""
    return float((_along(free_rotations(atoms), atoms, atoms.get_velocities()) ** 2).sum())


def _along(rotations: Floats, atoms: Atoms, velocities: Floats) -> Floats:
    """(n,) how fast each rotation is."""
    return np.einsum("aik,i,ik->a", rotations, atoms.get_masses(), velocities)
