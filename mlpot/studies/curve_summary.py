"""What a curve of error against training frames says, from those of its trainings that have finished."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlpot.data.check.duplicates import NEAR
from mlpot.recipes import RecipeError
from mlpot.studies.power_law import LEVEL, PowerLaw, fit, frames_needed
from mlpot.studies.several import FAILED, FINISHED, of_failures
from mlpot.training.recipe import Recipe

TARGETED = "forces_mae_meV_per_A"
UNITS = {
    "energy_mae_meV_per_atom": ("energy MAE", "meV/atom"),
    "energy_rmse_meV_per_atom": ("energy RMSE", "meV/atom"),
    TARGETED: ("forces MAE", "meV/Å"),
    "forces_rmse_meV_per_A": ("forces RMSE", "meV/Å"),
    "stress_mae_meV_per_A3": ("stress MAE", "meV/Å³"),
    "stress_rmse_meV_per_A3": ("stress RMSE", "meV/Å³"),
}
"""Errors that are fitted, and what they are called."""
Points = Sequence[Mapping[str, Any]]


def laws_of(points: Points) -> dict[str, PowerLaw]:
    """The power law of each error on the test set, as far as trainings have finished.

    Seeds with a training that failed are left out, and then sizes at which not every other seed has finished: a
    mean over other seeds at each size would mix the scatter of seeds into the slope.
    """
    failed = {p["seed"] for p in points if p["state"] == FAILED}
    kept = [p for p in points if p["seed"] not in failed]
    sizes = sorted({p["size"] for p in kept})
    sizes = [n for n in sizes if all(p["state"] == FINISHED for p in kept if p["size"] == n)]
    seeds = sorted({p["seed"] for p in kept})
    found = {(p["seed"], p["size"]): p["test"] for p in kept if p["size"] in sizes}
    laws = {}
    for key in UNITS if len(sizes) > 1 else ():
        errors = np.array([[found[seed, n].get(key, math.nan) for n in sizes] for seed in seeds])
        if np.isfinite(errors).all() and (errors > 0).all():
            laws[key] = fit(sizes, errors)
    return laws


def summary(points: Points, target: float | None) -> dict[str, Any]:
    """The entries of curve.json that are computed from the points: state, means, laws and frames for a target.

    Args:
        points: of all sizes and seeds.
        target: error of force components, mean of absolute values, meV/Å.
    """
    laws = laws_of(points)
    done = sum(p["state"] == FINISHED for p in points)
    return {
        "complete": done == len(points),
        "finished": done,
        "trainings": len(points),
        "rows": [_row([p for p in points if p["size"] == n]) for n in sorted({p["size"] for p in points})],
        "laws": {key: of_law(law) for key, law in laws.items()},
        "target": None if target is None else target_of(laws.get(TARGETED), target),
        "notes": _notes(points, laws),
    }


def _row(points: Points) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each error at one size."""
    done = [p for p in points if p["state"] == FINISHED]
    row: dict[str, Any] = {"size": points[0]["size"], "finished": len(done), "trainings": len(points)}
    for key in UNITS:
        errors = [p["test"][key] for p in done if key in p["test"]]
        if errors:
            row[key] = mean_and_deviation(errors)
    return row


