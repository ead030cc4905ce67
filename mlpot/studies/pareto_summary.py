"""What trainings of several networks for several times say: which are worth their cost, and which to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.recipes import RecipeError
from mlpot.studies.curve_summary import UNITS, mean_and_deviation
from mlpot.studies.several import FINISHED, NOT_DONE, of_failures

TIE = 2.0  # standard errors within which two errors are called the same
BUSY = 0.8  # of a processor: with less, other programs had the rest
OFF = 0.15  # of its minutes by which a training may end sooner or later
Floats = NDArray[np.float64]
Points = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Budget:
    """What may be spent; None is without a limit."""

    minutes: float | None = None  # of training
    microseconds: float | None = None  # of an atom and step in use

    def __post_init__(self) -> None:
        if any(limit is not None and not limit > 0 for limit in (self.minutes, self.microseconds)):
            raise RecipeError(f"A budget is above 0, and {self.words} is not. Give minutes=5,microseconds=20.")

    def holds(self, row: Row) -> bool:
        """Whether a row is within."""
        within = row.minutes <= (self.minutes or math.inf)
        return within and (row.microseconds or math.inf) <= (self.microseconds or math.inf)

    @property
    def words(self) -> str:
        """Both limits."""
        limits = [] if self.minutes is None else [f"{self.minutes:g} min of training"]
        limits += [] if self.microseconds is None else [f"{self.microseconds:g} µs per atom and step"]
        return " and ".join(limits) or "whatever was trained, at any cost in use"


@dataclass(frozen=True)
class Judged:
    """The validation errors of one training by structure, whose mean by weight is that of the set."""

    errors: Floats  # (n_structures,) meV/Å, or meV/atom where there are no forces
    weights: Floats  # (n_structures,)

    @property
    def mean(self) -> float:
        """That of the set."""
        return float(np.average(self.errors, weights=self.weights))


@dataclass(frozen=True)
class Row:
    """One network trained for some minutes, as often as there are seeds."""

    backbone: str
    minutes: float
    points: Points
    judged: tuple[Judged, ...]  # of those that have finished
    microseconds: float | None  # of an atom and step in use

    @property
    def finished(self) -> bool:
        """Whether all trainings have."""
        return len(self.judged) == len(self.points) and self.microseconds is not None

    @property
    def error(self) -> float:
        """Mean validation error over seeds."""
        return float(np.mean([j.mean for j in self.judged]))

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.backbone} trained for {self.minutes:g} min"


def difference(a: Row, b: Row) -> tuple[float, float]:
    """Validation error of one row less that of another, and the standard error of it.

    Both are judged by the same structures, so that differences by structure count, and what makes a structure hard
    for both does not. Scatter between seeds is added where there are several. Of one structure nobody knows how
    differences scatter: the error is infinite, and everything ties.
    """
    weights = a.judged[0].weights
    mean_a, mean_b = (np.mean([j.errors for j in row.judged], axis=0) for row in (a, b))
    by_structure = mean_a - mean_b
    mean = float(np.average(by_structure, weights=weights))
    n, squares = len(weights), (weights * (by_structure - mean)) ** 2
    variance = float(squares.sum()) / float(weights.sum()) ** 2 * n / (n - 1) if n > 1 else math.inf
    for row in (a, b):
        if len(row.judged) > 1:
            variance += float(np.var([j.mean for j in row.judged], ddof=1)) / len(row.judged)
    return mean, math.sqrt(variance)


def same(a: Row, b: Row) -> bool:
    """Whether two rows tie: their errors differ by less than they are known to."""
    mean, error = difference(a, b)
    return abs(mean) <= TIE * error


def rows_of(points: Points, judged: Mapping[str, Judged], speeds: Mapping[str, float]) -> list[Row]:
    """A row for each backbone and time.

    Args:
        points: in the order of backbones and times.
        judged: by the directory of a training that has finished.
        speeds: microseconds of an atom and step by backbone.
    """
    rows = []
    for (backbone, minutes), group in groupby(points, key=lambda p: (p["backbone"], p["minutes"])):
        mine = list(group)
        found = tuple(judged[p["directory"]] for p in mine if p["state"] == FINISHED)
        rows.append(Row(backbone, minutes, mine, found, speeds.get(backbone)))
    return rows


def front_of(rows: Sequence[Row]) -> list[Row]:
    """The finished rows than which no other is as good in error, minutes and cost in use, and better in one."""
    finished = [row for row in rows if row.finished]
    figures = {id(row): (row.error, row.minutes, row.microseconds or math.inf) for row in finished}

    def beaten(row: Row) -> bool:
        mine = figures[id(row)]
        return any(
            other != mine and all(x <= y for x, y in zip(other, mine, strict=True)) for other in figures.values()
        )

    return [row for row in finished if not beaten(row)]


def choice(rows: Sequence[Row], budget: Budget, unit: str) -> dict[str, Any]:
    """Which row to take for a budget, and why.

    The lowest validation error wins; of those that tie with it, the one that costs least in use, then in training.
    """
    limits = {"minutes": budget.minutes, "microseconds_per_atom_step": budget.microseconds}
    told: dict[str, Any] = {**limits, "pick": None, "ties": []}
    within = [row for row in rows if row.finished and budget.holds(row)]
    if not within:
        return told | {"told": f"For {budget.words}: {_why_none(rows, budget)}"}
    best = min(within, key=lambda row: row.error)
    tied = [row for row in within if row is best or same(row, best)]
    pick = min(tied, key=lambda row: (row.microseconds or 0.0, row.minutes, row.error))
    others = sorted((row for row in within if row not in tied), key=lambda row: row.error)
    words = [
        f"For {budget.words}: take {pick.name}, with a validation error of {pick.error:.3g} {unit} at "
        f"{pick.microseconds:.3g} µs per atom and step."
    ]
    words += [_of_tie(pick, row, unit) for row in tied if row is not pick]
    words += [_of_next(pick, others[0], unit)] if others else []
    words += ["Nothing else within the budget has finished."] if len(within) == 1 else []
    return told | {
        "pick": {"backbone": pick.backbone, "minutes": pick.minutes},
        "ties": [{"backbone": r.backbone, "minutes": r.minutes} for r in tied if r is not pick],
        "told": " ".join(words),
    }


def _of_tie(pick: Row, other: Row, unit: str) -> str:
    mean, error = difference(other, pick)
    assert pick.microseconds is not None
    assert other.microseconds is not None
    times = other.microseconds / pick.microseconds
    costs = f"costs {times:.2g} times as much in use" if times > 1 else f"takes {other.minutes:g} min of training"
    return f"{other.name} ties with it ({mean:+.3g} ± {error:.2g} {unit}) and {costs}."


def _of_next(pick: Row, other: Row, unit: str) -> str:
    mean, error = difference(other, pick)
    return f"Next is {other.name}, {mean:.3g} ± {error:.2g} {unit} worse."


def _why_none(rows: Sequence[Row], budget: Budget) -> str:
    finished = [row for row in rows if row.finished]
    if not finished:
        return "nothing to choose from yet, as nothing has finished."
    in_time = [row for row in finished if row.minutes <= (budget.minutes or math.inf)]
    if not in_time:
        least = min(row.minutes for row in finished)
        return f"nothing was trained in so little time. The shortest that has finished took {least:g} min."
    cheapest = min(in_time, key=lambda row: row.microseconds or math.inf)
    return f"nothing is so cheap in use. The cheapest is {cheapest.name}, with {cheapest.microseconds:.3g} µs."


def summary(points: Points, rows: Sequence[Row], budget: Budget, key: str) -> dict[str, Any]:
    """The entries of pareto.json that are computed from trainings: state, means, front, choices and notes.

    Args:
        points: of all trainings.
        rows: of them.
        budget: for which a choice is asked.
        key: of the error that decides.
    """
    front, unit = front_of(rows), UNITS[key][1]
    limits = sorted({row.minutes for row in rows})
    done, wanted = sum(p["state"] == FINISHED for p in points), sum(p["state"] != NOT_DONE for p in points)
    return {
        "complete": 0 < wanted == done,
        "finished": done,
        "trainings": wanted,
        "error": key,
        "rows": [_row(row) | {"front": row in front} for row in rows],
        "choices": [choice(rows, Budget(minutes, budget.microseconds), unit) for minutes in limits],
        "budget": choice(rows, budget, unit),
        "notes": _notes(points, rows),
    }


def _row(row: Row) -> dict[str, Any]:
    done = [p for p in row.points if p["state"] == FINISHED]
    entries: dict[str, Any] = {
        "backbone": row.backbone,
        "minutes": row.minutes,
        "finished": len(done),
        "trainings": len(row.points),
        "epochs": row.points[0]["epochs"],
        "microseconds_per_atom_step": row.microseconds,
    }
    if done:
        entries["minutes_taken"] = float(np.mean([p["minutes_taken"] for p in done]))
        entries["n_weights"] = done[0]["n_weights"]
        for part in ("validation", "test"):
            keys = [k for k in UNITS if all(k in p[part] for p in done)]
            entries[part] = {k: mean_and_deviation([p[part][k] for p in done]) for k in keys}
    return entries


def _notes(points: Points, rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures must know."""
    notes = of_failures(points, lambda p: f"{p['directory']} failed, and its row is not chosen")
    short = [f"{p['backbone']} for {p['minutes']:g} min ({p['reason']})" for p in points if p["state"] == NOT_DONE]
    if short:
        notes.append(f"Not done, as there is no time for one epoch: {', '.join(dict.fromkeys(short))}.")
    off = [p["directory"] for p in points if abs(p.get("minutes_taken", p["minutes"]) / p["minutes"] - 1) > OFF]
    if off:
        notes.append(
            f"{', '.join(off)}: ended more than {OFF:.0%} sooner or later than in the minutes given. Epochs took "
            "another time than was measured, as on a machine with other work: repeat what counts on a quiet one."
        )
    if any(len(row.points) == 1 for row in rows):
        notes.append(
            "One seed: how much trainings scatter that differ in random weights alone is not known, and "
            "differences of a few percent may be chance. --seeds 3 tells."
        )
    return notes


def busy_notes(shares: Mapping[str, float]) -> list[str]:
    """What was measured while other programs had the processor; shares by what was measured."""
    return [
        f"{what}: this process had {share:.0%} of a processor while it was measured. Other programs or the disk "
        "had the rest: times are not those of a quiet machine."
        for what, share in shares.items()
        if share < BUSY
    ]
