"""Two ways in which a process finds the energy of its own atoms where messages pass more than once.

With large ghosts it has all atoms out to passes × cutoff, and computes their features too; nobody waits for
anybody. With exchanged features it has those out to one cutoff, and computes its own atoms alone; after each pass
it gets the features of ghosts, and in the backward pass it sends their adjoints to the owners. Both give the same
numbers.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlpot.engines.exchanged import ExchangedPotential
from mlpot.engines.halo import RankHalo
from mlpot.engines.local_atoms import LocalGraph, LocalList
from mlpot.engines.mpi import greatest
from mlpot.forces import AtomicProperties, by_atom, grades_of, native_call_with_ghosts, predict_atoms, predict_own
from mlpot.potential import Potential

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class OwnEnergies(Protocol):
    """One of the two ways."""

    reach: float
    """Å, how far out ghosts are needed."""
    others_wait: bool
    """Whether other processes wait for this one while it predicts."""
    neighbors: LocalList
    """Of own atoms and the ghosts that they need."""

    def ready(self, local: LocalGraph | None) -> bool:
        """Whether to predict, of own atoms and ghosts or of None where something went wrong; all processes ask."""
        ...

    def predict(self, local: LocalGraph) -> tuple[Tensor, Tensor, Tensor]:
        """The energy of own atoms (1,) eV with its forces on all (n_atoms, 3) eV/Å and virial (1, 3, 3) eV."""
        ...

    def by_atom(self, local: LocalGraph) -> AtomicProperties:
        """As `forces.predict_atoms` with own atoms."""
        ...

    def grades(self, local: LocalGraph) -> Tensor | None:
        """Extrapolation grades of own atoms (n_own,); None if the potential cannot tell."""
        ...


class LargeGhosts:
    """Ghosts out to passes × cutoff."""

    others_wait = False

    def __init__(self, potential: Potential):
        self.reach = potential.n_passes * potential.cutoff
        self._potential, self._native = potential, native_call_with_ghosts(potential)
        self.neighbors = LocalList(potential.cutoff, potential.n_passes)

    def ready(self, local: LocalGraph | None) -> bool:
        return local is not None

    def predict(self, local: LocalGraph) -> tuple[Tensor, Tensor, Tensor]:
        found = None if self._native is None else self._native(local.graph)
        if found is None:
            device = self._potential.energy_scale.device
            found = predict_own(self._potential, local.with_true_numbers().to(device), local.n_own)
        return found

    def by_atom(self, local: LocalGraph) -> AtomicProperties:
        found = None if self._native is None else self._native.by_atom(local.graph)
        if found is not None:
            return by_atom(*found, local.n_own)
        device = self._potential.energy_scale.device
        return predict_atoms(self._potential, local.with_true_numbers().to(device), local.n_own)

    def grades(self, local: LocalGraph) -> Tensor | None:
        features = None if self._native is None else self._native.features_of(local.graph)
        graph = local.with_true_numbers().to(self._potential.energy_scale.device)
        if features is not None:
            return grades_of(self._potential, graph.numbers[: local.n_own], features[: local.n_own])
        grades = self._potential.extrapolation_grade(graph)
        return None if grades is None else grades[: local.n_own]


class ExchangedFeatures:
    """Ghosts within one cutoff, whose features come from their owners.

    Args:
        potential: with a network of stages.
        comm: of mpi4py, of all processes that compute together.

    Raises:
        ValueError: the network is no list of stages.
    """

    others_wait = True

    def __init__(self, potential: Potential, comm: Any):
        self.reach = potential.cutoff
        self.halo = RankHalo(comm)
        self._comm, self._exchanged = comm, ExchangedPotential(potential, self.halo)
        self.neighbors, self._n_met = LocalList(potential.cutoff, 1), -1

    def ready(self, local: LocalGraph | None) -> bool:
        """No process predicts if one has no graph; if the list of one is new, all look for owners again."""
        any_failed, any_new = greatest(self._comm, local is None, self.neighbors.n_builds != self._n_met)
        if any_failed or local is None:
            return False
        if any_new:
            self.halo.meet(local.ids, local.n_own)
            self._n_met = self.neighbors.n_builds
        return True

    def predict(self, local: LocalGraph) -> tuple[Tensor, Tensor, Tensor]:
        return self._exchanged.predict(local)

    def by_atom(self, local: LocalGraph) -> AtomicProperties:
        return self._exchanged.by_atom(local)

    def grades(self, local: LocalGraph) -> Tensor | None:
        return self._exchanged.grades(local)
