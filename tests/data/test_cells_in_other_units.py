"""A cell in bohr around positions in Å, and the like, in all of a set or in half of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from sets import labeled, write

from mlpot.data.check.cells import cells
from mlpot.data.check.check import tally
from mlpot.data.check.finding import Finding
from mlpot.units import BOHR

FRAMES = 30
MISTAKES = {
    "cell=bohr": (1.0, 1 / BOHR),
    "positions=bohr": (1 / BOHR, 1.0),
    "positions=nm": (0.1, 1.0),
}


def strained(seed: int) -> Atoms:
    """Copper, strained and shaken, with labels."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.65, cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.08, rng=rng)
    return labeled(atoms)


def boxed(seed: int, box: float) -> Atoms:
    """A molecule alone in a periodic box."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=seed)
    atoms.center()
    atoms.set_cell([box] * 3)
    atoms.pbc = True
    return labeled(atoms)


def mistaken(atoms: Atoms, positions: float, cell: float) -> Atoms:
    """The same labels with positions and cell multiplied."""
    wrong = Atoms(atoms.numbers, atoms.positions * positions, cell=atoms.cell.array * cell, pbc=True)
    wrong.calc = SinglePointCalculator(wrong, **atoms.calc.results)
    return wrong


def found(frames: list[Atoms], folder: Path) -> list[Finding]:
    """What is found of the frames' cells."""
    return list(cells(tally(write(folder / "set.h5", frames))))


@pytest.mark.parametrize("part", [1.0, 0.5], ids=["all", "half"])
@pytest.mark.parametrize("fix", MISTAKES)
def test_cell_and_positions_in_two_units_are_named_with_the_cure(fix: str, part: float, tmp_path: Path) -> None:
    frames = [strained(k) for k in range(FRAMES)]
    n = int(part * FRAMES)
    (told,) = found([mistaken(a, *MISTAKES[fix]) if k < n else a for k, a in enumerate(frames)], tmp_path)
    assert told.severity == "error"
    assert f"--correct {fix}" in told.message if part < 1 else told.fix == fix
    assert (told.n_frames, told.frames[:3]) == (n, (0, 1, 2))


def test_fractions_for_positions_are_named(tmp_path: Path) -> None:
    frames = [strained(k) for k in range(FRAMES)]
    for atoms in frames:
        atoms.positions = atoms.get_scaled_positions()
    (told,) = found(frames, tmp_path)
    assert "fractions of the cell" in told.message


@pytest.mark.parametrize("box", [7.0, 9.0, 12.0])
def test_a_molecule_in_a_box_is_no_mistake(box: float, tmp_path: Path) -> None:
    assert not found([boxed(k, box) for k in range(FRAMES)], tmp_path)


def test_crystals_as_they_are_and_beside_molecules_are_no_mistake(tmp_path: Path) -> None:
    frames = [strained(k) for k in range(FRAMES)]
    assert not found(frames, tmp_path)
    assert not found([*frames, *(boxed(k, 9.0) for k in range(FRAMES))], tmp_path)
