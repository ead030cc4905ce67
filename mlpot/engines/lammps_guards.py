"""Bounds that stop a run in LAMMPS: those of `mlpot md` that each rank can check for its own atoms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from mlpot.dynamics.guards import WINDOW, least_distances
from mlpot.dynamics.recipe import Guards
from mlpot.engines.local_atoms import LocalGraph, farthest
from mlpot.graph import Edges, edge_vectors
from mlpot.models.native import GHOST
from mlpot.potential import Potential

Floats = NDArray[np.float64]


class _Clear(NamedTuple):
    """That no two atoms are too close, and how much room is between them."""

    edges: Edges
    kept: NDArray[np.int64]  # atoms, whose array stays while they do
    cell: Tensor
    positions: Floats
    room: float  # Å, for two that are near, and for two that come near

    def holds(self, local: LocalGraph, positions: Floats) -> bool:
        """Whether they cannot have become too close."""
        alike = self.kept is local.kept and torch.equal(self.cell, local.graph.cell)
        if not (alike or self.edges is local.graph.edges):
            return False
        return 2 * farthest(positions, self.positions) < self.room


class LocalGuards:
    """What stops a run.

    Args:
        guards: distances, forces and extrapolation; the others have no effect here.
        potential: with what its file tells of its training.
    """

    def __init__(self, guards: Guards, potential: Potential):
        ranges = potential.header.get("card", {}).get("ranges", {})
        self._least = least_distances(guards, ranges.get("nearest_distance_A", {}))
        trained = ranges.get("largest_force_component_eV_per_A")
        of_training = trained if guards.max_trained_force else None
        factor = guards.max_trained_force if of_training else guards.max_force
        self.max_force = math.inf if factor is None else factor * (of_training or 1.0)
        self._grade, self._potential = guards.extrapolation_grade, potential
        self._clear: _Clear | None = None
        self._calls = 0

    def wants_grades(self) -> bool:
        """Whether this calculation is one of those in which extrapolation is looked at; all ranks say the same."""
        self._calls += 1
        return self._grade is not None and self._potential.domain is not None and self._calls % WINDOW == 1

    def reason(self, local: LocalGraph, energy: float, forces: Floats, grades: Tensor | None) -> str | None:
        """Why all ranks must stop after a calculation, None if nothing is wrong; grades (n_own,) if wanted."""
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            return "The energy or a force is not finite: atoms may be far closer than any in training."
        return self._too_close(local) or self._unlike_training(local, grades)

    def strong_force(self, forces: Floats, ids: NDArray[np.integer]) -> str | None:
        """Why all ranks must stop when the forces (n_own, 3) are complete, eV/Å."""
        strength = np.einsum("ia,ia->i", forces, forces)
        worst = int(strength.argmax()) if len(strength) else -1
        if worst < 0 or math.sqrt(strength[worst]) <= self.max_force:
            return None
        return (
            f"The force on atom {ids[worst]} is {math.sqrt(strength[worst]):.3g} eV/Å, above {self.max_force:.3g} "
            "(--max-force)."
        )

    def _too_close(self, local: LocalGraph) -> str | None:
        """Atoms are looked at again when two may have used up the room between them."""
        graph, edges = local.graph, local.graph.edges
        positions = graph.positions.numpy()
        if self._clear is not None and self._clear.holds(local, positions):
            return None
        z = graph.numbers.numpy() % GHOST
        center, neighbor = edges.center.numpy(), edges.neighbor.numpy()
        distance = edge_vectors(graph).norm(dim=1).numpy()
        least = self._least[z[center], z[neighbor]]
        room = float((distance - least).min(initial=np.inf))
        farther = self._potential.cutoff - float(least.max(initial=0.0))
        self._clear = _Clear(edges, local.kept, graph.cell, positions.copy(), min(room, farther))
        if room >= 0:
            return None
        e = int((distance - least).argmin())
        ends = sorted((local.ids[k], chemical_symbols[z[k]]) for k in (center[e], neighbor[e]))
        one, other = (f"{number} ({symbol})" for number, symbol in ends)
        return (
            f"Atoms {one} and {other} are {distance[e]:.3f} Å apart, "
            f"closer than {least[e]:.3f} Å (--min-distance)."
        )

    def _unlike_training(self, local: LocalGraph, grades: Tensor | None) -> str | None:
        if grades is None or not local.n_own:
            return None
        assert self._grade is not None
        worst = int(grades.argmax())
        if (most := float(grades[worst])) <= self._grade:
            return None
        return (
            f"Atom {local.ids[worst]} has extrapolation grade {most:.3g}: it is {most:.3g} times as far from the "
            "training set as 99.9 % of the training atoms (--extrapolation-grade)."
        )
