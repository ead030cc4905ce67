"""Pictures of an examined data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from mlpot.data.check.finding import Report
from mlpot.figures.svg import Draw

MOST_POINTS = 4000  # of a scatter plot


def check_panels(report: Report) -> dict[str, Draw]:
    """The pictures of a report, named by what they show."""
    panels: dict[str, Callable[[Report, Axes], None]] = {}
    if len(report.curves.get("index", ())):
        panels |= {
            "Energy of each frame": _energies,
            "Greatest force of each frame": _forces,
            "Distance of the closest pair of each frame": _closeness,
        }
    if "predicted energy" in report.curves:
        panels |= {
            "Energies in the file, and as a linear potential says": _parity_energy,
            "Forces in the file, and as a linear potential says": _parity_forces,
        }
    return {words: partial(draw, report) for words, draw in panels.items()}


def _marked(report: Report, axes: Axes, name: str) -> None:
    """Values by frame; frames that errors and warnings name stand out."""
    index, values = report.curves["index"], report.curves[name]
    named = {k for f in report.findings if f.severity != "note" for k in f.frames}
    marked = np.isin(index, list(named))
    axes.plot(index[~marked], values[~marked], ".", markersize=2.5, rasterized=len(index) > MOST_POINTS)
    axes.plot(index[marked], values[marked], "x", color="tab:red", label="named above")
    axes.set(xlabel="frame")
    if marked.any():
        axes.legend(fontsize=7)


def _energies(report: Report, axes: Axes) -> None:
    _marked(report, axes, "energy")
    axes.set(ylabel="energy in the file, eV/atom")


def _forces(report: Report, axes: Axes) -> None:
    _marked(report, axes, "force")
    axes.set(ylabel="greatest force in the file, eV/Å")
    if np.nanmax(report.curves["force"], initial=0.0) > 100:
        axes.set(yscale="log")


def _closeness(report: Report, axes: Axes) -> None:
    _marked(report, axes, "overlap")
    axes.set(ylabel="closest pair, sums of covalent radii")


def _parity_energy(report: Report, axes: Axes) -> None:
    _parity(axes, report.curves["labeled energy"], report.curves["predicted energy"])
    axes.set(xlabel="energy in the units of forces, less atoms", ylabel="a linear potential says")


def _parity_forces(report: Report, axes: Axes) -> None:
    labeled, predicted = report.curves["labeled forces"], report.curves["predicted forces"]
    every = max(1, len(labeled) // MOST_POINTS)
    _parity(axes, labeled[::every], predicted[::every])
    axes.set(xlabel="force components in the file", ylabel="a linear potential says")


def _parity(axes: Axes, labeled: np.ndarray, predicted: np.ndarray) -> None:
    low, high = min(labeled.min(), predicted.min()), max(labeled.max(), predicted.max())
    axes.plot([low, high], [low, high], color="gray", linewidth=0.8)
    axes.plot(labeled, predicted, ".", markersize=2, alpha=0.5, rasterized=True)
