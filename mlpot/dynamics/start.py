"""The state in which a run begins: structure, velocities, and checks before the first step."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlpot.calculator import MLPotCalculator
from mlpot.data.constraints import constraints_of, held_coordinates, holds_center, other_constraints, unused_masks
from mlpot.data.elements import Elements
from mlpot.data.sources.interpret import MASSES
from mlpot.data.sources.read import has_structure, named_elements, read_structure
from mlpot.dynamics.free_rotations import (
    draw_without_rotation,
    number_of_rotations,
    rotational_motion,
    without_rotation,
)
from mlpot.dynamics.recipe import MDRecipe
from mlpot.equivariance import rotation_error, stated_error
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.watched import unseen_state

Floats = NDArray[np.float64]

OVERLAP = 0.5
"""Atoms closer than this part of the sum of their covalent radii overlap."""
AT_REST = 1e-4
"""Below this part of the energy of one degree of freedom, the structure as a whole is at rest."""


class StartError(ValueError):
    """A run cannot begin from this structure."""


class StructureWarning(UserWarning):
    """A run begins from less than the file of its structure says."""


def starting_atoms(recipe: MDRecipe, calculator: MLPotCalculator, rng: np.random.Generator) -> Atoms:
    """The structure of a recipe with velocities and calculator, fit to start from.

    Raises:
        StartError: atoms overlap, a force is too great or not finite, or velocities are asked for and absent.
        UnknownElementError: an element the potential was not made for.
        FileNotFoundError, FormatError: as `read_structure`.
    """
    elements = named_elements(recipe.elements, None)
    notes: list[str] = []
    atoms = read_structure(recipe.structure, recipe.one_frame, elements, notes)
    for note in notes:
        if note == MASSES:  # which are kept here too
            continue
        warnings.warn(f"Of {recipe.structure}: {note}.", StructureWarning, stacklevel=2)
    warn_of_others(recipe, elements)
    return started(atoms, recipe, calculator, rng)


def started(atoms: Atoms, recipe: MDRecipe, calculator: MLPotCalculator, rng: np.random.Generator) -> Atoms:
    """As `starting_atoms`, of a structure that was read."""
    if not len(atoms):
        raise StartError(f"The structure of {recipe.structure} has no atoms. Take another frame of it.")
    has_velocities = atoms.has("momenta")
    check_constraints(atoms, recipe.structure)
    warn_of_state(atoms, recipe.structure)
    check_masses(atoms, recipe.structure)
    if recipe.repeat != (1, 1, 1):
        check_vectors(atoms, recipe)
        atoms = _repeated(atoms, recipe.repeat)
    atoms.calc = calculator
    calculator.potential.check_elements(torch.as_tensor(atoms.numbers, device=calculator.device))
    check_overlap(atoms)
    check_rotations(atoms, recipe, calculator.potential)
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
        raise StartError(
            f"{recipe.structure} has no velocities.{_other_velocities(atoms)} Choose velocities: draw."
        )
    else:
        atoms.set_momenta(atoms.get_momenta())  # atoms that are held have no velocity, whatever the file says
    return atoms


def warn_of_others(recipe: MDRecipe, elements: Elements | None) -> None:
    """Tell that the file of the structure has others, if nobody said which one is meant."""
    if "frame" not in recipe.model_fields_set and has_structure(recipe.structure, 1, elements):
        warnings.warn(
            f"{recipe.structure} has more than one structure, and the run begins from the first. Say frame: 0, "
            "or another: -1 is the last; frame: all makes a run of each.",
            StructureWarning,
            stacklevel=2,
        )


def warn_of_state(atoms: Atoms, where: str | Path) -> None:
    """Tell of a total charge or an open shell that a structure carries: potentials see neither."""
    if told := unseen_state(atoms):
        warnings.warn(
            f"{where} carries {told}, which potentials of mlpot cannot see: the run has the "
            "forces of whatever charge and spin the training set had.",
            StructureWarning,
            stacklevel=2,
        )


def _other_velocities(atoms: Atoms) -> str:
    """What of a structure seems to be velocities under a name that says no unit."""
    found = [name for name, array in atoms.arrays.items() if name.lower().startswith("vel") and array.ndim == 2]
    if not found:
        return ""
    return (
        f" It has a column {found[0]!r}, whose unit nothing says: write `momenta`, as ASE does "
        "(atoms.set_velocities, in Å/fs times 1 / ase.units.fs)."
    )


def check_constraints(atoms: Atoms, where: str | Path) -> None:
    """Raise StartError for constraints that the integrators do not keep, and columns that may be meant for some.

    `FixCom` beside held coordinates is one of them: ASE holds the center of mass by moving all atoms.
    """
    what = other_constraints(atoms)
    if what:
        raise StartError(
            f"{where} has constraints {', '.join(what)}, which molecular dynamics here does not keep; it "
            "keeps FixAtoms, FixCartesian and FixCom. Remove them: atoms.set_constraint()."
        )
    if masks := unused_masks(atoms):
        raise StartError(
            f"{where} has a column {masks[0].removeprefix('-')!r}, which seems to say which atoms are held, and "
            f"nothing holds them. If it does: mlpot data export {where} start.traj --key fixed={masks[0]} writes "
            "a structure that holds them. Otherwise rename or remove the column."
        )
    if holds_center(atoms) and held_coordinates(atoms).any():
        raise StartError(
            f"{where} holds atoms and the center of mass at once (FixCom), so that atoms that are held "
            "would move. Remove FixCom."
        )


def check_masses(atoms: Atoms, where: str | Path) -> None:
    """Raise StartError for masses that are zero, negative or not finite."""
    masses = atoms.get_masses()
    wrong = np.flatnonzero(~(np.isfinite(masses) & (masses > 0)))
    if len(wrong):
        first = wrong[0]
        raise StartError(
            f"{where} gives atom {first} ({atoms.symbols[first]}) a mass of {masses[first]:g} u; {len(wrong)} of "
            "its masses are not positive. Correct the masses in the file, or remove them: the standard ones are "
            "taken then."
        )


def check_vectors(atoms: Atoms, recipe: MDRecipe) -> None:
    """Raise StartError if `repeat` asks for copies along a vector that the cell does not have."""
    along = [k for k, n in enumerate(recipe.repeat) if n > 1 and not atoms.cell.array[k].any()]
    if along:
        raise StartError(
            f"repeat = {list(recipe.repeat)} copies {recipe.structure} along vector {along[0] + 1} of a cell "
            "that has no such vector, so that all copies would lie on one another. Remove repeat, or give the "
            "structure a cell."
        )


def _repeated(atoms: Atoms, times: tuple[int, int, int]) -> Atoms:
    """Copies of the cell; ASE repeats no FixCom and no coordinates that are held singly."""
    held, center = held_coordinates(atoms), holds_center(atoms)
    atoms.set_constraint()
    repeated = atoms.repeat(times)
    repeated.set_constraint(constraints_of(np.tile(held, (int(np.prod(times)), 1)), center))
    return repeated


def check_rotations(atoms: Atoms, recipe: MDRecipe, potential: Potential) -> None:
    """Raise StartError for a network that learned rotations badly, by its card or, without one, on these atoms.

    It pulls on a molecule with a torque and gives one crystal several energies, by how it lies.
    """
    if potential.backbone.equivariant:
        return
    error = stated_error(potential)
    if error is None:
        graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
        error = rotation_error(potential, graph)
    if not error.relative <= recipe.max_rotation_error:
        raise StartError(
            f"The network has no built-in symmetry: {error}, above max_rotation_error = "
            f"{recipe.max_rotation_error:g}. Train it longer with training.augment: rotations, average it over a "
            "group, or raise the bound."
        )


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
    """Maxwell-Boltzmann velocities; a structure that is free as a whole neither drifts nor rotates (a molecule).

    They are free as a whole along an axis along which no coordinate is held, and about what holds them:
    `free_rotations`.
    """
    kT = units.kB * temperature_K
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * kT))
    free = ~held_coordinates(atoms).any(axis=0)
    velocities = atoms.get_velocities() - free * atoms.get_momenta().sum(axis=0) / masses.sum()
    atoms.set_velocities(draw_without_rotation(atoms, velocities, rng))


def degrees_of_freedom(atoms: Atoms, *, keeps_momentum: bool) -> int:
    """Momenta that are free to vary.

    Args:
        atoms: with velocities and constraints.
        keeps_momentum: the dynamics leaves the momentum of the whole, and the angular momentum of
            `free_rotations`, as it is; then the motion of the whole is not counted if there is none, to 1e-4 of
            what one degree of freedom has: momenta from files are rounded, and single precision makes a molecule
            rotate.
    """
    held, center = held_coordinates(atoms), holds_center(atoms)
    free = ~held.any(axis=0)
    at_rest, rotates = _motion_as_a_whole(atoms)
    n_degrees = int((~held).sum()) - int((free & ((keeps_momentum & at_rest) | center)).sum())
    return n_degrees - (number_of_rotations(atoms) if keeps_momentum and not rotates else 0)


def _motion_as_a_whole(atoms: Atoms) -> tuple[NDArray[np.bool_], bool]:
    """(3,) along which axes a structure is at rest as a whole, and whether it rotates."""
    n_degrees = int((~held_coordinates(atoms)).sum())
    momentum, mass = atoms.get_momenta().sum(axis=0), atoms.get_masses().sum()
    still = AT_REST * 2 * atoms.get_kinetic_energy() / max(n_degrees, 1)
    return momentum**2 / mass <= still, rotational_motion(atoms) > still


def motion_of_whole(atoms: Atoms) -> tuple[float, int]:
    """Kinetic energy (eV) and number of the free motions of a structure as a whole that are not at rest."""
    at_rest, rotates = _motion_as_a_whole(atoms)
    moves = ~held_coordinates(atoms).any(axis=0) & ~at_rest
    momentum, mass = atoms.get_momenta().sum(axis=0), atoms.get_masses().sum()
    energy = float((momentum[moves] ** 2).sum() / mass + (rotational_motion(atoms) if rotates else 0.0)) / 2
    return energy, int(moves.sum()) + (number_of_rotations(atoms) if rotates else 0)


def bring_to_rest(atoms: Atoms) -> None:
    """Take the free motion of a structure as a whole, translation and rotation, from its momenta."""
    free = ~held_coordinates(atoms).any(axis=0)
    drift = atoms.get_momenta().sum(axis=0) / atoms.get_masses().sum()
    atoms.set_velocities(without_rotation(atoms, atoms.get_velocities() - free * drift))


def widest_gap(atoms: Atoms) -> tuple[float, int]:
    """Å between lattice planes, the most that no atom lies between, and the lattice vector across; with a cell."""
    places = np.sort(atoms.cell.scaled_positions(atoms.positions) % 1.0, axis=0)
    empty = np.diff(places, axis=0, append=places[:1] + 1.0).max(axis=0)
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    axis = int((empty * heights).argmax())
    return float((empty * heights)[axis]), axis


def take_out_drift(atoms: Atoms) -> None:
    """Take from the momenta what rounding has made of a motion of the whole that is none by `degrees_of_freedom`.

    A thermostat that scales all velocities up and down again lets such a motion grow without a bound, the sooner
    the fewer degrees of freedom there are, until it has heat that the others lack.
    """
    at_rest, rotates = _motion_as_a_whole(atoms)
    free = ~held_coordinates(atoms).any(axis=0)
    drift = atoms.get_momenta().sum(axis=0) / atoms.get_masses().sum()
    velocities = atoms.get_velocities() - (free & at_rest) * drift
    atoms.set_velocities(velocities if rotates else without_rotation(atoms, velocities))
