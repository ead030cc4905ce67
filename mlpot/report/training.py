"""Learning curves: how errors fell during a training."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CURVES = {"validation/energy_mae": "energy MAE, meV/atom", "validation/forces_mae": "forces MAE, meV/Å"}


def plot_learning_curve(logs: Sequence[Path], path: str | Path, *, title: str = "") -> None:
    """Draw the loss, and the validation errors, of logs that the trainer wrote.

    Args:
        logs: CSV with a column `epoch`, one for each session; an epoch in a later one counts.
        path: of the picture; the ending says the format.
    """
    columns = read_logs(logs)
    figure = Figure(figsize=(9.0, 3.6))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.14, top=0.91, wspace=0.22)
    left, right = figure.subplots(1, 2)
    for name in ("train/loss", "validation/loss"):
        if columns[name]:
            left.plot(
                *zip(*columns[name], strict=True), label=name.split("/")[0], marker=".", markersize=2, linewidth=1
            )
    for name, label in CURVES.items():
        if columns[name]:
            right.plot(*zip(*columns[name], strict=True), label=label, marker=".", markersize=2, linewidth=1)
    left.set_ylabel("loss")
    right.set_ylabel("validation error")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)


def read_logs(logs: Sequence[Path]) -> dict[str, list[tuple[float, float]]]:
    """(epoch, value) pairs of each column, epochs counted from 1; a column that is not there is empty."""
    columns: dict[str, dict[float, float]] = defaultdict(dict)
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "epoch":
                        columns[name][float(row["epoch"]) + 1] = float(value)
    return defaultdict(list, {name: sorted(values.items()) for name, values in columns.items()})
