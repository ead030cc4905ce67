"""OpenMM's door: a potential as a `PythonForce` of a system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
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

    Raises:
        UnknownElementError: an element the potential was not made for.
    """

    def __init__(
        self, model: Potential | str | Path, numbers: Sequence[int], *, periodic: bool, dtype: str | None = None
    ):
        self._atoms = Atoms(numbers, positions=np.zeros((len(numbers), 3)), pbc=periodic)
        self._atoms.calc = MLPotCalculator(model, dtype=dtype)
        self._atoms.calc.potential.check_elements(torch.as_tensor(self._atoms.numbers))
        self._periodic = periodic

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Called by OpenMM.

        Raises:
            ValueError: positions are not finite, two atoms are in one place, or there are other particles than
                atomic numbers.
        """
        atoms = self._atoms
        positions = NM * state.getPositions(asNumpy=True).value_in_unit(nanometer)
        if len(positions) != len(atoms):
            raise ValueError(
                f"The force was made of {len(atoms)} atomic numbers, and OpenMM applies it to {len(positions)} "
                "particles. Give the numbers of all particles of the system, or say which by `particles`."
            )
        if self._periodic:
            atoms.set_cell(NM * state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(nanometer))
        atoms.positions = positions
        return atoms.get_potential_energy() / KJ_MOL, atoms.get_forces() * NM / KJ_MOL


def openmm_force(
    model: Potential | str | Path,
    numbers: Sequence[int],
    *,
    particles: Sequence[int] | None = None,
    periodic: bool = False,
    dtype: str | None = None,
) -> PythonForce:
    """A force to add to a system of OpenMM; other arguments as of `Energies`.

    With a barostat the virial comes from OpenMM, which moves the box and asks again. A system that OpenMM writes
    as XML has the potential in it, as a pickle: read none from people whom you would not let run programs.

    Args:
        particles: indices of those that the force applies to, in the order of `numbers`; all by default.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: a particle is named twice, or there are not as many as atomic numbers.
    """
    force = PythonForce(Energies(model, numbers, periodic=periodic, dtype=dtype))
    if particles is not None:
        if len(set(particles)) != len(particles) or len(particles) != len(numbers):
            raise ValueError(
                f"There are {len(set(particles))} different particles and {len(numbers)} atomic numbers. Name "
                "each particle once, and give the atomic number of each in the same order."
            )
        force.setParticles([int(k) for k in particles])
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
