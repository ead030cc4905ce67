"""Raw, averaged, best and last weights are four things: which are validated, written and trained on?

The numbers N12 to N17 are those of faults that other packages had.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write
from training_runs import assert_same_training, checkpoint

import mlpot
from mlpot.error_table import UNITS
from mlpot.evaluate import evaluate
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.training.expectation import expected, in_words
from mlpot.training.fit import TrainingResult, train
from mlpot.training.messages import TrainingWarning
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import RunDirectoryError
from mlpot.training.trainer import BEST, LAST, Average

LATE = ("training.epochs=8", "loss.final_energy=50", "loss.final_part=0.5", "optimizer.ema_decay=0.9")
IDLE = ("optimizer.learning_rate=1e-12", "optimizer.ema_decay=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


@pytest.fixture(scope="module")
def late(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A run with a last part."""
    return train(small_recipe(data, tmp_path_factory.mktemp("late"), *LATE))


def column(run: Path, name: str) -> list[float]:
    """What was logged at the end of each epoch."""
    with (run / "logs/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    (full,) = [key for key in rows[0] if key == name or key.startswith(f"{name}_meV")]  # errors name their unit
    return [float(row[full]) for row in rows if row[full]]


def test_the_written_weights_are_the_average_that_validation_saw(late: TrainingResult) -> None:
    """N12: evaluating the file gives the row of the log that was chosen."""
    chosen = json.loads((late.directory / "splits.json").read_text())["validation"]
    frames = [crystals()[k] for k in chosen]
    found = evaluate(late.model, frames).overall
    epoch = late.metrics["chosen_by"]["epoch"]
    for row, name in (("forces", "forces"), ("energy_per_atom", "energy"), ("stress", "stress")):
        logged = column(late.directory, f"validation/{name}_rmse_{UNITS[name]}")[epoch - 1]
        assert found[row].rmse == pytest.approx(logged, rel=1e-6)
    best = checkpoint(late.directory / BEST)
    raw, averaged = (
        best[key]["potential.backbone.embedding.weight"] for key in ("current_model_state", "state_dict")
    )  # type: ignore[index]
    assert torch.equal(mlpot.load(late.model).backbone.embedding.weight, averaged)
    assert not torch.equal(raw, averaged)


def test_one_fixed_number_chooses_the_epoch(late: TrainingResult, data: Path, tmp_path: Path) -> None:
    """N14: the weight of energies changes in the last part, the number that chooses does not."""
    chosen, losses = late.metrics["chosen_by"], column(late.directory, "validation/loss")
    assert chosen["epoch"] == late.metrics["best_epoch"] == 1 + losses.index(min(losses))
    assert chosen["validation_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert chosen["part"] == 1 + (chosen["epoch"] > 4)
    assert column(late.directory, "train/part") == [1, 1, 1, 1, 2, 2, 2, 2]
    assert mlpot.load(late.model).header["card"]["metrics"]["chosen_by"] == chosen
    idle = train(small_recipe(data, tmp_path / "idle", *LATE[:3], *IDLE))
    assert column(idle.directory, "validation/loss") == pytest.approx(
        [column(idle.directory, "validation/loss")[0]] * 8
    )
    train_losses = column(idle.directory, "train/loss")
    assert train_losses[4] > 1.5 * train_losses[3]


class Cut(Callback):
    """Stops a run in its first step of a number, or in its first validation of one."""

    def __init__(self, *, step: int | None = None, validation: int | None = None):
        self.step, self.validation = step, validation

    def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == self.step:
            raise ConnectionAbortedError

    def on_validation_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.current_epoch == self.validation:
            raise ConnectionAbortedError


def test_a_kill_at_the_switch_of_parts_changes_nothing(late: TrainingResult, data: Path, tmp_path: Path) -> None:
    """N13: just before the last part, in the validation before it, in its first step and after it."""
    recipe = small_recipe(data, tmp_path / "cut", *LATE, "training.checkpoint_steps=1")
    cuts = (Cut(step=15), Cut(validation=3), Cut(step=17), Cut(step=18))
    for k, cut in enumerate(cuts):
        with pytest.raises(ConnectionAbortedError):
            train(recipe, resume=k > 0, callbacks=[cut])
    train(recipe, resume=True)
    assert_same_training(late.directory, tmp_path / "cut")


def test_an_early_end_says_that_the_last_part_is_missing(data: Path, tmp_path: Path) -> None:
    """N15."""
    with pytest.warns(TrainingWarning, match="ended in epoch 2, before its last part"):
        train(small_recipe(data, tmp_path / "run", *LATE[:3], *IDLE, "training.patience=1"))


@pytest.mark.parametrize("n_steps", [1, 4, 12, 60])
def test_an_average_longer_than_the_run_forgets_its_beginning(n_steps: int) -> None:
    """N16: weights of a start at 1e6 that are then 1; with a plain decay of 0.9999 it would stay there."""
    average, weight = Average(0.9999), torch.nn.Linear(1, 1)
    weight.weight.data.fill_(1e6)
    averaged = torch.optim.swa_utils.AveragedModel(weight, multi_avg_fn=average._move)
    weight.weight.data.fill_(1.0)
    for step in range(n_steps):
        if average.should_update(step_idx=step):
            averaged.update_parameters(weight)
    assert averaged.module.weight.item() == 1.0  # the weights of step 0 have never been in it


def test_the_first_weights_leave_an_average_that_is_longer_than_the_run() -> None:
    """N16: those after the first step, at 1, count for less than a thousandth after 60."""
    average, weight = Average(0.9999), torch.nn.Linear(1, 1)
    averaged = torch.optim.swa_utils.AveragedModel(weight, multi_avg_fn=average._move)
    for step in range(61):
        weight.weight.data.fill_(float(step == 0))
        if average.should_update(step_idx=step):
            averaged.update_parameters(weight)
    assert averaged.module.weight.item() < 1e-3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer.warmup_steps=12",), "not less than the 12 steps of the whole run"),
        (("loss.final_energy=3", "loss.final_part=0.2"), "is no epoch"),
        (("optimizer.rates={nothing: 0.1}",), "matches no weights"),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(
    overrides: Sequence[str], message: str, data: Path, tmp_path: Path
) -> None:
    """N17."""
    with pytest.raises(RecipeError, match=message):
        train(small_recipe(data, tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "override",
    ["optimizer.schedule=cosin", "optimizer.final_fraction=1.5", "loss.final_part=1.0", "optimizer.name=adam",
     "optimizer={name: muon, amsgrad: true}", "training.epochs=0", "model.freeze=[embedding]"],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_no_recipe(override: str) -> None:
    """N17: starts below floors, parts beyond the end, unknown names."""
    with pytest.raises(RecipeError):
        parse_recipe(Recipe, "data: {train: set.h5}", [override])


def test_a_short_run_has_a_short_warmup() -> None:
    """N17: the default fits the run."""
    optimizer = parse_recipe(Recipe, "data: {train: set.h5}").optimizer
    assert [optimizer.warmup(n) for n in (10, 500, 5000)] == [1, 50, 100]


def test_a_checkpoint_of_another_run_is_never_taken(late: TrainingResult, data: Path, tmp_path: Path) -> None:
    """N17: the same shapes, but another seed."""
    other = train(small_recipe(data, tmp_path / "run", "training.seed=1", "training.epochs=2"))
    (other.directory / LAST).write_bytes((late.directory / LAST).read_bytes())
    with pytest.raises(RunDirectoryError, match="of another run"):
        train(small_recipe(data, tmp_path / "run", "training.seed=1", "training.epochs=2"), resume=True)


def test_a_training_says_what_it_expects_to_take() -> None:
    told = expected(0.05, 12000, None)
    assert told == "Expected: 10 minutes for 12000 steps of 50 ms, and validation besides"
    assert "ends it after about 20% of them" in expected(0.05, 12000, 2.0)
    assert [in_words(s) for s in (0.5, 100, 4000, 10000, 400000)] == [
        "0.5 seconds", "100 seconds", "67 minutes", "2.8 hours", "4.6 days"
    ]  # fmt: skip


def test_a_run_of_one_part_does_not_speak_of_parts(late: TrainingResult, data: Path, tmp_path: Path) -> None:
    train(small_recipe(data, tmp_path / "run", "training.epochs=1"))
    assert "of epoch 1, with the lowest" in (tmp_path / "run" / "train.log").read_text()
    assert f"(part {late.metrics['chosen_by']['part']} of the run)" in (late.directory / "train.log").read_text()


def test_after_a_closing_solve_all_tell_of_the_weights_that_are_written(data: Path, tmp_path: Path) -> None:
    """N12: the log's row is from before the solve, and metrics, card and log say so; the rest is of the file."""
    small = ("model.arguments.max_degree=1", "model.arguments.n_knots=16", "training.epochs=2")
    result = train(small_recipe(data, tmp_path / "run", *small, backbone="ace"))
    chosen, logged = result.metrics["chosen_by"], column(tmp_path / "run", "validation/loss")
    assert result.metrics["closing_solve"]["accepted"]
    assert chosen["weights"] == "averaged, then the closing solve"
    assert chosen["validation_loss_in_log"] == pytest.approx(logged[chosen["epoch"] - 1], rel=1e-6)
    assert chosen["validation_loss"] < chosen["validation_loss_in_log"]
    assert mlpot.load(result.model).header["card"]["metrics"]["chosen_by"] == chosen
    log = (tmp_path / "run" / "train.log").read_text()
    assert "after the closing solve: validation loss" in log
    n = result.metrics["closing_solve"]["n_weights"]
    assert (
        log.index(f"solve of {n} weights begins")
        < log.index("Expected: ", log.index("begins"))
        < log.index(f"Closing solve of {n} weights from")
    )
    frames = [crystals()[k] for k in json.loads((tmp_path / "run" / "splits.json").read_text())["validation"]]
    found, weights = evaluate(result.model, frames).overall, small_recipe(data, tmp_path).loss
    loss = sum(
        weight * (found[name].rmse / 1e3) ** 2
        for name, weight in (
            ("energy_per_atom", weights.energy), ("forces", weights.forces), ("stress", weights.stress)
        )
    )  # fmt: skip
    assert chosen["validation_loss"] == pytest.approx(loss, rel=1e-5)
    # A solve that takes too long may be given up, which its message says how to do.
    resumed = small_recipe(data, tmp_path / "run", *small, "training.solve=false", backbone="ace")
    assert train(resumed, resume=True).metrics["chosen_by"]["weights"] == "averaged"
