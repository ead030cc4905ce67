"""Does molecular dynamics conserve what it should, keep its temperature, tell what happened, refuse nonsense?"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLength
from potentials import new_potential
from structures import copper, ethanol, evaluate, isolated_atom, slab

from mlpot.calculator import MLPotCalculator
from mlpot.data.h5md import Reader
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.log import drift, mean_and_error
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import run_md
from mlpot.dynamics.start import StartError, degrees_of_freedom, draw_velocities, starting_atoms
from mlpot.model_file import save_potential
from mlpot.potential import UnknownElementError
from mlpot.recipes import RecipeError, load_recipe, parse_recipe, template
from mlpot.signals import BlowUpError

ENSEMBLES = ("nve", "langevin", "bussi", "nose-hoover", "npt-isotropic", "npt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and structures for the runs."""
    folder = tmp_path_factory.mktemp("md")
    save_potential(
        new_potential("schnet", n_features=8, n_interactions=1, repulsion=True), folder / "model.safetensors"
    )
    for make in (copper, ethanol, isolated_atom):
        atoms = make()
        atoms.info = {}
        atoms.write(folder / f"{make.__name__}.xyz")
    return folder


def recipe(folder: Path, **settings: Any) -> MDRecipe:
    defaults = {
        "model": folder / "model.safetensors",
        "structure": folder / "copper.xyz",
        "output": folder / "run",
        "overwrite": True,
        "steps": 10,
        "log_every": 1,
        "write_every": 5,
    }
    return MDRecipe(**defaults | settings)


class Springs(Calculator):
    """Every pair of atoms on a spring of its own length: cheap, exact, free to move and turn."""

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012

    def __init__(self, atoms: Atoms, stiffness: float = 3.0):
        super().__init__()
        self.stiffness, self.lengths = stiffness, atoms.get_all_distances()

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.positions[None] - self.atoms.positions[:, None]
        d = np.linalg.norm(vectors, axis=-1)
        stretch = d - self.lengths
        energy = self.stiffness / 4 * np.square(stretch).sum()
        forces = self.stiffness * (stretch / np.where(d > 0, d, 1.0))[:, :, None] * vectors
        self.results = {"energy": energy, "free_energy": energy, "forces": forces.sum(axis=1)}


# --- recipes ---


