"""Equal structures have equal labels, however a structure is turned, wrapped, numbered or cut into cells."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.lattice.compounds import L1_2

from mlpot.data.check.check import check
from mlpot.data.check.finding import Finding


def labeled(atoms: Atoms, energy: float = 0.0, factor: float = 1.0) -> Atoms:
    """With EMT's labels, an energy (eV) too high and forces and stress too large by a factor."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    labels = {"energy": atoms.get_potential_energy() + energy, "forces": factor * atoms.get_forces()}
    if atoms.pbc.all():
        labels["stress"] = factor * atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def rattled(atoms: Atoms, n: int = 12) -> list[Atoms]:
    frames = [atoms.copy() for _ in range(n)]
    for seed, frame in enumerate(frames):
        frame.rattle(0.1, seed=seed)
    return frames


MOLECULES, CRYSTALS = rattled(molecule("CH3OH")), rattled(bulk("Cu", cubic=True) * (2, 1, 1))


def turned(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rotate(37, (1, 2, 3), rotate_cell=True)
    return atoms


def in_another_cell(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    cell = atoms.cell.array.copy()
    cell[1] += cell[0]
    atoms.set_cell(cell)
    atoms.wrap()
    return atoms


def duplicates(tmp_path, frames: list[Atoms], copy: Atoms) -> Finding:
    path = tmp_path / "set.xyz"
    ase.io.write(path, [*map(labeled, frames), copy])
    return next(finding for finding in check(path).findings if finding.check == "duplicates")


MOVES = {
    "as it is": lambda atoms: atoms,
    "reordered": lambda atoms: atoms[::-1],
    "turned": turned,
    "another cell": in_another_cell,
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("wrong", [{"energy": 0.01}, {"factor": 1.1}], ids=["energy", "forces"])
def test_an_equal_structure_with_other_labels_is_an_error_however_it_lies(tmp_path, move, wrong):
    frames = CRYSTALS if move == "another cell" else MOLECULES
    found = duplicates(tmp_path, frames, labeled(MOVES[move](frames[3]), **wrong))
    assert found.severity == "error"
    assert "frames 3 and 12" in found.message
    assert ("forces that differ" in found.message) == ("factor" in wrong)
    same = duplicates(tmp_path, frames, labeled(MOVES[move](frames[3])))
    assert same.severity != "error"
    assert same.frames == (12,)


@pytest.mark.parametrize("move", ["as it is", "turned"])
def test_an_equal_crystal_with_another_stress_is_an_error(tmp_path, move):
    copy = labeled(MOVES[move](CRYSTALS[3]))
    copy.calc.results["stress"] = 1.5 * copy.calc.results["stress"]
    found = duplicates(tmp_path, CRYSTALS, copy)
    assert found.severity == "error"
    assert "stresses that differ" in found.message


def test_forces_of_the_wrong_sign_beside_the_same_structure_are_an_error(tmp_path):
    assert duplicates(tmp_path, MOLECULES, labeled(MOLECULES[3], factor=-1)).severity == "error"


def test_two_orderings_of_elements_of_one_radius_are_no_duplicates(tmp_path):
    # The same atoms at the same places, but for one exchange of neighbors: all distances are as before.
    ordered = L1_2(("Au", "Pt"), latticeconstant=3.95, size=(2, 2, 2), pbc=True)
    other = ordered.copy()
    gold = np.flatnonzero(other.numbers == 79)
    other.numbers[gold[0]], other.numbers[gold[0] + 1] = 78, 79
    path = tmp_path / "set.xyz"
    ase.io.write(path, [labeled(ordered), labeled(other, energy=0.3)])
    assert "duplicates" not in {finding.check for finding in check(path).findings}


def test_copies_with_two_atoms_in_one_place_are_looked_at_like_others(tmp_path):
    frames = [labeled(atoms) for atoms in MOLECULES]
    collapsed = MOLECULES[3].copy()
    collapsed.positions[4] = collapsed.positions[5] + 1e-3
    for copy in (collapsed, turned(collapsed)):
        copy.calc = SinglePointCalculator(copy, energy=0.0, forces=np.ones((6, 3)))
        frames.append(copy)
    ase.io.write(tmp_path / "set.xyz", frames)
    assert "overlap" in {finding.check for finding in check(tmp_path / "set.xyz").findings}
