"""How many neighbors atoms have, by which some networks divide their sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlpot.data.frame import Frame
from mlpot.neighbors import build_graph
from mlpot.recipes import load_recipe
from mlpot.training.messages import Messages
from mlpot.training.reach import MOST
from mlpot.training.recipe import Recipe
from mlpot.training.splits import Part

KEY = "n_neighbors"


def with_neighbor_count(recipe: Recipe, train: Part, tell: Messages, run: Path | None) -> Recipe:
    """The recipe with the mean number of neighbors as its network's `n_neighbors`, if it leaves that open.

    Args:
        recipe: of a training that starts from no model.
        train: what is trained on, of which some frames are read if the number is open.
        tell: where the number is said.
        run: the directory of a run that goes on, whose number stays.
    """
    arguments = recipe.model.arguments
    if KEY not in arguments or arguments[KEY] is not None:
        return recipe
    if run is None:
        found = mean_neighbors(train.sample(), arguments["cutoff"])
        number = "none" if found is None else f"{found:g}"
        tell(f"Neighbors of an atom within {arguments['cutoff']:g} Å: {number} (model.arguments.{KEY})")
    else:
        found = load_recipe(Recipe, run / "recipe.yaml").model.arguments.get(KEY)
    return _with(recipe, found)


def with_count_of(recipe: Recipe, earlier: Recipe) -> Recipe:
    """The recipe with the number that a run of it found, if it leaves that open, to compare the two."""
    arguments = recipe.model.arguments
    is_open = KEY in arguments and arguments[KEY] is None
    return _with(recipe, earlier.model.arguments.get(KEY)) if is_open else recipe


def _with(recipe: Recipe, found: float | None) -> Recipe:
    arguments = recipe.model.arguments
    model = recipe.model.model_copy(update={"arguments": arguments | {KEY: found}})
    return recipe.model_copy(update={"model": model})


def mean_neighbors(frames: Sequence[Frame], cutoff: float) -> float | None:
    """The mean number of neighbors within a cutoff in Å, to two digits, of atoms that have some; None if none has.

    Two digits are what a network feels, and are the same for parts of a set.
    """
    counts = [0]
    for frame in frames[:: -(-len(frames) // MOST) or 1]:
        try:
            graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, cutoff)
        except ValueError:  # of an impossible structure, which the training refuses with its place
            continue
        counts += graph.edges.row_ptr.diff().tolist()
    some = np.array(counts)[np.array(counts) > 0]
    return float(f"{some.mean():.2g}") if len(some) else None
