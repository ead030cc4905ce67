"""Isolated atoms in the open and in a periodic box are references, in every room that reads a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from sets import crystals, labeled, small_recipe, write

from mlpot.data.check.check import check
from mlpot.data.check.info import info
from mlpot.data.check.survey import survey
from mlpot.data.frame import is_isolated
from mlpot.evaluate import evaluate
from mlpot.potential import Potential
from mlpot.training.data_summary import told
from mlpot.training.reference_energies import ReferenceEnergyWarning
from mlpot.training.splits import make_baseline, make_parts

ENERGIES = {"Cu": 3.51, "Au": 3.80}
SKEWED = Cell.fromcellpar([20, 20, 20, 60, 60, 60]).array


def atom(symbol: str, cell: object, pbc: object, energy: float, group: str | None = None) -> Atoms:
    """One atom with an energy and the zero forces and stress that a code writes."""
    atoms = Atoms(symbol, cell=cell, pbc=pbc)
    labels = {"energy": energy, "forces": np.zeros((1, 3))} | ({"stress": np.zeros(6)} if all(atoms.pbc) else {})
    atoms.calc = SinglePointCalculator(atoms, **labels)
    if group is not None:
        atoms.info["group"] = group
    return atoms


@pytest.mark.parametrize(
    ("cell", "pbc", "group", "isolated"),
    [
        (np.zeros((3, 3)), (0, 0, 0), None, True),
        (np.diag([20.0, 20, 20]), (1, 1, 1), None, True),
        (np.diag([2.0, 2, 20]), (0, 0, 1), None, True),
        (SKEWED, (1, 1, 1), None, True),
        (np.diag([8.5, 9, 10]), (1, 1, 1), None, True),
        (np.diag([5.0, 20, 20]), (1, 1, 1), None, False),
        (np.array([[20.0, 0, 0], [19.0, 3, 0], [0, 0, 20.0]]), (1, 1, 1), None, False),  # long, and 3.2 Å apart
        (np.diag([6.0, 6, 6]), (1, 1, 1), "isolated_atom", True),
        (np.diag([6.0, 6, 6]), (1, 1, 1), "IsolatedAtom", True),
        (np.diag([6.0, 6, 6]), (1, 1, 1), "bulk", False),
        (np.array([[10.0, 0, 0], [10.0, 0, 0], [0, 0, 10.0]]), (1, 1, 1), None, False),
    ],
)  # fmt: skip
def test_an_atom_is_isolated_where_its_images_are_far_or_its_family_says_so(cell, pbc, group, isolated) -> None:  # type: ignore[no-untyped-def]
    assert is_isolated(1, np.array(pbc, dtype=bool), np.asarray(cell, dtype=float), group) is isolated
    assert not is_isolated(2, np.array(pbc, dtype=bool), np.asarray(cell, dtype=float), None)


@pytest.mark.parametrize(
    ("cell", "pbc", "group"),
    [(None, False, None), (np.diag([15.0, 16, 17]), True, None), (np.diag([7.0, 7, 7]), True, "IsolatedAtom")],
    ids=["open", "box", "by family"],
)
def test_references_are_the_same_in_every_room(cell, pbc, group, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    atoms = [atom(symbol, cell, pbc, energy, group) for symbol, energy in ENERGIES.items()]
    data = write(tmp_path / "set.h5", [*atoms, *crystals(12)])
    recipe = small_recipe(data, tmp_path / "run")
    parts = make_parts(recipe.data, recipe.loss)
    start = make_baseline(parts.train, None)
    assert start.reference_energies == {29: ENERGIES["Cu"], 79: ENERGIES["Au"]}
    assert set(start.sources.values()) == {"isolated atom"}
    assert not set(parts.train.indices) & {0, 1}
    assert info(data).isolated == ENERGIES
    assert check(data).facts["isolated atoms"] == "Cu 3.510 eV, Au 3.800 eV"
    potential = Potential("deepsets", {"cutoff": 4.0}, reference_energies={29: 3.5, 79: 3.75})
    table = evaluate(potential, [*atoms, *crystals(2)]).overall
    assert table["isolated_atoms"].n == 2
    assert table["energy"].n == 2


def test_one_atom_cells_of_a_crystal_are_structures(tmp_path: Path) -> None:
    frames = [labeled(bulk("Cu", a=a)) for a in np.linspace(3.4, 4.2, 12)]
    data = write(tmp_path / "set.h5", frames)
    assert "isolated" not in " ".join(f.message for f in check(data).findings)
    recipe = small_recipe(data, tmp_path / "run", "loss.forces=0")
    parts = make_parts(recipe.data, recipe.loss)
    assert len(parts.train) + len(parts.validation) == 12


def test_what_the_recipe_gives_is_held_and_what_nobody_holds_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", [atom("Au", np.eye(3) * 12, True, 3.8), *crystals(12)])
    recipe = small_recipe(data, tmp_path / "run")
    train = make_parts(recipe.data, recipe.loss).train
    start = make_baseline(train, {"Cu": 3.0})
    assert start.reference_energies == {29: 3.0, 79: 3.8}
    assert start.sources == {29: "given", 79: "isolated atom"}
    with pytest.warns(ReferenceEnergyWarning) as told:
        assert make_baseline(train, {"Ag": 1.0}).sources == {29: "fitted", 79: "isolated atom"}
    messages = [str(one.message) for one in told]
    assert any("has Ag, which no training structure holds" in message for message in messages)
    assert any("known of Au, and fitted of Cu" in message for message in messages)


def test_an_ion_alone_is_no_reference(tmp_path: Path) -> None:
    """An anion lies lower than its atom, and would be taken for the ground state of it."""
    path = tmp_path / "set.h5"
    anion, neutral = atom("Cu", None, False, 2.0), atom("Cu", None, False, ENERGIES["Cu"])
    anion.info["charge"], neutral.info["charge"] = -1, 0
    write(path, [*crystals(30), anion, neutral, atom("Au", None, False, ENERGIES["Au"])])
    assert survey(path).isolated_atoms() == {29: ENERGIES["Cu"], 79: ENERGIES["Au"]}
    assert info(path).isolated == pytest.approx(ENERGIES)
    assert "reference energies" not in {finding.check for finding in check(path).findings}
    path = write(tmp_path / "ion.h5", [*crystals(8), anion])
    assert survey(path).isolated_atoms() == {}
    recipe = small_recipe(path, tmp_path)
    parts = make_parts(recipe.data, recipe.loss)
    assert any("1 isolated atoms with a charge" in line for line in told(parts, make_baseline(parts.train, None)))
