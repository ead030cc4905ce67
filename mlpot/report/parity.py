"""Parity pictures: what a potential predicts against what the reference calculation says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlpot.graph import Properties

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One quantity in a parity picture."""

    name: str  # with its unit
    error_unit: str
    scale: float  # error units in one unit
    predicted: Floats
    reference: Floats


def plot_parity(
    predicted: Properties, reference: Properties, n_atoms: torch.Tensor, path: str | Path, *, title: str = ""
) -> None:
    """Draw energy per atom, force components and stress against the reference, as far as there are labels.

    Args:
        predicted, reference: of the same structures, in the same order.
        n_atoms: (n_graphs,) atoms of each structure.
        path: of the picture; the ending says the format.
    """
    panels = [p for p in _panels(predicted, reference, n_atoms.double().cpu()) if len(p.reference)]
    width = 4.2 * max(len(panels), 1)
    figure = Figure(figsize=(width, 4.0))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.8 / width, right=1 - 0.2 / width, bottom=0.13, top=0.86, wspace=0.28)
    for k, panel in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), k + 1), panel)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _panels(predicted: Properties, reference: Properties, n_atoms: torch.Tensor) -> list[Panel]:
    quantities = (
        ("energy, eV/atom", "meV/atom", predicted.energy / n_atoms, reference.energy / n_atoms),
        ("force component, eV/Å", "meV/Å", predicted.forces, reference.forces),
        ("stress component, eV/Å³", "meV/Å³", predicted.stress, reference.stress),
    )
    panels = []
    for name, error_unit, x, y in quantities:
        known = (x.isfinite() & y.isfinite()).cpu()
        panels.append(Panel(name, error_unit, 1e3, x.cpu()[known].numpy(), y.cpu()[known].numpy()))
    return panels


def _draw(axes: Axes, panel: Panel) -> None:
    error = (panel.predicted - panel.reference) * panel.scale
    low, high = panel.reference.min(), panel.reference.max()
    margin = 0.03 * max(high - low, 1e-6)
    axes.plot([low - margin, high + margin], [low - margin, high + margin], color="0.6", linewidth=0.8, zorder=1)
    axes.plot(panel.reference, panel.predicted, ".", markersize=2.5, alpha=0.5, rasterized=True, zorder=2)
    mae, rmse = np.abs(error).mean(), np.sqrt(np.square(error).mean())
    axes.set_title(f"MAE {mae:.3g}, RMSE {rmse:.3g} {panel.error_unit}", fontsize=9)
    axes.set_xlabel(f"reference {panel.name}")
    axes.xaxis.set_major_locator(MaxNLocator(5))  # energies per atom take many digits
    axes.set_ylabel("predicted")
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.tick_params(labelsize=7)
