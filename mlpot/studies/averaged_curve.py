"""The curve of a network averaged over rotated copies, from one whose trainings are done: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpot.atomic_files import make_folder, write_whole
from mlpot.averaging import average
from mlpot.data.check.survey import survey
from mlpot.figures.curve import plot_curve
from mlpot.model_file import load_potential
from mlpot.recipes import RecipeError
from mlpot.studies.curve import CURVE
from mlpot.studies.curve_summary import TARGETED, near_notes, summary
from mlpot.studies.several import FINISHED, METRICS, state_of
from mlpot.training.before_and_after import judge
from mlpot.training.fit import EVALUATION, batches_of
from mlpot.training.recipe import Recipe
from mlpot.training.splits import paths_of, structures

METRICS_FILE, MODEL = "metrics.json", "model.safetensors"


def average_curve(
    source: Path, directory: Path, *, resume: bool = False, overwrite: bool = False, **settings: Any
) -> dict[str, Any]:
    """Average every model of a curve, judge it on the curve's test set, and write the curve of these.

    What was judged before is not judged again when the averaged curve goes on, with more trainings of its source.

    Args:
        source: the directory of a curve, half-finished or not.
        directory: of the averaged curve.
        resume: go on with the averaged curve that is in the directory.
        overwrite: remove it instead.
        settings: of `averaging.average`, beside files: over, reflections, n_rotations, seed.

    Raises:
        RunDirectoryError: there is no curve to average, or another run where the averaged one would be, or that
            would replace the curve that it is made from.
        RecipeError: the averaged curve to go on with is of another one, or was averaged otherwise.
        FileNotFoundError, DataError: of the test set, as `data.h5md.Reader`.
        ValueError: as `averaging.average`.
    """
    CURVE.check_there(source)
    with CURVE.before(source) as curve:
        recipe, points = Recipe.model_validate(curve["recipe"]), list(curve["points"])
        of = {"of": str(source), **settings}
    with CURVE.opened(directory, resume=resume, overwrite=overwrite, reads=[source]):
        if resume:
            _check_same(directory, of)
        told = _write(curve, of, directory)
        for point in points:
            folder = directory / point["directory"]
            if point["state"] == FINISHED and state_of(folder) != FINISHED:
                _judge(source / point["directory"], folder, recipe, settings)
                told = _write(curve, of, directory)
        return told


def _check_same(directory: Path, of: Mapping[str, Any]) -> None:
    with CURVE.before(directory) as written:
        earlier = written["averaged"]
    if changed := [key for key in of if of[key] != earlier.get(key)]:
        raise RecipeError(
            f"The averages in {directory} were made with other values of {', '.join(changed)}. Give them as they "
            "were, or another directory."
        )


def _judge(source: Path, folder: Path, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Average one model and write its errors on the test set, where a training writes them."""
    assert recipe.data.test is not None, "a curve has a test set"
    make_folder(folder)
    found = average(source / MODEL, folder / MODEL, overwrite=True, **settings)
    potential = load_potential(folder / MODEL)
    part = structures(survey(*paths_of(recipe.data.test)))
    sets = {"test": batches_of(part, recipe, potential.cutoff, EVALUATION)}
    metrics = json.loads((source / METRICS_FILE).read_text(encoding="utf-8"))
    metrics = {key: metrics[key] for key in METRICS if key in metrics and key != "validation"}
    metrics |= judge(potential, sets) | {"copies": found.n_copies}
    if found.after is not None:
        metrics["rotations"] = found.after.as_dict()
    write_whole(folder / METRICS_FILE, f"{json.dumps(metrics, indent=2)}\n".encode())


def _write(curve: Mapping[str, Any], of: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Write curve.json and curve.png from what has been judged, and give the former back."""
    points = [_facts(point, directory / point["directory"]) for point in curve["points"]]
    told = summary(points, (curve["target"] or {}).get(TARGETED))
    told["notes"] += [*_symmetry_notes(of, directory, points), *near_notes(curve["pool"]["near"])]
    backbone = f"{curve['backbone']}, averaged"
    content = {**curve, "backbone": backbone, "averaged": dict(of), **told, "points": points}
    CURVE.write(directory, content)
    plot_curve(content, directory / "curve.png")
    return content


def _symmetry_notes(of: Mapping[str, Any], directory: Path, points: Sequence[Mapping[str, Any]]) -> list[str]:
    """What averaging removed, and what it could not change, of the first model that was averaged."""
    done = next((p for p in points if p["state"] == FINISHED), None)
    if done is None:
        return []
    potential = load_potential(directory / done["directory"] / MODEL)
    notes = []
    if potential.backbone.equivariant:
        notes.append("Rotated copies had one energy already: averaging over rotations changes nothing.")
    if of["reflections"]:
        notes.append(f"Mirror images {potential.mirror_images}.")
    return notes


def _facts(point: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A training with the errors of its average; one that is not averaged yet waits."""
    if state_of(folder) == FINISHED:
        return {**point, **json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))}
    if point["state"] == FINISHED:
        return {k: v for k, v in point.items() if k not in METRICS} | {"state": "waiting"}
    return dict(point)
