"""A comparison of networks as a table and in words, from what pareto.json has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpot.studies.curve_summary import UNITS, cell_of, count_of


def head_and_rows(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table of costs and mean absolute errors by backbone and minutes."""
    rows = comparison["rows"]
    shown = [
        (part, key)
        for part in ("validation", "test")
        for key in UNITS
        if "_mae_" in key and any(key in row.get(part, {}) for row in rows)
    ]
    head = ["backbone", "minutes", "trainings", "epochs", "minutes taken", "µs/atom/step", "parameters"]
    head += [f"{part} {UNITS[key][0]}, {UNITS[key][1]}" for part, key in shown] + ["front"]
    return head, [_cells(row, shown) for row in rows]


def _cells(row: Mapping[str, Any], shown: list[tuple[str, str]]) -> list[str]:
    taken, in_use = (_figure(row.get(key)) for key in ("minutes_taken", "microseconds_per_atom_step"))
    cells = [row["backbone"], f"{row['minutes']:g}", count_of(row), str(row["epochs"]), taken, in_use]
    cells += [str(row.get("n_weights", "–"))]
    return [*cells, *(cell_of(row.get(part, {}).get(key)) for part, key in shown), "yes" if row["front"] else ""]


def short_table(comparison: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Title, head and rows that fit into 80 columns of a terminal, with the error that decides alone."""
    key = comparison["error"]
    head = ["backbone", "min", "epochs", "took", "µs", "weights", "valid.", "test", "front"]
    rows = []
    for row in comparison["rows"]:
        backbone, minutes, _, *costs, front = _cells(row, [])
        errors = (cell_of(row.get(part, {}).get(key)) for part in ("validation", "test"))
        rows.append([backbone, minutes, *costs, *errors, front])
    return f"{UNITS[key][0]}, {UNITS[key][1]}, for minutes and µs per atom and step", head, rows


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def told(comparison: Mapping[str, Any]) -> list[str]:
    """The choice for the budget, then those for each of the times that were trained, each once."""
    return list(dict.fromkeys([comparison["budget"]["told"], *(c["told"] for c in comparison["choices"])]))
