"""Files in the folder of a run, and errors that name what is missing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml


class RunError(ValueError):
    """A folder holds no run of which a page can be made."""


def read_json(path: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        needed: entries that it must have.

    Raises:
        RunError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). Restore it, or repeat the run.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object. Restore it, or repeat the run.")
    if lacking := [name for name in needed if name not in content]:
        raise RunError(f"{path} is damaged, it has no {', '.join(lacking)}. Restore it, or repeat the run.")
    return content


def as_yaml(recipe: Mapping[str, Any]) -> str:
    """A recipe as the file that a command takes."""
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number as text; a dash where it is missing."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}g}{unit and ' '}{unit}"


def duration(seconds: float) -> str:
    """A duration in the unit that fits."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return number(seconds / length, unit=unit)
    return number(seconds, unit="s")
