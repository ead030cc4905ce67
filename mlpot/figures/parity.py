"""What a potential predicts against what the reference calculation says: pictures, and the pairs behind them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlpot.atomic_files import write_whole
from mlpot.error_table import MILLI, error_of
from mlpot.figures.svg import Draw, plain_logarithmic, write_picture
from mlpot.graph import Properties

Floats = NDArray[np.float64]

MOST_KEPT = 1500  # frames, and atoms of each element, in a file
ENERGY = ("energy, eV/atom", "meV/atom")
FORCES = ("force component, eV/Å", "meV/Å")
STRESS = ("stress component, eV/Å³", "meV/Å³")


@dataclass(frozen=True)
class Compared:
    """Labels, and predictions beside them: [:, 0] and [:, 1]."""

    of: str  # which structures
    energy: Floats  # (n, 2) eV/atom
    forces: dict[str, Floats]  # (n, 2, 3) eV/Å, by element
    stress: Floats  # (n, 2, 3, 3) eV/Å³, of slabs and wires in their own axes, NaN beyond these


def compare(
    predicted: Properties, reference: Properties, numbers: torch.Tensor, n_atoms: torch.Tensor, *, of: str
) -> Compared:
    """Pair predictions with the labels that are there.

    Args:
        predicted, reference: of the same structures, in the same order.
        numbers: (n_atoms,) of all structures.
        n_atoms: (n_graphs,) atoms of each structure.
        of: which structures they are.
    """
    energy, forces, stress = (
        np.stack([x.double().cpu().numpy() for x in pair], axis=1)
        for pair in (
            (reference.energy / n_atoms, predicted.energy / n_atoms),
            (reference.forces, predicted.forces),
            (reference.stress, predicted.stress),
        )
    )
    z = numbers.cpu().numpy()
    by_element = {chemical_symbols[k]: _known(forces[z == k]) for k in np.unique(z)}
    kept = {element: pairs for element, pairs in by_element.items() if len(pairs)}
    some = np.isfinite(stress).all(axis=1).any(axis=(1, 2))  # a component of which label and prediction are known
    return Compared(of, _known(energy), kept, np.asarray(stress[some]))


def _known(pairs: Floats) -> Floats:
    known: Floats = pairs[np.isfinite(pairs).reshape(len(pairs), -1).all(axis=1)]
    return known


def write_compared(compared: Compared, path: str | Path) -> None:
    """Write what pictures need, as JSON."""
    content = asdict(compared) | {
        "energy": _few(compared.energy),
        "forces": {element: _few(pairs) for element, pairs in compared.forces.items()},
        "stress": _few(compared.stress),
    }
    write_whole(Path(path), f"{json.dumps(content)}\n".encode())


def _few(pairs: Floats) -> list[object]:
    few: list[object] = pairs[:: -(-len(pairs) // MOST_KEPT) or 1].round(6).tolist()
    return few


def read_compared(path: str | Path) -> Compared:
    """What `write_compared` wrote."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return Compared(
        content["of"],
        np.array(content["energy"], dtype=np.float64).reshape(-1, 2),
        {element: np.array(pairs, dtype=np.float64) for element, pairs in content["forces"].items()},
        np.array(content["stress"], dtype=np.float64).reshape(-1, 2, 3, 3),
    )


def plot_parity(compared: Compared, path: str | Path, *, title: str = "") -> None:
    """Draw energy per atom, force components and stress against the reference, as far as there are labels.

    Args:
        path: of the picture; the ending says the format.
    """
    forces = np.concatenate([*compared.forces.values(), np.empty((0, 2, 3))])
    panels = [(ENERGY, compared.energy), (FORCES, forces), (STRESS, compared.stress)]
    panels = [(names, pairs) for names, pairs in panels if len(pairs)]
    width = 4.2 * max(len(panels), 1)
    figure = Figure(figsize=(width, 4.0))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.8 / width, right=1 - 0.2 / width, bottom=0.13, top=0.86, wspace=0.28)
    for k, (names, pairs) in enumerate(panels):
        _draw(names, pairs, figure.add_subplot(1, len(panels), k + 1))
    figure.suptitle(title or compared.of)
    write_picture(figure, path, dpi=120)


def parity_panels(compared: Compared) -> dict[str, Draw]:
    """Energy, the forces on each element, and stress, by what each shows."""
    panels = {"energies": (ENERGY, compared.energy)}
    for element, pairs in compared.forces.items():
        panels[f"forces on {element}"] = ((f"{FORCES[0]}, {element}", FORCES[1]), pairs)
    panels["stress"] = (STRESS, compared.stress)
    return {
        f"Predicted against reference {what}": partial(_draw, names, pairs)
        for what, (names, pairs) in panels.items()
        if len(pairs)
    }


def _draw(names: tuple[str, str], pairs: Floats, axes: Axes) -> None:
    name, error_unit = names
    reference, predicted = pairs[:, 0].ravel(), pairs[:, 1].ravel()
    known = np.isfinite(reference) & np.isfinite(predicted)
    reference, predicted = reference[known], predicted[known]
    low, high = reference.min(), reference.max()
    margin = 0.03 * max(high - low, 1e-6)
    axes.plot([low - margin, high + margin], [low - margin, high + margin], color="0.6", linewidth=0.8, zorder=1)
    axes.plot(reference, predicted, ".", markersize=2.5, alpha=0.5, rasterized=True, zorder=2)
    error = error_of(torch.from_numpy(MILLI * (predicted - reference)))
    axes.set_title(f"MAE {error.mae:.3g}, RMSE {error.rmse:.3g} {error_unit}", fontsize=9)
    axes.set_xlabel(f"reference {name}")
    axes.xaxis.set_major_locator(MaxNLocator(5))  # energies per atom take many digits
    axes.set_ylabel("predicted")
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.tick_params(labelsize=7)


def draw_force_errors(compared: Compared, axes: Axes) -> None:
    """Error of the force on each atom against the force, and the median error of forces of about one size."""
    sizes = {e: np.linalg.norm(pairs[:, 0], axis=1) for e, pairs in compared.forces.items()}
    errors = {e: MILLI * np.linalg.norm(pairs[:, 1] - pairs[:, 0], axis=1) for e, pairs in compared.forces.items()}
    for element in compared.forces:
        axes.plot(sizes[element], errors[element], ".", markersize=2, alpha=0.4, rasterized=True, label=element)
    size, error = (np.concatenate(list(parts.values())) for parts in (sizes, errors))
    order = [part for part in np.array_split(np.argsort(size), 12) if len(part)]
    axes.plot(*([np.median(x[part]) for part in order] for x in (size, error)), "k-", label="median")
    axes.set(
        xscale="log", yscale="log", xlabel="reference force on an atom, eV/Å", ylabel="error of the force, meV/Å"
    )
    for axis in (axes.xaxis, axes.yaxis):
        plain_logarithmic(axis)
    axes.legend(fontsize=7, markerscale=3, framealpha=0.5)
