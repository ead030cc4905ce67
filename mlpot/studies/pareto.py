"""Error against minutes of training and cost in use, of several networks on the same data, and which to take."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from ase import Atoms
from pydantic import TypeAdapter

from mlpot.atomic_files import beside_results, make_folder, write_whole
from mlpot.data.check.survey import survey
from mlpot.data.h5md import Reader
from mlpot.evaluate import evaluate
from mlpot.figures.pareto import plot_pareto
from mlpot.signals import SignalledError
from mlpot.studies.curve_summary import TARGETED, near_notes
from mlpot.studies.pareto_plan import (
    PARETO,
    Point,
    Question,
    Sets,
    check_data,
    check_minutes,
    draw,
    gone_on,
    points_of,
    recipe_of,
    with_training,
    words,
    words_of_epoch,
)
from mlpot.studies.pareto_summary import Budget, Judged, busy_notes, rows_of, summary
from mlpot.studies.several import DATA, FINISHED, NOT_DONE, facts_of, train_each
from mlpot.studies.speed import Speed, measure_speed
from mlpot.training.epoch_time import EpochTime, measure_epoch
from mlpot.training.messages import Messages
from mlpot.training.recipe import Recipe
from mlpot.training.splits import structures
from mlpot.training.trainer import Callbacks

ENOUGH = 3.0  # seconds for which epochs are measured, or a tenth of the shortest training
ENERGY = "energy_mae_meV_per_atom"
JUDGED = "validation_by_structure.json"
IN_USE = 4  # structures in which a potential is timed


def pareto(
    question: Question,
    budget: Budget | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks = (),
) -> dict[str, Any]:
    """Train every backbone for every time, and write pareto.json, .csv and .png into the directory.

    The files are written before the first training and after each, and say what is still to be done. What has
    finished is not trained again when a comparison goes on; what was stopped goes on from its checkpoint.

    Args:
        question: what is compared.
        budget: for which a choice is made; without one, for all that was trained.
        resume: go on with what is in the directory, with more backbones, minutes or seeds if these are given.
        overwrite: remove a comparison that is in the directory.
        callbacks: Lightning's, of every training.

    Raises:
        RecipeError: nothing can be compared so; nothing has been trained.
        RunDirectoryError: there is a comparison or another run already, or none to resume.
        LockedError: another process has the directory.
        Else as `committee.train`; a training that diverges is told of instead.
    """
    question.check()
    tell, budget = Messages(show=question.progress), budget or Budget()
    reads = [question.data, *([] if question.test is None else [question.test])]
    with PARETO.opened(question.directory, resume=resume, overwrite=overwrite, reads=reads):
        if resume:
            question, sets = gone_on(question)
        else:
            sets = draw(question)
        recipes = {name: recipe_of(question, sets, name) for name in question.backbones}
        check_data(recipes)
        left = ", less what has finished" if resume else ""
        tell(
            f"{question.n_trainings} trainings of {', '.join(question.backbones)} for {words(question.minutes)} "
            f"minutes: {question.total:g} minutes in all{left}, and besides those in which epochs are measured "
            "and models judged"
        )
        times = {name: _epoch_time(recipe, question, tell) for name, recipe in recipes.items()}
        points = points_of(question, recipes, times)
        comparison = _Comparison(question, sets, recipes, times, points, budget)
        comparison.write()  # before the next line, so that what was measured is kept
        check_minutes(question, times)
        wanted = {p.words: p.recipe for p in points if p.recipe.training.epochs}
        train_each(wanted, comparison.write, tell, resume=resume, callbacks=callbacks)
        return comparison.write()


def _epoch_time(recipe: Recipe, question: Question, tell: Messages) -> EpochTime:
    """That of a backbone, measured once and kept: schedules of trainings that go on depend on it."""
    name = recipe.model.backbone
    path = question.directory / DATA / f"epoch_of_{name}.json"
    if not path.is_file():
        make_folder(path.parent)
        tell(f"Measuring an epoch of {name}")
        trial = with_training(recipe, directory=str(question.directory / DATA / f"trial_of_{name}"))
        try:
            found = measure_epoch(trial, min(ENOUGH, 6 * question.minutes[0]))
        except SignalledError as error:  # which names the command of a single training
            told = f"Stopped while an epoch of {name} was measured. Give the same command again."
            raise SignalledError(told, error.exit_code - 128) from None
        write_whole(path, json.dumps(asdict(found)).encode())
    return TypeAdapter(EpochTime).validate_json(path.read_bytes())


class _Comparison:
    """What is known of all trainings, and the files that say it."""

    def __init__(
        self,
        question: Question,
        sets: Sets,
        recipes: Mapping[str, Recipe],
        times: Mapping[str, EpochTime],
        points: list[Point],
        budget: Budget,
    ):
        self.question, self.sets, self.recipes, self.times = question, sets, recipes, times
        self.points, self.budget = points, budget

    def write(self) -> dict[str, Any]:
        """Judge what has finished, write the files, and give the content of pareto.json back."""
        facts = [self._facts(point) for point in self.points]
        done = [(p, f) for p, f in zip(self.points, facts, strict=True) if f["state"] == FINISHED]
        key = TARGETED if all(TARGETED in f["validation"] for _, f in done) else ENERGY
        judged = {f["directory"]: _judged(p, key) for p, f in done}
        speeds = {p.backbone: self._speed(p) for p, _ in reversed(done)}
        rows = rows_of(facts, judged, {name: speed.microseconds for name, speed in speeds.items()})
        told = summary(facts, rows, self.budget, key)
        shares = {f"an epoch of {name}": t.processor_share for name, t in self.times.items()}
        shares |= {f"{name} in use": s.processor_share for name, s in speeds.items()}
        told["notes"] += near_notes(self.sets.pool.near) + busy_notes(shares)
        content = {
            "minutes": list(self.question.minutes),
            "backbones": list(self.question.backbones),
            "seeds": self.question.n_seeds,
            "threads": torch.get_num_threads(),
            **told,
            "points": facts,
            "epochs": {name: asdict(t) for name, t in self.times.items()},
            "in_use": {name: asdict(s) for name, s in speeds.items()},
            "sets": asdict(self.sets),
            "drawing": asdict(self.question.drawing),
            "recipes": {name: recipe.model_dump(mode="json") for name, recipe in self.recipes.items()},
        }
        directory = self.question.directory
        PARETO.write(directory, content)
        write_whole(directory / "pareto.csv", _csv(content).encode())
        with beside_results(directory / "pareto.png"):
            plot_pareto(content, directory / "pareto.png")
        return content

    def _facts(self, point: Point) -> dict[str, Any]:
        facts = facts_of(point.recipe)
        facts |= {"backbone": point.backbone, "minutes": point.minutes, "seed": point.seed}
        if not point.recipe.training.epochs:
            facts |= {"state": NOT_DONE, "reason": f"an epoch takes {words_of_epoch(self.times[point.backbone])}"}
        if facts["state"] == FINISHED:  # the clock runs from the reading of the data to the last epoch
            facts["minutes_taken"] = (self.times[point.backbone].before + facts["seconds"]) / 60
        return facts

    def _speed(self, point: Point) -> Speed:
        """That of a backbone, measured once on one of its models and kept."""
        path = self.question.directory / DATA / f"speed_of_{point.backbone}.json"
        if not path.is_file():
            seconds = min(ENOUGH, 6 * self.question.minutes[0])
            found = measure_speed(point.directory / "model.safetensors", _examples(self.sets.test), seconds)
            write_whole(path, json.dumps(asdict(found)).encode())
        return TypeAdapter(Speed).validate_json(path.read_bytes())


def _judged(point: Point, key: str) -> Judged:
    """The validation errors of a model by structure, computed once and kept."""
    path = point.directory / JUDGED
    if not path.is_file():
        files = point.recipe.data.validation
        assert isinstance(files, str)
        frames = evaluate(point.directory / "model.safetensors", files).frames
        found = {TARGETED: [f.forces_mae for f in frames], ENERGY: [abs(f.energy_error) for f in frames]}
        text = {name: [e if np.isfinite(e) else None for e in errors] for name, errors in found.items()}
        write_whole(path, json.dumps(text | {"n_atoms": [f.n_atoms for f in frames]}).encode())
    kept = json.loads(path.read_text(encoding="utf-8"))
    errors, n_atoms = (np.array(kept[name], dtype=float) for name in (key, "n_atoms"))
    known = np.isfinite(errors)
    return Judged(errors[known], (n_atoms if key == TARGETED else np.ones_like(errors))[known])


def _examples(test: str) -> list[Atoms]:
    """Some structures of the test set, evenly spread."""
    frames = structures(survey(test)).indices
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, IN_USE).round().astype(int))]
    with Reader(test) as reader:
        return [reader[int(k)] for k in chosen]


def _csv(content: Mapping[str, Any]) -> str:
    """A line for each row, with the means over seeds."""
    file = io.StringIO()
    plain = ["backbone", "minutes", "finished", "trainings", "epochs", "minutes_taken", "n_weights"]
    plain += ["microseconds_per_atom_step", "front"]
    keys = [(part, k) for part in ("validation", "test") for k in (TARGETED, ENERGY)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*plain, *(f"{part}_{k}" for part, k in keys)])
    for row in content["rows"]:
        errors = (row.get(part, {}).get(k, {}).get("mean") for part, k in keys)
        writer.writerow([*(row.get(k) for k in plain), *errors])
    return file.getvalue()
