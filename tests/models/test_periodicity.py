"""One crystal has many descriptions and one energy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from ase.calculators.calculator import PropertyNotImplementedError
from structures import CRYSTALS, copper, copper_atom, ethanol, evaluate, graph_of, slab, worst

from mlpot.calculator import MLPotCalculator
from mlpot.graph import edge_vectors
from mlpot.potential import Potential

pytestmark = pytest.mark.pairs
CRYSTAL = pytest.mark.parametrize("matter", CRYSTALS)
RELATIVE, FORCES = 1e-11, 1e-10  # of the energy; eV/Å and eV/Å³

SUPERCELLS = {
    "eightfold": np.diag([2, 2, 2]),
    "diagonal": np.diag([1, 3, 2]),
    "skewed": np.array([[1, 1, 0], [-1, 2, 0], [0, 1, 2]]),
}
# Rows of integers with determinant ±1: other vectors of the same lattice.
LATTICES = {
    "sheared a -> a + b": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    "tilt beyond one half": [[1, 0, 0], [3, 1, 0], [-2, 5, 1]],
    "left-handed, a and b swapped": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    "left-handed, c reversed": [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    "cycled": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
}


def displaced_by_cells(atoms: Atoms) -> Atoms:
    """Each atom moved by up to seven lattice vectors."""
    out = atoms.copy()
    out.positions += np.random.default_rng(3).integers(-7, 8, (len(atoms), 3)) @ atoms.cell.array
    return out


def wrapped(atoms: Atoms) -> Atoms:
    """Every atom in the cell."""
    out = atoms.copy()
    out.wrap()
    return out


def noisy(atoms: Atoms) -> Atoms:
    """Positions and cell off by the last digit."""
    out, rng = atoms.copy(), np.random.default_rng(4)
    out.positions += rng.uniform(-1e-15, 1e-15, out.positions.shape)
    out.set_cell(out.cell.array + rng.uniform(-1e-15, 1e-15, (3, 3)))
    return out


def relatticed(atoms: Atoms, rows: list[list[int]]) -> Atoms:
    """The same crystal with other lattice vectors."""
    return Atoms(atoms.numbers, atoms.positions, cell=np.array(rows) @ atoms.cell.array, pbc=True)


DESCRIPTIONS = {"wrapped": wrapped, "displaced by cells": displaced_by_cells, "noisy": noisy} | {
    name: lambda atoms, rows=rows: relatticed(atoms, rows) for name, rows in LATTICES.items()
}


def surroundings(atoms: Atoms) -> set[tuple[int, ...]]:
    """Every (center, neighbor, vector in 1e-6 Å): what cannot depend on the description."""
    graph = graph_of(atoms)
    vectors = (edge_vectors(graph) * 1e6).round().long()
    edges = torch.cat([graph.edges.center[:, None], graph.edges.neighbor[:, None], vectors], dim=1)
    assert len(edges) > 0
    return set(map(tuple, edges.tolist()))


@CRYSTAL
@pytest.mark.parametrize("multiple", SUPERCELLS)
def test_a_supercell_has_the_energy_of_its_cells(potential: Potential, matter: str, multiple: str) -> None:
    atoms = CRYSTALS[matter]()
    large = make_supercell(atoms, SUPERCELLS[multiple], wrap=False)
    n = len(large) // len(atoms)
    out, whole = evaluate(potential, atoms), evaluate(potential, large)
    assert worst(whole.energy / n, out.energy) <= RELATIVE * abs(out.energy.item())
    assert worst(whole.forces, out.forces.repeat(n, 1)) <= FORCES
    assert worst(whole.stress, out.stress) <= FORCES


@CRYSTAL
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_the_description_of_a_crystal_does_not_matter(potential: Potential, matter: str, description: str) -> None:
    atoms = CRYSTALS[matter]()
    same = DESCRIPTIONS[description](atoms)
    out, after = evaluate(potential, atoms), evaluate(potential, same)
    assert worst(after.energy, out.energy) <= RELATIVE * abs(out.energy.item())
    assert worst(after.forces, out.forces) <= FORCES
    assert worst(after.stress, out.stress) <= FORCES


@CRYSTAL
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_the_neighbors_are_the_same_in_every_description(matter: str, description: str) -> None:
    atoms = CRYSTALS[matter]()
    assert surroundings(atoms) == surroundings(DESCRIPTIONS[description](atoms))


def test_a_molecule_ignores_a_cell_it_does_not_repeat_in(potential: Potential) -> None:
    free, boxed = ethanol(), ethanol()
    boxed.set_cell([[3.0, 0.2, 0], [0, 2.0, 0.1], [0.5, 0, 2.5]])
    out, after = evaluate(potential, free), evaluate(potential, boxed)
    assert worst(after.energy, out.energy) <= 1e-11 * len(free)
    assert worst(after.forces, out.forces) <= 1e-11
    assert after.stress.isnan().all()


def test_a_slab_ignores_its_third_cell_vector(potential: Potential) -> None:
    flat, tilted = slab(), slab()
    tilted.set_cell(tilted.cell.array + np.array([[0, 0, 0], [0, 0, 0], [1.0, -0.7, 2.0]]))
    out, after = evaluate(potential, flat), evaluate(potential, tilted)
    assert worst(after.energy, out.energy) <= 1e-11 * len(flat)
    assert worst(after.forces, out.forces) <= 1e-11
    assert out.stress.isnan().all()
    assert after.stress[0, 2].abs().max() == 0
    assert after.stress[0, :2, :2].abs().min() > 0
    higher = tilted.copy()
    higher.set_cell(tilted.cell.array * [[1], [1], [2]])
    assert worst(2 * evaluate(potential, higher).stress, after.stress) <= 1e-11


def test_atoms_of_a_slab_may_stand_outside_its_cell(potential: Potential) -> None:
    inside, outside = slab(), slab()
    inside.set_cell(inside.cell.array + np.diag([0, 0, 9.0]))
    outside.set_cell(inside.cell)
    outside.positions += [0, 0, -40.0]
    outside.positions[::2] += 3 * outside.cell.array[0] - 5 * outside.cell.array[1]
    out, after = evaluate(potential, inside), evaluate(potential, outside)
    assert worst(after.energy, out.energy) <= RELATIVE * abs(out.energy.item())
    assert worst(after.forces, out.forces) <= FORCES


def test_a_chain_is_periodic_in_one_direction(potential: Potential) -> None:
    chain = Atoms("CO", positions=[(0, 0, 0), (0.3, 1.2, 0.1)], cell=[[2.6, 0.4, 0.2], [0] * 3, [0] * 3])
    chain.pbc = (True, False, False)
    out, double = evaluate(potential, chain), evaluate(potential, chain * (2, 1, 1))
    assert worst(double.energy / 2, out.energy) <= RELATIVE * abs(out.energy.item())
    assert worst(double.forces, out.forces.repeat(2, 1)) <= FORCES


@pytest.mark.parametrize("pbc", [True, (True, False, False)])
def test_periodicity_without_a_cell_is_an_error(pbc: bool | tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match="periodic cell vector is zero"):
        graph_of(Atoms("Cu", pbc=pbc))


def test_a_flat_cell_is_an_error() -> None:
    with pytest.raises(ValueError, match="linearly dependent"):
        graph_of(Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True))


@pytest.mark.filterwarnings("ignore::mlpot.equivariance.RotationWarning")
@pytest.mark.parametrize("make", [ethanol, slab])
def test_stress_without_a_volume_is_refused_by_the_calculator(potential: Potential, make) -> None:  # type: ignore[no-untyped-def]
    atoms = make()
    atoms.calc = MLPotCalculator(potential)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stresses()


def test_the_stress_of_a_left_handed_cell_has_the_same_sign(potential: Potential) -> None:
    right = copper_atom()
    left = relatticed(right, LATTICES["left-handed, c reversed"])
    assert np.linalg.det(right.cell.array) * np.linalg.det(left.cell.array) < 0
    out, after = evaluate(potential, right, left).stress
    assert worst(after, out) <= FORCES
    assert worst(out, 0.0) > 1e-3


def test_a_cell_of_both_hands_in_one_batch(potential: Potential) -> None:
    atoms = copper()
    left = relatticed(atoms, LATTICES["left-handed, a and b swapped"])
    out = evaluate(potential, atoms, left, ethanol())
    assert worst(out.stress[1], out.stress[0]) <= FORCES
    assert out.stress[2].isnan().all()
