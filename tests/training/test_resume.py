"""Does a training that was stopped and resumed end where an unstopped one ends, to the last bit?"""

from __future__ import annotations

import itertools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write
from training_runs import PowerCutError, assert_same, assert_same_training, checkpoint, diary, kill_training

from mlpot.recipes import RecipeError
from mlpot.training.fit import TrainingResult, train
from mlpot.training.messages import TrainingWarning
from mlpot.training.run_directory import RunDirectoryError
from mlpot.training.trainer import BEST, FOLDER, LAST


class StopAt(Callback):
    """Stops a run after so many steps in all, or in the validation of an epoch."""

    def __init__(self, *, step: int | None = None, validation: int | None = None):
        self.step, self.validation = step, validation

    def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == self.step:
            raise PowerCutError

    def on_validation_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.current_epoch == self.validation:
            raise PowerCutError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


@pytest.fixture(scope="module")
def unstopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainingResult]:
    """The result of a whole run with some overrides, made once."""
    made: dict[tuple[str, ...], TrainingResult] = {}

    def run(*overrides: str) -> TrainingResult:
        if overrides not in made:
            made[overrides] = train(small_recipe(data, tmp_path_factory.mktemp("whole"), *overrides))
        return made[overrides]

    return run


IDLE = ("optimizer.learning_rate=1e-12", "optimizer.ema_decay=0")
EPOCHS = ("training.epochs=4",)
CUTS = [
    pytest.param(StopAt(step=6), (), id="within an epoch"),
    pytest.param(StopAt(step=8), (), id="after the last step of an epoch"),
    pytest.param(StopAt(validation=1), (), id="within validation"),
    pytest.param(StopAt(step=11), ("training.checkpoint_steps=2",), id="between checkpoints within an epoch"),
    pytest.param(StopAt(step=9), ("training.checkpoint_steps=3",), id="right after such a checkpoint"),
    pytest.param(
        StopAt(validation=1), ("training.checkpoint_steps=1",), id="right after the last step of an epoch"
    ),
    pytest.param(StopAt(step=6), ("optimizer.schedule=plateau", "optimizer.plateau_patience=0"), id="plateau"),
    pytest.param(StopAt(step=6), ("optimizer.ema_decay=0",), id="no average"),
    pytest.param(StopAt(step=6), ("training.patience=2",), id="early stop"),
    pytest.param(StopAt(step=6), ("training.patience=1", *IDLE), id="early stop that comes"),
    pytest.param(StopAt(step=6), ("data.stream=true",), id="streaming"),
]


@pytest.mark.parametrize(("cut", "overrides"), CUTS)
def test_a_resumed_run_is_an_unstopped_run(
    cut: Callback,
    overrides: tuple[str, ...],
    data: Path,
    unstopped: Callable[..., TrainingResult],
    tmp_path: Path,
) -> None:
    whole = unstopped(*EPOCHS, *[o for o in overrides if "checkpoint_steps" not in o])
    recipe = small_recipe(data, tmp_path / "cut", *EPOCHS, *overrides)
    with pytest.raises(PowerCutError):
        train(recipe, callbacks=[cut])
    resumed = train(recipe, resume=True)
    assert resumed.metrics["validation"] == whole.metrics["validation"]
    assert resumed.metrics["best_epoch"] == whole.metrics["best_epoch"]
    assert_same_training(whole.directory, resumed.directory)


@pytest.mark.parametrize("backbone", ["schnet", "ace"])
def test_networks_with_tables_go_on_after_a_stop_in_their_first_steps(
    backbone: str, data: Path, tmp_path: Path
) -> None:
    """Their tables are built when they are needed, so that those of average and network are not there at once."""
    same = ("training.epochs=2", "training.checkpoint_steps=1", "model.arguments.n_knots=16")
    arguments = ("model.arguments.max_degree=1",) if backbone == "ace" else ("model.arguments.n_interactions=1",)
    whole, cut = (
        small_recipe(data, tmp_path / name, *same, *arguments, backbone=backbone) for name in ("whole", "cut")
    )
    with pytest.raises(PowerCutError):
        train(cut, callbacks=[StopAt(step=3)])
    resumed = train(cut, resume=True)
    assert_same_training(train(whole).directory, resumed.directory)