def test_the_template_of_a_recipe_is_a_recipe() -> None:
    assert parse_recipe(MDRecipe, template(MDRecipe)) == MDRecipe(model="model.safetensors", structure="start.xyz")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("timestep: 1", "It is written as timestep_fs"),
        ("ensemble: nvt", "'ensemble' = 'nvt'"),
        ("timestep_fs: -1", "above 0"),
        ("temperature_K: .nan", "finite"),
        ("pressure_GPa: 1.0", "no barostat"),
        ("repeat: [1, 1, 0]", "repeat"),
        ("steps: 5\nsteps: 6", "Key 'steps' stands in lines 3 and 4"),
        ("output: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("output: &a x\nstructure: *a", "alias"),
    ],
)
def test_a_wrong_recipe_is_refused(lines: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        parse_recipe(MDRecipe, f"model: m\nstructure: s\n{lines}\n")


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: m\nstructure: s\nsteps: 5\n")
    checked = load_recipe(MDRecipe, tmp_path / "run.yaml", ["steps=7", "timestep_fs=1e-1"])
    assert (checked.n_steps, checked.timestep_fs) == (7, 0.1)
    with pytest.raises(RecipeError, match="has no value"):
        load_recipe(MDRecipe, tmp_path / "run.yaml", ["steps"])
    with pytest.raises(FileNotFoundError):
        load_recipe(MDRecipe, tmp_path / "other.yaml")


# --- conservation ---


def test_the_energy_error_of_nve_falls_fourfold_when_the_step_is_halved(folder: Path) -> None:
    errors = []
    for halvings in range(3):
        run_md(
            recipe(
                folder, ensemble="nve", timestep_fs=2.0 / 2**halvings, steps=40 * 2**halvings,
                log_every=2**halvings, temperature_K=600,
            )
        )  # fmt: skip
        energy = columns(folder / "run")["conserved_eV"]
        errors.append(np.sqrt(np.mean(np.square(energy - energy[0]))))
    assert 3.8 <= errors[0] / errors[1] <= 4.2
    assert 3.8 <= errors[1] / errors[2] <= 4.2


@pytest.mark.parametrize("ensemble", ["bussi", "nose-hoover", "npt-isotropic", "npt"])
def test_thermostats_and_barostats_conserve_their_own_energy(ensemble: str, folder: Path) -> None:
    ranges = []
    for halvings in range(2):
        run_md(
            recipe(
                folder, ensemble=ensemble, timestep_fs=1.0 / 2**halvings, steps=40 * 2**halvings,
                log_every=2**halvings, thermostat_fs=20, barostat_fs=200,
            )
        )  # fmt: skip
        log = columns(folder / "run")
        ranges.append(np.ptp(log["conserved_eV"]))
        assert ranges[-1] < 0.05 * np.ptp(log["total_eV"])
    assert ranges[1] < ranges[0] / 3


def test_momentum_of_the_whole_stays_zero(folder: Path) -> None:
    atoms = starting_atoms(
        recipe(folder, structure=folder / "ethanol.xyz", max_start_force=1e3),
        MLPotCalculator(folder / "model.safetensors"),
        np.random.default_rng(0),
    )
    build_ensemble(atoms, recipe(folder, ensemble="nve"), np.random.default_rng(0)).dynamics.run(100)
    size = np.abs(atoms.get_momenta()).sum()
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12 * size
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-9 * size


# --- temperature ---


@pytest.mark.parametrize("ensemble", ["langevin", "bussi", "nose-hoover"])
def test_a_small_molecule_has_the_temperature_asked_for(ensemble: str, folder: Path) -> None:
    """With ASE's count of 3N degrees, five atoms would be 67 % too hot."""
    rng = np.random.default_rng(1)
    atoms = molecule("CH4")
    atoms.calc = Springs(atoms)
    draw_velocities(atoms, 300, rng)
    settings = recipe(folder, ensemble=ensemble, timestep_fs=1.0, thermostat_fs=20)
    ensemble_of = build_ensemble(atoms, settings, rng)
    assert ensemble_of.n_degrees == (15 if ensemble == "langevin" else 9)
    kinetic = np.array([atoms.get_kinetic_energy() for _ in ensemble_of.dynamics.irun(3000)])
    mean, error = mean_and_error(2 * kinetic / ensemble_of.n_degrees / units.kB)
    assert abs(mean - 300) < max(4 * error, 6)
    assert error < 20


def test_drawn_velocities_follow_maxwell_and_boltzmann() -> None:
    rng = np.random.default_rng(0)
    atoms = molecule("CH4")
    kinetic = []
    for _ in range(2000):
        draw_velocities(atoms, 300, rng)
        kinetic.append(atoms.get_kinetic_energy())
    n = degrees_of_freedom(atoms, keeps_momentum=True)
    kT = units.kB * 300
    assert np.mean(kinetic) == pytest.approx(n / 2 * kT, rel=0.03)
    assert np.var(kinetic) == pytest.approx(n / 2 * kT**2, rel=0.15)


@pytest.mark.parametrize(
    ("atoms", "n_degrees"),
    [
        (molecule("CH4"), 9),
        (molecule("CO2"), 3),  # it bends in a plane that does not turn: angular momentum about the line stays zero
        (molecule("N2"), 1),
        (isolated_atom(), 0),
        (copper(), 21),
        (slab(), 27),
    ],
)
def test_degrees_of_freedom(atoms: Atoms, n_degrees: int) -> None:
    draw_velocities(atoms, 300, np.random.default_rng(0))
    assert degrees_of_freedom(atoms, keeps_momentum=True) == n_degrees
    assert degrees_of_freedom(atoms, keeps_momentum=False) == 3 * len(atoms)
    atoms.set_constraint(FixAtoms([0]))
    draw_velocities(atoms, 300, np.random.default_rng(0))
    assert degrees_of_freedom(atoms, keeps_momentum=True) == n_degrees  # also about that atom


# --- files ---


def columns(run: Path) -> dict[str, np.ndarray]:
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_every_ensemble_writes_what_happened(ensemble: str, folder: Path) -> None:
    summary = run_md(recipe(folder, ensemble=ensemble))
    log = columns(folder / "run")
    assert log["step"].tolist() == list(range(11))
    np.testing.assert_allclose(log["time_ps"], 0.0005 * np.arange(11), rtol=1e-12)
    np.testing.assert_allclose(log["total_eV"], log["potential_eV"] + log["kinetic_eV"], rtol=1e-12)
    assert np.isnan(log["conserved_eV"]).all() == (ensemble == "langevin")
    report = json.loads((folder / "run" / "md.json").read_text())
    assert report["summary"]["steps"] == summary.steps == 10
    assert report["recipe"]["ensemble"] == ensemble
    assert (folder / "run" / "md.png").stat().st_size > 10_000
    with Reader(folder / "run" / "trajectory.h5") as reader:
        frames = list(reader.frames())
    assert [f.info["step"] for f in frames] == [0, 5, 10]
    assert [f.info["time"] for f in frames] == [0, 2.5, 5]
    for frame, k in zip(frames, (0, 5, 10), strict=True):
        out = evaluate(new_potential("schnet", n_features=8, n_interactions=1, repulsion=True), frame)
        assert (
            frame.get_potential_energy() == log["potential_eV"][k] == pytest.approx(out.energy.item(), rel=1e-12)
        )
        np.testing.assert_allclose(frame.get_forces(), out.forces, atol=1e-10)
        assert frame.get_kinetic_energy() == pytest.approx(log["kinetic_eV"][k], rel=1e-9)
        pressure = -frame.get_stress(include_ideal_gas=True)[:3].sum() / 3 / units.GPa
        assert pressure == pytest.approx(log["pressure_GPa"][k], rel=1e-6)
        assert frame.get_volume() == pytest.approx(log["volume_A3"][k])
    assert (np.ptp(log["volume_A3"]) > 0) == ensemble.startswith("npt") == (summary.volume_A3 is not None)


@pytest.mark.parametrize("ensemble", ["langevin", "bussi"])
def test_equal_seeds_give_equal_runs_and_others_do_not(ensemble: str, folder: Path) -> None:
    logs = []
    for seed in (1, 1, 2):
        run_md(recipe(folder, ensemble=ensemble, seed=seed))
        logs.append(columns(folder / "run")["total_eV"])
    np.testing.assert_array_equal(logs[0], logs[1])
    assert (logs[0] != logs[2]).all()


def test_a_run_goes_on_from_the_velocities_of_another(folder: Path) -> None:
    run_md(recipe(folder, ensemble="nve", output=folder / "whole", steps=20))
    run_md(recipe(folder, ensemble="nve", output=folder / "first", steps=10))
    rest = recipe(
        folder, ensemble="nve", structure=folder / "first" / "trajectory.h5", frame=-1, velocities="file", steps=10
    )
    run_md(rest)
    whole, second = (columns(folder / name)["potential_eV"] for name in ("whole", "run"))
    np.testing.assert_allclose(whole[10:], second, rtol=0, atol=1e-10)


def test_a_repeated_cell_and_fixed_atoms(folder: Path) -> None:
    assert run_md(recipe(folder, repeat=(2, 1, 1))).n_atoms == 16
    atoms = slab()[:8]
    atoms.info = {}
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    atoms.write(folder / "fixed.xyz")
    for ensemble in ENSEMBLES[:4]:
        summary = run_md(recipe(folder, structure=folder / "fixed.xyz", ensemble=ensemble, max_start_force=1e3))
        assert summary.n_degrees == 3 * (len(atoms) - 4)
        with Reader(folder / "run" / "trajectory.h5") as reader:
            np.testing.assert_array_equal(reader[0].positions[:4], reader[-1].positions[:4])
            assert (reader[0].positions[4:] != reader[-1].positions[4:]).all()


def test_an_earlier_run_is_not_overwritten_unasked(folder: Path) -> None:
    run_md(recipe(folder))
    before = (folder / "run" / "trajectory.h5").read_bytes()
    with pytest.raises(FileExistsError, match=r"trajectory\.h5 exists"):
        run_md(recipe(folder, overwrite=False))
    assert (folder / "run" / "trajectory.h5").read_bytes() == before


def test_the_trajectory_can_be_read_while_the_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    commit = TrajectoryWriter.commit

    def look(self: TrajectoryWriter) -> None:
        commit(self)
        with h5py.File(folder / "run" / "trajectory.h5", "r") as file:
            seen.append(file["parameters/mlpot/index"].shape[0])

    monkeypatch.setattr(TrajectoryWriter, "commit", look)
    run_md(recipe(folder, write_every=10, steps=30, checkpoint_s=0))
    assert sorted(set(seen)) == [1, 2, 3, 4]


# --- refusals ---


def test_overlapping_atoms_are_refused_before_the_first_step(folder: Path) -> None:
    atoms = ethanol()
    atoms.positions[8] = atoms.positions[7] + [0.2, 0, 0]
    atoms.write(folder / "overlap.xyz")
    with pytest.raises(StartError, match=r"Atoms 7 \(H\) and 8 \(H\) overlap: they are 0.200"):
        run_md(recipe(folder, structure=folder / "overlap.xyz", output=folder / "none"))
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_start_force": 1e-3}, "max_start_force"),
        ({"structure": "ethanol.xyz", "ensemble": "npt", "max_start_force": 1e3}, "periodic in three directions"),
        ({"structure": "isolated_atom.xyz", "ensemble": "nve"}, "no motion left"),
        ({"velocities": "file"}, "no velocities"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str, folder: Path) -> None:
    if "structure" in settings:
        settings = settings | {"structure": folder / settings["structure"]}
    with pytest.raises(StartError, match=message):
        run_md(recipe(folder, **settings))


def test_unknown_elements_and_constraints_are_refused(folder: Path) -> None:
    molecule("NH3").write(folder / "ammonia.xyz")
    with pytest.raises(UnknownElementError, match="N is unknown"):
        run_md(recipe(folder, structure=folder / "ammonia.xyz"))
    atoms = molecule("CH4")
    atoms.set_constraint(FixBondLength(0, 1))
    atoms.write(folder / "rigid.json")
    with pytest.raises(StartError, match="constraints FixBondLengths, which"):
        run_md(recipe(folder, structure=folder / "rigid.json"))


def test_a_blow_up_leaves_the_last_good_frame(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calculate = MLPotCalculator.calculate

    def poisoned(self: MLPotCalculator, atoms: Any = None, *args: Any) -> None:
        calculate(self, atoms, *args)
        poisoned.calls += 1  # type: ignore[attr-defined]
        if poisoned.calls > 8:  # type: ignore[attr-defined]
            self.results["forces"][2, 1] = np.nan

    poisoned.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(MLPotCalculator, "calculate", poisoned)
    with pytest.raises(BlowUpError, match=r"Step 8: .* not finite.*last good frame"):
        run_md(recipe(folder, ensemble="nve", steps=100))
    with Reader(folder / "run" / "trajectory.h5") as reader:
        assert [frame.info["step"] for frame in reader.frames()] == [0, 5, 7]
        assert reader[-1].get_potential_energy() == columns(folder / "run")["potential_eV"][-1]
    assert "not finite" in json.loads((folder / "run" / "md.json").read_text())["summary"]["stopped"]


def test_a_step_that_is_far_too_long_stops_the_run_by_name(folder: Path) -> None:
    with pytest.raises(BlowUpError, match="time step is too long"):
        run_md(recipe(folder, ensemble="nve", timestep_fs=1e6, temperature_K=1e5, steps=500))


def test_a_step_so_long_that_a_molecule_flies_apart_stops_the_run_by_name(folder: Path) -> None:
    """The neighbor list ended the process there, without a word."""
    with pytest.raises(BlowUpError, match="time step"):
        run_md(recipe(folder, structure=folder / "ethanol.xyz", ensemble="langevin", timestep_fs=1e6, steps=5))


def test_a_step_so_short_that_no_run_ends_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than 1e\+12 steps"):
        MDRecipe(model=Path("m"), structure=Path("s"), timestep_fs=1e-320)
    assert MDRecipe(model=Path("m"), structure=Path("s"), timestep_fs=1e-320, steps=3).n_steps == 3


# --- figures ---


def test_drift_finds_a_line_in_noise() -> None:
    rng = np.random.default_rng(0)
    time = np.linspace(0, 20, 4000)  # ps
    energy = 5.0 + 9 * (2e-3 * time / 1e3 + 1e-6 * rng.normal(size=4000))  # eV, nine atoms, 2 meV/atom/ns
    found = drift(time, energy, 9)
    assert found is not None
    assert abs(found.slope - 2) < 3 * found.slope_error
    assert found.slope_error < 0.01
    assert found.fluctuation == pytest.approx(1e-3, rel=0.05)
    assert drift(time[:5], energy[:5], 9) is None
