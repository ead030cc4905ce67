"""The page of curves of several networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlpot.figures.curve import ERRORS
from mlpot.figures.curves import curves_panels
from mlpot.html.curve import notes_of, verdict_of
from mlpot.html.files import duration, read_json
from mlpot.html.page import Html, aside, chapters, page, pictures, table, tag
from mlpot.studies.curves import head_and_rows, told

NEEDED = "error", "against", "sizes", "seeds", "rows", "finished", "trainings", "complete", "notes"


def curves_page(folder: Path) -> str:
    """The page of the directory that `mlpot curves` wrote."""
    comparison = read_json(folder / "curves.json", NEEDED)
    parts: dict[str, list[Html]] = {
        "Errors": _errors(comparison),
        "Pictures": [pictures(curves_panels(comparison))],
        "Trainings": [_trainings(comparison)],
    }
    return page(f"Curves {folder.name}", *chapters(parts), verdict=verdict_of(comparison))


def _errors(comparison: Mapping[str, Any]) -> list[Html]:
    words = (
        f"{ERRORS[comparison['error']]} on the test set by number of training frames, mean over "
        f"{len(comparison['seeds'])} seeds; slope of log "
        f"error against log frames; factor to the errors of {comparison['against']} at the middle of the sizes."
    )
    sentences = [tag("p", line) for line in told(comparison)]
    return [*notes_of(comparison), table(*head_and_rows(comparison)), aside(words), *sentences]


def _trainings(comparison: Mapping[str, Any]) -> Html:
    rows = [(r["name"], r["backbone"], f"{r['steps']:g}", duration(r["seconds"])) for r in comparison["rows"]]
    return table(("curve", "backbone", "steps, or frames shown", "mean time"), rows)
