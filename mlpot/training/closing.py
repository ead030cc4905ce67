"""The closing solve of a training: announced, timed by its first batches, and told with its result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from mlpot.potential import Potential
from mlpot.training.expectation import in_words
from mlpot.training.loaders import Batches
from mlpot.training.messages import Messages
from mlpot.training.recipe import Recipe
from mlpot.training.schedule import final_loss
from mlpot.training.solve import Batch, closing_solve, labeled_set, n_linear_weights
from mlpot.training.splits import Parts

TIMED = 0.05  # part of the structures whose time tells that of all


class Timed:
    """The batches of a set, of which the first ones tell how long the solve will take.

    Args:
        batches: of the training set.
        n_structures: of which the solve makes rows, those of the validation set included.
        tell: where the expected time is said.
    """

    def __init__(self, batches: Batches, n_structures: int, tell: Messages):
        self.batches, self.n_structures, self.tell = batches, n_structures, tell

    def __iter__(self) -> Iterator[Batch]:
        began, done, is_told = time.monotonic(), 0, False
        for graph, labels in self.batches:
            yield graph, labels  # the rows of this batch have been made when the next one is asked for
            done += graph.n_graphs
            if not is_told and done >= TIMED * self.n_structures:
                seconds = (time.monotonic() - began) / done * self.n_structures
                self.tell(f"Expected: {in_words(seconds)} for the closing solve")
                is_told = True


def solve_linear(
    potential: Potential, recipe: Recipe, sets: dict[str, Batches], parts: Parts, tell: Messages
) -> dict[str, Any] | None:
    """Do the closing solve and tell its result; None for a backbone without linear weights."""
    n_weights = n_linear_weights(potential.backbone)
    if n_weights == 0:
        return None
    tell(f"Closing solve of {n_weights} weights begins (training.solve=false leaves it out)")
    began = time.monotonic()
    energy, forces, stress = final_loss(recipe).weights
    timed = Timed(sets["train"], len(parts.train) + len(parts.validation), tell)
    train = labeled_set(timed, parts.train.n_labels(), with_stress=stress > 0)
    validation = labeled_set(sets["validation"], parts.validation.n_labels(), with_stress=stress > 0)
    solved = closing_solve(
        potential, train, validation, energy_weight=energy, forces_weight=forces, stress_weight=stress
    )
    before, after = map(str, (solved.before, solved.after))
    verdict = f"{before} -> {after}" if solved.accepted else f"not kept: it would not lower {before}"
    tell(
        f"Closing solve of {solved.n_weights} weights from {solved.n_rows} force components in "
        f"{time.monotonic() - began:.0f} s: validation RMSE {verdict}"
    )
    return solved.facts()
