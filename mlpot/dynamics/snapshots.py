"""Structures to label: snapshots of dynamics with any calculator of ASE, cheap or exact."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta


def snapshots(
    atoms: Atoms,
    *,
    temperature_K: float,
    seed: int,
    n_frames: int,
    spacing: int = 200,
    equilibration: int = 2000,
    timestep_fs: float = 0.5,
) -> list[Atoms]:
    """Snapshots of Langevin dynamics of a molecule, centered on the origin; their family is the temperature.

    Args:
        atoms: with a calculator; moved.
        temperature_K: of the first velocities and of the thermostat, whose friction is 0.01/fs.
        seed: of the random numbers.
        n_frames: how many.
        spacing: steps from one to the next.
        equilibration: steps before the first interval.
        timestep_fs: 0.5 suits bonds of hydrogen.
    """
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, temperature_K, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=0.01 / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(equilibration)
    frames = []
    for _ in range(n_frames):
        dynamics.run(spacing)
        positions = atoms.positions - atoms.get_center_of_mass()
        frames.append(Atoms(atoms.numbers, positions, info={"group": f"{temperature_K:g}K"}))
    return frames
