"""Whoever asks for an energy that the compositions of the training set do not tell is told so, once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from lammps_runs import lammps_run, masses, of_two_passes, write_data
from potentials import small_potential
from structures import copper, graph_of, quartz
from typer.testing import CliRunner

from mlpot.calculator import MLPotCalculator
from mlpot.cli.main import app
from mlpot.data.sources.read import Source
from mlpot.evaluate import evaluate
from mlpot.extrapolation import UNTOLD, Domain
from mlpot.model_file import hash_of_file, load_potential, save_potential
from mlpot.potential import Potential
from mlpot.predictions import predict_file
from mlpot.watched import Watch, predict_watched

UNKNOWN: dict[str, Any] = {"metrics": {UNTOLD: [{"Si": -2.0, "O": 1.0}]}}  # as of a training on silica alone
WORDS = "do not tell the energy of {}: it must not be compared"


def of_silica() -> Potential:
    potential = small_potential("schnet")
    potential.header = {"card": UNKNOWN}
    return potential


def test_engines_tell_of_a_composition_once() -> None:
    potential, watch, silicon = of_silica(), Watch(), bulk("Si")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_watched(potential, graph_of(quartz()), watch, str)
    with pytest.warns(UserWarning, match=WORDS.format("Si2")):
        predict_watched(potential, graph_of(silicon), watch, str)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_watched(potential, graph_of(silicon.repeat(2)), watch, str)
    silicon.calc = MLPotCalculator(potential)  # also without statistics of its training
    silicon.calc.potential.header = potential.header
    assert silicon.calc.potential.domain is None
    with pytest.warns(UserWarning, match=WORDS.format("Si2")):
        silicon.get_potential_energy()


def test_a_composition_is_told_after_an_atom_unlike_training() -> None:
    """Whoever had been told of the one was not told of the other."""
    potential, watch = of_silica(), Watch()
    with pytest.warns(UserWarning, match=WORDS.format("Si2")):
        watch.compare(potential, [[14, 8, 8], [14, 14]])
    watch = Watch()
    watch.compare(potential, [[14, 8, 8]])
    with pytest.warns(UserWarning, match="extrapolation grade"):
        watch.tell(torch.tensor([1e3]), str)
    assert watch.wants(graph_of(bulk("Si")))


def test_an_evaluation_and_the_account_of_a_file_name_them(tmp_path: Path) -> None:
    frames = [quartz(), bulk("Si")]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    assert WORDS.format(r"1 structures (Si2)") in evaluate(of_silica(), frames).outside
    save_potential(small_potential("schnet"), tmp_path / "m.safetensors", UNKNOWN)
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "m.safetensors"), "--text"]).stdout
    assert "energies of compositions that are no sum of those in its training (not told: -2 Si +1 O)" in shown


def test_lammps_tells_of_it_on_one_rank(tmp_path: Path) -> None:
    of_two_passes(tmp_path)
    model, silicon = tmp_path / "model.safetensors", bulk("Si", cubic=True)
    save_potential(load_potential(model), model, UNKNOWN)
    write_data(tmp_path, silicon, ["Si"])
    script = f"units metal\nread_data data\n{masses(['Si'])}\nfix potential all mlpot Si\nrun 0\nrun 0\n"
    told = lammps_run(tmp_path, script, model).output
    assert told.count(WORDS.format("Si8")) == 1


def test_predictions_in_formats_of_ase_name_their_model(tmp_path: Path) -> None:
    """H5MD had the hash, and predictions in xyz were merged with labels of a method without a word."""
    model = tmp_path / "m.safetensors"
    save_potential(small_potential("schnet"), model)
    ase.io.write(tmp_path / "in.xyz", [quartz(), copper()])
    for name in ("out.xyz", "out.traj"):
        predict_file(model, tmp_path / "in.xyz", tmp_path / name)
        assert {atoms.info["model_sha256"] for atoms in ase.io.iread(tmp_path / name)} == {hash_of_file(model)}
        source = Source(tmp_path / name)
        assert len(list(source.frames())) == 2
        assert f"those of a potential (model sha256 {hash_of_file(model)[:12]})" in " ".join(source.report.lines())


def test_grades_are_the_same_under_autocast() -> None:
    """A calculator within torch.autocast ended in an error about types."""
    features = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    kind = torch.zeros(40, dtype=torch.int64)
    domain = Domain.of(kind, features.double(), 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = domain(kind, features)
    assert np.array_equal(inside.numpy(), domain(kind, features).numpy())
