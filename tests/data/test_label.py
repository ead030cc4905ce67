"""Are labels what the quantum chemistry says, whatever happens on the way to them?"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from places import PROJECT

from mlpot.data import h5md
from mlpot.data.errors import KeysError, LabelError
from mlpot.data.label import LabelReport, ResumeError, label
from mlpot.data.quantum import (
    CODES,
    Code,
    MissingCodeError,
    QuantumError,
    SettingsError,
    _state,
    charge_of,
    choose,
    version,
)
from mlpot.data.sources.read import Source

DATA = PROJECT / "data"


def needs(code: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(code) is None, reason=f"{code} is not installed")


def structures() -> list[Atoms]:
    """Four that GFN2-xTB can do, and at index 2 one that it cannot: two atoms in one place."""
    water = molecule("H2O", info={"group": "molecule"})
    return [water, molecule("CH4"), Atoms("H2", positions=np.zeros((2, 3))), Atoms("C"), bulk("Si", cubic=True)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "structures.extxyz", structures())
    return tmp_path / "structures.extxyz"


def frames_of(path: Path) -> list[Atoms]:
    with h5md.Reader(path) as reader:
        return list(reader.frames())


def slope(code: Code, atoms: Atoms, atom: int, axis: int, step: float) -> float:
    """Central difference of the energy, of fourth order in the step."""
    energies = []
    for k in (-2, -1, 1, 2):
        moved = atoms.copy()
        moved.positions[atom, axis] += k * step
        energies.append(code.compute(moved).energy)
    return float(np.dot(energies, [1, -8, 8, -1]) / (12 * step))


# --- the codes ---


@pytest.mark.parametrize(
    ("calculator", "settings", "tolerance"),
    [
        pytest.param(
            "pyscf", {"basis": "sto-3g", "grid_level": 0, "tolerance": 1e-11}, 1e-5, marks=needs("pyscf")
        ),
        pytest.param("tblite", {"accuracy": 0.001}, 1e-4, marks=needs("tblite")),
    ],
)
def test_force_is_minus_the_slope_of_the_energy(
    calculator: str, settings: dict[str, object], tolerance: float
) -> None:
    code = choose(calculator, settings)
    water = molecule("H2O")
    water.positions[1] += (0.05, -0.02, 0.03)
    forces = code.compute(water).forces
    assert forces[1, 2] == pytest.approx(-slope(code, water, 1, 2, 0.005), abs=tolerance)
    assert np.abs(forces.sum(axis=0)).max() < 1e-6  # PySCF too, on its coarsest grid


@needs("pyscf")
def test_an_isolated_atom_is_in_its_spin_ground_state() -> None:
    """Doublet H and triplet O whatever the molecules are; energies by PySCF 2.14, November 2026."""
    code = choose("pyscf", {"functional": "HF", "basis": "sto-3g", "density_fitting": False, "multiplicity": 1})
    assert code.compute(Atoms("H")).energy == pytest.approx(-0.46658185 * 27.211386, abs=1e-4)
    assert code.compute(Atoms("O")).energy == pytest.approx(-73.804150 * 27.211386, abs=1e-3)


@pytest.mark.slow
@needs("gpaw")
def test_gpaw_stress_is_the_slope_of_the_energy_with_strain() -> None:
    code = choose("gpaw", {"cutoff": 400, "kpoint_density": 1.0, "tolerance": 1e-7})

    def stretched(e: float) -> Atoms:
        crystal = bulk("Si", a=5.3)
        crystal.set_cell(crystal.cell.array * (1 + e), scale_atoms=True)
        return crystal

    slope = (code.compute(stretched(0.005)).energy - code.compute(stretched(-0.005)).energy) / 0.01
    stress = code.compute(stretched(0.0)).stress
    assert stress is not None
    assert stress[:3].sum() * stretched(0.0).get_volume() == pytest.approx(slope, rel=0.02)


def test_unknown_names_and_values_are_told_apart() -> None:
    with pytest.raises(SettingsError, match=r"no calculator 'psi5'.*pyscf"):
        choose("psi5", {})
    with pytest.raises(SettingsError, match="no setting 'bases'; did you mean 'basis'"):
        choose("pyscf", {"bases": "sto-3g"})
    with pytest.raises(SettingsError, match=r"grid_level.*'fine'"):
        choose("pyscf", {"grid_level": "fine"})


def test_a_code_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CODES["pyscf"], "package", "no-such-package")
    with pytest.raises(MissingCodeError, match=r"mlpot\[label\]"):
        version(choose("pyscf", {}))


# --- charges ---


@pytest.mark.parametrize(
    ("info", "charge", "multiplicity", "expected"),
    [
        ({}, None, None, (0, 1)),
        ({}, 1, None, (1, 0)),
        ({"charge": -1.0}, None, None, (-1, 0)),
        ({"charge": -1.0, "spin": 1}, -1, None, (-1, 0)),
        ({"spin": 2}, None, None, (0, 1)),
        ({"spin": 3}, None, 4, (0, 3)),
        ({"charge": -1.0}, 0, None, "its charge is -1 by its file and 0 by the settings"),
        ({"charge": 0.5}, None, None, "only whole charges"),
        ({"spin": 4}, None, None, "its spin is 4 by its file"),
    ],
)
def test_the_charge_of_a_structure_goes_before_that_of_the_settings(info, charge, multiplicity, expected) -> None:  # type: ignore[no-untyped-def]  # of mixed types
    radical = molecule("OH", info=info)
    if isinstance(expected, tuple):
        assert _state(radical, charge, multiplicity) == expected
        return
    with pytest.raises(QuantumError, match=expected):
        _state(radical, charge, multiplicity)


@pytest.mark.parametrize("name", ["net_charge", "REF_charge", "unpaired_electrons"])
def test_a_charge_under_another_name_is_a_question(name: str, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "ions.xyz", molecule("OH", info={name: 1}))
    with pytest.raises(KeysError, match=f"frame 0: is '{name}' its total"):
        label(tmp_path / "ions.xyz", tmp_path / "out.h5", calculator="tblite")


def test_an_isolated_ion_is_not_computed_as_an_atom() -> None:
    assert charge_of(Atoms("O", info={"charge": 0.0}), 1) == 0
    with pytest.raises(QuantumError, match="isolated atoms are computed neutral"):
        charge_of(Atoms("O", info={"charge": -1.0}), None)


@needs("tblite")
def test_a_labeled_ion_keeps_its_charge_and_has_its_energy(tmp_path: Path) -> None:
    ion = molecule("OH", info={"charge": -1})
    ase.io.write(tmp_path / "ions.xyz", [ion, molecule("H2O")])
    label(tmp_path / "ions.xyz", tmp_path / "out.h5", calculator="tblite")
    found = frames_of(tmp_path / "out.h5")
    assert found[0].info["charge"] == -1.0
    assert "charge" not in found[1].info
    neutral = choose("tblite", {"charge": 0}).compute(molecule("OH")).energy
    assert found[0].get_potential_energy() == choose("tblite", {"charge": -1}).compute(molecule("OH")).energy
    assert abs(found[0].get_potential_energy() - neutral) > 0.5
    label(
        tmp_path / "ions.xyz",
        tmp_path / "as_set.h5",
        calculator="tblite",
        settings={"charge": -1, "multiplicity": 1},
    )
    assert frames_of(tmp_path / "as_set.h5")[1].info["charge"] == -1.0  # of the settings, and told


@needs("tblite")
def test_a_charge_of_the_atoms_is_computed_as_ase_computes_it(tmp_path: Path) -> None:
    """Where no total is said, the initial charges sum to it: the energy is that of tblite's own ASE calculator."""
    from tblite.ase import TBLite

    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], charges=[-1.0, 0.0])
    ion.calc = TBLite(method="GFN2-xTB", verbosity=0)
    expected = ion.get_potential_energy()
    water = molecule("H2O", charges=[-0.834, 0.417, 0.417])
    ase.io.write(tmp_path / "ions.traj", [ion, water])
    label(tmp_path / "ions.traj", tmp_path / "out.h5", calculator="tblite")
    found = frames_of(tmp_path / "out.h5")
    assert [frame.info.get("charge") for frame in found] == [-1.0, None]
    assert found[0].get_potential_energy() == pytest.approx(expected, abs=1e-6)
    found[0].info.clear()
    h5md.write(
        tmp_path / "again.h5", found[:1], card={}
    )  # the charges of the atoms alone, in the package's own format
    label(tmp_path / "again.h5", tmp_path / "twice.h5", calculator="tblite")
    assert frames_of(tmp_path / "twice.h5")[0].get_potential_energy() == pytest.approx(expected, abs=1e-6)


