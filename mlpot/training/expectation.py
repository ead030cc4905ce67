"""What computes the steps of a training, and how long it will take, said as soon as its first steps tell."""

from __future__ import annotations

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from mlpot.forces import computed_by
from mlpot.potential import Potential
from mlpot.training.messages import Messages
from mlpot.training.recipe import Augment, TrainingSection

SKIPPED = 3  # steps that may compile, or fill caches
MEASURED = 20


class Expectation(Callback):
    """Says what computes the steps, measures some of the first ones and says how long the rest will take.

    Args:
        tell: where it is said.
        training: section of the recipe.
    """

    def __init__(self, tell: Messages, training: TrainingSection):
        self.tell, self.max_minutes, self.augment = tell, training.max_minutes, training.augment
        self._n, self._since = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        potential = cast("Potential", pl_module.potential)
        self.tell(f"Energies and forces are computed by {computed_by(potential)}")
        say_handedness(potential, self.tell)
        say_rotations(potential, self.augment, self.tell)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._n += 1
        if self._n == SKIPPED:
            self._since = time.monotonic()
        if self._n == SKIPPED + MEASURED:
            step = (time.monotonic() - self._since) / MEASURED
            epochs = trainer.max_epochs or 0
            n_steps = epochs * int(trainer.num_training_batches)
            self.tell(expected(step, n_steps - trainer.global_step, self.max_minutes))


def say_handedness(potential: Potential, tell: Messages) -> None:
    """Say of a network without parity whether it tells mirror images apart, or why it cannot."""
    if potential.backbone.parity:
        return
    line = f"Handedness: mirror images {potential.mirror_images}"
    if potential.backbone.handedness_obstacle() is None:
        tell(line)
    else:
        tell.warn(line)


def say_rotations(potential: Potential, augment: Augment, tell: Messages) -> None:
    """Say of a network without built-in symmetry whether rotations are learned, of another that they need not."""
    if potential.backbone.equivariant:
        learns = augment == "rotations-and-reflections" and not potential.backbone.parity
        if augment != "none" and not learns:
            tell.warn(
                f"training.augment: {augment} teaches this network nothing: rotated copies have one energy by "
                "construction. Leave it out."
            )
    elif augment == "none":
        tell.warn(
            "Nothing tells this network of rotations: it has no built-in symmetry, and training.augment is none. "
            "Its energies and forces will depend on how a structure lies. Set training.augment: rotations."
        )
    else:
        tell(f"Rotations are learned: every structure is turned anew in each epoch ({augment})")


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
