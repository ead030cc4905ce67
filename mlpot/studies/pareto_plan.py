"""What a comparison of networks trains: each of them for each time, on one split, with a fitting schedule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from mlpot.data.check.survey import survey
from mlpot.data.h5md import content_hash
from mlpot.data.split import By, split
from mlpot.models import BACKBONES
from mlpot.models.layers import choose
from mlpot.models.presets import LOSS, preset_of
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.studies.several import DATA, Study, changed_keys
from mlpot.studies.subsets import Drawing, Pool, changed_fields, draw_pool
from mlpot.training import committee
from mlpot.training.epoch_time import EpochTime
from mlpot.training.recipe import DataSection, Recipe
from mlpot.training.run_directory import RunDirectoryError
from mlpot.training.splits import check_units, make_parts, paths_of, structures

PARETO = Study("comparison", "pareto.json", "*_min_seed_*", "--output")
VALIDATION, TEST = 0.1, 0.1  # parts of the structures
FEWEST = 2  # structures that judge: of one alone nobody knows how errors scatter
FIXED = {
    "data": ("train", "validation", "test"),
    "model": ("backbone", "start"),
    "training": ("directory", "epochs", "max_minutes", "patience", "seed", "committee", "solve"),
}
"""Keys of a recipe that the comparison sets itself."""


@dataclass(frozen=True)
class Question:
    """What a user asks for."""

    data: str  # file of all structures, or of those that train and validate if there is a test file
    test: str | None
    directory: Path
    backbones: tuple[str, ...]
    minutes: tuple[float, ...]  # ascending
    n_seeds: int
    overrides: tuple[str, ...]  # of every recipe
    by: By = "block"
    block: int | None = None
    seed: int = 0  # draws the sets
    progress: bool = True

    def check(self) -> None:
        """Raise RecipeError or ValueError for what cannot be compared, whatever the data are."""
        if not self.backbones or len(set(self.backbones)) < len(self.backbones):
            raise RecipeError(
                f"--backbones {','.join(self.backbones)}: name at least one, and each once. There are "
                f"{', '.join(BACKBONES)}."
            )
        for name in self.backbones:
            choose(BACKBONES, name, "backbone")
        if (
            not self.minutes
            or any(not m > 0 for m in self.minutes)
            or list(self.minutes) != sorted(set(self.minutes))
        ):
            raise RecipeError(f"--minutes {words(self.minutes)} do not ascend from above 0. Write them as 1,2,5.")
        if self.n_seeds < 1:
            raise RecipeError(f"--seeds {self.n_seeds}: give at least 1, and 3 or more for an uncertainty.")
        for name in self.backbones:
            _parsed(self, name, {"train": self.data})

    @property
    def drawing(self) -> Drawing:
        """How its sets are drawn, and from what."""
        test = "drawn" if self.test is None else content_hash(self.test)
        return Drawing(self.by, self.block, self.seed, content_hash(self.data), VALIDATION, None, test)

    @property
    def n_trainings(self) -> int:
        """Of all backbones, times and seeds."""
        return len(self.backbones) * len(self.minutes) * self.n_seeds

    @property
    def total(self) -> float:
        """Minutes of all trainings."""
        return len(self.backbones) * sum(self.minutes) * self.n_seeds


@dataclass(frozen=True)
class Sets:
    """The split: what is trained on, what picks, and what reports."""

    pool: Pool
    test: str

    @property
    def files(self) -> dict[str, Any]:
        """The three, as a recipe names them."""
        return {"train": self.pool.train, "validation": self.pool.validation, "test": self.test}


@dataclass(frozen=True)
class Point:
    """One training."""

    backbone: str
    minutes: float
    seed: int
    recipe: Recipe

    @property
    def directory(self) -> Path:
        """Of the training."""
        return Path(self.recipe.training.directory)

    @property
    def words(self) -> str:
        """In words."""
        return f"{self.backbone}, {self.minutes:g} min ({self.recipe.training.epochs} epochs), seed {self.seed}"


def words(minutes: Sequence[float]) -> str:
    """Minutes as the command line has them."""
    return ",".join(f"{m:g}" for m in minutes)


def draw(question: Question) -> Sets:
    """Split the data, and count what the sets have in common.

    Raises:
        RecipeError: too few structures; DataError: as `data.split.split`.
    """
    folder = question.directory / DATA
    n = len(structures(survey(question.data)))
    if n * min(VALIDATION, TEST) < FEWEST:
        raise RecipeError(
            f"{question.data} has {n} structures besides isolated atoms: a tenth validates and a tenth tests, and "
            f"of less than {FEWEST} each nobody knows how errors scatter. Give at least "
            f"{round(FEWEST / min(VALIDATION, TEST))}."
        )
    validation: float | str = VALIDATION
    train, test = question.data, question.test
    if test is None:
        fractions = [1 - VALIDATION - TEST, VALIDATION, TEST]
        parts = split(
            train,
            fractions,
            by=question.by,
            block=question.block,
            output=folder,
            seed=question.seed,
            overwrite=True,
        )
        train, validation, test = (str(path) for path in parts)
    section = DataSection(train=train, validation=validation, test=test, seed=question.seed)
    pool = draw_pool(section, question.drawing, folder)
    if min(pool.n_validation, pool.n_test) < FEWEST:
        raise RecipeError(
            f"{pool.n_validation} structures validate and {pool.n_test} test, which is too few to know how errors "
            "scatter. Give more structures, or --by random if they are not of one trajectory."
        )
    return Sets(pool, test)


def recipe_of(question: Question, sets: Sets, backbone: str) -> Recipe:
    """The recipe of a backbone, of which trainings differ in directory, seed and epochs alone.

    Raises:
        RecipeError: an override of what the comparison sets itself, or that a recipe does not take.
    """
    recipe = _parsed(question, backbone, sets.files)
    committee.check_one_process(recipe, "A comparison")
    return recipe


def _parsed(question: Question, backbone: str, files: Mapping[str, Any]) -> Recipe:
    preset = preset_of(backbone)
    values = {
        "data": dict(files),
        "model": {"backbone": backbone, "arguments": preset.arguments},
        "loss": LOSS,
        "optimizer": preset.optimizer,
        "training": {"directory": str(question.directory / backbone), "solve": False, "progress": False},
    }
    plain, recipe = (
        parse_recipe(Recipe, json.dumps(values), o, origin=backbone) for o in ((), question.overrides)
    )
    for section, keys in FIXED.items():
        for key in keys:
            if getattr(getattr(recipe, section), key) != getattr(getattr(plain, section), key):
                raise RecipeError(
                    f"{section}.{key} is set by the comparison itself, so that all networks are treated alike. "
                    "Leave it out."
                )
    return recipe


def check_data(recipes: Mapping[str, Recipe]) -> None:
    """Check the sets once, before anything is trained.

    Raises:
        ValueError: as `splits.make_parts`.
    """
    recipe = next(iter(recipes.values()))
    check_units(survey(*paths_of(recipe.data.train)), recipe.data.check)
    for other in recipes.values():
        make_parts(_unchecked(other).data, other.loss)


def _unchecked(recipe: Recipe) -> Recipe:
    """The recipe of a set of which units and signs were checked already."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"check": "off"})})


def with_training(recipe: Recipe, **training: Any) -> Recipe:
    """A recipe with other entries of its training."""
    recipe = _unchecked(recipe)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})


def epochs_in(minutes: float, time: EpochTime) -> int:
    """Whole epochs that a training of some minutes has time for."""
    return max(0, int((60 * minutes - time.before) / time.epoch))


def points_of(question: Question, recipes: Mapping[str, Recipe], times: Mapping[str, EpochTime]) -> list[Point]:
    """All trainings: of each backbone, for each time, from each seed.

    The learning rate falls over the epochs that a training has time for, so that it ends as its minutes do. One
    that has time for none stands there with 0 epochs, and is not done.
    """
    return [
        Point(
            backbone,
            minutes,
            seed,
            with_training(
                recipes[backbone],
                directory=str(question.directory / f"{backbone}_{minutes:g}_min_seed_{seed}"),
                epochs=epochs_in(minutes, times[backbone]),
                seed=seed,
            ),
        )
        for backbone in question.backbones
        for minutes in question.minutes
        for seed in range(question.n_seeds)
    ]


def check_minutes(question: Question, times: Mapping[str, EpochTime]) -> None:
    """Raise RecipeError where the longest time has no room for one epoch of any backbone."""
    most = question.minutes[-1]
    if any(epochs_in(most, time) for time in times.values()):
        return
    told = "; ".join(f"{name} {words_of_epoch(time)}" for name, time in times.items())
    needed = min((t.before + t.epoch) / 60 for t in times.values())
    raise RecipeError(
        f"--minutes {words(question.minutes)}: {most:g} min is shorter than one epoch ({told}). Give times from "
        f"{1.1 * needed:.2g} min on, and --resume, by which what was measured is kept; or fewer structures, or "
        "other --backbones."
    )


def words_of_epoch(time: EpochTime) -> str:
    """How long an epoch takes."""
    return f"{time.epoch / 60:.2g} min, and {time.before:.2g} s before"


def gone_on(question: Question) -> tuple[Question, Sets]:
    """What is asked for with what was asked before, and the sets of then.

    Raises:
        RecipeError: settings differ; RunDirectoryError: the data do, or pareto.json is damaged.
    """
    with PARETO.before(question.directory) as written:
        sets = TypeAdapter(Sets).validate_python(written["sets"])
        drawing = TypeAdapter(Drawing).validate_python(written["drawing"])
        recipes = {name: Recipe.model_validate(r) for name, r in written["recipes"].items()}
        threads = int(written["threads"])
        minutes = sorted({*question.minutes, *(float(m) for m in written["minutes"])})
        backbones = tuple(dict.fromkeys([*recipes, *question.backbones]))
        n_seeds = max(question.n_seeds, int(written["seeds"]))
    question = replace(question, minutes=tuple(minutes), backbones=backbones, n_seeds=n_seeds)
    told = {"by": "--by", "block": "--block", "seed": "--split-seed"}
    differing = changed_fields(drawing, question.drawing)
    changed = [told[key] for key in told if key in differing]
    for name, before in recipes.items():
        changed += [f"{key} of {name}" for key in changed_keys(before, recipe_of(question, sets, name))]
    if changed:
        raise RecipeError(
            f"The comparison in {question.directory} was started with other values of {', '.join(changed)}. Give "
            "them as they were, or another --output."
        )
    if differing:
        raise RunDirectoryError(
            f"The data changed since the comparison in {question.directory} was started. Restore them, or start "
            "another."
        )
    if threads != torch.get_num_threads():
        raise RecipeError(
            f"The comparison in {question.directory} was started with {threads} threads, and here are "
            f"{torch.get_num_threads()}: times would not compare. Set OMP_NUM_THREADS={threads}."
        )
    return question, sets