def mean_and_deviation(errors: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation over seeds, None of one alone."""
    spread = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
    return {"mean": float(np.mean(errors)), "standard_deviation": spread}


def of_law(law: PowerLaw) -> dict[str, Any]:
    """A power law as curve.json has it."""
    low, high = law.interval
    return {
        "slope": law.slope,
        "standard_error": _known(law.standard_error),
        "interval": [_known(low), _known(high)],
        "level": LEVEL,
        "degrees_of_freedom": _known(law.degrees_of_freedom),
        "sizes": list(law.sizes),
        "seeds": law.n_seeds,
        "errors": law.errors(law.sizes).tolist(),
    }


def check_target(target: float | None) -> None:
    """Raise RecipeError for a target that is no error of forces."""
    if target is not None and not 0 < target < math.inf:
        raise RecipeError(f"--target {target:g} is no error. Give the forces MAE in meV/Å, such as 10.")


def target_of(law: PowerLaw | None, target: float) -> dict[str, Any]:
    """Frames for an error of forces, in numbers and in words."""
    start = f"Forces MAE of {target:g} meV/Å"
    if law is None:
        told = f"{start}: not known yet, as fewer than two sizes have finished for all seeds."
        return {TARGETED: target, "frames": None, "interval": [None, None], "extrapolation": None, "told": told}
    needed = frames_needed(law, target)
    numbers = {
        TARGETED: target,
        "frames": _known(needed.frames),
        "interval": [_known(needed.low), _known(needed.high)],
        "extrapolation": _known(needed.beyond),
    }
    if not math.isfinite(needed.frames) or needed.frames > 1e12:
        return numbers | {
            "told": f"{start}: more frames do not reach it by this curve, whose slope is {law.slope:+.2f}."
        }
    told = f"{start}: about {_count(needed.frames)} frames ({_between(needed.low, needed.high)})."
    if needed.beyond > 1:
        times = f"{needed.beyond:.{1 if needed.beyond < 10 else 0}f}"
        told += (
            f" This is an extrapolation to {times} times the largest training: it holds only if the errors go on "
            "to fall by the same power."
        )
    elif needed.frames < min(law.sizes):
        told += " This is an extrapolation to fewer frames than the smallest training has."
    elif needed.high > max(law.sizes):
        told += f" The upper end of the interval is an extrapolation beyond {max(law.sizes)} frames."
    return numbers | {"told": told}


def _between(low: float, high: float) -> str:
    if math.isnan(low) and math.isnan(high):
        return "interval not known: give more seeds or sizes"
    if math.isinf(high):
        least = f"at least {_count(low)}, " if math.isfinite(low) else ""
        return f"{LEVEL:.0%} interval: {least}without an upper end, as the slope is not told from zero"
    return f"{LEVEL:.0%} interval: {_count(low)} to {_count(high)}"


def _count(frames: float) -> str:
    """A number of frames to two digits, or whole if it is small."""
    if frames < 100:
        return f"{frames:.0f}"
    digits = math.floor(math.log10(frames)) - 1
    return f"{round(frames / 10**digits) * 10**digits:d}" if frames < 1e9 else f"{frames:.1e}"


def _notes(points: Points, laws: Mapping[str, PowerLaw]) -> list[str]:
    """What a reader of the figures must know."""
    notes = of_failures(
        points,
        lambda p: (
            f"The training of {p['size']} frames, seed {p['seed']}, failed, so that its seed counts in no "
            "slope, and slopes may look better than they are"
        ),
    )
    law = next(iter(laws.values()), None)
    if law is not None and len(law.sizes) == 2:
        notes.append("Two sizes cannot show whether the errors fall by a power of the number of frames.")
    if law is not None and law.n_seeds == 1:
        notes.append("One seed: the scatter of trainings is told by distances from the line alone.")
    return notes


def near_notes(near: Mapping[str, int]) -> list[str]:
    """What to know of structures, by set, that are or nearly are among those to train on."""
    why = {
        "test": "errors come out too small, and slopes too steep",
        "validation": "the best epoch is chosen too late",
    }
    return [
        f"{n} of the {name} structures lie within {NEAR} Å of one from which training sets are drawn: "
        f"{why[name]}. Split by block or by group."
        for name, n in near.items()
        if n
    ]


def aside_notes(recipe: Recipe) -> list[str]:
    """Which keys of a recipe have no effect in a curve, whose trainings have one validation set."""
    aside = {"training.own_validation": recipe.training.own_validation, "data.fold": recipe.data.fold is not None}
    return [f"All trainings have one validation set, so {key} has no effect here." for key in aside if aside[key]]


def slopes_told(laws: Mapping[str, Any]) -> list[str]:
    """The slopes in words, from the entry `laws` of curve.json."""
    told = []
    for key, law in laws.items():
        name, _ = UNITS[key]
        error, (low, high) = law["standard_error"], law["interval"]
        sure = "uncertainty not known" if error is None else f"± {error:.2f}"
        within = "" if low is None or high is None else f" ({law['level']:.0%}: {low:.2f} to {high:.2f})"
        n, seeds = len(law["sizes"]), law["seeds"]
        told.append(f"{name}: slope {law['slope']:.2f} {sure}{within}, {n} sizes, {seeds} seeds")
    return told


def head_and_rows(curve: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table of the mean absolute errors by size, from what curve.json has."""
    keys = [key for key in UNITS if "_mae_" in key and any(key in row for row in curve["rows"])]
    head = ["frames", "trainings", *(f"{UNITS[key][0]}, {UNITS[key][1]}" for key in keys)]
    rows = []
    for row in curve["rows"]:
        rows.append([str(row["size"]), count_of(row), *(cell_of(row.get(key)) for key in keys)])
    return head, rows


def count_of(row: Mapping[str, Any]) -> str:
    """How many trainings of a row have finished, in a table."""
    n, trainings = row["finished"], row["trainings"]
    return str(n) if n == trainings else f"{n} of {trainings}"


def cell_of(error: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation in a table."""
    if error is None:
        return "–"
    spread = error["standard_deviation"]
    mean = error["mean"]
    # Narrow: 1654 and not 1.65e+03, of which a table of 80 columns would show half.
    shown = f"{mean:.0f}" if 1e3 <= mean < 1e6 else f"{mean:.3g}"
    return shown + ("" if spread is None else f" ± {spread:.2g}")


def _known(x: float) -> float | None:
    """A number as JSON has it, which knows neither NaN nor infinity."""
    return x if math.isfinite(x) else None
