"""A learning-rate range test: the loss while the rate grows from step to step (L. N. Smith, arXiv 1506.01186)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mlpot.forces import predict
from mlpot.potential import Potential
from mlpot.training.loaders import Batch, Batches
from mlpot.training.losses import Loss
from mlpot.training.module import TrainingDivergedError
from mlpot.training.parameter_groups import element_rows, make_optimizer
from mlpot.training.recipe import Recipe

LOWEST, HIGHEST = 1e-6, 1.0
N_STEPS = 120
SMOOTHING = 0.9  # of the running mean of the loss
BLOWN_UP = 4.0  # times the lowest loss: the test has seen enough


@dataclass(frozen=True)
class RateRange:
    """What a range test found."""

    rates: list[float]
    losses: list[float]  # running means

    @property
    def at_minimum(self) -> float:
        """The rate at which the loss was lowest; above it, a training tends to diverge."""
        return self.rates[min(range(len(self.losses)), key=self.losses.__getitem__)]

    @property
    def suggested(self) -> float:
        """A tenth of that, to one digit: safe with a schedule and in batches with large gradients."""
        return float(f"{self.at_minimum / 10:.0e}")


def rate_range(potential: Potential, batches: Batches, loss: Loss, recipe: Recipe) -> RateRange:
    """Train a copy with ever higher rates; potential, batches and random numbers are as before.

    Args:
        potential: where a training of the recipe begins.
        batches: of the training set; their run must be `Alone`.
        loss: of a batch.
        recipe: whose optimizer is used.

    Raises:
        TrainingDivergedError: the loss is no number before the first step, so that no rate is to blame.
    """
    copied = copy.deepcopy(potential).train()
    section = recipe.optimizer.model_copy(update={"rates": {}, "learning_rate": LOWEST})
    optimizer = make_optimizer(copied.backbone, section, fused=False, rows=element_rows(copied))
    weights = [p for p in copied.parameters() if p.requires_grad]
    rates, losses, mean = list[float](), list[float](), 0.0
    for step, (graph, labels) in zip(range(N_STEPS), _without_end(batches), strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (N_STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(predict(copied, graph, training=True), labels, graph)
        if not math.isfinite(value.item()):
            if not losses:
                raise TrainingDivergedError(
                    "The loss is no number before the first step, whatever the learning rate. Look at the labels "
                    "(`mlpot data check`) and at model.arguments."
                )
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value.item()
        rates.append(rate)
        losses.append(mean / (1 - SMOOTHING ** (step + 1)))
        if losses[-1] > BLOWN_UP * min(losses):
            break
        optimizer.zero_grad()
        value.backward(inputs=weights)  # type: ignore[no-untyped-call]
        if recipe.training.clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, recipe.training.clip)
        optimizer.step()
    return RateRange(rates, losses)


def _without_end(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches
