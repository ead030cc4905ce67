"""Small pictures for pages."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Draw = Callable[[Axes], object]
NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg(draw: Draw, *, width: float = 4.4, height: float = 3.2) -> bytes:
    """An SVG of one pair of axes; width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.tick_params(labelsize=8)
    draw(axes)
    content = BytesIO()
    figure.savefig(content, format="svg", dpi=150, metadata=NOTHING)
    return content.getvalue()
