"""The systems that are timed: made by ASE, the same on every machine."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

N_ATOMS = (9, 27, 216, 1000, 8000, 27000, 100_000)
_REPEATS = {
    64: (2, 2, 2),
    216: (3, 3, 3),
    1000: (5, 5, 5),
    8000: (10,) * 3,
    27000: (15,) * 3,
    100_000: (20, 25, 25),
}


def ethanol(seed: int = 1) -> Atoms:
    """9 atoms, free."""
    return _rattled(molecule("CH3CH2OH"), seed)


def three_ethanols() -> Atoms:
    """27 atoms, free, with as many neighbors an atom as a drug-like molecule of that size."""
    single = molecule("CH3CH2OH")
    single.positions -= single.positions.mean(0)
    cluster = Atoms()
    for k in range(3):
        other = single.copy()
        other.rotate(60 * k, "z")
        other.translate(4.5 * np.array([np.cos(k * np.pi / 3), np.sin(k * np.pi / 3), 0]) * (k > 0))
        cluster += other
    return _rattled(cluster, 1)


def silicon(n_atoms: int, seed: int = 1) -> Atoms:
    """A periodic crystal."""
    return _rattled(bulk("Si", cubic=True) * _REPEATS[n_atoms], seed)


def system(n_atoms: int) -> Atoms:
    """The structure of that many atoms."""
    small = {9: ethanol, 27: three_ethanols}
    return small[n_atoms]() if n_atoms in small else silicon(n_atoms)


def batches() -> dict[str, list[Atoms]]:
    """What is trained on in one step."""
    return {
        "32 ethanols": [ethanol(seed) for seed in range(32)],
        "8 Si64": [silicon(64, seed) for seed in range(8)],
    }


def acetylacetones(n: int = 5) -> list[Atoms]:
    """A batch of molecules of 15 atoms: the enol drawn flat, and shaken."""
    places = [
        (-2.50, 0.05, 0.00), (-1.22, -0.70, 0.00), (0.00, 0.00, 0.00), (1.22, -0.70, 0.00), (2.50, 0.05, 0.00),
        (-1.25, -1.98, 0.00), (1.25, -1.98, 0.00), (0.35, -2.35, 0.00), (0.00, 1.08, 0.00),
        (-2.30, 1.12, 0.00), (-3.08, -0.21, 0.88), (-3.08, -0.21, -0.88),
        (2.30, 1.12, 0.00), (3.08, -0.21, 0.88), (3.08, -0.21, -0.88),
    ]  # fmt: skip
    return [_rattled(Atoms("C5O2H8", places), seed) for seed in range(n)]


def _rattled(atoms: Atoms, seed: int) -> Atoms:
    atoms.rattle(0.05, seed=seed)
    atoms.positions = atoms.positions.round(6)  # what an extxyz file holds exactly
    return atoms
