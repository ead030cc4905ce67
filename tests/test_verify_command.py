"""`mlpot verify`: its exit status, its files, and the seal that goes with the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import torch
from potentials import new_potential
from structures import copper_atom, ethanol

import mlpot
from mlpot.certificate import verify as levels
from mlpot.certificate.page import write_page
from mlpot.certificate.request import certify
from mlpot.certificate.symmetry import rotation
from mlpot.checkpoint import save_potential, seal


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of an untrained potential with repulsion."""
    path = tmp_path / "model.safetensors"
    save_potential(new_potential("schnet", repulsion=True), path)
    return path


@pytest.fixture
def _rotations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(levels.LEVELS, "quick", {"P2": rotation})


def test_a_seal_goes_with_the_weights(model: Path) -> None:
    before = mlpot.load(model).state_dict()
    seal(model, {"passed": True})
    sealed = mlpot.load(model)
    assert sealed.header["certificate"]["result"] == {"passed": True}
    assert sealed.header["certificate"]["of_these_weights"] is True
    assert all(torch.equal(t, before[name]) for name, t in sealed.state_dict().items())


def test_a_seal_on_other_weights_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlpot.checkpoint.hash_of", lambda weights: "of others")
    seal(model, {"passed": True})
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="of other weights"):
        potential = mlpot.load(model)
    assert potential.header["certificate"]["of_these_weights"] is False


@pytest.mark.usefixtures("_rotations_only")
def test_structures_of_the_user_are_judged(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.extxyz"
    ase.io.write(file, [ethanol(), copper_atom(), ethanol()])
    certificate = certify(model, file)
    assert certificate.passed
    assert list(certificate.structures.values()) == ["C2OH6", "Cu", "C2OH6"]
    ase.io.write(file, ase.Atoms("Au"))
    with pytest.raises(ValueError, match=r"\[79\], unknown"):
        certify(model, file)


@pytest.mark.usefixtures("_rotations_only")
def test_a_page_and_json_hold_the_result(model: Path, tmp_path: Path) -> None:
    certificate = certify(model)
    certificate.write(tmp_path / "v.json")
    write_page(certificate, tmp_path / "v.html")
    told = json.loads((tmp_path / "v.json").read_text())
    assert told["passed"] is True
    assert told["checks"][0]["id"] == "P2"
    page = (tmp_path / "v.html").read_text()
    assert "rotation and reflection" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_calculator_that_fails_gives_exit_status_one(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from ase.calculators.morse import MorsePotential\n"
        "class Broken(MorsePotential):\n"
        "    def calculate(self, *a, **k):\n"
        "        raise RuntimeError('broken on purpose')\n"
    )
    ask = ["verify", "--calculator", "broken:Broken", "--elements", "Cu", "--json", "v.json"]
    code = [sys.executable, "-c", "from mlpot.cli import main; main()"]
    done = subprocess.run([*code, *ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "NOT passed: 0 of" in done.stdout
    assert "broken on purpose" in (tmp_path / "v.json").read_text()