def test_charges_and_moments_that_cannot_be_computed_as_told_are_refused(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "part.traj", molecule("H2O", charges=[-0.834, 0.417, 0.0]))
    with pytest.raises(LabelError, match="417, or the initial charges of its atoms sum to that, and only"):
        label(tmp_path / "part.traj", tmp_path / "out.h5", calculator="pyscf")
    oxygen = molecule("O2")  # with ASE's moments of the triplet, 1 each
    assert oxygen.get_initial_magnetic_moments().sum() == 2.0
    with pytest.raises(QuantumError, match="sum to 2, and 0 unpaired electrons would be"):
        _state(oxygen, None, None)
    assert _state(oxygen, None, 3) == (0, 2)
    assert _state(molecule("OH"), None, None) == (0, 1)


def test_a_converted_ion_keeps_the_charge_of_its_atoms(tmp_path: Path) -> None:
    for name, charges in (("ion", [-1.0, 0.0]), ("dipole", [-0.4, 0.4]), ("part", [-0.4, 0.0])):
        atoms = molecule("OH", charges=charges)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
        ase.io.write(tmp_path / f"{name}.traj", atoms)
    charge = {
        n: next(Source(tmp_path / f"{n}.traj").frames()).info.get("charge") for n in ("ion", "dipole", "part")
    }
    assert charge == {"ion": -1.0, "dipole": None, "part": None}


