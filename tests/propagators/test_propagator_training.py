"""Training of propagators: it learns, goes on to the bit after a stop, and refuses what contradicts itself."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from molecule_runs import write_trajectory
from sets import crystals, small_recipe, write

from mlpot.folder_lock import LockedError, folder_lock
from mlpot.propagators.errors import errors_of
from mlpot.propagators.propagator_file import load_propagator
from mlpot.propagators.recipe import EXPERIMENT, PropagatorRecipe
from mlpot.propagators.sets import sets_of
from mlpot.propagators.training import check_directory, train
from mlpot.recipes import RecipeError, parse_recipe, template
from mlpot.signals import SignalledError
from mlpot.training.fit import train as train_potential
from mlpot.training.module import TrainingDivergedError
from mlpot.training.run_directory import RunDirectoryError, write_beginning

Sets = dict[str, Any]


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_trajectory(tmp_path_factory.mktemp("water") / "a.h5", n_frames=120))


def recipe(water: str, folder: Path, *more: str) -> PropagatorRecipe:
    keys = [
        f"data.trajectory={water}", "data.interval_fs=2", "data.validation=0.2", "model.n_features=8",
        "model.n_layers=2", "model.n_radial=16", "training.epochs=6", "training.batch_size=16",
        "training.validate_every=2", "training.checkpoint_minutes=0", f"training.directory={folder}",
    ]  # fmt: skip
    return parse_recipe(PropagatorRecipe, "", [*keys, *more])


def told_nothing(line: str) -> None:
    assert line


def test_it_learns_what_free_flight_does_not_know(water: str, tmp_path: Path) -> None:
    wanted = recipe(
        water, tmp_path / "run", "training.epochs=40", "model.n_features=16", "optimizer.learning_rate=0.01"
    )
    sets = sets_of(wanted.data)
    metrics = train(wanted, sets, tell=told_nothing)
    for name in ("train", "validation"):
        assert metrics[name]["positions_mse"] < 0.1 * metrics[name]["free_flight_mse"]
    stored = load_propagator(tmp_path / "run" / "model.safetensors", dtype=torch.float32)
    assert errors_of(stored, sets["validation"])["positions_mse"] == metrics["validation"]["positions_mse"]
    log = np.genfromtxt(tmp_path / "run" / "log.csv", delimiter=",", names=True)
    assert log["epoch"][-1] == 40
    assert log["validation_loss"][-1] < log["validation_loss"][0]


def test_a_validation_that_is_no_number_is_no_best_epoch(water: str, tmp_path: Path) -> None:
    wanted = recipe(water, tmp_path / "run")
    sets = sets_of(wanted.data)
    far = replace(sets["validation"], later_positions=np.full_like(sets["validation"].positions, np.inf))
    with pytest.raises(TrainingDivergedError, match="The validation loss is no number in epoch 2"):
        train(wanted, {**sets, "validation": far}, tell=told_nothing)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
def test_a_training_that_was_stopped_goes_on_to_the_bit(
    water: str, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(folder: str) -> PropagatorRecipe:
        return recipe(water, tmp_path / folder, f"optimizer.name={optimizer}", "training.reversal=true")

    sets = sets_of(wanted("whole").data)
    whole = train(wanted("whole"), sets, tell=told_nothing)
    from mlpot.propagators import training

    one_epoch = training._one_epoch

    def with_signal(state: Any, *arguments: Any) -> float:
        if state.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return one_epoch(state, *arguments)

    monkeypatch.setattr(training, "_one_epoch", with_signal)
    with pytest.raises(SignalledError, match="Epoch 3: stopped by SIGTERM and saved"):
        train(wanted("cut"), sets, tell=told_nothing)
    monkeypatch.setattr(training, "_one_epoch", one_epoch)
    cut = train(wanted("cut"), sets, resume=True, tell=told_nothing)
    del whole["minutes_of_processor"], cut["minutes_of_processor"]
    assert cut == whole
    a, b = (
        load_propagator(tmp_path / name / "model.safetensors", dtype=torch.float32) for name in ("whole", "cut")
    )
    for name, weight in a.state_dict().items():
        assert torch.equal(weight, b.state_dict()[name]), name


def test_runs_are_neither_overwritten_nor_mixed(water: str, tmp_path: Path) -> None:
    wanted = recipe(water, tmp_path / "run", "training.epochs=1")
    sets = sets_of(wanted.data)
    with pytest.raises(RunDirectoryError, match="holds no run to resume"):
        train(wanted, sets, resume=True, tell=told_nothing)
    train(wanted, sets, tell=told_nothing)
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        train(wanted, sets, tell=told_nothing)
    with pytest.raises(RecipeError, match=r"other values of model\.n_layers"):
        train(recipe(water, tmp_path / "run", "training.epochs=1", "model.n_layers=3"), sets, resume=True)
    others = {**sets, "train": replace(sets["train"], velocities=-sets["train"].velocities)}
    with pytest.raises(RunDirectoryError, match="trajectories changed since the run"):
        train(wanted, others, resume=True, tell=told_nothing)
    with folder_lock(tmp_path / "run"), pytest.raises(LockedError):
        train(wanted, sets, resume=True, tell=told_nothing)
    train(wanted, sets, overwrite=True, tell=told_nothing)


def test_a_log_of_something_else_is_not_removed(water: str, tmp_path: Path) -> None:
    """The folder of a molecular dynamics run has a log.csv too."""
    (tmp_path / "log.csv").write_text("step\n")
    with pytest.raises(RunDirectoryError, match=r"has log\.csv of something else"):
        check_directory(recipe(water, tmp_path), resume=False, overwrite=True)


@pytest.mark.parametrize("resume", [False, True])
def test_neither_a_propagator_nor_a_potential_takes_the_folder_of_the_other(
    water: str, tmp_path: Path, resume: bool
) -> None:
    """Both write a recipe, metrics and a model; nothing of what is there may change, overwritten or not."""
    ours, theirs = tmp_path / "propagator", tmp_path / "potential"
    train(recipe(water, ours, "training.epochs=1"), sets_of(recipe(water, ours).data), tell=told_nothing)
    theirs.mkdir()
    write_beginning(theirs, small_recipe(tmp_path / "set.h5", theirs), {"run": "a"})
    before = {path: path.read_bytes() for path in [*ours.iterdir(), *theirs.iterdir()]}
    with pytest.raises(RunDirectoryError, match="holds the training of a potential"):
        check_directory(recipe(water, theirs), resume=resume, overwrite=not resume)
    for n in (1, 2):
        wanted = small_recipe(write(tmp_path / "set.h5", crystals(8)), ours, f"training.committee={n}")
        with pytest.raises(RunDirectoryError, match="holds the training of a propagator"):
            train_potential(wanted, resume=resume, overwrite=not resume)
    assert {path: path.read_bytes() for path in [*ours.iterdir(), *theirs.iterdir()]} == before


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["data.trajectory=null"], "either data.trajectory or data.experiment"),
        (["data.experiment=charged particles"], "either data.trajectory or data.experiment"),
        (["data.interval_fs=null"], "data.interval_fs is missing"),
        (["model.velocities=given", "model.pairs=free"], "training.velocity_weight: 0"),
        (["model.velocities=given", "training.velocity_weight=0"], "velocities must be updated"),
        (["optimizer.schedule=plateau"], "take cosine or none"),
        (["model.n_layer=3"], "Did you mean 'n_layers'"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    keys: list[str], told: str, water: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe(water, tmp_path, *keys)


def test_the_printed_recipe_is_one() -> None:
    text = template(PropagatorRecipe)
    assert parse_recipe(PropagatorRecipe, text) == PropagatorRecipe(data={"experiment": EXPERIMENT})
    lines = text.splitlines()
    assert lines[0].startswith("# required")
    assert "as an example and no default" in lines[0]
    assert "example" in lines[lines.index(f"  experiment: {EXPERIMENT}") - 1]
    with pytest.raises(RecipeError, match="data"):  # an experiment that nobody asked for is not trained
        parse_recipe(PropagatorRecipe, "training: {epochs: 1}")
