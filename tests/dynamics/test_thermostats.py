"""Do the thermostats give the canonical ensemble: kinetic energies, and the ratio of two temperatures?

Judged by physical_validation (P. T. Merz and M. R. Shirts, PLoS ONE 13, e0202764 (2018)): kinetic energies against
the gamma distribution of as many degrees of freedom as the run counts, potential energies at two temperatures
against P₂(U) / P₁(U) ∝ exp((β₁ − β₂) U).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.start import draw_velocities

pv = pytest.importorskip(
    "physical_validation", reason="needs physical_validation: pip install physical-validation"
)

N, SAMPLES, EVERY, REST = 8, 1000, 50, 4000  # atoms, samples, steps between them, steps before them
COLD, WARM = 300.0, 450.0  # K, so far apart that the energies overlap by half
UNITS = {
    "kb": units.kB, "energy_str": "eV", "energy_conversion": 96.48533, "length_str": "A", "length_conversion": 0.1,
    "volume_str": "A^3", "volume_conversion": 1e-3, "temperature_str": "K", "temperature_conversion": 1,
    "pressure_str": "bar", "pressure_conversion": 1, "time_str": "ps", "time_conversion": 1,
}  # fmt: skip


class Springs(Calculator):
    """Every two atoms are tied by k/2 (d − 3 Å)², which no arrangement of eight suits: the motion is chaotic."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    k = 1.0  # eV/Å²

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Fill `results`."""
        vectors = atoms.positions[:, None] - atoms.positions
        d = np.sqrt(np.einsum("ija,ija->ij", vectors, vectors)) + np.eye(len(atoms))
        stretch = (d - 3.0) * (1 - np.eye(len(atoms)))
        self.results = {
            "energy": self.k * float((stretch**2).sum()) / 4,
            "forces": -self.k * np.einsum("ij,ija->ia", stretch / d, vectors),
        }


@cache
def sampled(ensemble: str, temperature_K: float, seed: int) -> Any:
    """A run, as physical_validation wants it."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(["Ar"] * N, rng.normal(scale=1.5, size=(N, 3)))
    atoms.calc = Springs()
    draw_velocities(atoms, temperature_K, rng)
    recipe = MDRecipe(
        model=Path("none"), structure=Path("none"), ensemble=ensemble, timestep_fs=2.0, temperature_K=temperature_K
    )
    run = build_ensemble(atoms, recipe, rng)
    energies = []
    for step in range(REST + SAMPLES * EVERY):
        run.dynamics.step()
        if step >= REST and step % EVERY == 0:
            energies.append((atoms.get_kinetic_energy(), atoms.get_potential_energy()))
    kinetic, potential = np.array(energies).T
    return pv.data.SimulationData(
        units=pv.data.UnitData(**UNITS),
        dt=recipe.timestep_fs * EVERY / 1e3,
        system=pv.data.SystemData(
            natoms=N, nconstraints=0, ndof_reduction_tra=0, ndof_reduction_rot=3 * N - run.n_degrees,
            mass=atoms.get_masses(),
        ),
        ensemble=pv.data.EnsembleData("NVT", natoms=N, volume=1.0, temperature=temperature_K),
        observables=pv.data.ObservableData(
            kinetic_energy=kinetic, potential_energy=potential, total_energy=kinetic + potential
        ),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("ensemble", ["langevin", "bussi", "nose-hoover"])
def test_kinetic_energies_and_the_ratio_of_ensembles_are_those_of_temperature(ensemble: str, seed: int) -> None:
    runs = [sampled(ensemble, temperature, seed) for temperature in (COLD, WARM)]
    deviations = [
        d
        for run in runs
        for d in pv.kinetic_energy.distribution(run, strict=False, verbosity=0, bootstrap_seed=seed)
    ]
    deviations += pv.ensemble.check(*runs, total_energy=False, verbosity=0, bootstrap_seed=seed)
    print(ensemble, seed, "mean and width of both, ratio:", *(f"{d:.2f}" for d in deviations), "standard errors")
    assert np.abs(deviations).max() < 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thermostat_that_counts_too_many_degrees_is_caught() -> None:
    run = sampled("bussi", COLD, 1)
    run.system.ndof_reduction_rot = 0
    mean, _ = pv.kinetic_energy.distribution(run, strict=False, verbosity=0, bootstrap_seed=1)
    assert abs(mean) > 3
