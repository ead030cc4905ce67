"""Does `mlpot data check` name what is wrong with a set, propose the right command, and stay silent otherwise?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from places import PROJECT, SHARED
from slow_parts import every_second, quick
from typer.testing import CliRunner

from mlpot.cli.main import app
from mlpot.data.check.check import check
from mlpot.data.check.finding import Finding, Report
from mlpot.data.h5md import Reader, write
from mlpot.training.recipe import DataSection, LossSection
from mlpot.training.splits import DoubtfulDataError, DoubtfulDataWarning, make_parts
from mlpot.units import BOHR, GPA, HARTREE, KBAR, KCAL_MOL, KJ_MOL

OWN = {name: PROJECT / f"data/{name}.h5" for name in ("ethanol", "silicon")}
PUBLIC = SHARED / "data"
PUBLIC_SETS = (
    "3bpa/train_300K",
    "acac/train_300K",
    "acac/test_MD_300K",
    "ethanol/train",
    "silicon/train",
    "silicon/test",
)


def frames_of(path: Path) -> list[Atoms]:
    if path.suffix != ".h5":
        return read(path, ":")
    with Reader(path) as reader:
        return list(reader.frames())


def some_of(name: str) -> list[Atoms]:
    """A third of our molecules with all free atoms, or all crystals."""
    frames = frames_of(OWN[name])
    return [*frames[:-3:3], *frames[-3:]] if name == "ethanol" else frames


def public(name: str) -> Path:
    path = PUBLIC / f"{name}.xyz"
    if not path.exists():
        pytest.skip(f"public set {name} is not beside the project")
    return path


def relabeled(frames: list[Atoms], **change: Callable) -> list[Atoms]:
    """Copies with labels changed by quantity; `positions` and `cell` too."""
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        results = dict(atoms.calc.results)
        for name, function in change.items():
            if name == "positions":
                copy.positions = function(copy.positions)
            elif name == "cell":
                copy.cell = function(copy.cell.array)
            elif name in results:
                results[name] = function(results[name])
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return copies


def times(factor: float) -> Callable:
    return lambda value: value * factor


def vasp_order(stress: np.ndarray) -> np.ndarray:
    """xx, yy, zz, xy, yz, xz where ASE has xx, yy, zz, yz, xz, xy."""
    return np.asarray(stress)[[0, 1, 2, 5, 3, 4]]


UNITS = {
    "energies in kcal/mol": ("energy=kcal/mol", {"energy": times(1 / KCAL_MOL)}),
    "energies in hartree": ("energy=hartree", {"energy": times(1 / HARTREE)}),
    "energies in kJ/mol": ("energy=kJ/mol", {"energy": times(1 / KJ_MOL)}),
    "forces in hartree/bohr": ("forces=hartree/bohr", {"forces": times(BOHR / HARTREE)}),
    "forces in kcal/mol/Å": ("forces=kcal/mol/angstrom", {"forces": times(1 / KCAL_MOL)}),
    "forces in eV/bohr": ("forces=eV/bohr", {"forces": times(BOHR)}),
    "gradients": ("forces=-eV/angstrom", {"forces": times(-1)}),
    "gradients in hartree/bohr": ("forces=-hartree/bohr", {"forces": times(-BOHR / HARTREE)}),
    "all in kcal/mol": (
        "energy=kcal/mol forces=kcal/mol/angstrom",
        {"energy": times(1 / KCAL_MOL), "forces": times(1 / KCAL_MOL)},
    ),
    "atomic units, lengths converted": (
        "energy=hartree forces=hartree/bohr",
        {"energy": times(1 / HARTREE), "forces": times(BOHR / HARTREE)},
    ),
    "energies with the wrong sign": ("energy=-eV", {"energy": times(-1)}),
    "positions in bohr": ("positions=bohr", {"positions": times(1 / BOHR), "cell": times(1 / BOHR)}),
    "positions in nm": ("positions=nm", {"positions": times(0.1), "cell": times(0.1)}),
}
STRESS = {
    "stress in kbar": ("stress=kbar", {"stress": times(1 / KBAR)}),
    "stress in GPa": ("stress=GPa", {"stress": times(1 / GPA)}),
    "pressure-like stress": ("stress=-eV/angstrom^3", {"stress": times(-1)}),
    "pressure in kbar": ("stress=-kbar", {"stress": times(-1 / KBAR)}),
    "Voigt order of VASP": ("voigt=xx,yy,zz,xy,yz,xz", {"stress": vasp_order}),
    "kbar, pressure-like, in VASP's order": (
        "stress=-kbar voigt=xx,yy,zz,xy,yz,xz",
        {"stress": lambda s: -vasp_order(s) / KBAR},
    ),
}


def examined(tmp_path: Path, frames: list[Atoms], **options) -> Report:
    write(tmp_path / "set.h5", frames, card={}, overwrite=True)
    return check(tmp_path / "set.h5", **options)


def named(report: Report, check: str) -> Finding:
    (found,) = [f for f in report.findings if f.check == check]
    return found


def mended(report: Report, tmp_path: Path) -> Report:
    """What is found after the commands that the report proposes, one after the other."""
    source = Path(report.path)
    for number, found in enumerate(f for f in report.findings if f.severity != "note"):
        assert found.fix is not None, found
        words = shlex.split(found.fix)[1:]
        words[2:4] = str(source), str(tmp_path / f"mended{number}.h5")
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        source = tmp_path / f"mended{number}.h5"
    return check(source)


def corrections(report: Report) -> str:
    return " ".join(part for f in report.findings if f.fix for part in re.findall(r"--correct '?([^' ]+)", f.fix))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param(name, fault, marks=[pytest.mark.slow] * ((i + k) % 4 > 0))  # others: slow
        for i, name in enumerate(OWN)
        for k, fault in enumerate(UNITS)
    ],
)
def test_wrong_units_and_signs_are_named_and_mended(tmp_path, name, fault):
    fix, change = UNITS[fault]
    frames = some_of(name)
    if fault == "all in kcal/mol" or fault.startswith("energ"):
        frames = [a for a in frames if len(a) > 1] + relabeled([a for a in frames if len(a) == 1])
    report = examined(tmp_path, relabeled(frames, **change))
    assert report.exit_status == 4
    said = corrections(report)
    assert said.replace("cell=bohr", "").replace("cell=nm", "").split() == fix.split()
    assert mended(report, tmp_path).exit_status == 0


@pytest.mark.parametrize("fault", every_second(STRESS))
def test_wrong_stress_is_named_and_mended(tmp_path, fault):
    fix, change = STRESS[fault]
    report = examined(tmp_path, relabeled(frames_of(OWN["silicon"]), **change))
    assert [f.check for f in report.findings if f.severity == "error"] == ["stress"]
    assert corrections(report) == fix
    assert mended(report, tmp_path).exit_status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["energies in kcal/mol", "forces in hartree/bohr", "gradients", "positions in bohr"]
)
@pytest.mark.parametrize("name", ["acac/train_300K", "silicon/train"])
def test_wrong_units_of_public_sets_are_named(tmp_path, name, fault):
    fix, change = UNITS[fault]
    frames = relabeled(frames_of(public(name))[::3], **change)
    assert fix in corrections(examined(tmp_path, frames, quick=True))


@pytest.mark.slow
@pytest.mark.parametrize("fault", STRESS)
def test_wrong_stress_of_a_public_set_is_named(tmp_path, fault):
    fix, change = STRESS[fault]
    frames = relabeled(frames_of(public("silicon/train"))[::2], **change)
    assert corrections(examined(tmp_path, frames, quick=True)) == fix


@pytest.mark.parametrize("name", OWN)
def test_nothing_is_said_of_our_own_sets(name):
    assert check(OWN[name]).exit_status == 0


@pytest.mark.parametrize("name", quick(PUBLIC_SETS, PUBLIC_SETS[3:]))
def test_nothing_is_said_of_public_sets(name):
    assert check(public(name)).exit_status == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("ethanol/train", "ethanol/test_MD"),
        pytest.param("acac/train_300K", "acac/test_MD_300K", marks=pytest.mark.slow),
    ],
)
def test_public_parts_share_no_structure(a, b):
    assert check(public(a), against=public(b)).exit_status == 0


def test_duplicates_are_counted_and_dropped(tmp_path):
    frames = frames_of(OWN["ethanol"])[:200]
    copies = [frames[k].copy() for k in (3, 50, 51)]
    for copy, k in zip(copies, (3, 50, 51), strict=True):
        copy.positions += (1.0, 2.0, 3.0)
        copy.calc = SinglePointCalculator(copy, **frames[k].calc.results)
    report = examined(tmp_path, frames + copies)
    found = named(report, "duplicates")
    assert (found.severity, found.n_frames, found.frames) == ("warning", 3, (200, 201, 202))
    assert mended(report, tmp_path).n_frames == 200


def test_a_duplicate_with_another_energy_is_an_error(tmp_path):
    frames = frames_of(OWN["ethanol"])[:50]
    report = examined(tmp_path, frames + relabeled(frames[:1], energy=lambda e: e + 0.1))
    assert named(report, "duplicates").severity == "error"


def turned(atoms: Atoms, seed: int) -> Atoms:
    """The structure turned and with its atoms in another order, and its labels with it."""
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.permutation(len(atoms))
    copy = Atoms(atoms.numbers[order], (atoms.positions @ turn)[order])
    results = {"energy": atoms.get_potential_energy(), "forces": (atoms.get_forces() @ turn)[order]}
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def test_turned_and_reordered_duplicates_are_seen(tmp_path):
    frames = frames_of(OWN["ethanol"])[:200]
    found = named(examined(tmp_path, frames + [turned(frames[k], k) for k in range(5)]), "duplicates")
    assert found.frames == (200, 201, 202, 203, 204)


def test_near_duplicates_are_seen(tmp_path):
    frames = frames_of(OWN["ethanol"])[:100]
    noise = np.random.default_rng(0).normal(scale=6e-4, size=(9, 3))
    found = named(
        examined(tmp_path, frames + relabeled(frames[:20], positions=lambda r: r + noise)), "near-duplicates"
    )
    assert found.n_frames == 20


@pytest.mark.parametrize("change", [lambda a, k: a, turned])
def test_leakage_is_an_error_and_mended(tmp_path, change):
    frames = frames_of(OWN["ethanol"])[:200]
    write(tmp_path / "validation.h5", frames[150:] + [change(frames[k], k) for k in (7, 8)], card={})
    report = examined(tmp_path, frames[:150], against=tmp_path / "validation.h5")
    found = named(report, "leakage")
    assert (found.severity, found.n_frames) == ("error", 2)
    words = shlex.split(found.fix)[1:]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert check(words[3], against=tmp_path / "validation.h5").exit_status == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda e: e / HARTREE, "in hartree"),
        (lambda e: 0.0 * e, "computed otherwise"),
        (lambda e: 0.9 * e, "computed otherwise"),
    ],
)
def test_wrong_reference_energies_are_named(tmp_path, wrong, says):
    frames = some_of("ethanol")
    report = examined(tmp_path, frames[:-3] + relabeled(frames[-3:], energy=wrong))
    assert says in named(report, "reference energies").message
    assert mended(report, tmp_path).exit_status == 0


def test_cohesive_energies_beside_total_ones_are_named(tmp_path):
    frames = frames_of(OWN["ethanol"])
    atoms = {a.symbols[0]: a.get_potential_energy() for a in frames[-3:]}
    cohesive = [relabeled([a], energy=lambda e, a=a: e - sum(atoms[s] for s in a.symbols))[0] for a in frames[:-3]]
    assert "cohesive" in named(examined(tmp_path, cohesive + frames[-3:]), "reference energies").message


def test_frozen_atoms_are_named_and_masked(tmp_path):
    def zeroed(forces):
        forces = forces.copy()
        forces[[0, 4]] = 0.0
        return forces

    report = examined(tmp_path, relabeled(frames_of(OWN["ethanol"])[:100], forces=zeroed))
    found = named(report, "frozen atoms")
    assert (found.severity, "Atoms 0, 4" in found.message, "--hold 0,4" in found.fix) == ("error", True, True)


def test_overlapping_atoms_and_outliers_are_named_by_frame(tmp_path):
    frames = frames_of(OWN["ethanol"])[:100]
    frames[7].positions[3] = frames[7].positions[4] + (0.05, 0, 0)
    frames[20].calc.results["energy"] += 50.0
    frames[30].calc.results["forces"][0] = 1e6
    report = examined(tmp_path, frames)
    assert named(report, "overlap").frames == (7,)
    outliers = [f.frames for f in report.findings if f.check == "outliers"]
    assert outliers == [(20,), (30,)]
    assert [f.check for f in report.findings if f.severity == "error"] == ["overlap"]


def test_atoms_in_one_place_do_not_stop_the_examination(tmp_path):
    frames = frames_of(OWN["silicon"])[:40]
    frames[4].positions[1] = frames[4].positions[0]
    assert named(examined(tmp_path, frames), "overlap").frames == (4,)


def test_energies_of_other_structures_are_noticed(tmp_path):
    frames = frames_of(OWN["ethanol"])[:-3]
    energies = np.random.default_rng(0).permutation([a.get_potential_energy() for a in frames])
    for atoms, energy in zip(frames, energies, strict=True):
        atoms.calc.results["energy"] = energy
    assert examined(tmp_path, frames).exit_status == 4


def test_a_part_in_other_units_is_noticed(tmp_path):
    frames = frames_of(OWN["ethanol"])[:-3]
    frames[::5] = relabeled(frames[::5], forces=times(1 / KCAL_MOL))
    assert named(examined(tmp_path, frames), "mixed units").severity == "error"


def test_constant_and_missing_labels_are_named(tmp_path):
    frames = frames_of(OWN["ethanol"])[:40]
    same = relabeled(frames, energy=lambda e: -4200.0)
    assert "all have the energy" in named(examined(tmp_path, same), "labels").message
    del frames[3].calc.results["forces"]
    assert named(examined(tmp_path, frames), "labels").frames == (3,)
    zero = relabeled(frames_of(OWN["ethanol"])[:40], forces=times(0.0))
    assert "never computed" in named(examined(tmp_path, zero), "labels").message


def test_a_damaged_file_is_an_error_and_not_a_crash(tmp_path):
    frames = frames_of(OWN["ethanol"])[:400]
    write(tmp_path / "set.h5", frames, card={})
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file["observables/atoms_9/energy/value"][300] = np.inf
    report = check(tmp_path / "set.h5")
    assert "frame 300" in named(report, "file").message
    assert report.exit_status == 4


def test_trajectories_give_the_exact_ratio_and_their_breaks(tmp_path):
    rng = np.random.default_rng(0)
    atoms, frames = molecule("H2O"), []
    rest = atoms.positions.copy()
    for _ in range(100):
        atoms = atoms.copy()
        atoms.positions += rng.normal(scale=0.01, size=(3, 3))
        away = atoms.positions - rest
        atoms.calc = SinglePointCalculator(atoms, energy=5.0 * (away**2).sum() - 14.0, forces=-10.0 * away)
        frames.append(atoms)
    assert "1 over" in examined(tmp_path, frames).facts["work of forces / change of energy"]
    frames[60].calc.results["energy"] += 1.0
    assert named(examined(tmp_path, frames), "energy and forces").frames == (60, 61)


def test_the_command_prints_and_writes_and_says_by_its_status(tmp_path):
    wrong = relabeled(frames_of(OWN["ethanol"])[:100], forces=times(-1))
    write(tmp_path / "set.h5", wrong, card={})
    words = ["data", "check", str(tmp_path / "set.h5"), "--json", str(tmp_path / "a.json"), "--html"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "a.html")])
    assert done.exit_code == 4
    assert "gradients" in done.output
    assert "--correct forces=-eV/angstrom" in done.output
    assert '"exit_status": 4' in (tmp_path / "a.json").read_text()
    page = (tmp_path / "a.html").read_text()
    assert "gradients" in page
    assert "data:image/svg+xml" in page
    assert "http://" not in re.sub(r'xmlns[^"]*"[^"]*"', "", page)


def test_training_refuses_what_would_waste_it_unless_told(tmp_path):
    gradients = relabeled(frames_of(OWN["ethanol"])[:100], forces=times(-1))
    write(tmp_path / "set.h5", gradients, card={})
    section = DataSection(train=str(tmp_path / "set.h5"))
    with pytest.raises(DoubtfulDataError, match=r"(?s)gradients.*--correct forces=-eV/angstrom.*data\.check=warn"):
        make_parts(section, LossSection())
    with pytest.warns(DoubtfulDataWarning, match="gradients"):
        make_parts(section.model_copy(update={"check": "warn"}), LossSection())
    assert len(make_parts(section.model_copy(update={"check": "off"}), LossSection()).train) == 90
