"""Networks without built-in symmetry: training turns structures, and what is learned of it is one figure."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from md_runs import md_recipe, prepared
from potentials import Morse, new_potential
from sets import crystals, labeled, small_recipe, write
from structures import CUTOFF, copper, ethanol
from training_runs import PowerCutError, StopIn, checkpoint
from typer.testing import CliRunner

import mlpot
from mlpot.certificate.symmetry import learned_rotation
from mlpot.certificate.tested import of_model
from mlpot.cli.main import app
from mlpot.data.h5md import SetReader
from mlpot.dynamics.run import run_md
from mlpot.dynamics.start import StartError
from mlpot.equivariance import LARGEST, RotationWarning, graphs_of, rotation_error, structures_of
from mlpot.forces import predict
from mlpot.graph import edge_vectors
from mlpot.model_file import ModelFileError, save_potential
from mlpot.training.fit import train
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import Alone, MemoryBatches
from mlpot.training.messages import LOG, TrainingWarning
from mlpot.training.recipe import Augment
from mlpot.training.trainer import LAST

ROTATIONS = "training.augment=rotations"
UNBUILT = {"backbone": "transformer"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned little of anything."""
    return train(small_recipe(data, tmp_path_factory.mktemp("run"), ROTATIONS, **UNBUILT)).model


def at_step(step: int) -> Alone:
    run = Alone()
    run.global_step = step
    return run


def batches(data: Path, augment: Augment, step: int = 0, seed: int | None = 3) -> MemoryBatches:
    made = MemoryBatches(flatten(SetReader([str(data)]).columns(np.arange(16)), CUTOFF), 3, seed)
    made.augment, made.run = augment, at_step(step)
    return made


@pytest.mark.parametrize("augment", ["rotations", "rotations-and-reflections"])
def test_every_epoch_turns_every_structure_with_its_labels_anew(data: Path, augment: Augment) -> None:
    n = len(batches(data, "none"))
    plain, turned, later = (
        [graph for graph, _ in batches(data, a, step)]
        for a, step in (("none", 0), (augment, 0), (augment, n))  # type: ignore[list-item]
    )
    handed = []
    for before, after in zip(plain, turned, strict=True):
        torch.testing.assert_close(
            edge_vectors(after).norm(dim=1), edge_vectors(before).norm(dim=1), rtol=1e-14, atol=0
        )
        turns = torch.linalg.solve(before.cell, after.cell).mT
        handed += torch.linalg.det(turns).round().int().tolist()
        assert not torch.isclose(turns, torch.eye(3, dtype=turns.dtype)).flatten(1).all(1).any()
    assert set(handed) == ({1} if augment == "rotations" else {-1, 1})
    assert not torch.equal(turned[0].cell, later[0].cell)
    truth = Morse()
    for (before, old), (after, new) in zip(batches(data, "none"), batches(data, augment), strict=True):
        wrong, still = predict(truth, before).forces - old.forces, predict(truth, after).forces - new.forces
        torch.testing.assert_close(still.norm(dim=1), wrong.norm(dim=1), rtol=1e-9, atol=1e-9)
        bad, same = predict(truth, before).stress - old.stress, predict(truth, after).stress - new.stress
        torch.testing.assert_close(same.flatten(1).norm(dim=1), bad.flatten(1).norm(dim=1), rtol=1e-9, atol=1e-9)


def test_validation_structures_stay_as_they_lie(data: Path) -> None:
    for (one, _), (other, _) in zip(
        batches(data, "none", seed=None), batches(data, "rotations", seed=None), strict=True
    ):
        assert torch.equal(one.positions, other.positions)


def test_a_run_that_goes_on_turns_structures_as_one_that_never_stopped(data: Path) -> None:
    whole, rest = list(batches(data, "rotations")), list(batches(data, "rotations", step=2))
    for (one, labels), (other, same) in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(labels.forces, same.forces)


