"""Errors of several networks against minutes of training and against cost in use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mlpot.figures.curve import ERRORS, half_finished
from mlpot.figures.svg import Draw, plain_logarithmic, side_by_side

COSTS = {
    "minutes_taken": "minutes of training",
    "microseconds_per_atom_step": "µs per atom and step in use",
}


def plot_pareto(comparison: Mapping[str, Any], path: str | Path) -> None:
    """Draw the validation error against each cost, and write the picture.

    Args:
        comparison: what pareto.json has; one that is not complete says so in the title.
        path: of the picture; the ending says the format.
    """
    title = half_finished(comparison) or "Which network, for which budget"
    side_by_side(pareto_panels(comparison), path, title=title)


def pareto_panels(comparison: Mapping[str, Any]) -> dict[str, Draw]:
    """The error that decides against each cost, by what the picture shows; none before a training has finished."""
    label = ERRORS[comparison["error"]]
    if not comparison["finished"]:
        return {}
    return {
        f"validation {label} by {cost}": partial(_draw, comparison, key, cost, label)
        for key, cost in COSTS.items()
    }


def _draw(comparison: Mapping[str, Any], key: str, cost: str, label: str, axes: Axes) -> None:
    for k, backbone in enumerate(comparison["backbones"]):
        rows = [r for r in comparison["rows"] if r["backbone"] == backbone and r["finished"]]
        x = [row[key] for row in rows]
        y = [row["validation"][comparison["error"]]["mean"] for row in rows]
        axes.plot(x, y, "o-", markersize=4, linewidth=1.0, color=f"C{k}", label=backbone)
        best = [(a, b) for a, b, row in zip(x, y, rows, strict=True) if row["front"]]
        if best:
            axes.plot(*zip(*best, strict=True), "o", markersize=10, markerfacecolor="none", color=f"C{k}")
    axes.plot([], [], "o", markersize=10, markerfacecolor="none", color="gray", label="on the front")
    pick = comparison["budget"]["pick"]
    for row in comparison["rows"]:
        if pick is not None and all(row[name] == pick[name] for name in ("backbone", "minutes")):
            error = row["validation"][comparison["error"]]["mean"]
            axes.plot([row[key]], [error], "*", markersize=11, color="black", label="picked")
    axes.set(xlabel=cost, ylabel=f"validation {label}", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        plain_logarithmic(axis)
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)  # over no point
