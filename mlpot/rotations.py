"""Rotations of space: finite groups made from generators, random rotations, and structures rotated by them.

    v -> Q v,    cell -> cell Qᵀ (rows are vectors),    F -> F Qᵀ (rows),    σ -> Q σ Qᵀ

Q is a matrix of SO(3), or with reflections of O(3). The groups are those of the cube and of the icosahedron
(H. S. M. Coxeter, Regular Polytopes, 3rd ed., Dover 1973, section 3.1).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.graph import AtomGraph, Properties

Matrices = NDArray[np.float64]
"""(n, 3, 3), orthogonal."""
Labels = TypeVar("Labels", bound=Properties)

GOLDEN = (1 + 5**0.5) / 2
SAME = 1e-9
"""Two matrices with no larger difference are one element of a group."""


def _about(axis: tuple[float, float, float], n: int) -> NDArray[np.float64]:
    """The rotation by 1/n of a turn about an axis (O. Rodrigues 1840)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = 2 * np.pi / n
    out: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return out


GENERATORS: dict[str, tuple[NDArray[np.float64], ...]] = {
    # Quarter turns about two axes: their products are exact.
    "octahedral": (
        np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    ),
    # A fifth of a turn about a corner, a third about the middle of a face at it.
    "icosahedral": (_about((0.0, 1.0, GOLDEN), 5), _about((1.0, 1.0, 1.0), 3)),
}
"""Of the rotations of each group; with reflections there is the inversion too."""


@cache
def _closed(name: str, reflections: bool) -> Matrices:
    generators = [*GENERATORS[name], *([-np.eye(3)] if reflections else [])]
    found = [np.eye(3)]
    for element in found:  # grows while it is walked over
        for generator in generators:
            product = generator @ element
            if np.abs(np.array(found) - product).max(axis=(1, 2)).min() > SAME:
                found.append(product)
    table = np.array(found)
    table.setflags(write=False)
    return table


def group(name: str, *, reflections: bool = False) -> Matrices:
    """The elements of a finite group, the identity first: 24 octahedral or 60 icosahedral rotations.

    Args:
        name: in `GENERATORS`.
        reflections: with as many rotations followed by an inversion, 48 or 120 in all.

    Raises:
        KeyError: no such group.
    """
    return _closed(name, reflections)


def random_rotations(n: int, rng: np.random.Generator, *, reflections: bool = False) -> Matrices:
    """(n, 3, 3) rotations, uniform over SO(3), or over O(3) with reflections, each with probability 1/2.

    Unit quaternions that are uniform on their sphere (K. Shoemake, Graphics Gems III (1992), 124).
    """
    q = rng.normal(size=(n, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    rotations: Matrices = np.moveaxis(np.array(rows), -1, 0)
    return rotations * rng.choice([-1.0, 1.0], size=(n, 1, 1)) if reflections else rotations


def rotated(graph: AtomGraph, rotations: Tensor) -> AtomGraph:
    """Every structure rotated by a matrix of its own, (n_graphs, 3, 3) float64; its edges stay what they are."""
    of_atoms = rotations.index_select(0, graph.batch)
    positions = torch.einsum("nab,nb->na", of_atoms, graph.positions)
    return replace(graph, positions=positions, cell=graph.cell @ rotations.mT)


def rotated_labels(labels: Labels, graph: AtomGraph, rotations: Tensor) -> Labels:
    """Forces and stresses rotated with the structures; one with an unknown component is unknown afterwards."""
    of_atoms = rotations.index_select(0, graph.batch)
    forces = torch.einsum("nab,nb->na", of_atoms, labels.forces)
    return replace(labels, forces=forces, stress=rotations @ labels.stress @ rotations.mT)
