"""Does `mlpot info` tell on one screen what a potential is and lacks, and all of it as JSON?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.data import chemical_symbols
from potentials import new_potential
from typer.testing import CliRunner

import mlpot
from mlpot.cli.main import app
from mlpot.extrapolation import Domain
from mlpot.model_file import ModelFileError, attach_certificate, read_header, read_weights, write_tensors

LABELS = {"structures": 9, "energy": 9, "forces": 81, "stress": 0}
RANGES = {
    "n_atoms": [9, 9],
    "largest_force_component_eV_per_A": 7.25,
    "nearest_distance_A": {"C-H": 1.02, "O-H": 0.91},
}
METRICS = {
    "epochs": 30,
    "best_epoch": 28,
    "seconds": 77.2,
    "device": "cpu",
    "seed": 0,
    "validation": {"n_structures": 5, "energy_mae_meV_per_atom": 0.215, "forces_rmse_meV_per_A": 11.375},
}
TRAINED = {"training_set": "data/ethanol.h5", "labels": LABELS, "ranges": RANGES, "metrics": METRICS}


def told(path: Path, option: str = "--text") -> str:
    result = CliRunner().invoke(app, ["info", str(path), *option.split()])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_screen_says_what_it_is_and_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    potential = new_potential("schnet")
    mlpot.save(potential, path, TRAINED)
    shown = told(path)
    assert len(shown.splitlines()) <= 24
    for fact in (
        f"elements: {', '.join(chemical_symbols[z] for z in potential.elements)}",
        f"cutoff: {potential.cutoff:g} Å",
        "forces eV/angstrom",
        "data/ethanol.h5: 9 structures (9 energies, 81 forces on atoms, 0 stresses)",
        "9 atoms, forces to 7.25 eV/Å; nearest atoms, Å: C-H 1.02, O-H 0.91",
        "30 epochs, the best 28, 77 s on cpu, seed 0",
        "0.215",
        "11.38",
        "computed on a CPU by: compiled code",
        "certificate: none",
        "stresses in its training",
        "test set",
        "extrapolation grades",
        "repulsion of atoms",
    ):
        assert fact in shown
    potential.domain = Domain(len(potential.elements), 32).double()
    for statistics in potential.domain.buffers():
        statistics.zero_()
    mlpot.save(potential, path, TRAINED | {"metrics": METRICS | {"test": METRICS["validation"]}})
    checks = [{"id": "P1", "passed": True}, {"id": "P9", "passed": False}]
    attach_certificate(path, {"passed": False, "level": "quick", "checks": checks, "created": "2026-11-30"})
    shown = told(path)
    assert "certificate: NOT passed: P9, level quick, 2 checks, 2026-11-30" in shown
    assert not any(word in shown for word in ("makes one", "(data.test)", "extrapolation grades"))


@pytest.mark.parametrize("option", ["--json", ""], ids=["asked", "not a terminal"])
def test_json_has_all_that_the_file_says(option: str, tmp_path: Path) -> None:
    mlpot.save(new_potential("egnn"), tmp_path / "model.safetensors", TRAINED)
    found = json.loads(told(tmp_path / "model.safetensors", option))
    assert found["card"] == TRAINED
    assert found["computed on a CPU by"] == "compiled code"
    assert found["backbone"] == "egnn"


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"metrics": 3, "labels": [1], "ranges": "\x1b[2J"},
        {"metrics": {"epochs": 1, "test": {}}, "labels": "x"},
    ],
    ids=["none", "of others", "of half"],
)
def test_a_card_of_any_kind_is_no_error_and_moves_no_cursor(card: dict[str, object], tmp_path: Path) -> None:
    mlpot.save(new_potential("schnet"), tmp_path / "model.safetensors", {"training_set": "\x1b[2J\r", **card})
    shown = told(tmp_path / "model.safetensors")
    assert "not there: a certificate" in shown or "not as this mlpot writes it" in shown
    assert "\x1b" not in shown
    mlpot.save(new_potential("schnet"), tmp_path / "no_card.safetensors")
    assert "errors (mlpot evaluate MODEL DATA finds them)" in told(tmp_path / "no_card.safetensors")


def test_a_card_that_is_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    mlpot.save(new_potential("schnet"), path)
    write_tensors(path, read_weights(path), read_header(path) | {"card": ["of", "words"]})
    with pytest.raises(ModelFileError, match="lacks a card of names and values"):
        mlpot.load(path)
