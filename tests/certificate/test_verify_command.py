"""`mlpot verify`: its exit status, its files, and the result that goes with the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from potentials import new_potential
from sets import crystals, labeled, write
from structures import copper_atom, ethanol, slab
from typer.testing import CliRunner

import mlpot
from mlpot.certificate import verify as levels
from mlpot.certificate.bars import WORDS
from mlpot.certificate.check import movable
from mlpot.certificate.examples import of_training, with_companions
from mlpot.certificate.run import certify
from mlpot.certificate.symmetry import rotation
from mlpot.cli.main import app
from mlpot.data.check.survey import survey
from mlpot.html.certificate import write_page
from mlpot.model_file import (
    ModelFileError,
    attach_certificate,
    read_header,
    read_weights,
    save_potential,
    write_tensors,
)
from mlpot.training.outputs import examples
from mlpot.training.splits import structures


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of an untrained potential with repulsion."""
    path = tmp_path / "model.safetensors"
    save_potential(new_potential("schnet", repulsion=True), path)
    return path


@pytest.fixture
def _rotations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(levels.LEVELS, "quick", {"P2": rotation})


def test_an_attached_result_goes_with_the_weights(model: Path) -> None:
    before = mlpot.load(model).state_dict()
    attach_certificate(model, {"passed": True})
    attached = mlpot.load(model)
    assert attached.header["certificate"]["result"] == {"passed": True}
    assert attached.header["certificate"]["of_these_weights"] is True
    assert all(torch.equal(t, before[name]) for name, t in attached.state_dict().items())


def test_a_result_of_other_weights_is_told(model: Path) -> None:
    """As where a program trains a certified file further, and keeps what its header says."""
    attach_certificate(model, {"passed": True})
    weights = read_weights(model)
    write_tensors(model, weights | {"reference": weights["reference"] + 1}, read_header(model))
    with pytest.warns(UserWarning, match="of other weights"):
        potential = mlpot.load(model)
    assert potential.header["certificate"]["of_these_weights"] is False


@pytest.mark.usefixtures("_rotations_only")
def test_structures_of_the_user_are_judged(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.extxyz"
    ase.io.write(file, [ethanol(), copper_atom(), ethanol()])
    certificate = certify(model, file)
    assert certificate.passed
    assert list(certificate.structures.values()) == ["C2H6O", "Cu", "C2H6O"]
    ase.io.write(file, ase.Atoms("Au"))
    with pytest.raises(ValueError, match=r"\[79\], unknown"):
        certify(model, file)


@pytest.mark.usefixtures("_rotations_only")
def test_a_page_and_json_hold_the_result(model: Path, tmp_path: Path) -> None:
    certificate = certify(model)
    certificate.write(tmp_path / "v.json")
    write_page(certificate.as_dict(), tmp_path / "v.html")
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
    code = [sys.executable, "-c", "from mlpot.cli.main import main; main()"]
    done = subprocess.run([*code, *ask], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "NOT passed: 0 of" in done.stdout
    assert "broken on purpose" in (tmp_path / "v.json").read_text()


def test_a_model_is_judged_on_what_it_was_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def judged_on(card: dict[str, object]) -> dict[str, str]:
        save_potential(new_potential("schnet"), path, card)
        return {name: str(atoms.symbols) for name, atoms in of_training(mlpot.load(path).header).items()}

    assert judged_on({}) == {}
    molecules = {"nearest_distance_A": {"H-H": 1.4, "C-H": 1.0, "C-C": 1.4, "C-O": 1.3, "H-O": 0.9, "Si-Si": 2.9}}
    found = judged_on({"ranges": molecules})
    assert found == {"molecule": "C2OH6", "molecule, repeated": "C2OH6", "cell of one atom": "Si"}
    found = judged_on({"ranges": molecules, "labels": {"stress": 3}})
    assert list(found) == ["crystal", "crystal, alone", "cell of one atom"]
    crystal = of_training(mlpot.load(path).header)["crystal"]
    assert crystal.get_all_distances(mic=True)[0, 1] > 1.3
    example = {
        "numbers": [6, 8],
        "positions": [[0, 0, 0], [0, 0, 1.2]],
        "cell": [[0, 0, 0]] * 3,
        "pbc": [False] * 3,
    }
    assert list(judged_on({"examples": [example]})) == ["example 1", "example 1, repeated", "cell of one atom"]
    for wrong in (
        {"examples": [{}]},
        {"examples": [example | {"positions": 7.5}]},
        {"ranges": {"nearest_distance_A": []}},
    ):
        with pytest.raises(ModelFileError, match="card is unreadable"):
            judged_on(wrong)


def test_no_run_begins_from_a_structure_that_training_need_not_know() -> None:
    structures = with_companions({"molecule": ethanol()})
    assert list(structures) == ["molecule", "molecule, repeated"]
    assert list(movable(structures)) == ["molecule"]
    assert list(with_companions({"a": copper_atom(), "b": ethanol()})) == ["a", "b"]


def test_the_card_remembers_structures_with_every_element(tmp_path: Path) -> None:
    squeezed = ethanol(seed=7)
    squeezed.positions *= 0.7
    set_of = [labeled(a) for a in (squeezed, ethanol(), slab(), ase.Atoms("H"))] + crystals(2)
    write(tmp_path / "set.h5", set_of)
    found = examples(structures(survey(tmp_path / "set.h5")))
    assert [(sorted(set(e["numbers"])), e["pbc"]) for e in found] == [
        ([29, 79], [True] * 3),
        ([1, 6, 8], [False] * 3),
        ([6, 8, 29], [True, True, False]),
    ]
    np.testing.assert_allclose(found[1]["positions"], ethanol().positions, atol=1e-6)
    assert len(json.dumps(found)) < 3000


def test_the_list_of_checks_has_every_check_its_sentence_and_its_bar() -> None:
    assert set(WORDS) == set(levels.FULL) >= set(levels.QUICK)
    done = CliRunner().invoke(app, ["verify", "--list"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines] == [f"P{k}" for k in range(1, 33)]
    assert all(". Bar: " in line.replace("  ", " ") or ").  Bar: " in line for line in lines)


def test_the_former_name_of_an_option_names_the_new_one() -> None:
    done = CliRunner().invoke(app, ["verify", "--seal"])
    assert "--seal is called --attach now" in done.output
    assert "--attach needs the file" in str(done.exception)
