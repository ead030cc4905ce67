"""What a run left in its folder, read with words for what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RunError(ValueError):
    """A folder does not hold what a page could tell of."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RunError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Restore it, or do the run again.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no table. Restore it, or do the run again.")
    return content


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """For a reader; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}g}{unit and ' '}{unit}"


def duration(seconds: float) -> str:
    """In the unit that fits."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return number(seconds / length, unit=unit)
    return number(seconds, unit="s")
