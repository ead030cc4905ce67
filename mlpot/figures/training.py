"""Learning curves: how errors fell during a training."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlpot.figures.svg import Draw, plain_logarithmic, write_picture

Columns = dict[str, list[tuple[float, float]]]

LOGS = "logs"  # folder in the directory of a training
LOSSES = {"train/loss": "train", "validation/loss": "validation"}
ERRORS = {
    "validation/energy_mae_meV_per_atom": "energy MAE, meV/atom",
    "validation/forces_mae_meV_per_A": "forces MAE, meV/Å",
    "validation/stress_mae_meV_per_A3": "stress MAE, meV/Å³",
}
FORMER = {name.partition("_meV")[0]: name for name in ERRORS}
"""Columns of older logs, whose names do not say the unit."""
RATE = {"train/rate": "learning rate"}


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
    for axes, lines, label in zip(
        figure.subplots(1, 2), (LOSSES, ERRORS), ("loss", "validation error"), strict=True
    ):
        _draw(columns, lines, label, axes)
    if title:
        figure.suptitle(title)
    write_picture(figure, path, dpi=120)


def learning_panels(columns: Columns) -> dict[str, Draw]:
    """Loss, each validation error, and learning rate by epoch, by what each shows."""
    panels = {"Loss": (LOSSES, "loss")}
    panels |= {f"Validation {label}": ({name: label}, label) for name, label in ERRORS.items()}
    panels["Learning rate"] = (RATE, "learning rate")
    return {
        f"{what} by epoch": partial(_draw, columns, lines, label)
        for what, (lines, label) in panels.items()
        if any(columns[name] for name in lines)
    }


def _draw(columns: Columns, lines: Mapping[str, str], y_label: str, axes: Axes) -> None:
    for name, label in lines.items():
        if columns[name]:
            axes.plot(*zip(*columns[name], strict=True), label=label, marker=".", markersize=2, linewidth=1)
    axes.set(xlabel="epoch", ylabel=y_label)
    if axes.lines:
        axes.set_yscale("log")
        plain_logarithmic(axes.yaxis)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8)


def logs_of(run: Path) -> list[Path]:
    """The logs of the sessions of a training, in their order; of a committee, those of its first member."""
    first = run / "member_0"
    logs = ((first if first.is_dir() else run) / LOGS).glob("version_*/metrics.csv")
    return sorted(logs, key=lambda path: int(path.parent.name.split("_")[1]))


def read_logs(logs: Sequence[Path]) -> Columns:
    """(epoch, value) pairs of each column, epochs counted from 1; a column that is not there is empty."""
    columns: dict[str, dict[float, float]] = defaultdict(dict)
    for log in logs:
        whole, _, _ = log.read_text(encoding="utf-8").rpartition("\n")  # without a last line that a kill cut off
        for row in csv.DictReader(whole.splitlines()):
            for name, value in row.items():
                if value and name != "epoch":
                    columns[FORMER.get(name, name)][float(row["epoch"]) + 1] = float(value)
    return defaultdict(list, {name: sorted(values.items()) for name, values in columns.items()})
