"""May a run go on although its folder, its data or its machine changed, and not if its mathematics did?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write
from training_runs import PowerCutError, assert_same_training

from mlpot.cli.main import main
from mlpot.recipes import RecipeError
from mlpot.training.fit import TrainingResult, train
from mlpot.training.messages import LOG, TrainingWarning
from mlpot.training.run_directory import RunDirectoryError

EPOCHS = "training.epochs=4"


class Cut(Callback):
    """Stops a run in its seventh step."""

    def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == 7:
            raise PowerCutError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(small_recipe(data, tmp_path_factory.mktemp("whole"), EPOCHS))


@pytest.fixture
def cut(data: Path, tmp_path: Path) -> Path:
    """The directory of a run that was stopped."""
    with pytest.raises(PowerCutError):
        train(small_recipe(data, tmp_path / "old", EPOCHS), callbacks=[Cut()])
    return tmp_path / "old"


CHANGES: dict[str, Callable[[Path], list[str]]] = {
    "spelling of the path": lambda data: [f"data.train={data.parent}/./{data.name}"],
    "place of the data": lambda data: [f"data.train={shutil.copy(data, data.with_name('other.h5'))}"],
    "workers": lambda data: ["data.workers=1"],
    "device": lambda data: ["training.accelerator=cpu", "training.devices=auto"],
    "what is checked and shown": lambda data: ["data.check=warn", "training.progress=true"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_mathematics_may_change(change: str, cut: Path, data: Path, whole: TrainingResult) -> None:
    train(small_recipe(data, cut, EPOCHS, *CHANGES[change](data)), resume=True)
    assert_same_training(whole.directory, cut)


def test_a_run_whose_folder_was_renamed_is_the_run(cut: Path, data: Path, whole: TrainingResult) -> None:
    """Lightning would count the next epoch as the best, and write over the one that was."""
    new = cut.rename(cut.with_name("new"))
    train(small_recipe(data, new, EPOCHS), resume=True)
    assert_same_training(whole.directory, new)
    assert not cut.exists()


def test_the_recipe_in_a_renamed_folder_goes_on_there(
    cut: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = cut.rename(cut.with_name("new"))
    monkeypatch.setattr("sys.argv", ["mlpot", "train", str(new / "recipe.yaml"), "--resume"])
    with pytest.raises(SystemExit):
        main()
    assert "going on in" in capsys.readouterr().out
    assert_same_training(whole.directory, new)


def test_other_frames_another_batch_and_other_processes_are_another_run(cut: Path, data: Path) -> None:
    other = write(cut.with_name("other.h5"), crystals(28)[16:])
    with pytest.raises(RunDirectoryError, match="data changed"):
        train(small_recipe(other, cut, EPOCHS), resume=True)
    with pytest.raises(RecipeError, match=r"other values of training\.batch_size"):
        train(small_recipe(data, cut, EPOCHS, "training.batch_size=2"), resume=True)
    with pytest.raises(RecipeError, match=r"other values of data\.validation"):
        train(small_recipe(data, cut, EPOCHS, f"data.validation={other}"), resume=True)


def test_a_cosine_over_more_epochs_says_how_the_rate_jumps(data: Path, tmp_path: Path) -> None:
    train(small_recipe(data, tmp_path / "run", EPOCHS))
    with pytest.warns(TrainingWarning, match="rate goes from 5e-05 to 0.00"):
        train(small_recipe(data, tmp_path / "run", "training.epochs=8"), resume=True)
    assert "drawn anew over 8 epochs" in (tmp_path / "run" / LOG).read_text()
