"""Error against number of training frames: one training for each size and seed, each in a directory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mlpot.atomic_files import beside_results, make_folder
from mlpot.data.check.survey import survey
from mlpot.data.split import By
from mlpot.figures.curve import plot_curve
from mlpot.recipes import RecipeError
from mlpot.studies.curve_summary import aside_notes, check_target, near_notes, summary
from mlpot.studies.several import DATA, Study, changed_keys, facts_of, files_of, train_each
from mlpot.studies.subsets import (
    Drawing,
    Pool,
    changed_fields,
    check_elements_of,
    draw_pool,
    drawing_of,
    write_subsets,
)
from mlpot.training import committee
from mlpot.training.messages import Messages
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import RunDirectoryError
from mlpot.training.schedule import check_schedule
from mlpot.training.splits import check_units, make_parts, paths_of
from mlpot.training.trainer import Callbacks

CURVE, POINT = Study("curve", "curve.json", "frames_*_seed_*", "training.directory"), "frames_"


@dataclass(frozen=True)
class Plan:
    """What is trained: every size with every seed."""

    recipe: Recipe
    sizes: tuple[int, ...]  # ascending
    n_seeds: int
    budget: int  # that all trainings have in common: steps, or frames shown where batches are told by edges
    drawing: Drawing
    pool: Pool

    @property
    def directory(self) -> Path:
        """Of the curve."""
        return Path(self.recipe.training.directory)

    def subset(self, size: int, seed: int) -> Path:
        """The training set of a point."""
        return self.directory / DATA / f"train_{size}_seed_{seed}.h5"

    def point(self, size: int, seed: int) -> Recipe:
        """The recipe of one training.

        All have equally many steps, as nearly as whole epochs allow: with equally many epochs, small sets would be
        trained for fewer steps, and the slope would tell of the time of training too. What is counted in epochs
        (patience) is stretched alike. The seed draws weights and the order of frames, as it draws the frames.
        Units and signs are checked once, of all frames, in `prepare`. Members of a committee share the validation
        set.
        """
        data, training, optimizer = self.recipe.data, self.recipe.training, self.recipe.optimizer
        epochs = max(1, round(self.budget / cost_of_epoch(self.recipe, size)))
        stretch = epochs / training.epochs
        patience = None if training.patience is None else max(1, round(stretch * training.patience))
        files = {"train": str(self.subset(size, seed)), "validation": self.pool.validation, "check": "off"}
        own = {
            "directory": str(self.directory / f"{POINT}{size}_seed_{seed}"),
            "seed": self.seed(seed),
            "epochs": epochs,
            "patience": patience,
            "progress": False,
            "own_validation": False,
        }
        waiting = {"plateau_patience": round(stretch * optimizer.plateau_patience)}
        return self.recipe.model_copy(
            update={
                "data": data.model_copy(update={**files, "fold": None}),
                "optimizer": optimizer.model_copy(update=waiting),
                "training": training.model_copy(update=own),
            }
        )

    def seed(self, k: int) -> int:
        """The seed of a training; a committee takes as many as it has members."""
        return self.recipe.training.seed + k * self.recipe.training.committee

    def words(self, size: int, seed: int) -> str:
        """One training in words."""
        return f"{size} frames, seed {seed}, {self.point(size, seed).training.epochs} epochs"

    def points(self) -> list[tuple[int, int]]:
        """Sizes and seeds in the order of training, small sets first."""
        return [(size, seed) for size in self.sizes for seed in range(self.n_seeds)]


def cost_of_epoch(recipe: Recipe, size: int) -> int:
    """Steps of an epoch of so many frames; frames where batch_edges tells how many are in a step."""
    return size if recipe.training.batch_edges is not None else -(-size // recipe.training.batch_size)


def curve(
    recipe: Recipe,
    sizes: Sequence[int],
    n_seeds: int,
    *,
    by: By = "block",
    block: int | None = None,
    target: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks = (),
) -> dict[str, Any]:
    """Train every size with every seed, and write curve.json and curve.png into the directory of the recipe.

    Both files are written before the first training and after each, and say what is still to be done. Trainings
    that have finished are not done again when a curve goes on; one that was stopped goes on from its checkpoint.

    Args:
        recipe: of all trainings; its epochs are those of the largest set.
        sizes: numbers of structures, ascending.
        n_seeds: subsets of each size, with weights of their own.
        by, block: what stays together between training and validation, as in `data.split.split`.
        target: forces MAE in meV/Å for which the number of frames is told.
        resume: go on with the curve in the directory, with more sizes or seeds if these are given.
        overwrite: remove a curve that is in the directory.
        callbacks: Lightning's, of every training.

    Raises:
        RecipeError: no curve can be made so; nothing has been trained.
        RunDirectoryError: there is a curve or another run already, or none to resume.
        Else as `committee.train`; a training that diverges is told of in the curve instead.
    """
    check(recipe, sizes, n_seeds, target, resume=resume)
    tell = Messages(show=recipe.training.progress)
    reads = files_of(recipe)
    with CURVE.opened(Path(recipe.training.directory), resume=resume, overwrite=overwrite, reads=reads):
        plan = make_plan(recipe, sizes, n_seeds, drawing_of(recipe.data, by, block), resume=resume)
        prepare(plan)
        write_curve(plan, target)
        points = {plan.words(*point): plan.point(*point) for point in plan.points()}
        train_each(points, lambda: write_curve(plan, target), tell, resume=resume, callbacks=callbacks)
        return write_curve(plan, target)


def check(
    recipe: Recipe, sizes: Sequence[int], n_seeds: int, target: float | None, *, resume: bool = False
) -> None:
    """Raise RecipeError for what no curve can be made of, whatever the data are; one that goes on has sizes."""
    training = recipe.training
    if len(sizes) < 2 and not resume:
        raise RecipeError(f"--sizes {','.join(map(str, sizes))}: a slope needs at least two sizes, as 50,100,200.")
    if any(n < 1 for n in sizes) or list(sizes) != sorted(set(sizes)):
        raise RecipeError(
            f"--sizes {','.join(map(str, sizes))} do not ascend from 1 on. Write them as 50,100,200,400."
        )
    if n_seeds < 1:
        raise RecipeError(f"--seeds {n_seeds}: give at least 1, and 3 or more for an uncertainty.")
    check_target(target)
    if not training.epochs:
        raise RecipeError("training.epochs is 0: nothing would be trained. Give those of the largest size.")
    if training.max_minutes is not None:
        raise RecipeError(
            "training.max_minutes would end trainings at other steps, and the slope would tell of the clock. "
            "Leave it out, training.max_minutes=null, and give training.epochs for the largest size."
        )
    committee.check_one_process(recipe, "A curve")


def make_plan(recipe: Recipe, sizes: Sequence[int], n_seeds: int, drawing: Drawing, *, resume: bool) -> Plan:
    """Draw the validation set and what is trained on; a curve that goes on has them already.

    Raises:
        RecipeError: sizes that are larger than the set; the curve to resume was of another recipe.
        RunDirectoryError: it was of other data.
    """
    directory = Path(recipe.training.directory)
    if resume:
        with CURVE.before(directory) as written:
            if "averaged" in written:
                raise RunDirectoryError(
                    f"{directory} holds averages of the models in {written['averaged']['of']}. Go on with that "
                    "curve, then with these: mlpot average --resume."
                )
            earlier, pool = (
                Recipe.model_validate(written["recipe"]),
                TypeAdapter(Pool).validate_python(written["pool"]),
            )
            drawn, budget = TypeAdapter(Drawing).validate_python(written["drawing"]), int(written["budget"])
            sizes = sorted({*sizes, *(int(n) for n in written["sizes"])})
            n_seeds = max(n_seeds, int(written["seeds"]))
        check_same(earlier, drawn, recipe, drawing)
    else:
        pool = draw_pool(recipe.data, drawing, directory / DATA)
        budget = recipe.training.epochs * cost_of_epoch(recipe, max(sizes))
    if max(sizes) > pool.n_structures:
        raise RecipeError(
            f"--sizes {','.join(map(str, sizes))}: {pool.n_structures} structures are left for training, isolated "
            f"atoms and {pool.n_validation} validation structures not counted. Give smaller sizes, or more data."
        )
    return Plan(recipe, tuple(sizes), n_seeds, budget, drawing, pool)


def check_same(earlier: Recipe, before: Drawing, recipe: Recipe, drawing: Drawing) -> None:
    """Raise RecipeError or RunDirectoryError unless the curve that goes on is of the same recipe and data."""
    changed, drawn = changed_keys(earlier, recipe), changed_fields(before, drawing)
    told = {"by": "--by", "block": "--block", "validation": "data.validation"}
    changed += [told[key] for key in drawn if key in told]
    if changed:
        raise RecipeError(
            f"The curve in {recipe.training.directory} was started with other values of {', '.join(changed)}. "
            "Give them as they were, or another training.directory."
        )
    if drawn:
        raise RunDirectoryError(
            f"The data changed since the curve in {recipe.training.directory} was started. Restore them, or start "
            "another curve."
        )


def prepare(plan: Plan) -> None:
    """Write the training sets that are not there yet, and check every training before the first begins.

    Raises:
        ValueError: as `check_elements_of`, `splits.make_parts` and `schedule.check_schedule`.
    """
    make_folder(plan.directory / DATA)
    surveyed = survey(plan.pool.train)
    check_units(surveyed, plan.recipe.data.check)
    assert plan.recipe.data.test is not None, "the drawing has one"
    judged = survey(*paths_of(plan.pool.validation), *paths_of(plan.recipe.data.test))
    for seed in range(plan.n_seeds):
        check_elements_of(surveyed, judged, min(plan.sizes), plan.seed(seed))
        write_subsets(plan.pool.train, {plan.subset(n, seed): n for n in plan.sizes}, plan.seed(seed))
        for size in {min(plan.sizes), max(plan.sizes)}:  # what is wrong with one between is wrong with these
            point = plan.point(size, seed)
            make_parts(point.data, point.loss)
            check_schedule(point, -(-size // point.training.batch_size))


def _facts(plan: Plan, size: int, seed: int) -> dict[str, Any]:
    """What is known of one training."""
    recipe = plan.point(size, seed)
    steps = recipe.training.epochs * cost_of_epoch(recipe, size)
    return {"size": size, "seed": seed, "steps_or_frames": steps} | facts_of(recipe)


def write_curve(plan: Plan, target: float | None) -> dict[str, Any]:
    """Write curve.json and curve.png from what the directories of the trainings hold, and give the former back."""
    points = [_facts(plan, size, seed) for size, seed in plan.points()]
    told = summary(points, target)
    told["notes"] += near_notes(plan.pool.near) + aside_notes(plan.recipe)
    content = {
        "sizes": list(plan.sizes),
        "seeds": plan.n_seeds,
        "backbone": plan.recipe.model.backbone,
        "budget": plan.budget,
        "budget_unit": "steps" if plan.recipe.training.batch_edges is None else "frames shown",
        **told,
        "points": points,
        "pool": asdict(plan.pool),
        "drawing": asdict(plan.drawing),
        "recipe": plan.recipe.model_dump(mode="json"),
    }
    CURVE.write(plan.directory, content)
    with beside_results(plan.directory / "curve.png"):
        plot_curve(content, plan.directory / "curve.png")
    return content
