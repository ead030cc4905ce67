"""Does a training that diverges go back, try again more slowly, and end in one line if that does not help?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from sets import crystals, small_recipe, write
from training_runs import assert_same_training, checkpoint

from mlpot.cli.main import main
from mlpot.training.fit import train
from mlpot.training.messages import TrainingWarning
from mlpot.training.module import HALVINGS, TrainingDivergedError, TrainingModule
from mlpot.training.trainer import LAST


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


class Blow(Callback):
    """Makes a weight infinite in a step, as long as the learning rate is above a limit."""

    def __init__(self, step: int, above: float, value: float = torch.inf):
        self.step, self.above, self.value = step, above, value
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer, module, *_: object) -> None:  # type: ignore[no-untyped-def]
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rates[trainer.global_step] = rate
        if trainer.global_step == self.step and rate > self.above:
            next(p for n, p in module.named_parameters() if n.endswith("bias")).data.fill_(self.value)


CONSTANT = ("optimizer.schedule=none", "optimizer.warmup_steps=0", "training.epochs=3")  # rate 0.005


@pytest.mark.parametrize("step", [1, 6])
def test_it_goes_back_to_the_last_good_state_at_half_the_rate(step: int, data: Path, tmp_path: Path) -> None:
    blow = Blow(step, above=0.002)
    with pytest.warns(TrainingWarning, match="Going back to the s") as said:
        result = train(small_recipe(data, tmp_path / "run", *CONSTANT), callbacks=[blow])
    assert len(said) == 2
    assert "1/4 of the learning rate" in str(said[1].message)
    assert result.metrics["halvings"] == 2
    assert blow.rates == {k: 0.005 if k < step // 4 * 4 else 0.00125 for k in range(12)}
    assert all(p.isfinite().all() for p in result.potential.parameters())


def test_a_loss_that_grows_without_bounds_is_a_divergence_too(data: Path, tmp_path: Path) -> None:
    with pytest.warns(TrainingWarning, match="validation loss of epoch 2"):
        train(
            small_recipe(data, tmp_path / "run", *CONSTANT, "optimizer.ema_decay=0"),
            callbacks=[Blow(6, above=0.003, value=1e3)],
        )


def test_a_kill_after_going_back_changes_nothing(data: Path, tmp_path: Path) -> None:
    """N13: the halved rate survives a kill."""

    class Cut(Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == 10:
                raise KeyboardInterrupt

    recipes = [small_recipe(data, tmp_path / name, *CONSTANT) for name in ("whole", "cut")]
    with pytest.warns(TrainingWarning, match="Going back"):
        train(recipes[0], callbacks=[Blow(6, above=0.003)])
    with pytest.warns(TrainingWarning, match="Going back"), pytest.raises((SystemExit, KeyboardInterrupt)):
        train(recipes[1], callbacks=[Blow(6, above=0.003), Cut()])
    train(recipes[1], resume=True, callbacks=[Blow(6, above=0.003)])
    assert checkpoint(tmp_path / "cut" / LAST)["mlpot"]["halvings"] == 1  # type: ignore[index]
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.filterwarnings("ignore:Diverged")
def test_what_does_not_help_ends_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingDivergedError, match="start anew with optimizer"):
        train(small_recipe(data, tmp_path / "run", *CONSTANT), callbacks=[Blow(6, above=0.0)])
    assert checkpoint(tmp_path / "run" / LAST)["global_step"] == 4

    def poison(module: TrainingModule, *_: object) -> None:
        next(module.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", poison)
    monkeypatch.setattr("sys.argv", ["mlpot", "train", str(tmp_path / "run/recipe.yaml"), "--resume"])
    with pytest.raises(SystemExit) as end:
        main()
    told = str(end.value.code)
    assert len(told.splitlines()) == 1
    assert f"after {HALVINGS} halvings" in told
    assert str(tmp_path / "run" / LAST) in told
