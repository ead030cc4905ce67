"""The structure that tells a program's atoms their elements, which gives positions alone and may have others."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mlpot.dynamics.guards import Distances, least_distances
from mlpot.dynamics.recipe import Guards

SAME_PLACE = 1e-3  # Å; files of structures have fewer digits than positions


class Template:
    """Elements in the order of a file, and where its atoms are.

    Args:
        atoms: the first structure of the file, which is copied.
        file: what it is, in words.
        program: that gives positions, in words.
    """

    def __init__(self, atoms: Atoms, file: str, program: str):
        self._atoms, self._file, self._program = atoms.copy(), file, program
        self._checked = False

    def check(self, positions: NDArray[np.float64]) -> None:
        """Raise ValueError if a program's atoms (n_atoms, 3) Å are others, the first ones also by their order.

        Atoms of the file that stand at its places, but in another order, have the wrong elements.
        """
        atoms, file, program = self._atoms, self._file, self._program
        if positions.shape != atoms.positions.shape:
            raise ValueError(
                f"The {file} has {len(atoms)} atoms and {program} {len(positions)}. Give the structure with which "
                f"the run begins as the {file}."
            )
        if self._checked or not np.isfinite(positions).all():  # whoever computes says what is wrong then
            return
        self._checked = True
        self._tell_overlap(positions)
        distance, place = cKDTree(atoms.positions).query(positions)
        if distance.max() < SAME_PLACE and (atoms.numbers[place] != atoms.numbers).any():
            k = int(np.flatnonzero(atoms.numbers[place] != atoms.numbers)[0])
            raise ValueError(
                f"Atom {k} of {program} is where the {file} has atom {place[k]} ({atoms.symbols[place[k]]}), and "
                f"its own atom {k} is {atoms.symbols[k]}: the order of atoms is another one. Give the structure "
                f"with which the run begins as the {file}."
            )

    def _tell_overlap(self, positions: NDArray[np.float64]) -> None:
        """Warn of atoms at which `mlpot md` would stop: a potential may have no domain that tells of them."""
        atoms = self._atoms.copy()
        atoms.positions = positions
        least = least_distances(Guards(min_trained_distance=None), {})
        if told := Distances(atoms.numbers, least).too_close(atoms):
            warnings.warn(
                f"{told}, and than any bond. If {self._program} has lengths in another unit (Å taken for bohr), "
                "give it the right one; energy and forces of such a structure mean nothing.",
                stacklevel=2,
            )
