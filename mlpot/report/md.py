"""Pictures of a molecular-dynamics run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def plot_md(columns: Mapping[str, Floats], n_atoms: int, path: str | Path, *, title: str = "") -> None:
    """Draw energies, the conserved quantity, temperature, and pressure where there is one, against time.

    Args:
        columns: of the log of a run, by the names in its first line.
        n_atoms: energies are drawn per atom.
        path: of the picture; the ending says the format.
    """
    time = columns["time_ps"]
    energies = {
        "potential": columns["potential_eV"],
        "kinetic": columns["kinetic_eV"],
        "total": columns["total_eV"],
    }
    curves: list[tuple[str, dict[str, Floats]]] = [
        ("energy − start, meV/atom", {name: _change(e, n_atoms) for name, e in energies.items()}),
        ("conserved − start, meV/atom", {"conserved": _change(columns["conserved_eV"], n_atoms)}),
        ("temperature, K", {"temperature": columns["temperature_K"]}),
        ("pressure, GPa", {"pressure": columns["pressure_GPa"]}),
    ]
    panels = [(label, lines) for label, lines in curves if all(np.isfinite(y).any() for y in lines.values())]
    figure = Figure(figsize=(8.0, 2.1 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, lines) in zip(
        np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True
    ):
        for name, y in lines.items():
            axes.plot(time, y, linewidth=0.8, label=name)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        if len(lines) > 1:
            axes.legend(fontsize=7, ncols=len(lines))
    figure.axes[-1].set_xlabel("time, ps")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)


ANALYSIS = {
    "rdf": ("distance, Å", "radial distribution"),
    "msd": ("lag, ps", "mean squared displacement, Å²"),
    "spectrum": ("wavenumber, 1/cm", "velocity spectrum, cm"),
    "temperature": ("temperature, K", "density, 1/K"),
    "energy": ("potential energy − mean, meV/atom", "density"),
    "conserved": ("time, ps", "conserved − start, meV/atom"),
}
"""Labels of the axes of each panel."""


def plot_analysis(
    curves: Mapping[str, Mapping[str, tuple[Floats, Floats]]], path: str | Path, *, title: str = ""
) -> None:
    """Draw what `mlpot md analyze` found.

    Args:
        curves: by the names in `ANALYSIS`, lines by name, each (x, y).
        path: of the picture; the ending says the format.
    """
    figure = Figure(figsize=(11.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (panel, (x_label, y_label)) in zip(figure.subplots(2, 3).flat, ANALYSIS.items(), strict=True):
        for name, (x, y) in curves[panel].items():
            axes.plot(x, (y - y[0]) * 1e3 if panel == "conserved" else y, linewidth=1.0, label=name)
        axes.set_xlabel(x_label, fontsize=8)
        axes.set_ylabel(y_label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="x", useOffset=False)
        if panel == "spectrum":
            axes.set_xlim(0, min(axes.get_xlim()[1], 4500))
        if len(curves[panel]) > 1 or panel != "conserved":
            axes.legend(fontsize=7, frameon=False)
        if not any(np.isfinite(y).any() for _, y in curves[panel].values()):
            axes.text(0.5, 0.5, "this ensemble conserves none", transform=axes.transAxes, ha="center", fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)


def _change(energy: Floats, n_atoms: int) -> Floats:
    """meV/atom since the first observation there is."""
    change: Floats = (energy - energy[np.isfinite(energy).argmax()]) * 1e3 / n_atoms
    return change
