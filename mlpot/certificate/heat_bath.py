"""Molecular dynamics in contact with a heat bath: our integrators with the calculator under test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from mlpot.certificate.nve import TEMPERATURE, start, step
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.log import observe
from mlpot.dynamics.recipe import NPT, EnsembleName, MDRecipe
from mlpot.dynamics.start import draw_velocities
from mlpot.units import GPA

Floats = NDArray[np.float64]
SEEDS = (0, 1, 2)
N_SAMPLES, EVERY = 200, 40  # samples of a run, steps between samples
WORK, LONGER = 1_000_000, 8  # steps times atoms that a longer run may have, and its largest length as a multiple


class HeatBath(NamedTuple):
    """Ensemble, temperature and pressure of a run, and its length."""

    ensemble: EnsembleName
    seed: int
    temperature: float = TEMPERATURE  # K
    pressure: float = 0.0  # eV/Å³
    n_samples: int = N_SAMPLES
    every: int = EVERY
    thermostat: int = 40  # steps, relaxation times
    barostat: int = 200


@dataclass(frozen=True)
class HeatBathRun:
    """Samples of a run, one every `every` steps."""

    atoms: Atoms
    n_degrees: int
    time: Floats  # (n,) ps
    observables: dict[str, Floats]  # (n,) each, as in the log of molecular dynamics
    positions: Floats  # (n, n_atoms, 3) Å
    kinetic: Floats  # (n, n_atoms, 3) eV, of each atom in each direction

    @property
    def thermal_energy(self) -> Floats:
        """kT of the velocities, eV."""
        return 2 * self.observables["kinetic_eV"] / self.n_degrees


def run_in_heat_bath(tested: CalculatorUnderTest, name: str, atoms: Atoms, bath: HeatBath) -> HeatBathRun:
    """Runs MD from a relaxed structure; cached by (name, bath)."""
    if (name, bath) not in tested.runs:
        tested.runs[name, bath] = go(at_rest(tested, atoms, bath.ensemble in NPT), bath, step(atoms))
    found: HeatBathRun = tested.runs[name, bath]
    return found


def long_run_in_heat_bath(tested: CalculatorUnderTest, name: str, atoms: Atoms, bath: HeatBath) -> HeatBathRun:
    """As `run_in_heat_bath`, with more samples of few atoms, as means need them; as many on every machine."""
    times = WORK / (len(atoms) * bath.n_samples * bath.every)
    return run_in_heat_bath(
        tested, name, atoms, bath._replace(n_samples=int(bath.n_samples * np.clip(times, 1, LONGER)))
    )


class NoEntropy:
    """Wraps a calculator without a free energy: without electronic entropy, the free energy is the energy.

    ASE's Nosé-Hoover chains ask for the free energy.
    """

    def __init__(self, calculator: Any):
        self._calculator = calculator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calculator, name)

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:
        """As ASE's, eV."""
        return float(self._calculator.get_potential_energy(atoms))


def at_rest(tested: CalculatorUnderTest, atoms: Atoms, with_cell: bool) -> Atoms:
    """A relaxed copy of the structure with the calculator; with_cell relaxes the cell, too."""
    out = start(tested, atoms)
    has_free_energy = "free_energy" in tested.calculator.implemented_properties
    out.calc = tested.calculator if has_free_energy else NoEntropy(tested.calculator)
    if with_cell:
        FIRE(FrechetCellFilter(out), logfile=None).run(fmax=0.05, steps=200)
    return out


def go(atoms: Atoms, bath: HeatBath, dt: float) -> HeatBathRun:
    """Molecular dynamics of atoms that have a calculator, in steps of dt (fs), after equilibration."""
    rng = np.random.default_rng(bath.seed)
    settings = {
        "model": "under test",
        "structure": "of the certificate",
        "ensemble": bath.ensemble,
        "timestep_fs": dt,
        "temperature_K": bath.temperature,
        "pressure_GPa": bath.pressure / GPA,
        "thermostat_fs": bath.thermostat * dt,
        "barostat_fs": bath.barostat * dt,
    }
    draw_velocities(atoms, bath.temperature, rng)
    known = build_ensemble(atoms, MDRecipe.model_validate(settings), rng)
    known.dynamics.run(20 * bath.every)
    lines, positions, kinetic = [], [], []
    for k in range(bath.n_samples):
        known.dynamics.run(bath.every)
        known.settle()
        lines.append({"time": k * bath.every * dt / 1000} | observe(atoms, known))
        positions.append(atoms.positions.copy())
        kinetic.append(atoms.get_momenta() ** 2 / (2 * atoms.get_masses()[:, None]))
    observables = {key: np.array([line[key] for line in lines]) for key in lines[0]}
    atoms.calc = None
    return HeatBathRun(
        atoms, known.n_degrees, observables.pop("time"), observables, np.array(positions), np.array(kinetic)
    )
