"""Train by a recipe, in a file or in Python: what `mlpot train` and `mlpot.train` do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpot.recipes import load_recipe, parse_recipe
from mlpot.training import committee
from mlpot.training.fit import TrainingResult
from mlpot.training.messages import Messages
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import moved_to

Overrides = Mapping[str, Any] | Sequence[str]
"""{"training.epochs": 3}, or ["training.epochs=3"] as on the command line."""


def train(
    recipe: str | Path | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainingResult:
    """Train a potential; its file, metrics, logs and pictures are in the recipe's `training.directory` afterwards.

    Args:
        recipe: a YAML file, as `mlpot recipe` prints one, or the same sections and keys as a dictionary.
        overrides: values put over the recipe's.
        resume: go on from the last checkpoint of the run in the directory, as if it had never stopped.
        overwrite: remove a run that is in the directory.

    Returns:
        `potential`, ready for use; `metrics`, as in metrics.json; `directory`; and `model`, the potential's file.

    Raises:
        RecipeError: a key or a value is wrong, or the run to resume was started with another recipe.
        RunDirectoryError: there is a run already, or none to resume.
        DataError: the structures or their labels are wrong.
        TrainingDivergedError: the loss is no longer finite.
        SignalledError: a signal asked to stop; the run is saved, and can be resumed.
        ValueError: what else the recipe asks for cannot be done, such as a device that is not here.
    """
    wanted = read_recipe(recipe, overrides)
    if resume and isinstance(recipe, str | Path) and (here := moved_to(wanted, Path(recipe))):
        tell = Messages(show=True)
        tell(f"{wanted.training.directory} holds no run: going on in {here}, where the recipe lies.")
        wanted = read_recipe(recipe, [*_assignments(overrides), *_assignments({"training.directory": here})])
    return committee.train(wanted, resume=resume, overwrite=overwrite)


def read_recipe(recipe: str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """The recipe in a file or a dictionary, with values put over it; arguments and errors as of `train`."""
    if isinstance(recipe, Mapping):
        return parse_recipe(Recipe, _as_yaml(recipe), _assignments(overrides))
    return load_recipe(Recipe, recipe, _assignments(overrides))


def _assignments(overrides: Overrides) -> list[str]:
    """Overrides as on the command line."""
    if isinstance(overrides, Mapping):
        return [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def _as_yaml(value: Any) -> str:
    """A value, and the values in it, as YAML, of which JSON is a part; paths are text."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, default=str, ensure_ascii=False)
