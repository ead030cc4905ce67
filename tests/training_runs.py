"""Trainings for the tests that are killed again and again.

As a script, `training_runs.py DATA FOLDER KILLS SEED OVERRIDE...` trains once without a stop, and once killed
about so often, at random moments and inside the writing of checkpoints, and resumed each time until its end; it
prints how often. Each run writes down what every step was given.
"""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from md_runs import Fault, in_a_child, kill_until_through
from sets import small_recipe

from mlpot.training import fit, outputs
from mlpot.training.recipe import Recipe
from mlpot.training.trainer import LAST


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


def attempt(recipe: Recipe, killed: Fault | None, wait: float | None) -> bool:
    """Train or go on; see `md_runs.in_a_child`."""
    directory = Path(recipe.training.directory)

    def train() -> None:
        for name in ("plot_parity", "plot_learning_curve"):
            pytest.MonkeyPatch().setattr(outputs, name, lambda *arguments, **settings: None)
        resume = (directory / "recipe.yaml").exists()
        fit.train(recipe, resume=resume, callbacks=[Diary(directory.with_suffix(".diary"))])

    return in_a_child(train, killed, wait)


def steps_saved(directory: Path) -> int:
    """The step of the newest checkpoint."""
    path = directory / LAST
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def main(data: Path, folder: Path, n_kills: int, seed: int, *overrides: str) -> None:
    """Train once undisturbed, and once killed until it is through."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    whole, parts = (small_recipe(data, folder / name, *overrides) for name in ("whole", "parts"))
    began = time.monotonic()
    assert attempt(whole, None, None)
    needed = time.monotonic() - began
    print(
        kill_until_through(
            partial(attempt, parts), lambda: steps_saved(folder / "parts"), rng, n_kills,
            writes=30, seconds=(0.2 * needed, 0.5 * needed),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
