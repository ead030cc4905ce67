"""The page of a comparison of networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlpot.figures.pareto import pareto_panels
from mlpot.html.curve import notes_of, of_sets, verdict_of
from mlpot.html.files import as_yaml, duration, number, read_json
from mlpot.html.page import Html, aside, chapters, facts, finding, more, page, pictures, table, tag
from mlpot.studies.pareto_table import head_and_rows, told

NEEDED = (
    *("complete", "finished", "trainings", "notes", "error", "rows", "choices", "budget", "points"),
    *("sets", "drawing", "recipes", "backbones", "threads", "in_use", "epochs"),
)


def pareto_page(folder: Path) -> str:
    """The page of the directory of a comparison, whether all of its trainings have finished or not."""
    comparison = read_json(folder / "pareto.json", NEEDED)
    parts: dict[str, list[Html]] = {
        "Choice": _choice(comparison),
        "Errors and costs": [table(*head_and_rows(comparison)), *map(aside, _MEANINGS)],
        "Pictures": [pictures(pareto_panels(comparison))] if comparison["finished"] else [],
        "Trainings": [_trainings(comparison)],
        "Clock": [_clock(comparison)],
        "Data": [facts(_data(comparison))],
        "Recipes": [more(f"Recipe of {name}", as_yaml(recipe)) for name, recipe in comparison["recipes"].items()],
    }
    return page(f"Comparison {folder.name}", *chapters(parts), verdict=verdict_of(comparison))


_MEANINGS = (
    "Mean ± standard deviation over seeds. Validation errors choose the best epoch, the front and the network; "
    "test errors report. Minutes run from the reading of the data to the last epoch.",
    "front: nothing else is as good in validation error, minutes given and cost in use, and better in one.",
)


def _choice(comparison: Mapping[str, Any]) -> list[Html]:
    first, *others = told(comparison)
    return [*notes_of(comparison), finding("note", "Which", tag("p", first)), *(tag("p", line) for line in others)]


def _trainings(comparison: Mapping[str, Any]) -> Html:
    key = comparison["error"]
    rows = []
    for p in comparison["points"]:
        time = duration(p["seconds"]) if "seconds" in p else "–"
        errors = (number(p.get(part, {}).get(key)) for part in ("validation", "test"))
        rows.append((p["directory"], p["state"], f"{p.get('best_epoch', '–')} of {p['epochs']}", time, *errors))
    return table(("directory", "state", "best epoch", "time", "validation", "test"), rows)


def _clock(comparison: Mapping[str, Any]) -> Html:
    rows = []
    for name, epoch in comparison["epochs"].items():
        use = comparison["in_use"].get(name, {})
        spread = number(use.get("spread"), 2)
        measured = (duration(epoch["epoch"]), duration(epoch["before"]), f"{epoch['processor_share']:.0%}")
        rows.append((name, *measured, f"{number(use.get('microseconds'))} ± {spread}"))
    head = ("backbone", "an epoch", "before the first", "of a processor", "in use, µs per atom and step")
    return table(head, rows)


def _data(comparison: Mapping[str, Any]) -> dict[str, str]:
    pool = comparison["sets"]["pool"]
    threads = {"threads": str(comparison["threads"])}
    return {"training structures": str(pool["n_structures"]), **of_sets(pool, comparison["drawing"]), **threads}
