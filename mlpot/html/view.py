"""Structures in three dimensions, on a page that has no network.

The script beside this file draws them on a plain canvas. 3Dmol.js, the library that fits best, is a file of 540 kB
that would go into every page, and it asks for WebGL, which remote desktops and old phones lack; its Python
package py3Dmol fetches it from the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from scipy.spatial import cKDTree

from mlpot.html.page import Html, aside, tag

SCRIPT = Path(__file__).with_name("view.js").read_text(encoding="utf-8")
"""The script of each page that has a view."""
MOST_ATOMS = 15000  # of all frames together: some 400 kB
MOST_FRAMES = 60
BOND = 1.17  # times the sum of two covalent radii
TILTED = (0.927, 0.375, 0.0, -0.078, 0.193, 0.978, 0.366, -0.907, 0.208)  # a cell as textbooks draw it

Frames = Sequence[tuple[str, Atoms]]


def few(n: int, n_atoms: int) -> list[int]:
    """Which of n frames to show, evenly, so that the page stays small; the first and the last are among them."""
    n_shown = int(np.clip(MOST_ATOMS // n_atoms, 1, min(n, MOST_FRAMES)))
    return [int(k) for k in np.unique(np.linspace(0, n - 1, n_shown).round())]


def view(frames: Frames, *, shown: int = 0) -> Html:
    """Structures that the reader can rotate, each with its caption; `shown` is the first."""
    n_atoms = max(len(atoms) for _, atoms in frames)
    if n_atoms > MOST_ATOMS:
        return aside(f"{n_atoms} atoms are too many to draw here.")
    numbers = sorted({int(z) for _, atoms in frames for z in atoms.numbers})
    drawn = [_frame(words, atoms) for words, atoms in frames]
    scene = {
        "elements": {z: _element(z) for z in numbers},
        "radius": max(1.5, 0.5 + max(_reach(frame) for frame in drawn)),
        "start": _start(frames[0][1]),
        "shown": range(len(frames))[shown],
        "frames": drawn,
    }
    legend = (tag("span", tag(f'i style="background:{_color(z)}"'), chemical_symbols[z]) for z in numbers)
    hidden = "" if len(frames) > 1 else " hidden"
    formula = frames[0][1].get_chemical_formula()
    return tag(
        'figure class="view"',
        tag(f'canvas tabindex="0" role="img" aria-label="{formula} in three dimensions"'),
        tag(
            'div class="controls"',
            tag(f'button type="button"{hidden}', "Play"),
            Html(f'<input type="range" aria-label="frame" min="0" max="{len(frames) - 1}" value="0"{hidden}>'),
            tag("output", frames[shown][0]),
        ),
        tag('figcaption class="elements"', *legend, tag("small", "Drag to rotate, click and wheel to zoom.")),
        # "<" would end the script if a name held "</script>"
        tag('script type="application/json"', Html(json.dumps(scene).replace("<", "\\u003c"))),
    )


def _frame(words: str, atoms: Atoms) -> dict[str, Any]:
    atoms = atoms.copy()
    atoms.wrap()
    x, cell = atoms.positions, atoms.cell.array
    middle = cell.sum(axis=0) / 2 if atoms.pbc.any() else (x.min(axis=0) + x.max(axis=0)) / 2
    return {
        "words": words,
        "numbers": atoms.numbers.tolist(),
        "positions": (x - middle).round(2).ravel().tolist(),
        "bonds": _bonds(atoms),
        "cell": cell.round(3).ravel().tolist() if atoms.pbc.any() else None,
    }


def _bonds(atoms: Atoms) -> list[int]:
    """Pairs of atoms, one after another; bonds across the faces of a cell are left out."""
    radii = covalent_radii[atoms.numbers]
    pairs = cKDTree(atoms.positions).query_pairs(2 * BOND * radii.max(), output_type="ndarray")
    distance = np.linalg.norm(np.diff(atoms.positions[pairs], axis=1)[:, 0], axis=1)
    near = (distance > 0.3) & (distance < BOND * radii[pairs].sum(axis=1))
    bonds: list[int] = pairs[near].ravel().tolist()
    return bonds


def _reach(frame: dict[str, Any]) -> float:
    """Å, of the farthest atom or corner from the middle."""
    reach = float(np.linalg.norm(np.reshape(frame["positions"], (-1, 3)), axis=1).max())
    if frame["cell"] is not None:
        signs = np.stack(np.meshgrid([1, 1], [1, -1], [1, -1]), axis=-1).reshape(-1, 3)
        reach = max(reach, float(np.linalg.norm(signs @ np.reshape(frame["cell"], (3, 3)), axis=1).max() / 2))
    return reach


def _start(atoms: Atoms) -> Sequence[float]:
    """A rotation, row by row, after which a molecule lies in the plane of the screen."""
    if atoms.pbc.any() or len(atoms) < 3:
        return TILTED
    axes = np.linalg.svd(atoms.positions - atoms.positions.mean(axis=0))[2]
    axes[2] *= np.linalg.det(axes)
    flat: list[float] = axes.round(4).ravel().tolist()
    return flat


def _element(number: int) -> dict[str, Any]:
    return {"symbol": chemical_symbols[number], "color": _color(number), "radius": float(covalent_radii[number])}


def _color(number: int) -> str:
    return "#" + "".join(f"{round(255 * x):02x}" for x in jmol_colors[number])
