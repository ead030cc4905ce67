"""Curves of several networks beside each other: their errors, their slopes, and the factors between them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mlpot.figures.curve import ERRORS, half_finished
from mlpot.figures.svg import Draw, plain_logarithmic, side_by_side

MARKERS = "osD^v<>phX*P"


def plot_curves(comparison: Mapping[str, Any], path: str | Path) -> None:
    """Draw errors by size, slopes and factors of all curves, and write the picture.

    Args:
        comparison: what curves.json has.
        path: of the picture; the ending says the format.
    """
    side_by_side(curves_panels(comparison), path, title=half_finished(comparison))


def curves_panels(comparison: Mapping[str, Any]) -> dict[str, Draw]:
    """The pictures, by what they show."""
    label = ERRORS[comparison["error"]]
    return {
        f"{label} by number of training frames": partial(_errors, comparison, label),
        "slopes": partial(_slopes, comparison),
        f"{label} over that of {comparison['against']}": partial(_factors, comparison, label),
    }


def _colors(comparison: Mapping[str, Any]) -> dict[str, Any]:
    names = [row["name"] for row in comparison["rows"]]
    shades = matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return {name: shades[order[k % 20]] for k, name in enumerate(names)}


def _errors(comparison: Mapping[str, Any], label: str, axes: Axes) -> None:
    colors = _colors(comparison)
    for k, row in enumerate(comparison["rows"]):
        sizes = [e["size"] for e in row["errors"]]
        means = [e["mean"] for e in row["errors"]]
        spread = [e["standard_deviation"] or 0.0 for e in row["errors"]]
        style = {"color": colors[row["name"]], "marker": MARKERS[k % len(MARKERS)]}
        axes.errorbar(
            sizes, means, yerr=spread, linestyle="none", markersize=4, capsize=2, label=row["name"], **style
        )
        axes.plot(sizes, row["law"]["errors"], linewidth=1.0, color=colors[row["name"]])
    axes.set(xlabel="training frames", ylabel=f"test {label}", xscale="log", yscale="log")
    plain_logarithmic(axes.yaxis)
    axes.set_xticks(comparison["sizes"], [str(n) for n in comparison["sizes"]])
    axes.xaxis.set_minor_formatter(NullFormatter())
    # Within the axes, it would hide the best or the worst curve.
    axes.legend(fontsize=6, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _slopes(comparison: Mapping[str, Any], axes: Axes) -> None:
    rows = comparison["rows"]
    _bars(comparison, [(row["name"], row["law"]["slope"], row["law"]["interval"]) for row in rows], axes)
    axes.set(xlabel="slope of log error against log frames")
    axes.xaxis.set_major_locator(MaxNLocator(6))  # numbers of many digits would touch


def _factors(comparison: Mapping[str, Any], label: str, axes: Axes) -> None:
    rows = [row for row in comparison["rows"] if "ratio" in row]
    _bars(comparison, [(r["name"], r["ratio"]["factor"], r["ratio"]["interval"]) for r in rows], axes)
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set(xlabel=f"{label.partition(',')[0]} over that of {comparison['against']}", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(comparison: Mapping[str, Any], found: list[tuple[str, float, list[float | None]]], axes: Axes) -> None:
    """A point with its interval in each row; without one where it is not known."""
    colors = _colors(comparison)
    for k, (name, value, (low, high)) in enumerate(reversed(found)):
        if low is not None and high is not None:
            axes.plot([low, high], [k, k], color=colors[name], linewidth=1.5)
        axes.plot([value], [k], "o", color=colors[name], markersize=5)
    axes.set_yticks(range(len(found)), [name for name, *_ in reversed(found)], fontsize=7)