# --- the run ---


@needs("tblite")
def test_parallel_equals_serial_and_failures_are_kept(source: Path, tmp_path: Path) -> None:
    reports = {}
    for workers in (1, 2):
        reports[workers] = label(source, tmp_path / f"{workers}.h5", calculator="tblite", workers=workers)
    assert reports[1] == reports[2]
    assert reports[1].labeled == 4
    assert list(reports[1].failures) == [2]
    serial, parallel = frames_of(tmp_path / "1.h5"), frames_of(tmp_path / "2.h5")
    for one, two, asked in zip(serial, parallel, [s for k, s in enumerate(structures()) if k != 2], strict=True):
        assert one.get_chemical_formula() == asked.get_chemical_formula()
        assert one.get_potential_energy() == two.get_potential_energy()
        assert np.array_equal(one.get_forces(), two.get_forces())
    assert serial[0].info["group"] == "molecule"
    assert np.array_equal(serial[3].get_stress(), parallel[3].get_stress())
    assert not list(tmp_path.glob("*.partial"))
    with h5md.Reader(tmp_path / "1.h5") as reader:
        assert reader.card["code"].startswith("tblite ")
        assert "GFN2-xTB" in reader.card["level of theory"]
        assert list(json.loads(reader.card["failed structures"])) == ["2"]
    with pytest.raises(FileExistsError, match="overwrite"):
        label(source, tmp_path / "1.h5", calculator="tblite")


