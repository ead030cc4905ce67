"""The state in which a run begins: structure, velocities, and the checks that come before the first step."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlpot.calculator import MLPotCalculator
from mlpot.data.sources.read import read_structure
from mlpot.dynamics.recipe import MDRecipe
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph

Floats = NDArray[np.float64]

OVERLAP = 0.5
"""Atoms closer than this part of the sum of their covalent radii overlap."""


class StartError(ValueError):
    """A run cannot begin from this structure."""


def starting_atoms(recipe: MDRecipe, calculator: MLPotCalculator, rng: np.random.Generator) -> Atoms:
    """The structure of a recipe with velocities and calculator, fit to start from.

    Raises:
        StartError: atoms overlap, a force is too great or not finite, or velocities are asked for and absent.
        UnknownElementError: an element the potential was not made for.
        FileNotFoundError, FormatError: as `read_structure`.
    """
    atoms = read_structure(recipe.structure, recipe.frame)
    has_velocities = atoms.has("momenta")
    if not all(isinstance(constraint, FixAtoms) for constraint in atoms.constraints):
        raise StartError(f"{recipe.structure} has constraints other than fixed atoms. Remove them.")
    if recipe.repeat != (1, 1, 1):
        atoms = atoms.repeat(recipe.repeat)
    atoms.calc = calculator
    calculator.potential.check_elements(torch.as_tensor(atoms.numbers, device=calculator.device))
    check_overlap(atoms)
    forces = np.linalg.norm(atoms.get_forces(), axis=1)
    worst = int(forces.argmax())
    if not np.isfinite(forces).all() or forces[worst] > recipe.max_start_force:
        raise StartError(
            f"The force on atom {worst} ({atoms.symbols[worst]}) is {forces[worst]:.3g} eV/Å at the start, above "
            f"max_start_force = {recipe.max_start_force:g}. Relax the structure, or start from a known one."
        )
    if recipe.velocities == "draw":
        draw_velocities(atoms, recipe.temperature_K, rng)
    elif not has_velocities:
        raise StartError(f"{recipe.structure} has no velocities. Choose velocities: draw.")
    return atoms


def check_overlap(atoms: Atoms) -> None:
    """Raise StartError if two atoms are closer than OVERLAP times the sum of their covalent radii."""
    radii = covalent_radii[atoms.numbers]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 2 * OVERLAP * radii.max())
    if not len(graph.edges):
        return
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    distance = edge_vectors(graph).norm(dim=1).numpy()
    e = int((distance / (radii[center] + radii[neighbor])).argmin())
    i, j = center[e], neighbor[e]
    if distance[e] < OVERLAP * (radii[i] + radii[j]):
        raise StartError(
            f"Atoms {i} ({chemical_symbols[atoms.numbers[i]]}) and {j} ({chemical_symbols[atoms.numbers[j]]}) "
            f"overlap: they are {distance[e]:.3f} Å apart. Correct the structure or relax it first."
        )


def draw_velocities(atoms: Atoms, temperature_K: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann velocities; atoms that are free as a whole neither drift nor, as a molecule, turn."""
    kT = units.kB * temperature_K
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * kT))
    if atoms.constraints:
        return
    velocities = atoms.get_velocities() - atoms.get_momenta().sum(axis=0) / masses.sum()
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        momentum = np.cross(arms, masses * velocities).sum(axis=0)
        rotation = np.linalg.pinv(inertia(atoms), rcond=1e-8, hermitian=True) @ momentum
        velocities -= np.cross(rotation, arms)
    atoms.set_velocities(velocities)


def inertia(atoms: Atoms) -> Floats:
    """Tensor of inertia about the center of mass, (3, 3) u Å²; of rank 2 for a line, 0 for an atom."""
    arms = atoms.positions - atoms.get_center_of_mass()
    weighted = atoms.get_masses()[:, None] * arms
    tensor: Floats = np.eye(3) * (weighted * arms).sum() - weighted.T @ arms
    return tensor


def degrees_of_freedom(atoms: Atoms, *, keeps_momentum: bool) -> int:
    """Momenta that are free to vary.

    Args:
        atoms: with velocities and constraints.
        keeps_momentum: the dynamics leaves the momentum of the whole, and the angular momentum of a molecule, as
            it is; then the motion of the whole is not counted if there is none.
    """
    if atoms.constraints or not keeps_momentum:
        return int(atoms.get_number_of_degrees_of_freedom())
    momenta, arms = atoms.get_momenta(), atoms.positions - atoms.get_center_of_mass()
    still = 1e-8 * max(np.abs(momenta).sum(), 1e-12)
    n_degrees = 3 * len(atoms)
    if (np.abs(momenta.sum(axis=0)) < still).all():
        n_degrees -= 3
    turning = np.cross(arms, momenta)
    if not atoms.pbc.any() and (np.abs(turning.sum(axis=0)) < still * max(np.abs(arms).max(), 1.0)).all():
        n_degrees -= int(np.linalg.matrix_rank(inertia(atoms), hermitian=True, tol=1e-6))
    return n_degrees
