"""OpenMM's door: a potential as a `PythonForce` of a system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from openmm import PythonForce
from openmm.unit import nanometer

from mlpot.calculator import MLPotCalculator
from mlpot.potential import Potential

NM = 10.0  # Å
KJ_MOL = units.kJ / units.mol  # eV


class Energies:
    """Energies and forces of a state of OpenMM, in kJ/mol and kJ/mol/nm.

    Args:
        model: a potential, or the path of its file.
        numbers: (n_particles,) atomic numbers of the particles that the force applies to.
        periodic: whether the box of the state counts.
        dtype: "float32" or "float64"; that of the model by default.
    """

    def __init__(
        self, model: Potential | str | Path, numbers: Sequence[int], *, periodic: bool, dtype: str | None = None
    ):
        self._atoms = Atoms(numbers, positions=np.zeros((len(numbers), 3)), pbc=periodic)
        self._atoms.calc = MLPotCalculator(model, dtype=dtype)
        self._periodic = periodic

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Called by OpenMM.

        Raises:
            UnknownElementError: an element the potential was not made for.
            ValueError: positions are not finite, or two atoms are in one place.
        """
        atoms = self._atoms
        if self._periodic:
            atoms.set_cell(NM * state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(nanometer))
        atoms.positions = NM * state.getPositions(asNumpy=True).value_in_unit(nanometer)
        return atoms.get_potential_energy() / KJ_MOL, atoms.get_forces() * NM / KJ_MOL


def openmm_force(
    model: Potential | str | Path, numbers: Sequence[int], *, periodic: bool = False, dtype: str | None = None
) -> PythonForce:
    """A force to add to a system of OpenMM; arguments as of `Energies`.

    With a barostat the virial comes from OpenMM, which moves the box and asks again.
    """
    force = PythonForce(Energies(model, numbers, periodic=periodic, dtype=dtype))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
