"""The benchmark compares equal things: its plain EGNN is mlpot's EGNN, and its figures are of what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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
