"""A calculator of equal springs between all atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes


class EqualSprings(Calculator):
    """Every two atoms, or nearest images in a cell, want to be at one distance, which several cannot.

    So the motion is chaotic, also about atoms that are fixed.

    Args:
        length: that distance, Å.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012  (ASE's own is a list)

    def __init__(self, length: float):
        super().__init__()
        self.length = length

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Fill `results`."""
        vectors = _vectors(atoms)
        d = np.sqrt(np.einsum("ija,ija->ij", vectors, vectors)) + np.eye(len(atoms))
        stretch = (d - self.length) * (1 - np.eye(len(atoms)))
        energy = float((stretch**2).sum()) / 4
        forces = np.einsum("ij,ija->ia", stretch / d, vectors)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def _vectors(atoms: Atoms) -> np.ndarray:
    """(n_atoms, n_atoms, 3) Å, from each atom to each other."""
    if atoms.pbc.any():
        return atoms.get_all_distances(mic=True, vector=True)
    return atoms.positions - atoms.positions[:, None]
