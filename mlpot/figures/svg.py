"""Small pictures for pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mlpot.atomic_files import write_whole

Draw = Callable[[Axes], object]
SIZE = (4.4, 3.2)  # inches
LEAST_SPAN = 1.5  # highest over lowest number of a logarithmic axis: the most between two ticks
NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def plain_logarithmic(axis: Axis) -> None:
    """A logarithmic axis with numbers as people write them, at powers of ten and, with room, between.

    Where all is one number it shows what is around it, as nothing would stand at the axis; without a number above
    zero it is linear.
    """
    low, high = axis.get_minpos(), max(axis.get_data_interval())
    name = "x" if axis is axis.axes.xaxis else "y"
    if not low <= high < np.inf:
        axis.axes.set(**{f"{name}scale": "linear"})
        return
    if high < LEAST_SPAN * low:
        middle = np.sqrt(low * high)
        axis.axes.set(**{f"{name}lim": (middle / LEAST_SPAN, middle * LEAST_SPAN)})

    def minor(x: float, _: object) -> str:
        low, high = axis.get_view_interval()
        return f"{x:g}" if high < 10 * low or f"{x:e}"[0] in "25" else ""

    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(1.5, *range(2, 10))))  # 1.5: from 65 to 185 nothing is above 100 else
    axis.set_minor_formatter(minor)


def svg(draw: Draw) -> bytes:
    """An SVG of one pair of axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.tick_params(which="both", labelsize=8)
    draw(axes)
    content = BytesIO()
    figure.savefig(content, format="svg", dpi=150, metadata=NOTHING)
    return content.getvalue()


def side_by_side(panels: Mapping[str, Draw], path: str | Path, *, title: str) -> None:
    """Write a picture of several panels, whose format the ending of the path says; without any, of the title."""
    n = max(1, len(panels))
    figure = Figure(figsize=(4.6 * n, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for draw, axes in zip(panels.values(), figure.subplots(1, n, squeeze=False)[0], strict=False):
        draw(axes)
    figure.suptitle(title)
    write_picture(figure, path, dpi=120)


def write_picture(figure: Figure, path: str | Path, *, dpi: int) -> None:
    """Write a figure as a whole, in the format that the ending of the path says, or leave what is there.

    Raises:
        StorageError: it cannot be written.
    """
    content, path = BytesIO(), Path(path)
    figure.savefig(content, format=path.suffix.removeprefix(".") or "png", dpi=dpi)
    write_whole(path, content.getvalue())
