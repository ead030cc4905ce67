"""The benchmark compares equal things: its plain EGNN is mlpot's EGNN, and its figures are of what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mlpot.forces import predict
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Imports a file of bench/, which is no package."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return __import__(name)

    return load


@pytest.mark.parametrize("move_coordinates", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_plain_egnn_is_the_same_function(bench, move_coordinates: bool, attention: bool) -> None:
    torch.manual_seed(0)
    arguments = {"n_features": 16, "n_layers": 3, "move_coordinates": move_coordinates, "attention": attention}
    ours = Potential("egnn", arguments, reference_energies={1: 0.0, 6: 0.0, 8: 0.0}).double()
    plain = Potential("egnn", arguments, reference_energies={1: 0.0, 6: 0.0, 8: 0.0}).double()
    plain.load_state_dict(ours.state_dict())
    plain.backbone = bench("plain_egnn").PlainEGNN(plain.backbone).double()
    atoms = bench("systems").three_ethanols()
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    a, b = predict(ours.freeze(), graph), predict(plain.freeze(), graph)
    torch.testing.assert_close(a.energy, b.energy, rtol=1e-12, atol=0)
    torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-11)


def test_the_floor_is_that_of_the_design(bench) -> None:
    assert bench("floor").flops_per_atom(40) == pytest.approx(0.91e6, rel=0.01)


@pytest.mark.parametrize("n_atoms", [9, 27, 216, 1000])
def test_systems_have_the_atoms_they_are_called_by(bench, n_atoms: int) -> None:
    assert len(bench("systems").system(n_atoms)) == n_atoms


def test_an_absent_package_is_named_with_the_reason(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contenders, sections = bench("contenders"), bench("sections")
    (tmp_path / "schnetpack").mkdir()
    (tmp_path / "schnetpack/install.log").write_text("Collecting schnetpack\nERROR: no wheel for this machine\n")
    monkeypatch.setattr(contenders, "ENVIRONMENTS", tmp_path)
    run = sections.Bench(
        folder=tmp_path, environments=["schnetpack"], threads=1, quick=True, longest=1.0, model=None, load=0.0
    )
    assert run.workers(contenders.CONTENDERS) == []
    assert run.notes == ["SchNetPack SchNet: not installed: ERROR: no wheel for this machine"]


@pytest.mark.slow
def test_mlpot_alone_is_measured_and_reported(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "run.py"), "md", "--quick", "--threads", "1", "--packages"]
    subprocess.run([*command, "--output", str(tmp_path)], check=True, capture_output=True)
    speeds = json.loads((tmp_path / "bench.json").read_text())["md"]["figures"]
    assert all(figure["steps_per_s"] > 0 for figure in speeds.values())
    assert "mlpot, plain" in (tmp_path / "bench.md").read_text()
    assert (tmp_path / "bench.png").stat().st_size > 0


def test_a_race_shares_structures_out_once_and_ranks_by_the_same_errors(bench, tmp_path: Path) -> None:
    from ase.calculators.emt import EMT
    from ase.io import read, write

    accuracy, frames = bench("accuracy"), []
    for seed in range(5):
        frames.append(bench("systems").ethanol(seed))
        frames[-1].calc = EMT()
        frames[-1].get_forces()
    for name in ("train", "test"):
        write(tmp_path / f"{name}.xyz", frames)
    given = SimpleNamespace(
        train=tmp_path / "train.xyz", test=tmp_path / "test.xyz", output=tmp_path / "race", validation=2, seed=0,
        references=["H=-13.5", "C=-1025.0", "O=-2035.5"], minutes=1, threads=1,
    )  # fmt: skip
    accuracy.split(given)
    sets = {name: read(tmp_path / f"race/{name}.xyz", ":") for name in ("train", "validation", "test")}
    assert {name: len(own) for name, own in sets.items()} == {"train": 3, "validation": 2, "test": 5}
    shared_out = sorted(atoms.info["REF_energy"] for name in ("train", "validation") for atoms in sets[name])
    assert shared_out == pytest.approx(sorted(atoms.get_potential_energy() for atoms in frames), abs=1e-8)
    entry = accuracy.Entry("mlpot:ace", given)
    (given.output / entry.name).mkdir()
    entry.call = lambda *_: np.savez(  # instead of a training: what it would predict, 1 meV and 2 meV/Å too much
        given.output / entry.name / "predictions.npz",
        energies=[atoms.info["REF_energy"] + 1e-3 for atoms in sets["test"]],
        forces=np.concatenate([atoms.arrays["REF_forces"] for atoms in sets["test"]]) + 2e-3,
    )
    errors = entry.judge()
    assert errors["energy_meV_mae"] == pytest.approx(1, abs=1e-5)
    assert errors["forces_meV_per_A_rmse"] == pytest.approx(2, abs=1e-5)
    worse = {name: 2 * error for name, error in errors.items()}
    facts = {"epochs": 3, "minutes": 1.0, "processor_minutes": 1.0, "busy": False, "curve": []}
    text = accuracy.markdown({"b": worse | facts, "a": errors | facts, "c": {"failed": "status 1"}}, given)
    assert text.index("| a |") < text.index("| b |")
    assert "- c: status 1" in text
