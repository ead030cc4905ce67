"""The guards of many replicas: bounds of all at once, and the guards themselves where one may be exceeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlpot.dynamics.batch import Batch
from mlpot.dynamics.ensembles import Ensemble
from mlpot.dynamics.guards import WINDOW, Monitor
from mlpot.dynamics.recipe import NPT
from mlpot.graph import Edges

Floats = NDArray[np.float64]
CAUTION = 1 - 1e-9  # sums of all at once are rounded otherwise than those of one
LIMITS = ("force", "kinetic", "energy", "change", "escape")


class Watch:
    """The monitors of all replicas of a batch, in the same stage of the same run.

    A replica that is within bounds which its monitor cannot find exceeded is not looked at singly.
    """

    def __init__(self, batch: Batch, monitors: Sequence[Monitor], ensembles: Sequence[Ensemble]):
        self._batch, self._monitors, self._ensembles = batch, monitors, ensembles
        self._masses = batch.atoms.get_masses()
        self._weights = self._masses / np.repeat(np.add.reduceat(self._masses, batch.starts), batch.sizes)
        self._periodic = np.array([atoms.pbc.any() for atoms in batch.replicas])
        self._trained = monitors[0].trained
        self._apart = monitors[0].bounds().apart
        self._in_lists = max(self._apart.max(), self._trained.max()) < batch.potential.cutoff
        self._cells_stay = ensembles[0].name not in NPT  # bounds hold as long
        self._listed: tuple[Edges, Floats, Floats] | None = None
        self._renew()

    def stops(self, step: int) -> dict[int, str]:
        """Why replicas stop after `step` steps of the stage, by their number in the batch."""
        own = ~self._within() if step % WINDOW else np.ones(len(self._monitors), dtype=bool)
        found: dict[int, str] = dict(self._batch.broken)
        for k in np.flatnonzero(own).tolist():
            if k not in found:
                reason = self._monitors[k].stops(self._batch.replicas[k], step)
                found |= {} if reason is None else {k: reason}
        if step % WINDOW == 0:
            self._renew()
        return found

    def nearest(self) -> Floats:
        """(n_replicas,) Å, the shortest distance; NaN where the monitor of a replica is to be asked."""
        if not self._in_lists:
            return np.full(len(self._monitors), np.nan)
        distance = self._batch.distances()
        closer = self._batch.least(distance * CAUTION - self._bounds_of_edges()[1]) <= 0
        return np.where(closer | self._periodic, np.nan, self._batch.least(distance))

    def _renew(self) -> None:
        """Take the bounds of monitors, whose references have changed."""
        bounds = [monitor.bounds() for monitor in self._monitors]
        self._limit = {name: np.array([getattr(bound, name) for bound in bounds]) for name in LIMITS}

    def _bounds_of_edges(self) -> tuple[Floats, Floats]:
        """The least distances of the pairs in the lists, by the guards and in training."""
        graph = self._batch.graph
        if self._listed is None or self._listed[0] is not graph.edges:
            z = graph.numbers.numpy()
            pair = z[graph.edges.center.numpy()], z[graph.edges.neighbor.numpy()]
            self._listed = graph.edges, self._apart[pair], self._trained[pair]
        return self._listed[1:]

    def _within(self) -> NDArray[np.bool_]:
        """(n_replicas,) whether a replica is within all bounds; NaN is not."""
        batch, limit, starts = self._batch, self._limit, self._batch.starts
        positions, momenta = batch.atoms.positions, batch.atoms.arrays["momenta"]
        if not (self._in_lists and self._cells_stay):
            return np.zeros(len(starts), dtype=bool)
        free = batch.least(batch.distances() * CAUTION - self._bounds_of_edges()[0])
        force = np.maximum.reduceat(np.square(batch.found.forces).sum(1), starts)
        kinetic = np.add.reduceat(np.square(momenta).sum(1) / self._masses, starts) / 2
        center = np.add.reduceat(positions * self._weights[:, None], starts)
        away = np.maximum.reduceat(np.square(positions - np.repeat(center, batch.sizes, axis=0)).sum(1), starts)
        within = (free > 0) & (force < (CAUTION * limit["force"]) ** 2) & (kinetic < CAUTION * limit["kinetic"])
        within &= self._periodic | (away < (CAUTION * limit["escape"]) ** 2)
        within &= np.isfinite(batch.found.energy) & np.isfinite(kinetic) & np.isfinite(away)
        return within & self._conserved(kinetic)

    def _conserved(self, kinetic: Floats) -> NDArray[np.bool_]:
        limit, energy = self._limit, self._batch.found.energy + kinetic
        free = np.isinf(limit["change"])
        if free.all():
            return free
        if self._ensembles[0].name != "nve":
            conserved = [of.conserved for of in self._ensembles]
            energy = np.array([np.nan if f is None else f() for f in conserved])
        allowed = limit["change"] - 1e-9 * (1 + np.abs(energy))
        return free | (np.abs(energy - limit["energy"]) < allowed)