@pytest.mark.parametrize("streamed", ["false", "true"])
def test_a_resumed_training_has_the_same_bits(data: Path, tmp_path: Path, streamed: str) -> None:
    settings = (ROTATIONS, f"data.stream={streamed}")
    whole = small_recipe(data, tmp_path / "whole", *settings, **UNBUILT)
    train(whole)
    cut = small_recipe(data, tmp_path / "cut", *settings, "training.checkpoint_steps=1", **UNBUILT)
    with pytest.raises(PowerCutError):
        train(cut, callbacks=[StopIn(0, step=6)])
    train(cut, resume=True)
    one, other = (checkpoint(tmp_path / name / LAST)["state_dict"] for name in ("whole", "cut"))
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_log_metrics_card_info_and_certificate_say_one_figure(model: Path) -> None:
    metrics = json.loads((model.parent / "metrics.json").read_text())
    figure = metrics["rotations"]
    (log,) = (model.parent / "logs").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["validation/loss"]]
    best = rows[metrics["best_epoch"] - 1]
    for key, value in figure.items():
        assert float(best[f"validation/rotations_{key}"]) == pytest.approx(value, rel=1e-5)
    found = mlpot.load(model)
    held = structures_of(found.header)
    assert len(held) == 4  # all of validation
    again = rotation_error(found, *graphs_of(held, found.cutoff))
    assert again.as_dict() == pytest.approx(figure, rel=1e-5)
    check = learned_rotation(of_model(model), {"not asked": copper()})
    assert check.figure == pytest.approx(figure["relative"], rel=1e-5)
    words = f"{figure['rms_meV_per_A']:.3g} meV/Å (root mean square), {figure['relative']:.2%} of the forces"
    told = json.loads(CliRunner().invoke(app, ["info", "--json", str(model)]).stdout)["rotated copies"]
    assert words in told
    assert words in check.note
    assert words in (model.parent / LOG).read_text()


def test_the_figure_is_that_of_the_definition(model: Path) -> None:
    potential = mlpot.load(model, dtype=torch.float64)
    graphs = graphs_of(structures_of(potential.header), potential.cutoff)
    assert rotation_error(potential, *graphs).rms > 1e-4
    exact = rotation_error(new_potential("schnet").freeze(), *graphs_of([_dict(ethanol())], CUTOFF))
    assert exact.relative < 1e-12


def _dict(atoms):  # type: ignore[no-untyped-def]
    return {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc}


def test_molecular_dynamics_refuses_a_network_that_learned_rotations_badly(model: Path, tmp_path: Path) -> None:
    figure = json.loads((model.parent / "metrics.json").read_text())["rotations"]["relative"]
    assert figure > LARGEST
    with prepared(tmp_path):
        recipe = md_recipe(tmp_path, model=model, steps=2)
        with pytest.warns(RotationWarning), pytest.raises(StartError, match=r"max_rotation_error = 0\.05"):
            run_md(recipe)
        with pytest.warns(RotationWarning):
            run_md(recipe.model_copy(update={"max_rotation_error": math.ceil(10 * figure) / 10}))
        bare = tmp_path / "bare.safetensors"  # whose file tells nothing: it is measured at the start
        save_potential(new_potential("transformer"), bare)
        with pytest.warns(RotationWarning), pytest.raises(StartError, match="of the forces, above"):
            run_md(md_recipe(tmp_path, model=bare, output=tmp_path / "other"))


def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_potential(new_potential("transformer"), path, {"rotations": {"relative": "small", "rms_meV_per_A": 1}})
    with pytest.raises(ModelFileError, match="What its card says of rotated copies"):
        mlpot.MLPotCalculator(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlpot.training.messages.TrainingWarning")
def test_turned_structures_lower_the_error_of_rotated_copies_at_least_fivefold(tmp_path: Path) -> None:
    """Of molecules that are laid alike; measured: 13 times, and 22 times on the set of train/README.md."""
    data = write(tmp_path / "set.h5", [labeled(ethanol(seed=k)) for k in range(24)])
    settings = ("training.epochs=60", "training.batch_size=5", "optimizer.ema_decay=0.9")
    sizes = ("model.arguments.n_features=16", "model.arguments.n_heads=2")
    none, turned = (
        train(small_recipe(data, tmp_path / a, f"training.augment={a}", *settings, *sizes, **UNBUILT)).metrics
        for a in ("none", "rotations")
    )
    assert turned["rotations"]["rms_meV_per_A"] < none["rotations"]["rms_meV_per_A"] / 5


def test_a_network_that_sees_no_rotation_is_told_of(data: Path, tmp_path: Path) -> None:
    with pytest.warns(TrainingWarning, match="Nothing tells this network of rotations"):
        train(small_recipe(data, tmp_path / "one", "training.epochs=1", **UNBUILT))
    with pytest.warns(TrainingWarning, match="teaches this network nothing"):
        train(small_recipe(data, tmp_path / "two", "training.epochs=1", ROTATIONS))
