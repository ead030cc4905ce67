"""What `data check` must not take for a fault, and that it still finds the fault beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from sets import crystals, labeled, small_recipe, write

from mlpot.data.check.check import check
from mlpot.training.splits import DoubtfulDataError, make_parts


def scaled(atoms: Atoms, factor: float) -> Atoms:
    """The structure with forces in another unit."""
    copy, labels = atoms.copy(), atoms.calc.results
    copy.calc = SinglePointCalculator(copy, **labels | {"forces": factor * labels["forces"]})
    return copy


def scan(n: int = 20) -> list[Atoms]:
    """Perfect crystals from compressed to stretched, whose forces are the noise of a calculation."""
    frames, rng = [], np.random.default_rng(5)
    for a in np.linspace(3.45, 4.05, n):
        atoms = labeled(bulk("Cu", "fcc", a=a, cubic=True))
        noise = 1e-4 * rng.normal(size=(len(atoms), 3))
        atoms.calc.results["forces"] = atoms.calc.results["forces"] + noise
        frames.append(atoms)
    return frames


def elastic(n: int = 20) -> list[Atoms]:
    """Sheared perfect crystals of two atoms, exactly without forces."""
    frames, rng = [], np.random.default_rng(6)
    for _ in range(n):
        atoms = bulk("Cu", "fcc", a=3.6) * (1, 1, 2)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        frames.append(labeled(atoms))
    return frames


def relaxed(n: int = 12) -> list[Atoms]:
    """Cells with a gold atom, relaxed until forces are small but not zero."""
    frames = []
    for seed in range(n):
        atoms = crystals(n)[seed]
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=40)
        atoms.calc = None
        frames.append(labeled(atoms))
    return frames


def dimers(n: int = 24) -> list[Atoms]:
    """A bond from short to long, near whose minimum forces change their sign."""
    return [labeled(Atoms("CuAu", [(0, 0, 0), (0, 0, d)])) for d in np.linspace(2.2, 2.9, n)]


@pytest.mark.parametrize("still", [scan, elastic, relaxed, dimers], ids=lambda f: f.__name__)
def test_forces_that_vanish_are_no_mixed_units(still, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = write(tmp_path / "set.h5", [*crystals(60), *still()])
    assert "mixed units" not in {f.check for f in check(data).findings}
    recipe = small_recipe(data, tmp_path / "run")
    assert len(make_parts(recipe.data, recipe.loss).train)


@pytest.mark.parametrize("factor", [1 / 51.42, 23.06, -1.0], ids=["Ha/bohr", "kcal/mol", "sign"])
def test_a_part_in_other_units_is_found_beside_forces_that_vanish(factor: float, tmp_path: Path) -> None:
    frames = [scaled(a, factor) if k < 12 else a for k, a in enumerate(crystals(60))]
    data = write(tmp_path / "set.h5", [*frames, *scan(), *dimers()])
    findings = check(data).findings
    assert "mixed units" in {f.check for f in findings}, findings
    order = [("error", "warning", "note").index(f.severity) for f in findings]
    assert order == sorted(order)


def test_one_frame_with_gradients_among_many_is_found(tmp_path: Path) -> None:
    frames = [scaled(a, -1.0) if k == 41 else a for k, a in enumerate(crystals(120))]
    (told,) = [
        f for f in check(write(tmp_path / "set.h5", frames), quick=True).findings if f.check == "mixed units"
    ]
    assert "1 of 120 sampled structures" in told.message
    assert f"energy {frames[41].get_potential_energy():.6f} eV" in told.message


def test_no_alarm_hides_another(tmp_path: Path) -> None:
    """Gradients instead of forces, and an isolated atom with two energies: training names both."""
    atoms = [labeled(Atoms("Cu"), "energy"), labeled(Atoms("Au"), "energy"), labeled(Atoms("Au"), "energy")]
    atoms[2].calc.results["energy"] = -100.0
    data = write(tmp_path / "set.h5", [*atoms, *(scaled(a, -1.0) for a in crystals(60))])
    recipe = small_recipe(data, tmp_path / "run")
    with pytest.raises(DoubtfulDataError) as told:
        make_parts(recipe.data, recipe.loss)
    assert "gradients" in str(told.value)
    assert "isolated Au atom has 2 energies" in str(told.value)


@pytest.mark.parametrize("periodic", [(True, False, False), (True, True, False)], ids=["wires", "slabs"])
def test_structures_of_few_periods_are_checked_at_once(periodic: tuple[bool, bool, bool], tmp_path: Path) -> None:
    """Neighbors of a hundredth of an Å along open directions once took more cells than a day has seconds."""
    frames, rng = [], np.random.default_rng(7)
    for _ in range(24):
        atoms = Atoms("Cu4", rng.uniform(-0.2, 0.2, (4, 3)) + [[0, 0, 0], [0, 2.4, 0], [0, 0, 2.4], [0, 2.5, 2.5]])
        atoms.set_cell(np.diag([3.0, 12.0, 12.0]) + [[0, 0, 0], [0, 0, 0], [1, 0, 0]])
        atoms.pbc = periodic
        frames.append(labeled(atoms))
    report = check(write(tmp_path / "set.h5", frames))
    assert not report.findings or {f.check for f in report.findings} <= {"net force", "torque"}, report.findings


def test_few_structures_do_not_hide_references_that_are_off(tmp_path: Path) -> None:
    gold = Atoms("Au")
    gold.calc = SinglePointCalculator(gold, energy=-500.0)
    data = write(tmp_path / "set.h5", [labeled(Atoms("Cu"), "energy"), gold, *crystals(12)])
    assert "reference energies" in {f.check for f in check(data).findings}


def test_a_dissociation_curve_is_bound_by_what_binds_most(tmp_path: Path) -> None:
    atoms = [labeled(Atoms(s), "energy") for s in ("Cu", "Au")]
    far = [labeled(Atoms("CuAu", [(0, 0, 0), (0, 0, d)])) for d in np.linspace(2.0, 7.5, 40)]
    data = write(tmp_path / "set.h5", [*atoms, *far])
    assert "reference energies" not in {f.check for f in check(data).findings}


def test_crystals_that_repeat_by_their_symmetry_are_a_note_that_says_so(tmp_path: Path) -> None:
    frames = crystals(24)
    again, axes = frames[3].copy(), [1, 2, 0]
    again.set_cell(again.cell.array[:, axes])
    again.positions = again.positions[:, axes]
    other = write(tmp_path / "test.h5", [*frames[20:], labeled(again)])
    report = check(write(tmp_path / "set.h5", frames[:20]), against=other)
    (found,) = [f for f in report.findings if f.check == "leakage"]
    assert (found.severity, found.n_frames) == ("note", 1)
    assert "these test nothing new" in found.message


def strained(strain: float, rattle: float, n: int = 60) -> list[Atoms]:
    """Cells of four atoms whose energies say how wide they are, and whose forces say how atoms stand in them."""
    frames, rng = [], np.random.default_rng(7)
    for _ in range(n):
        atoms = bulk("Cu", "fcc", a=3.65, cubic=True)
        atoms.set_cell(atoms.cell.array * (1 + rng.normal(scale=strain)), scale_atoms=True)
        atoms.positions += rng.normal(scale=rattle, size=(len(atoms), 3))
        frames.append(labeled(atoms))
    return frames


@pytest.mark.parametrize(("strain", "rattle"), [(0.02, 0.08), (0.04, 0.02)])
def test_forces_of_small_steps_in_strained_cells_belong_to_their_energies(
    tmp_path: Path, strain: float, rattle: float
) -> None:
    frames = strained(strain, rattle)
    found = check(write(tmp_path / "strained.h5", frames)).findings
    assert not found
    hartree = check(write(tmp_path / "hartree.h5", [scaled(atoms, 1 / 51.42207) for atoms in frames])).findings
    assert any(one.severity == "error" and "hartree/bohr" in one.message for one in hartree)
