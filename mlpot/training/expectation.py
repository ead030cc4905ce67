"""What computes the steps of a training, and how long it will take, said as soon as its first steps tell."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from mlpot.forces import computed_by
from mlpot.potential import Potential
from mlpot.training.messages import Messages

SKIPPED = 3  # steps that may compile, or fill caches
MEASURED = 20


class Expectation(Callback):
    """Says what computes the steps, measures some of the first ones and says how long the rest will take.

    Args:
        tell: where it is said.
        max_minutes: the training ends after so long in any case.
    """

    def __init__(self, tell: Messages, max_minutes: float | None):
        self.tell, self.max_minutes = tell, max_minutes
        self._n, self._since = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tell(f"Energies and forces are computed by {computed_by(cast('Potential', pl_module.potential))}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._n += 1
        if self._n == SKIPPED:
            self._since = time.monotonic()
        if self._n == SKIPPED + MEASURED:
            step = (time.monotonic() - self._since) / MEASURED
            epochs = trainer.max_epochs or 0
            n_steps = epochs * int(trainer.num_training_batches)
            self.tell(expected(step, n_steps - trainer.global_step, self.max_minutes))


def expected(step: float, n_steps: int, max_minutes: float | None) -> str:
    """The expected time of `n_steps` steps of `step` seconds each, in words."""
    seconds = step * n_steps
    told = f"Expected: {in_words(seconds)} for {n_steps} steps of {1e3 * step:.3g} ms, and validation besides"
    if max_minutes is not None and 60 * max_minutes < seconds:
        share = 60 * max_minutes / seconds
        told += f"; training.max_minutes={max_minutes:g} ends it after about {share:.0%} of them"
    return told


def in_words(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.3g} seconds"
