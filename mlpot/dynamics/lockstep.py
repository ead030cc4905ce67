"""Integrators of many replicas: ASE's, over all atoms at once where one step of each atom is its own.

Velocity Verlet and BAOAB do the same to every number of an array, and so to an array of all replicas; only their
random numbers come from a stream for each. Of a thermostat that looks at the whole of a replica there is one each.
Chains of thermostats are integrated together. Of a barostat there is one each, and only forces are found together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from mlpot.dynamics.batch import Batch
from mlpot.dynamics.ensembles import ConstrainedMTK, Ensemble, build_ensemble, chains
from mlpot.dynamics.recipe import NPT, MDRecipe


class Streams:
    """Random numbers of all replicas, each from its own generator, as ASE's integrators ask for them."""

    def __init__(self, generators: Sequence[np.random.Generator], sizes: Sequence[int]):
        self._of = list(zip(generators, sizes, strict=True))

    def normal(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """(n_atoms, 3) standard normal numbers, those of a replica as it would draw them alone."""
        drawn = np.concatenate([rng.normal(size=(n, 3)) for rng, n in self._of])
        assert drawn.shape == size
        return drawn


class Lockstep:
    """Steps of all replicas of a batch.

    Args:
        batch: the replicas.
        recipe: of the stage.
        ensembles: of each replica.
        generators: of each replica.
    """

    def __init__(
        self,
        batch: Batch,
        recipe: MDRecipe,
        ensembles: Sequence[Ensemble],
        generators: Sequence[np.random.Generator],
    ):
        self._batch, self._ensembles, self._name = batch, ensembles, recipe.ensemble
        if recipe.ensemble in NPT:
            return
        if recipe.ensemble == "nose-hoover":
            self._chains = chains(batch.atoms, recipe, [e.n_degrees for e in ensembles], batch.sizes)
            return
        elementwise = recipe if recipe.ensemble in ("nve", "langevin") else recipe.model_copy(update=NVE)
        self._of_all = build_ensemble(batch.atoms, elementwise, np.random.default_rng(0), n_degrees=1)
        if recipe.ensemble == "langevin":
            self._of_all.dynamics.rng = Streams(generators, batch.sizes.tolist())

    def set_temperature(self, temperature_K: float) -> None:
        """Change the temperature of all thermostats."""
        for ensemble in self._ensembles:
            ensemble.set_temperature(temperature_K)
        if self._name == "langevin":
            self._of_all.set_temperature(temperature_K)

    def step(self) -> None:
        """One step of all, and the forces at its end."""
        if self._name == "nose-hoover":
            self._step_chains()
        elif self._name in NPT:
            self._step_barostats()
        else:
            if self._name == "bussi":
                for ensemble in self._ensembles:
                    ensemble.dynamics.scale_velocities()
            self._of_all.dynamics.step()
        self._batch.compute()

    def _step_barostats(self) -> None:
        each = [cast("ConstrainedMTK", ensemble.dynamics) for ensemble in self._ensembles]
        for dynamics in each:
            dynamics.to_new_positions()
        self._batch.compute()
        for dynamics in each:
            dynamics.to_new_momenta()

    def _step_chains(self) -> None:
        """A step of all thermostats at once, whose variables come from those of the replicas and go back there."""
        of_all, each = self._chains, [cast("Any", ensemble.dynamics) for ensemble in self._ensembles]
        thermostat, own = of_all._thermostat, [dynamics._thermostat for dynamics in each]
        thermostat._kT = own[0]._kT  # one for all, which a ramp changes
        for name in ("_eta", "_p_eta"):
            setattr(thermostat, name, np.stack([getattr(of_one, name) for of_one in own], axis=1))
        of_all._q, of_all._p = self._batch.atoms.get_positions(), self._batch.atoms.get_momenta()
        of_all.step()
        for k, (dynamics, of_one) in enumerate(zip(each, own, strict=True)):
            dynamics._q, dynamics._p = (self._batch.own(values, k).copy() for values in (of_all._q, of_all._p))
            of_one._eta, of_one._p_eta = thermostat._eta[:, k].copy(), thermostat._p_eta[:, k].copy()


NVE = {"ensemble": "nve", "temperature_end_K": None}


def at_constant_energy(batch: Batch, timestep_fs: float, n_steps: int) -> None:
    """Move all replicas of a batch by velocity Verlet, without guards and files.

    Args:
        batch: of the replicas, with momenta.
        timestep_fs: fs.
        n_steps: of it.
    """
    VelocityVerlet(batch.atoms, timestep_fs * units.fs).run(n_steps)
