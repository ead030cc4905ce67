"""How long an epoch takes, measured in a training that is thrown away."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from mlpot.training import fit
from mlpot.training.loaders import free_memory
from mlpot.training.recipe import Recipe
from mlpot.training.sets import make_sets
from mlpot.training.splits import make_parts

MANY = 10**6  # epochs, of which a few are done


@dataclass(frozen=True)
class EpochTime:
    """What was measured."""

    epoch: float  # seconds of one, its validation and checkpoints included
    before: float  # seconds before the first: data are read, neighbors are found
    processor_share: float  # processor time over time: of a single thread, less than 1 where others took it


class _MeasuredError(Exception):
    """Ends the training when enough epochs were measured."""


class _Watch(Callback):
    """Measures whole epochs but the first, in which loops are compiled.

    Args:
        enough: seconds after which it ends the training with the next epoch.
    """

    def __init__(self, enough: float):
        self.enough, self.seconds, self.share = enough, 0.0, 0.0
        self._since, self._processor = 0.0, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now, n = time.monotonic(), trainer.current_epoch - 1
        if n < 1:
            self._since, self._processor = now, time.process_time()
        elif now - self._since >= self.enough:
            self.seconds = (now - self._since) / n
            self.share = (time.process_time() - self._processor) / (now - self._since)
            raise _MeasuredError


def measure_epoch(recipe: Recipe, enough: float) -> EpochTime:
    """The time of an epoch of a recipe, whose directory is used and removed.

    Two epochs are done at least, the first of which does not count.

    Args:
        recipe: whose number of epochs does not matter.
        enough: seconds to measure.

    Raises:
        As `fit.train`.
    """
    training = recipe.training.model_copy(update={"epochs": MANY, "progress": False})
    watch = _Watch(enough)
    try:
        fit.train(recipe.model_copy(update={"training": training}), overwrite=True, callbacks=[watch])
    except _MeasuredError:
        return EpochTime(watch.seconds, _before(recipe), watch.share)
    finally:
        shutil.rmtree(Path(recipe.training.directory), ignore_errors=True)
    raise AssertionError("a training of so many epochs does not end")


def _before(recipe: Recipe) -> float:
    """Seconds in which the data are read and neighbors found, without what a first training loads and compiles."""
    began = time.monotonic()
    parts = make_parts(recipe.data, recipe.loss, keep=free_memory() / 4)
    make_sets(recipe, parts, recipe.model.arguments["cutoff"])
    return time.monotonic() - began
