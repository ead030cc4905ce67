"""Roll-outs, and their judgment beside integration by the potential that made the trajectory."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from molecule_runs import write_trajectory
from potentials import new_potential
from structures import ethanol

from mlpot.cli import main as cli
from mlpot.data.h5md import Reader
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.dynamics.batch import Batch
from mlpot.dynamics.lockstep import at_constant_energy
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.propagators.judge import as_json, judge, momentum_error
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.propagator_file import save_propagator
from mlpot.propagators.rollout import RollOutError, roll_out, steps
from mlpot.propagators.trajectories import TrajectoryError, read_trajectory

ELEMENTS = (1, 6, 8)


def propagator(size: float = 0.02, **kind: object) -> Propagator:
    torch.manual_seed(0)
    arguments = {"n_features": 8, "n_layers": 2, "pairs": "antisymmetric", "speed": 0.05, **kind}
    made = Propagator(arguments, elements=ELEMENTS, interval=1.0)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=size)
    return made.double().requires_grad_(False)


@pytest.fixture(scope="module")
def potential() -> Potential:
    """One for which there is compiled code."""
    return new_potential("schnet", n_features=8, n_radial=8, n_interactions=1, n_knots=32).double().freeze()


def moving(seed: int = 0) -> Atoms:
    atoms = ethanol()
    atoms.info = {}
    atoms.set_velocities(np.random.default_rng(seed).normal(size=(9, 3)) * 0.01 / units.fs)
    return atoms


@pytest.fixture(scope="module")
def trajectory(potential: Potential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(potential, tmp_path_factory.mktemp("run") / "a.h5", moving())


def run_of(potential: Potential, path: Path, atoms: Atoms) -> Path:
    """Velocity Verlet by the potential, 0.5 fs, a frame every fs."""
    batch = Batch([atoms], potential)
    with TrajectoryWriter(path, card={}) as writer:
        for k in range(31):
            writer.add(batch.replicas[0], step=2 * k, time=float(k))
            at_constant_energy(batch, 0.5, 2)
    return path


def test_a_roll_out_is_written_as_a_trajectory_that_keeps_its_momentum(
    potential: Potential, tmp_path: Path
) -> None:
    atoms, path = moving(), tmp_path / "out.h5"
    energies = roll_out(propagator(), atoms, path, 20, potential=potential)
    with Reader(path) as reader:
        frames = list(reader.frames())
    assert [frame.info["time"] for frame in frames] == list(range(21))
    np.testing.assert_allclose(frames[0].positions, atoms.positions, rtol=1e-15)
    np.testing.assert_allclose(frames[0].get_velocities(), atoms.get_velocities(), rtol=1e-12)
    np.testing.assert_allclose([f.get_total_energy() for f in frames], energies, rtol=1e-12)
    momenta = np.array([frame.get_momenta().sum(0) for frame in frames])
    assert np.abs(momenta - momenta[0]).max() < 1e-12 * np.abs(atoms.get_momenta()).sum()
    x = atoms.positions[None], atoms.get_velocities()[None] * units.fs
    made = steps(propagator(), atoms.numbers[None], atoms.get_masses()[None], *x)
    for frame, (y, _) in zip(frames[1:], made, strict=False):
        np.testing.assert_allclose(frame.positions, y[0], rtol=1e-12)
    assert np.abs(frames[-1].positions - atoms.positions - 20 * x[1][0]).max() > 1e-3, "it does more than fly"


def test_the_potential_that_made_a_trajectory_follows_it(trajectory: Path, potential: Potential) -> None:
    """Velocity Verlet at 0.5 fs gives the frames back; the propagator, whose weights are random, does not."""
    found = judge(propagator(), read_trajectory(trajectory), potential, n_starts=4, n_calls=10)
    assert {row["calls"] for row in found["rows"]} == {1, 2, 5, 10}
    assert found["momentum"] < 1e-12
    assert found["forces_apart"] < 1e-6
    assert found["steps_in_a_call"] == pytest.approx(
        found["microseconds_per_call"] / found["microseconds_per_step"], rel=1e-9
    )
    usual = [row for row in found["rows"] if row["method"] == "potential, 2 steps of 0.5 fs"]
    assert len(usual) == 4
    for row in usual:
        assert row["time_fs"] == row["calls"]
        assert max(row["positions"], row["velocities"]) < 1e-9
        assert row["energy"] < 10
    wrong = next(r for r in found["rows"] if r["method"] == "propagator" and r["calls"] == 10)
    assert wrong["positions"] > 1e-4


def test_a_molecule_that_starts_at_rest_keeps_its_momentum_of_zero(trajectory: Path) -> None:
    run = read_trajectory(trajectory)
    at_rest = replace(run, velocities=np.zeros_like(run.velocities))
    assert momentum_error(propagator(), at_rest, np.array([0, 3]), 4) < 1e-12


def test_a_trajectory_of_another_potential_is_told_by_its_forces(trajectory: Path, potential: Potential) -> None:
    """Else integration by the potential seems to err by what the potentials differ."""
    other = copy.deepcopy(potential)
    other.energy_scale *= 1.5
    found = judge(propagator(), read_trajectory(trajectory), other.freeze(), n_starts=1, n_calls=1)
    forces = read_trajectory(trajectory).forces
    assert forces is not None
    backbone_alone = np.sqrt(np.square(forces[0]).mean())  # there is an energy shift too, whose forces stay
    assert found["forces_apart"] > 0.1 * backbone_alone


def test_what_has_flown_apart_has_no_figures(trajectory: Path, potential: Potential) -> None:
    found = judge(propagator(size=3.0), read_trajectory(trajectory), potential, n_starts=2, n_calls=20)
    last = next(r for r in found["rows"] if r["method"] == "propagator" and r["calls"] == 20)
    assert np.isnan(last["energy"])
    assert "NaN" not in as_json(found).decode()
    assert next(r for r in json.loads(as_json(found))["rows"] if r["calls"] == 20)["energy"] is None


def test_what_cannot_be_rolled_out_is_refused(trajectory: Path, potential: Potential, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    with pytest.raises(TrajectoryError, match="has no velocities"):
        roll_out(propagator(), ethanol(), path, 2)
    crystal = moving()
    crystal.set_cell([9, 9, 9])
    crystal.pbc = True
    with pytest.raises(TrajectoryError, match="periodic"):
        roll_out(propagator(), crystal, path, 2)
    with pytest.raises(ValueError, match="foretells positions alone"):
        roll_out(propagator(velocities="given", pairs="free"), moving(), path, 2)
    unknown = moving()
    unknown.numbers[0] = 9
    with pytest.raises(ValueError, match="has not learned F"):
        roll_out(propagator(), unknown, path, 2)
    water = Atoms("OH", [[0, 0, 0], [0, 0, 1]], momenta=np.zeros((2, 3)))
    hydrogen = Potential("deepsets", {"cutoff": 4.0, "n_features": 4}, reference_energies={1: -13.6}).freeze()
    with pytest.raises(ValueError, match="unknown to this potential"):
        roll_out(propagator(), water, path, 2, potential=hydrogen)
    assert not path.exists()  # what is refused leaves nothing behind
    with pytest.raises(RollOutError, match="has flown apart"):
        roll_out(propagator(size=3.0), moving(), path, 100, overwrite=True)
    with pytest.raises(TrajectoryError, match="Ask for at most 30"):
        judge(propagator(), read_trajectory(trajectory), potential, n_calls=31)


@pytest.mark.filterwarnings("ignore:The propagator has not learned this")  # such runs of random weights fall apart
def test_the_command_trains_rolls_out_and_judges(
    trajectory: Path,
    potential: Potential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mlpot(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["mlpot", "propagate", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code

    monkeypatch.chdir(tmp_path)
    save_potential(potential, "potential.safetensors")
    assert mlpot("recipe") in (0, None)
    Path("recipe.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    keys = ("data.experiment=null", f"data.trajectory={trajectory}", "data.interval_fs=2", "data.validation=0.2")
    assert mlpot("train", "recipe.yaml", *keys, "training.epochs=2", "training.batch_size=10") in (0, None)
    rows = [
        line.split("│")[1:-1]
        for line in capsys.readouterr().out.replace("┃", "│").splitlines()
        if "│" in line or "┃" in line
    ]
    metrics = json.loads(Path("runs/propagator/metrics.json").read_text())
    assert [head.strip() for head in rows[0]] == ["set", "positions", "velocities", "free flight, positions"]
    for name, *figures in rows[1:]:
        of = metrics[name.strip()]
        wanted = [of["positions_mse"], of["velocities_mse"], of["free_flight_mse"]]
        assert [float(x) for x in figures] == pytest.approx(wanted, rel=1e-4), name
    model = "runs/propagator/model.safetensors"
    assert mlpot("run", model, str(trajectory), "-o", "out.h5", "--calls", "3") in (0, None)
    assert "4 frames, 2 fs apart" in capsys.readouterr().out
    with_potential = ("potential.safetensors", "--calls", "5", "--starts", "3")
    assert "was learned by the propagator" in str(mlpot("judge", model, str(trajectory), *with_potential))
    judged = ("judge", model, str(run_of(potential, tmp_path / "b.h5", moving(1))), *with_potential)
    assert mlpot(*judged, "-o", "judged.json") in (0, None)
    assert "a call costs" in capsys.readouterr().out
    assert json.loads(Path("judged.json").read_text())["starts"] == 3
    still = write_trajectory(tmp_path / "still.h5", velocities=False)
    told = mlpot("run", model, str(still), "-o", "other.h5")
    assert isinstance(told, str)
    assert "has no velocities" in told
    save_propagator(propagator(), "p.safetensors")
    assert "exists" in str(mlpot("run", "p.safetensors", str(trajectory), "-o", "out.h5"))
