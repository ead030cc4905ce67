"""Errors against number of training frames, with the power laws through them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mlpot.figures.svg import Draw, plain_logarithmic, side_by_side

ERRORS = {
    "energy_mae_meV_per_atom": "energy MAE, meV/atom",
    "forces_mae_meV_per_A": "forces MAE, meV/Å",
    "stress_mae_meV_per_A3": "stress MAE, meV/Å³",
}


def plot_curve(curve: Mapping[str, Any], path: str | Path) -> None:
    """Draw each error, a point for each training, and write the picture.

    Args:
        curve: what curve.json has; a curve that is not complete says so in the title.
        path: of the picture; the ending says the format.
    """
    side_by_side(
        curve_panels(curve), path, title=": ".join(filter(None, (curve["backbone"], half_finished(curve))))
    )


def half_finished(study: Mapping[str, Any]) -> str:
    """How many trainings of a study have finished, where that is not all; else nothing."""
    if study["complete"]:
        return ""
    told = f"{study['finished']} of {study['trainings']} trainings"
    failed = sum(point["state"] == "failed" for point in study.get("points", ()))  # curves have none
    is_done = study["finished"] + failed == study["trainings"]
    return f"{told}, {failed} failed" if is_done else f"half-finished, {told}"


def curve_panels(curve: Mapping[str, Any]) -> dict[str, Draw]:
    """Each error that is known, by what its picture shows."""
    return {
        f"{label} by number of training frames": partial(_draw, curve, key, label)
        for key, label in ERRORS.items()
        if any(key in row for row in curve["rows"])
    }


def _draw(curve: Mapping[str, Any], key: str, label: str, axes: Axes) -> None:
    known = [(p["size"], p["test"][key]) for p in curve["points"] if key in p.get("test", {})]
    axes.plot(*zip(*known, strict=True), "o", markersize=4, alpha=0.6, label="one training")
    law, target = curve["laws"].get(key), curve["target"]
    if law is not None:
        x, y = np.array(law["sizes"], dtype=float), np.array(law["errors"])
        error = law["standard_error"]
        slope = f"slope {law['slope']:.2f}" + ("" if error is None else f" ± {error:.2f}")
        axes.plot(x, y, linewidth=1.2, color="tab:orange", label=slope)
        if target is not None and key in target and target["frames"] is not None:
            _extend(axes, x, y, target["frames"], target[key])
    axes.set(xlabel="training frames", ylabel=f"test {label}", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        plain_logarithmic(axis)
    axes.legend(fontsize=8)


def _extend(axes: Axes, x: np.ndarray, y: np.ndarray, frames: float, error: float) -> None:
    """The line on to the target, dashed where no training is."""
    near = x[-1] if frames > x[-1] else x[0] if frames < x[0] else None
    if near is not None and max(frames / near, near / frames) < 1e4:
        axes.plot([near, frames], [y[-1] if near == x[-1] else y[0], error], "--", color="tab:orange", linewidth=1)
        axes.plot([frames], [error], "x", color="tab:red", label="target, extrapolated")
    elif near is None:
        axes.plot([frames], [error], "x", color="tab:red", label="target")
