"""OpenMM's door: a potential as a `PythonForce` of a system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray
from openmm import PythonForce
from openmm.unit import nanometer

from mlpot.calculator import MLPotCalculator
from mlpot.potential import Potential

NM = 10.0  # Å
KJ_MOL = units.kJ / units.mol  # eV


ELEMENTS = "those of a topology are [atom.element.atomic_number for atom in topology.atoms()]"
INDICES = "OpenMM counts particles from 0, without asking whether there are as many, and those of PDB files from 1"


def whole_numbers(name: str, given: Any, advice: str) -> NDArray[np.int64]:
    """An argument as an array of whole numbers, none below zero.

    Raises:
        ValueError: it is something else, such as symbols, or a fraction.
    """
    found = np.asarray(given)
    is_whole = found.ndim == 1 and found.dtype.kind in "iuf" and bool(((found % 1 == 0) & (found >= 0)).all())
    if not is_whole:
        raise ValueError(f"{name}: give whole numbers, none below zero, and not {str(given)[:60]}; {advice}.")
    return found.astype(np.int64)


class Energies:
    """Energies and forces of a state of OpenMM, in kJ/mol and kJ/mol/nm.

    Args:
        model: a potential, or the path of its file.
        numbers: (n_particles,) atomic numbers, or symbols, of the particles that the force applies to.
        periodic: whether the box of the state counts.
        dtype: "float32" or "float64"; that of the model by default.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: atomic numbers are no whole numbers.
    """

    def __init__(
        self, model: Potential | str | Path, numbers: Sequence[int], *, periodic: bool, dtype: str | None = None
    ):
        z = numbers if all(isinstance(k, str) for k in numbers) else whole_numbers("numbers", numbers, ELEMENTS)
        self._atoms = Atoms(z, positions=np.zeros((len(z), 3)), pbc=periodic)
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
        particles: indices of those that the force applies to, in the order of `numbers`; all by default. They
            begin at 0. OpenMM does not ask whether there are as many: one beyond the last is a fault of memory.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: a particle is named twice or below zero, there are not as many as atomic numbers, or these are
            no whole numbers.
    """
    force = PythonForce(Energies(model, numbers, periodic=periodic, dtype=dtype))
    if particles is not None:
        particles = whole_numbers("particles", particles, INDICES).tolist()
        if len(set(particles)) != len(particles) or len(particles) != len(numbers):
            raise ValueError(
                f"There are {len(set(particles))} different particles and {len(numbers)} atomic numbers. Name "
                "each particle once, and give the atomic number of each in the same order."
            )
        force.setParticles(particles)
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