def interrupted(source: Path, destination: Path) -> Path:
    """The working file of a run that was stopped after two structures, while it wrote the third."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(source, destination, calculator="tblite", progress=stop)
    partial = destination.with_name(destination.name + ".partial")
    lines = partial.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    first = json.loads(lines[1]) | {"energy": -1.5}  # a mark, to see that it is not computed again
    torn = '{"frame": 2, "ener'
    partial.write_text("\n".join([lines[0], json.dumps(first), lines[2], torn]), encoding="utf-8")
    return partial


@needs("tblite")
def test_an_interrupted_run_labels_only_what_is_missing(source: Path, tmp_path: Path) -> None:
    destination = tmp_path / "labeled.h5"
    partial = interrupted(source, destination)
    assert not destination.exists()
    with pytest.raises(ResumeError, match="other settings"):
        label(source, destination, calculator="tblite", settings={"method": "GFN1-xTB"})
    seen: list[int] = []
    report = label(source, destination, calculator="tblite", progress=lambda done, total: seen.append(done))
    assert (report.resumed, report.labeled, seen) == (2, 4, [3, 4, 5])
    assert frames_of(destination)[0].get_potential_energy() == -1.5
    assert not partial.exists()


@needs("tblite")
def test_nothing_labeled_is_an_error(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "bad.extxyz", structures()[2])
    with pytest.raises(LabelError, match="Not one of 1"):
        label(tmp_path / "bad.extxyz", tmp_path / "bad.h5", calculator="tblite")
    assert not (tmp_path / "bad.h5").exists()


# --- the sets that come with mlpot ---


@pytest.mark.parametrize("name", ["ethanol", "silicon"])
def test_shipped_set_carries_its_card(name: str) -> None:
    with h5md.Reader(DATA / f"{name}.h5") as reader:
        card, n_frames = reader.card, len(reader)
    assert {"level of theory", "code", "settings", "units", "licence", "remake", "date"} <= set(card)
    assert "PBE" in card["level of theory"]
    assert card["licence"] == "CC0-1.0"
    text = (DATA / f"{name}.md").read_text(encoding="utf-8")
    for value in (str(n_frames), card["code"], card["licence"], card["remake"]):
        assert value in text


def test_shipped_ethanol() -> None:
    frames = frames_of(DATA / "ethanol.h5")
    molecules, atoms = [f for f in frames if len(f) == 9], [f for f in frames if len(f) == 1]
    assert len(molecules) >= 500
    assert {a.symbols[0] for a in atoms} == {"H", "C", "O"}
    assert {f.info["group"] for f in frames} == {"300K", "450K", "600K", "isolated"}
    references = {a.symbols[0]: a.get_potential_energy() for a in atoms}
    binding = [f.get_potential_energy() - sum(references[s] for s in f.symbols) for f in molecules]
    assert -36.0 < min(binding) < max(binding) < -32.0  # eV; atomisation at PBE is near 34
    assert max(np.abs(f.get_forces().sum(axis=0)).max() for f in molecules) < 1e-6


def test_shipped_silicon() -> None:
    frames = frames_of(DATA / "silicon.h5")
    crystals, atoms = [f for f in frames if f.pbc.all()], [f for f in frames if not f.pbc.any()]
    assert len(frames) >= 120
    assert [len(a) for a in atoms] == [1]
    assert all(8 <= len(f) <= 16 and set(f.symbols) == {"Si"} for f in crystals)
    assert max(np.abs(f.get_forces().sum(axis=0)).max() for f in crystals) < 5e-3
    cohesion = [f.get_potential_energy() / len(f) - atoms[0].get_potential_energy() for f in crystals]
    assert -4.8 < min(cohesion) < -4.3  # eV/atom
    perfect = [f for f in crystals if f.info["group"] == "strain" and np.ptp(f.cell.lengths()) < 1e-6]
    by_volume = sorted((f for f in perfect if np.allclose(f.cell.angles(), 90)), key=Atoms.get_volume)
    pressure = [-f.get_stress()[:3].mean() for f in by_volume]
    assert pressure == sorted(pressure, reverse=True)
    assert pressure[0] > 0.05  # compressed: it pushes out, the trace of its stress is negative
    assert pressure[-1] < -0.02
    volumes, energies = ([get(f) for f in by_volume] for get in (Atoms.get_volume, Atoms.get_potential_energy))
    slope = np.gradient(energies, volumes)[1:-1]
    assert np.abs(slope + pressure[1:-1]).max() < 5e-3  # −dE/dV in eV/Å³; GPAW's stress knows of its Pulay part


def test_shipped_sets_are_small() -> None:
    assert sum((DATA / f"{name}.h5").stat().st_size for name in ("ethanol", "silicon")) <= 4e6


def test_report_counts_what_is_labeled() -> None:
    assert LabelReport(frames=5, resumed=1, failures={2: "no"}, net_force=0.0).labeled == 4