def test_a_run_goes_on_for_more_epochs(
    data: Path, unstopped: Callable[..., TrainingResult], tmp_path: Path
) -> None:
    constant = "optimizer.schedule=none"  # a cosine over more epochs would be another run
    whole = unstopped(constant, "training.epochs=4")
    train(small_recipe(data, tmp_path / "parts", constant, "training.epochs=2"))
    resumed = train(small_recipe(data, tmp_path / "parts", constant, "training.epochs=4"), resume=True)
    assert_same(dict(resumed.potential.state_dict()), dict(whole.potential.state_dict()))
    assert resumed.metrics["epochs"] == 4


@pytest.mark.parametrize("stop", [None, 13])
def test_a_run_that_is_resumed_for_fewer_epochs_ends_with_those_that_are_done(
    stop: int | None, data: Path, tmp_path: Path
) -> None:
    """It was a traceback, after which metrics.json was gone; here also from the middle of an epoch."""
    often = ("training.checkpoint_steps=1", *EPOCHS)
    try:
        train(small_recipe(data, tmp_path / "run", *often), callbacks=[StopAt(step=stop)])
    except PowerCutError:
        assert stop
    best = checkpoint(tmp_path / "run" / BEST)
    done = 3 if stop else 4
    with pytest.warns(TrainingWarning, match=f"epochs is 1, and {done} were done before: none is done any more"):
        ended = train(small_recipe(data, tmp_path / "run", *often, "training.epochs=1"), resume=True)
    assert ended.metrics["best_epoch"] == best["epoch"] + 1  # type: ignore[operator]  # numbers, of a file
    assert_same(checkpoint(tmp_path / "run" / BEST)["state_dict"], best["state_dict"])


@pytest.mark.parametrize("overrides", [(), (*IDLE, *EPOCHS, "training.patience=1")], ids=["", "early stop"])
def test_a_finished_run_can_be_resumed_to_the_same_end(
    overrides: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(data, tmp_path / "run", *overrides)
    first, again = train(recipe), train(recipe, resume=True)
    assert_same(dict(first.potential.state_dict()), dict(again.potential.state_dict()))
    assert first.metrics["epochs"] == again.metrics["epochs"]


def test_an_early_stop_is_put_off_by_more_patience(data: Path, tmp_path: Path) -> None:
    recipes = [small_recipe(data, tmp_path / "run", *IDLE, *EPOCHS, f"training.patience={n}") for n in (1, 2)]
    assert train(recipes[0]).metrics["epochs"] == 2
    assert train(recipes[1], resume=True).metrics["epochs"] == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, tmp_path / "run")
    first = train(recipe)
    (tmp_path / "run" / LAST).unlink()
    again = train(recipe, resume=True)
    assert_same(dict(first.potential.state_dict()), dict(again.potential.state_dict()))


def test_only_the_run_itself_is_resumed(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="no run to resume"):
        train(recipe, resume=True)
    train(recipe)
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        train(recipe)
    (tmp_path / "run" / FOLDER).rename(tmp_path / "moved")  # checkpoints are large, and are removed
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        train(recipe)
    (tmp_path / "moved").rename(tmp_path / "run" / FOLDER)
    with pytest.raises(RecipeError, match=r"optimizer\.learning_rate"):
        train(small_recipe(data, tmp_path / "run", "optimizer.learning_rate=0.1"), resume=True)
    other = write(tmp_path / "set.h5", crystals(17))
    moved = tmp_path / "run/recipe.yaml"
    moved.write_text(moved.read_text().replace(str(data), str(other)))
    with pytest.raises(RunDirectoryError, match="data changed"):
        train(small_recipe(other, tmp_path / "run"), resume=True)
    train(recipe, overwrite=True)


