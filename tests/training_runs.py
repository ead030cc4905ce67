"""Trainings for the tests that are killed or told to stop, and compared to the bit.

As a script, `training_runs.py DATA DIRECTORY OVERRIDE...` trains, or goes on, in processes that each write down
who they are and how far they have come.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from md_runs import Fault, in_a_child, kill_soon, kill_until_through
from sets import small_recipe

from mlpot.model_file import load_potential
from mlpot.signals import StoppedError
from mlpot.training import fit, outputs
from mlpot.training.recipe import Recipe
from mlpot.training.trainer import BEST, LAST

STATE = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "epoch")
"""What a checkpoint holds of a training, and not of its clock."""


class PowerCutError(Exception):
    """What stops a run."""


PICTURES = {"plot_parity": outputs.plot_parity, "plot_learning_curve": outputs.plot_learning_curve}


def no_pictures(patch: pytest.MonkeyPatch) -> None:
    """Trainings draw none, which take as long as small trainings."""
    for name in PICTURES:
        patch.setattr(outputs, name, lambda *arguments, **settings: None)


def pictures(patch: pytest.MonkeyPatch) -> None:
    """Trainings draw them after all."""
    for name, plot in PICTURES.items():
        patch.setattr(outputs, name, plot)


class StopIn(Callback):
    """Stops one of several trainings after so many steps."""

    def __init__(self, number: int, *, step: int):
        self.number, self.step, self.begun = number, step, 0

    def on_fit_start(self, *_: object) -> None:
        self.begun += 1

    def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]  # Lightning's
        if self.begun == self.number + 1 and trainer.global_step == self.step:
            raise PowerCutError


def checkpoint(path: Path) -> dict[str, object]:
    """What is in one."""
    loaded: dict[str, object] = torch.load(path, weights_only=True)
    return loaded


def assert_same(a: object, b: object, where: str = "") -> None:
    """Equality to the bit of nested dictionaries of tensors."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{k}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_training(one: Path, other: Path, names: tuple[str, ...] = (LAST, BEST)) -> None:
    """The state at the end, the best weights and the potential are equal to the last bit."""
    for name in names:
        before, after = checkpoint(one / name), checkpoint(other / name)
        for key in STATE:
            assert_same(before.get(key), after.get(key), f"{name} {key}")
    a, b = (load_potential(run / "model.safetensors").state_dict() for run in (one, other))
    assert_same(dict(a), dict(b))


class KilledAfter(Callback):
    """Kills this process at any moment after so many steps of it."""

    def __init__(self, steps: int):
        self.left = steps

    def on_train_batch_end(self, *_: object) -> None:
        """Count."""
        self.left -= 1
        if self.left == 0:
            threading.Thread(target=kill_soon, daemon=True).start()


class Diary(Callback):
    """Appends the number of each step and its labels to a file, whole lines at a time."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """What the step is about to be given."""
        _, labels = batch
        line = f"{trainer.global_step} {labels.energy.tolist()} {labels.forces.sum().item()!r}\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)


def diary(folder: Path) -> dict[int, set[str]]:
    """What each step of a run was given, by turns if it was done several times."""
    steps: dict[int, set[str]] = {}
    for line in folder.with_suffix(".diary").read_text().splitlines():
        step, _, given = line.partition(" ")
        steps.setdefault(int(step), set()).add(given)
    return steps


def attempt(recipe: Recipe, killed: Fault | None, steps: float | None) -> bool:
    """Train or go on; see `md_runs.in_a_child`. Without a fault it is killed at any moment after so many steps."""
    directory = Path(recipe.training.directory)

    def train() -> None:
        no_pictures(pytest.MonkeyPatch())
        resume = (directory / "recipe.yaml").exists()
        callbacks: list[Callback] = [Diary(directory.with_suffix(".diary"))]
        if steps is not None:
            callbacks.append(KilledAfter(round(steps)))
        fit.train(recipe, resume=resume, callbacks=callbacks)

    return in_a_child(train, killed)


def steps_saved(directory: Path) -> int:
    """The step of the newest checkpoint."""
    path = directory / LAST
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


class Whereabouts(Callback):
    """Keeps a file with the number of each process and of the step that it is about to do."""

    def __init__(self, run: Path):
        self.run = run

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Write it."""
        self.run.with_suffix(f".{trainer.global_rank}").write_text(f"{os.getpid()} {trainer.global_step}")


class StopsItself(Callback):
    """A process of several tells itself to stop before a step."""

    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Send the signal."""
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGTERM)


def together(data: Path, directory: Path, *overrides: str) -> None:
    """Train, or go on, in as many processes as the overrides say; STOP="1 7" stops it by process 1 in step 7."""
    torch.set_num_threads(1)
    recipe = small_recipe(data, directory, *overrides)
    try:
        stops = [StopsItself(*map(int, os.environ["STOP"].split()))] if "STOP" in os.environ else []
        fit.train(recipe, resume=(directory / LAST).exists(), callbacks=[Whereabouts(directory), *stops])
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)


def kill_training(data: Path, folder: Path, n_kills: int, seed: int, *overrides: str) -> int:
    """Train once undisturbed, and once killed about so often, and resumed each time until its end; how often.

    Kills come at random moments and inside the writing of checkpoints. Each run writes down what its steps were
    given.
    """
    whole, parts = (small_recipe(data, folder / name, *overrides) for name in ("whole", "parts"))
    assert attempt(whole, None, None)
    return kill_until_through(
        partial(attempt, parts), lambda: steps_saved(folder / "parts"), random.Random(seed), n_kills,
        writes=30, delays=(max(1.0, 0.4 * n_kills), 2.0 * n_kills),
    )  # fmt: skip


if __name__ == "__main__":
    together(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
