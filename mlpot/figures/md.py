"""Pictures of a molecular-dynamics run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlpot.figures.svg import Draw, write_picture

Floats = NDArray[np.float64]
MOST_POINTS = 3000  # of a line that is kept as a line


def plot_md(columns: Mapping[str, Floats], n_atoms: int, path: str | Path, *, title: str = "") -> None:
    """Draw energies, the conserved quantity, temperature, pressure and a changing volume against time.

    Args:
        columns: of the log of a run, by the names in its first line.
        n_atoms: energies are drawn per atom.
        path: of the picture; the ending says the format.
    """
    panels = [lines for lines in _lines(columns, n_atoms)[:5] if _is_there(lines)]
    figure = Figure(figsize=(8.0, 2.1 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, lines in zip(np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True):
        _draw_lines(columns["time_ps"], lines, axes)
        axes.set_ylabel(lines.label, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[-1].set_xlabel("time, ps")
    figure.suptitle(title, fontsize=9)
    write_picture(figure, path, dpi=150)


def md_panels(columns: Mapping[str, Floats], n_atoms: int) -> dict[str, Draw]:
    """The pictures of a log, named by what they show."""

    def panel(lines: Lines, axes: Axes) -> None:
        _draw_lines(columns["time_ps"], lines, axes)
        axes.set(xlabel="time, ps", ylabel=lines.label)

    return {
        f"{lines.label[0].upper()}{lines.label[1:]} against time": partial(panel, lines)
        for lines in _lines(columns, n_atoms)
        if _is_there(lines)
    }


class Lines(NamedTuple):
    """The lines of one picture against time."""

    label: str
    values: dict[str, Floats]


def _lines(columns: Mapping[str, Floats], n_atoms: int) -> list[Lines]:
    energies = ("potential", "kinetic", "total")
    return [
        Lines("energy − start, meV/atom", {name: _change(columns[f"{name}_eV"], n_atoms) for name in energies}),
        Lines("conserved − start, meV/atom", {"conserved": _change(columns["conserved_eV"], n_atoms)}),
        Lines("temperature, K", {"temperature": columns["temperature_K"], "asked for": columns["target_K"]}),
        Lines("pressure, GPa", {"pressure": columns["pressure_GPa"]}),
        Lines("volume, Å³", {"volume": columns["volume_A3"]}),
        Lines("greatest force, eV/Å", {"force": columns["max_force_eV_A"]}),
        Lines("nearest distance, Å", {"distance": columns["nearest_A"]}),
    ]


def _is_there(lines: Lines) -> bool:
    values = next(iter(lines.values.values()))
    return bool(np.isfinite(values).any() and (lines.label != "volume, Å³" or np.ptp(values) > 0))


def _draw_lines(time: Floats, lines: Lines, axes: Axes) -> None:
    there = {name: y for name, y in lines.values.items() if np.isfinite(y).any()}
    for name, y in there.items():
        axes.plot(time, y, linewidth=0.8, label=name, rasterized=len(time) > MOST_POINTS)
    if len(there) > 1:
        axes.legend(fontsize=7, ncols=len(there), framealpha=0.5)


ANALYSIS = {
    "rdf": ("distance, Å", "radial distribution g(r)"),
    "msd": ("lag, ps", "mean squared displacement, Å²"),
    "spectrum": ("wavenumber, 1/cm", "velocity spectrum, cm"),
    "temperature": ("temperature, K", "density, 1/K"),
    "energy": ("potential energy − mean, meV/atom", "density"),
    "conserved": ("time, ps", "conserved − start, meV/atom"),
}
"""Labels of the axes of each panel, where the run does not say another for the second."""


def plot_analysis(
    curves: Mapping[str, Mapping[str, tuple[Floats, Floats]]],
    path: str | Path,
    *,
    notes: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    title: str = "",
) -> None:
    """Draw what `mlpot md analyze` found.

    Args:
        curves: by the names in `ANALYSIS`, lines by name, each (x, y).
        notes: by the same names, a text in the picture: why it has no line, or where it ends.
        labels: by the same names, of the vertical axis, where it shows another quantity.
        path: of the picture; the ending says the format.
    """
    figure = Figure(figsize=(11.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(2, 3).flat, ANALYSIS, strict=True):
        _draw_analysis(panel, curves[panel], (labels or {}).get(panel, ANALYSIS[panel][1]), axes)
        _write_note((notes or {}).get(panel, ""), bool(curves[panel]), axes)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(8)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    write_picture(figure, path, dpi=150)


def analysis_panels(
    curves: Mapping[str, Mapping[str, tuple[Floats, Floats]]], labels: Mapping[str, str]
) -> dict[str, Draw]:
    """The pictures of an analysis, named by what they show; the conserved quantity is in the log.

    Args:
        curves, labels: as of `plot_analysis`.
    """
    shown = {panel: (x, labels.get(panel, y)) for panel, (x, y) in ANALYSIS.items()}
    return {
        f"{y} against {x}": partial(_draw_analysis, panel, curves[panel], y)
        for panel, (x, y) in shown.items()
        if panel != "conserved" and curves[panel]
    }


def _write_note(note: str, beside_lines: bool, axes: Axes) -> None:
    """Above the lines, or in their place."""
    if beside_lines:
        axes.set_title("\n".join(wrap(note, 60)), fontsize=7)
    elif note:
        axes.text(
            0.5, 0.5, "\n".join(wrap(note, 44)), transform=axes.transAxes, ha="center", va="center", fontsize=8
        )
        axes.set(xticks=[], yticks=[])


def _draw_analysis(panel: str, lines: Mapping[str, tuple[Floats, Floats]], y_label: str, axes: Axes) -> None:
    for name, (x, y) in lines.items():
        axes.plot(x, (y - y[0]) * 1e3 if panel == "conserved" else y, linewidth=1.0, label=name)
    axes.set(xlabel=ANALYSIS[panel][0], ylabel=y_label)
    axes.ticklabel_format(axis="x", useOffset=False)
    if panel == "spectrum" and lines:
        axes.set_xlim(0, max(x[-1] for x, _ in lines.values()))
    if lines and panel != "conserved":
        axes.legend(fontsize=7, frameon=False)


def _change(energy: Floats, n_atoms: int) -> Floats:
    """meV/atom since the first observation there is."""
    change: Floats = (energy - energy[np.isfinite(energy).argmax()]) * 1e3 / n_atoms
    return change