def test_checkpoints_hold_no_code(data: Path, tmp_path: Path) -> None:
    train(small_recipe(data, tmp_path / "run"))
    for name in (LAST, BEST):
        assert checkpoint(tmp_path / "run" / name)["global_step"]


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_checkpoint_with_one_other_bit_is_refused_and_nothing_is_lost(
    name: str, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(small_recipe(data, run, *EPOCHS))
    whole = (run / name).read_bytes()
    with zipfile.ZipFile(run / name) as archive:
        part = next(p for p in archive.infolist() if "/data/" in p.filename and p.file_size > 100)
    place = part.header_offset + len(part.FileHeader()) + 100  # within its numbers, or the zeros before them
    for k in range(place, place + part.file_size, 16):
        (run / name).write_bytes(whole[:k] + bytes([whole[k] ^ 64]) + whole[k + 1 :])
        if zipfile.ZipFile(run / name).testzip() is not None:
            break
    metrics = (run / "metrics.json").read_bytes()
    with pytest.raises(RunDirectoryError, match=f"{Path(name).name} is damaged.*checksum.*tart the run anew"):
        train(small_recipe(data, run, "training.epochs=6"), resume=True)
    assert (run / "metrics.json").read_bytes() == metrics  # it was removed before the checkpoint was read


def test_the_best_checkpoint_may_take_the_place_of_a_damaged_last_one(data: Path, tmp_path: Path) -> None:
    first = train(small_recipe(data, tmp_path / "run", *EPOCHS))
    (tmp_path / "run" / LAST).write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=r"Copy .*best\.ckpt to .*last\.ckpt to go on from the best epoch"):
        train(small_recipe(data, tmp_path / "run", *EPOCHS), resume=True)
    shutil.copy(tmp_path / "run" / BEST, tmp_path / "run" / LAST)
    again = train(small_recipe(data, tmp_path / "run", *EPOCHS), resume=True)
    assert_same(dict(first.potential.state_dict()), dict(again.potential.state_dict()))


@pytest.mark.parametrize("content", [None, "", "[]", '{"train": ['], ids=["missing", "empty", "a list", "cut off"])
def test_a_run_without_its_list_of_frames_says_so(content: str | None, data: Path, tmp_path: Path) -> None:
    recipe, path = small_recipe(data, tmp_path / "run"), tmp_path / "run" / "splits.json"
    train(recipe)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(RunDirectoryError, match=r"splits\.json.* is damaged or missing.*start the run anew"):
        train(recipe, resume=True)


# --- kill -9 ---


def kill_often(data: Path, folder: Path, n_kills: int, seed: int, *overrides: str) -> int:
    """How often a training was killed that in the end equals the one that was not."""
    often = ("training.checkpoint_minutes=0", f"training.epochs={n_kills}", *overrides)
    kills = kill_training(data, folder, n_kills, seed, *often)
    whole, parts = folder / "whole", folder / "parts"
    assert diary(parts) == diary(whole)  # each step was given the same, however often it was done
    assert sorted(diary(whole)) == list(range(4 * n_kills))
    assert_same_training(whole, parts)
    return kills


def test_a_training_that_is_killed_at_any_moment_goes_on(data: Path, tmp_path: Path) -> None:
    assert kill_often(data, tmp_path, 3, 0, "data.stream=true", "data.workers=2") >= 1


@pytest.mark.slow
def test_a_training_that_is_killed_100_times_goes_on(data: Path, tmp_path: Path) -> None:
    kills = {"data.stream=false": 0, "data.stream=true": 0}
    for seed in itertools.count():
        for stream in kills:
            kills[stream] += kill_often(data, tmp_path / f"{seed}_{stream}", 20, seed, stream, "data.workers=4")
        if min(kills.values()) >= 30 and sum(kills.values()) >= 100:
            break
    print(kills)
