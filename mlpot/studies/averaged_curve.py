"""The curve of a network averaged over rotated copies, from one whose trainings are done: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpot.atomic_files import beside_results, make_folder, write_whole
from mlpot.averaging import average
from mlpot.data.check.survey import survey
from mlpot.data.h5md import content_hash
from mlpot.figures.curve import plot_curve
from mlpot.model_file import load_potential
from mlpot.recipes import RecipeError
from mlpot.studies.curve import CURVE
from mlpot.studies.curve_summary import TARGETED, near_notes, summary
from mlpot.studies.several import FINISHED, METRICS, state_of
from mlpot.training.before_and_after import judge
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import RunDirectoryError
from mlpot.training.sets import EVALUATION, batches_of
from mlpot.training.splits import paths_of, structures

METRICS_FILE, MODEL = "metrics.json", "model.safetensors"
OF_TRAINING = [key for key in METRICS if key not in ("validation", "test")]
"""What an average keeps of its training; the time that it took, to its last digit, tells it from another one."""


def average_curve(
    source: Path, directory: Path, *, resume: bool = False, overwrite: bool = False, **settings: Any
) -> dict[str, Any]:
    """Average every model of a curve, judge it on the curve's test set, and write the curve of these.

    What was judged before is not judged again when the averaged curve goes on, with more trainings of its source,
    unless its model was trained anew. A model that is not there any more is told of, and the others go on.

    Args:
        source: the directory of a curve, half-finished or not.
        directory: of the averaged curve.
        resume: go on with the averaged curve that is in the directory.
        overwrite: remove it instead.
        settings: of `averaging.average`, beside files: over, reflections, n_rotations, seed.

    Raises:
        RunDirectoryError: there is no curve to average, or another run where the averaged one would be, or that
            would replace the curve that it is made from; or the test set is another one than the curve's.
        RecipeError: the averaged curve to go on with is of another one, or was averaged otherwise.
        FileNotFoundError, DataError: of the test set, as `data.h5md.Reader`.
        ValueError: as `averaging.average`.
    """
    CURVE.check_there(source)
    with CURVE.before(source) as curve:
        recipe, points = Recipe.model_validate(curve["recipe"]), list(curve["points"])
        of, test_hash = {"of": str(source), **settings}, curve["drawing"]["test_hash"]
    _check_test(source, recipe, test_hash)
    with CURVE.opened(directory, resume=resume, overwrite=overwrite, reads=[source]):
        if resume:
            _check_same(directory, of)
        told = _write(curve, of, directory)
        for point in points:
            model = source / point["directory"] / MODEL
            if point["state"] == FINISHED and not _is_judged(point, directory) and model.is_file():
                _judge(model, point, directory / point["directory"], recipe, settings)
                told = _write(curve, of, directory)
        return told


def _check_test(source: Path, recipe: Recipe, test_hash: str) -> None:
    assert recipe.data.test is not None, "a curve has a test set"
    if content_hash(*paths_of(recipe.data.test)) != test_hash:
        raise RunDirectoryError(
            f"The test set {recipe.data.test} changed since the curve in {source} was started, and averages would "
            "be judged by other structures than their models. Restore it."
        )


def _check_same(directory: Path, of: Mapping[str, Any]) -> None:
    with CURVE.before(directory) as written:
        earlier = written["averaged"]
    if changed := [key for key in of if of[key] != earlier.get(key)]:
        raise RecipeError(
            f"The averages in {directory} were made with other values of {', '.join(changed)}. Give them as they "
            "were, or another directory."
        )


def _is_judged(point: Mapping[str, Any], directory: Path) -> bool:
    """Whether the errors in a directory are those of this training, and not of an earlier one in its place."""
    folder = directory / point["directory"]
    if state_of(folder) != FINISHED:
        return False
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return all(metrics.get(key) == point.get(key) for key in OF_TRAINING)


def _judge(
    model: Path, point: Mapping[str, Any], folder: Path, recipe: Recipe, settings: Mapping[str, Any]
) -> None:
    """Average one model and write its errors on the test set, where a training writes them."""
    assert recipe.data.test is not None, "a curve has a test set"
    make_folder(folder)
    found = average(model, folder / MODEL, overwrite=True, **settings)
    potential = load_potential(folder / MODEL)
    part = structures(survey(*paths_of(recipe.data.test)))
    sets = {"test": batches_of(part, recipe, potential.cutoff, EVALUATION)}
    metrics = {key: point[key] for key in OF_TRAINING if key in point}
    metrics |= judge(potential, sets) | {"copies": found.n_copies}
    if found.after is not None:
        metrics["rotations"] = found.after.as_dict()
    write_whole(folder / METRICS_FILE, f"{json.dumps(metrics, indent=2)}\n".encode())


def _write(curve: Mapping[str, Any], of: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Write curve.json and curve.png from what has been judged, and give the former back."""
    points = [_facts(point, directory) for point in curve["points"]]
    told = summary(points, (curve["target"] or {}).get(TARGETED))
    told["notes"] += [*_lost_notes(of, curve, points), *_symmetry_notes(of, directory, points)]
    told["notes"] += near_notes(curve["pool"]["near"])
    backbone = f"{curve['backbone']}, averaged"
    content = {**curve, "backbone": backbone, "averaged": dict(of), **told, "points": points}
    CURVE.write(directory, content)
    with beside_results(directory / "curve.png"):
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


def _lost_notes(of: Mapping[str, Any], curve: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which models of finished trainings are not there any more, and were not averaged before."""
    lost = [
        before["directory"]
        for before, now in zip(curve["points"], points, strict=True)
        if before["state"] == FINISHED != now["state"]
        and not (Path(of["of"]) / before["directory"] / MODEL).is_file()
    ]
    if not lost:
        return []
    return [
        f"{', '.join(lost)}: no {MODEL} is there any more, so that there is no average of it. `mlpot curve "
        "--resume` trains it again; then `mlpot average --resume`."
    ]


def _facts(point: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A training with the errors of its average; one that is not averaged yet waits."""
    if point["state"] != FINISHED:
        return dict(point)
    if _is_judged(point, directory):
        metrics = directory / point["directory"] / METRICS_FILE
        return {**point, **json.loads(metrics.read_text(encoding="utf-8"))}
    return {k: v for k, v in point.items() if k not in METRICS} | {"state": "waiting"}
