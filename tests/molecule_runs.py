"""Trajectories of a small molecule at constant energy, for tests of propagators: atoms tied by springs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule

from mlpot.data.h5md.trajectory import TrajectoryWriter

STIFFNESS = 20.0  # eV/Å²


class Springs:
    """Springs between all atoms, at rest in one structure."""

    def __init__(self, atoms: Atoms):
        self.lengths = atoms.get_all_distances()

    def forces(self, positions: np.ndarray) -> np.ndarray:
        """(n_atoms, 3) eV/Å."""
        apart = positions[:, None] - positions[None]
        distances = np.linalg.norm(apart, axis=-1) + np.eye(len(positions))
        stretched = distances - self.lengths - np.eye(len(positions))
        return np.asarray(-STIFFNESS * ((stretched / distances)[..., None] * apart).sum(1))


def write_trajectory(
    path: Path,
    *,
    n_frames: int = 40,
    every: int = 2,
    seed: int = 0,
    jump: int | None = None,
    velocities: bool = True,
    periodic: bool = False,
    name: str = "H2O",
    recipe: str | None = None,
) -> Path:
    """Write frames of a run of velocity Verlet, 0.5 fs steps, `every` of them from frame to frame.

    Args:
        path: the file.
        n_frames: in it.
        every: steps.
        seed: of velocities.
        jump: a frame before which time goes on by half a step more.
        velocities: whether the file has them.
        periodic: in a cell of 10 Å.
        name: of a molecule that ASE knows.
        recipe: that the file says it was made by, JSON.
    """
    atoms = molecule(name)
    springs, masses = Springs(atoms), atoms.get_masses()[:, None]
    random, dt = np.random.default_rng(seed), 0.5 * units.fs
    v = random.normal(size=(len(atoms), 3)) * np.sqrt(0.05 / masses)
    v -= (masses * v).sum(0) / masses.sum()
    if periodic:
        atoms.set_cell([10, 10, 10])
        atoms.pbc = True
    x, time = atoms.positions.copy(), 0.0
    with TrajectoryWriter(path, card={} if recipe is None else {"recipe": recipe}, overwrite=True) as writer:
        for k in range(n_frames):
            atoms.positions = x
            if velocities:
                atoms.set_velocities(v)
            time += 0.25 if k == jump else 0.0
            writer.add(atoms, step=k * every, time=time)
            for _ in range(every):
                v = v + 0.5 * dt * springs.forces(x) / masses
                x = x + dt * v
                v = v + 0.5 * dt * springs.forces(x) / masses
            time += 0.5 * every
    return path
