"""The picture of a data set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlpot.atomic_files import check_place
from mlpot.data.check.info import FORCE_BINS, DataInfo
from mlpot.figures.svg import Draw, write_picture

Panel = Callable[[DataInfo, Axes], None]
MOST = 8  # groups or pairs drawn by name


def check_picture(path: str | Path) -> None:
    """Raise the errors that writing a picture would raise, before its content is computed.

    Raises:
        ValueError: the ending is of no format of pictures.
        FileNotFoundError, IsADirectoryError, StorageError: as `check_place`.
    """
    path, known = Path(path), FigureCanvasAgg(Figure()).get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise ValueError(f"{path} ends in none of {', '.join(sorted(known))}. Name the picture *.png or *.svg.")
    check_place(path)


def plot_data_info(info: DataInfo, path: str | Path) -> None:
    """Draw energies, forces, stress, distances, neighbors and elements of a data set, as far as it has them.

    Args:
        info: what `mlpot.data.check.info.info` found.
        path: of the picture; the ending says the format.
    """
    rows = [row for row in _rows(info) if row]
    figure = Figure(figsize=(12.6, 3.1 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for strip, row in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        for draw, axes in zip(row.values(), strip.subplots(1, len(row), squeeze=False)[0], strict=True):
            draw(info, axes)
    figure.suptitle(f"{Path(info.path).name}: {info.n_frames} frames, {sum(info.elements.values())} atoms")
    write_picture(figure, path, dpi=150)


def data_panels(info: DataInfo) -> dict[str, Draw]:
    """The same pictures one by one, named by what they show."""
    return {f"{what} of the set": partial(draw, info) for row in _rows(info) for what, draw in row.items()}


def _rows(info: DataInfo) -> list[dict[str, Panel]]:
    top: dict[str, tuple[Panel, int]] = {
        "Energies": (_energies, info.energy.n),
        "Forces": (_forces, info.force.n),
        "Pressures": (_stress, info.stress.n),
    }
    bottom: dict[str, tuple[Panel, int]] = {
        "Distances": (_distances, info.n_neighbors.n),
        "Numbers of neighbors": (_neighbors, info.n_neighbors.n),
        "Elements": (_elements, 1),
    }
    return [{what: draw for what, (draw, there) in row.items() if there} for row in (top, bottom)]


def _energies(info: DataInfo, axes: Axes) -> None:
    groups = sorted(info.energies, key=lambda group: -len(info.energies[group]))
    named = {group: info.energies[group] - info.energy.min for group in groups[:MOST]}
    if groups[MOST:]:
        named["others"] = np.concatenate([info.energies[group] for group in groups[MOST:]]) - info.energy.min
    labels = [group.replace("$", "\\$") for group in named]  # no formula
    axes.hist(list(named.values()), bins=50, stacked=True, label=labels)
    axes.set(xlabel=f"energy above {info.energy.min:.3f}, eV/atom", ylabel="frames")
    if any(named):
        axes.legend(fontsize=7, framealpha=0.5)


def _forces(info: DataInfo, axes: Axes) -> None:
    counts = info.force_counts.reshape(-1, 10).sum(axis=1)
    edges = FORCE_BINS[::10]
    none, counts[0] = int(counts[0]), 0
    axes.stairs(counts, edges, fill=True)
    there = np.flatnonzero(counts)
    if len(there):
        axes.set(xscale="log", xlim=(edges[there[0]] / 1.3, edges[there[-1] + 1] * 1.3))
    note = f"\n{none} atoms without force" if none else ""
    axes.axvline(
        info.force_rms, color="black", linewidth=0.8, linestyle="--", label=f"rms {info.force_rms:.2f}{note}"
    )
    axes.set(xlabel="force on an atom, eV/Å", ylabel="atoms")
    axes.legend(fontsize=7, loc="upper left")


def _stress(info: DataInfo, axes: Axes) -> None:
    axes.hist(info.pressures, bins=50)
    axes.set(xlabel="pressure, −trace of the stress / 3, eV/Å³", ylabel="frames")


def _distances(info: DataInfo, axes: Axes) -> None:
    most = sorted(info.distance_counts, key=lambda pair: -int(info.distance_counts[pair].sum()))[:MOST]
    for pair in most:
        counts = info.distance_counts[pair]
        edges = np.linspace(0.0, info.cutoff, len(counts) + 1)
        axes.stairs(counts / counts.max(), edges, label="–".join(pair), linewidth=0.9)
    nearest = min(distance for distance, _ in info.nearest.values())
    axes.set(xlim=(0.9 * nearest, info.cutoff), xlabel="distance, Å", ylabel="pairs, highest peak = 1")
    axes.legend(fontsize=7, ncols=1 + len(most) // 5, framealpha=0.5)


def _neighbors(info: DataInfo, axes: Axes) -> None:
    axes.bar(np.arange(len(info.neighbor_counts)), info.neighbor_counts, width=1.0)
    axes.set(xlim=(info.n_neighbors.min - 1.5, info.n_neighbors.max + 1.5))
    axes.set(xlabel=f"neighbors within {info.cutoff:g} Å", ylabel="atoms")


def _elements(info: DataInfo, axes: Axes) -> None:
    axes.bar(list(info.elements), list(info.elements.values()), width=0.6)
    axes.set(xlim=(-1.0, len(info.elements)), xlabel="element", ylabel="atoms")
