"""Do pictures show something where all numbers are one, and name what they show?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlpot.figures.curve import curve_panels
from mlpot.figures.md import ANALYSIS, analysis_panels, plot_analysis

KEY = "forces_mae_meV_per_A"


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # Matplotlib's, which the axis then mends
@pytest.mark.parametrize("error", [3.7, 1.0, 1e-5, 0.0])
def test_a_learning_curve_of_equal_errors_has_numbers_at_its_axis(error: float) -> None:
    points = [{"size": n, "test": {KEY: error}} for n in (50, 100, 200)]
    content = {"rows": [{KEY: {}}], "points": points, "laws": {}, "target": None}
    (draw,) = curve_panels(content).values()
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    assert low < error < high
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    assert [t for t in ticks if t.label1.get_text() and low <= t.get_loc() <= high], "the axis says no number"


def test_an_axis_is_named_after_what_it_shows(tmp_path: Path) -> None:
    line = (np.linspace(1, 2, 5), np.ones(5))
    curves = {panel: {"H-H": line} if panel == "rdf" else {} for panel in ANALYSIS}
    assert list(analysis_panels(curves, {})) == ["radial distribution g(r) against distance, Å"]
    density = {"rdf": "density of distances, 1/Å"}
    (name, draw), *_ = analysis_panels(curves, density).items()
    axes = Figure().subplots()
    draw(axes)
    assert name == "density of distances, 1/Å against distance, Å"
    assert axes.get_ylabel() == density["rdf"]
    plot_analysis(curves, tmp_path / "analysis.svg", labels=density)
    assert "g(r)" not in (tmp_path / "analysis.svg").read_text()
