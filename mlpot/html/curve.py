"""The page of a curve of error against number of training frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlpot.figures.curve import curve_panels, half_finished
from mlpot.html.files import as_yaml, duration, number, read_json
from mlpot.html.page import Html, Kind, aside, chapters, facts, finding, more, page, pictures, table, tag
from mlpot.studies.curve_summary import UNITS, head_and_rows, slopes_told
from mlpot.studies.several import FINISHED

NEEDED = (
    *("complete", "finished", "trainings", "notes", "rows", "laws", "target", "points"),
    *("pool", "drawing", "recipe", "budget", "budget_unit"),
)
NEAR = "structures that are, or nearly are, among those from which training sets are drawn"


def curve_page(folder: Path) -> str:
    """The page of the directory of a curve, whether all of its trainings have finished or not."""
    curve = read_json(folder / "curve.json", NEEDED)
    parts: dict[str, list[Html]] = {
        "Errors": _errors(curve),
        "Pictures": [pictures(curve_panels(curve))] if curve["finished"] else [],
        "Trainings": [_trainings(curve)],
        "Data": [facts(_data(curve))],
        "Recipe": [more("Recipe", as_yaml(curve["recipe"]))],
    }
    return page(f"Curve {folder.name}", *chapters(parts), verdict=verdict_of(curve))


def verdict_of(study: Mapping[str, Any]) -> tuple[Kind, str]:
    """Whether all trainings of a study have finished, in words and color."""
    left = half_finished(study)
    return ("warning", left) if left else ("good", "complete")


def notes_of(study: Mapping[str, Any]) -> list[Html]:
    """What a reader of the figures must know."""
    return [finding("warning", "Mind", tag("p", note)) for note in study["notes"]]


def _errors(curve: Mapping[str, Any]) -> list[Html]:
    told = notes_of(curve)
    if curve["target"] is not None:
        told.append(tag("p", curve["target"]["told"]))
    words = "Mean ± standard deviation over seeds, on the test set."
    return [*told, table(*head_and_rows(curve)), aside(words), *(tag("p", s) for s in slopes_told(curve["laws"]))]


def _trainings(curve: Mapping[str, Any]) -> Html:
    keys = [key for key in UNITS if "_mae_" in key]
    rows = []
    for p in curve["points"]:
        test = p.get("test", {})
        errors = (number(test.get(key)) for key in keys)
        time = duration(p["seconds"]) if p["state"] == FINISHED else "–"
        rows.append((p["directory"], p["state"], f"{p.get('best_epoch', '–')} of {p['epochs']}", time, *errors))
    head = ("directory", "state", "best epoch", "time", *(f"{UNITS[key][0]}, {UNITS[key][1]}" for key in keys))
    return table(head, rows)


def _data(curve: Mapping[str, Any]) -> dict[str, str]:
    pool = curve["pool"]
    drawn = f"{pool['n_structures']}, and {pool['n_isolated']} isolated atoms in every set"
    steps = f"about {curve['budget']} {curve['budget_unit']}"
    return {"structures to draw from": drawn, **of_sets(pool, curve["drawing"]), "every training": steps}


def of_sets(pool: Mapping[str, Any], drawing: Mapping[str, Any]) -> dict[str, str]:
    """The sets that judge, and how they were drawn."""
    return {
        "validation structures": str(pool["n_validation"]),
        "test structures": str(pool["n_test"]),
        **{f"{name} {NEAR}": str(n) for name, n in pool["near"].items()},
        "kept together by": drawing["by"],
        "files, SHA-256": drawing["train_hash"],
    }
