"""Curves of several networks on the same data beside each other: do they differ in slope, or by a factor?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.atomic_files import make_folder, write_whole
from mlpot.recipes import RecipeError
from mlpot.studies.curve import CURVE
from mlpot.studies.curve_summary import (
    TARGETED,
    UNITS,
    cell_of,
    check_target,
    mean_and_deviation,
    of_law,
    target_of,
)
from mlpot.studies.power_law import LEVEL, PowerLaw, fit
from mlpot.studies.several import FAILED, FINISHED

NAME = "curves.json"
NEEDED = "backbone", "sizes", "points", "budget", "finished", "trainings", "complete"
ERRORS = {"forces": TARGETED, "energy": "energy_mae_meV_per_atom"}
"""What may be compared, by what the command calls it."""
SAME_DATA = "train_hash", "validation", "validation_hash", "test_hash", "by", "block", "seed"
"""Of a drawing: what must be alike for curves to be comparable."""
Curves = Mapping[str, Mapping[str, Any]]
Floats = NDArray[np.float64]


def compare(
    directories: Sequence[Path],
    *,
    against: str | None = None,
    error: str = TARGETED,
    target: float | None = None,
) -> dict[str, Any]:
    """Compare the curves in some directories, each called as its directory is.

    Subsets of one seed are the same frames in every curve (else a note says so), so that curves are compared seed
    by seed and size by size: a power law is fitted to the ratios of errors, whose slope is the difference of the
    slopes, and whose height the factor between the errors at the middle of the sizes. What all curves share, such
    as a subset that happens to be good, is in neither.

    Args:
        directories: of curves, at least two.
        against: the curve to which the others are compared; the first one by default.
        error: a key of `curve_summary.UNITS`.
        target: an error of forces in meV/Å for which the numbers of frames are told.

    Raises:
        RecipeError: curves of other data, sizes in common that are fewer than two, no seed that all have, or a
            target that is no error.
        RunDirectoryError: a directory has no curve, or a damaged one.
    """
    check_target(target)
    curves = {name: _read(folder) for name, folder in _names(directories).items()}
    against = next(iter(curves)) if against is None else against
    _check(curves, against)
    sizes = sorted(set.intersection(*({int(n) for n in c["sizes"]} for c in curves.values())))
    seeds = _seeds(curves, sizes)
    if len(sizes) < 2 or not seeds:
        raise RecipeError(
            f"The curves {', '.join(curves)} have {len(sizes)} sizes and {len(seeds)} seeds in common at which "
            "all trainings have finished; two sizes and one seed are needed. Let them go on, or leave some out."
        )
    errors = {name: _errors(curve, sizes, seeds, error) for name, curve in curves.items()}
    rows = [_row(name, curves[name], sizes, errors[name], errors[against], target) for name in curves]
    return {
        "error": error,
        "against": against,
        "sizes": sizes,
        "seeds": seeds,
        "rows": rows,
        "finished": sum(c["finished"] for c in curves.values()),
        "trainings": sum(c["trainings"] for c in curves.values()),
        "complete": all(c["complete"] for c in curves.values()),
        "notes": [*_notes(curves, seeds), *_notes_of_draws(curves, against, seeds)],
    }


def write_comparison(comparison: Mapping[str, Any], directory: Path) -> None:
    """Write curves.json."""
    make_folder(directory)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(directory / NAME, f"{text}\n".encode())


def _names(directories: Sequence[Path]) -> dict[str, Path]:
    names = {folder.resolve().name: folder for folder in directories}
    if len(names) < len(directories) or len(names) < 2:
        raise RecipeError(
            f"{', '.join(map(str, directories))}: give two or more directories of curves whose last names differ, "
            "as they name the curves."
        )
    return names


def _read(folder: Path) -> dict[str, Any]:
    CURVE.check_there(folder)
    with CURVE.before(folder) as written:
        needed = {key: written[key] for key in NEEDED}
        needed["drawing"] = {key: written["drawing"][key] for key in SAME_DATA}
        training = written["recipe"]["training"]
        needed["draws"] = int(training["seed"]), int(training["committee"])
        return needed


def _check(curves: Curves, against: str) -> None:
    if against not in curves:
        raise RecipeError(f"--against {against}: the curves are {', '.join(curves)}. Name one of them.")
    first = curves[against]["drawing"]
    for name, curve in curves.items():
        if other := [key for key in SAME_DATA if curve["drawing"][key] != first[key]]:
            raise RecipeError(
                f"The curves {against} and {name} are of other data: {', '.join(other)} differ. Errors on other "
                "structures tell nothing of each other. Train them on the same sets."
            )


def _seeds(curves: Curves, sizes: Sequence[int]) -> list[int]:
    """Seeds of which every curve has finished every size."""
    done = [{(p["seed"], p["size"]) for p in c["points"] if p["state"] == FINISHED} for c in curves.values()]
    all_done = set.intersection(*done)
    return sorted({k for k, _ in all_done if all((k, n) in all_done for n in sizes)})


def _errors(curve: Mapping[str, Any], sizes: Sequence[int], seeds: Sequence[int], error: str) -> Floats:
    """(n_seeds, n_sizes)."""
    found = {(p["seed"], p["size"]): p["test"] for p in curve["points"] if p["state"] == FINISHED}
    values = np.array([[found[k, n].get(error, math.nan) for n in sizes] for k in seeds], dtype=np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise RecipeError(f"A curve has no {UNITS[error][0]} above zero for each training. Compare another error.")
    return values


def _row(
    name: str, curve: Mapping[str, Any], sizes: Sequence[int], errors: Floats, others: Floats, target: float | None
) -> dict[str, Any]:
    law = fit(sizes, errors)
    means = [{"size": n} | mean_and_deviation(list(e)) for n, e in zip(sizes, errors.T, strict=True)]
    row = {"name": name, "backbone": curve["backbone"], "errors": means, "law": of_law(law)}
    if errors is not others:
        row["ratio"] = _of_ratio(fit(sizes, errors / others))
    if target is not None:
        row["target"] = target_of(law, target)
    seconds = [p["seconds"] for p in curve["points"] if "seconds" in p]
    return row | {"steps": curve["budget"], "seconds": float(np.mean(seconds))}


def _of_ratio(law: PowerLaw) -> dict[str, Any]:
    """Of errors to those of the curve that is compared to, with intervals of the level of `PowerLaw`."""
    middle = math.exp(law.height)
    half = law.quantile * math.sqrt(law.covariance[0])
    known = math.isfinite(half)
    return {
        "slope": of_law(law),
        "size": math.exp(law.center),
        "factor": middle,
        "standard_error": middle * math.sqrt(law.covariance[0]) if known else None,
        "interval": [middle * math.exp(-half), middle * math.exp(half)] if known else [None, None],
    }


def _notes(curves: Curves, seeds: Sequence[int]) -> list[str]:
    notes = []
    left = [n for n, c in curves.items() if any(p["state"] not in (FINISHED, FAILED) for p in c["points"])]
    if left:
        notes.append(f"Half-finished: {', '.join(left)}.")
    if any({p["seed"] for p in c["points"]} > set(seeds) for c in curves.values()):
        notes.append(f"Compared are the seeds of which every curve has all sizes: {_listed(seeds)}.")
    points = [(name, p) for name, c in curves.items() for p in c["points"]]
    failed = [f"{name}, {p['size']} frames" for name, p in points if p["state"] == FAILED]
    if failed:
        notes.append(f"Failed: {'; '.join(failed)}. Their seeds are left out of all curves.")
    if len(seeds) == 1:
        notes.append("One seed: the scatter of trainings is told by distances from the line alone.")
    return notes


def _notes_of_draws(curves: Curves, against: str, seeds: Sequence[int]) -> list[str]:
    """Which curves have other subsets than the one that they are compared to, as `curve.Plan.seed` draws them."""

    def draws(name: str) -> list[int]:
        seed, members = curves[name]["draws"]
        return [seed + k * members for k in seeds]

    others = [name for name in curves if draws(name) != draws(against)]
    return [
        f"{name} was trained on other frames than {against}, seed by seed, as training.seed or training.committee "
        "differ: what frames happen to be good is in its factor and slope too."
        for name in others
    ]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def head_and_rows(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table for 80 columns: mean errors by size, slope, and factor to the curve that is compared to."""
    head = ["curve", *(str(n) for n in comparison["sizes"]), "slope", "factor"]
    rows = []
    for row in comparison["rows"]:
        means = (cell_of(e | {"standard_deviation": None}) for e in row["errors"])
        factor = row["ratio"]["factor"] if "ratio" in row else 1.0
        rows.append([row["name"], *means, _sure(row["law"], "slope"), f"{factor:.2f}"])
    return head, rows


def told(comparison: Mapping[str, Any]) -> list[str]:
    """Each curve beside the one that it is compared to, and the frames for a target, in words."""
    lines = []
    for row in comparison["rows"]:
        if (ratio := row.get("ratio")) is not None:
            lines.append(
                f"{row['name']}: slope {_sure(ratio['slope'], 'slope')}{_within(ratio['slope'])} beside that of "
                f"{comparison['against']}, errors {_sure(ratio, 'factor')}{_within(ratio)} times as large at "
                f"{ratio['size']:.0f} frames"
            )
        if "target" in row:
            lines.append(f"{row['name']}: {row['target']['told']}")
    return lines


def _sure(law: Mapping[str, Any], key: str) -> str:
    error = law["standard_error"]
    number = f"{law[key]:+.2f}" if key == "slope" else f"{law[key]:.3f}"
    return number + ("" if error is None else f" ± {error:.2f}" if key == "slope" else f" ± {error:.3f}")


def _within(law: Mapping[str, Any]) -> str:
    low, high = law["interval"]
    return "" if low is None or high is None else f" ({LEVEL:.0%}: {low:.2f} to {high:.2f})"
