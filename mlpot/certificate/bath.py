"""Walks of atoms in contact with a heat bath: our integrators with the calculator on trial."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from mlpot.certificate.motion import TEMPERATURE, start, step
from mlpot.certificate.subject import Subject
from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.log import observe
from mlpot.dynamics.recipe import NPT, EnsembleName, MDRecipe
from mlpot.dynamics.start import draw_velocities
from mlpot.units import GPA

Floats = NDArray[np.float64]
SEEDS = (0, 1, 2)
N_SAMPLES, EVERY = 200, 40  # of a walk; steps between them
LONG, LONGER = 40.0, 8  # seconds that a longer walk may take, how many times as long it is at most


class Bath(NamedTuple):
    """What atoms are in contact with, and for how long."""

    ensemble: EnsembleName
    seed: int
    temperature: float = TEMPERATURE  # K
    pressure: float = 0.0  # eV/Å³
    n_samples: int = N_SAMPLES
    every: int = EVERY
    thermostat: int = 40  # steps, relaxation times
    barostat: int = 200


@dataclass(frozen=True)
class Walk:
    """What was seen every so many steps."""

    atoms: Atoms
    n_degrees: int
    time: Floats  # (n,) ps
    seen: dict[str, Floats]  # (n,) each, as in the log of molecular dynamics
    positions: Floats  # (n, n_atoms, 3) Å
    kinetic: Floats  # (n, n_atoms, 3) eV, of each atom in each direction

    @property
    def warmth(self) -> Floats:
        """kT of the velocities, eV."""
        return 2 * self.seen["kinetic_eV"] / self.n_degrees


def walk(subject: Subject, name: str, atoms: Atoms, bath: Bath) -> Walk:
    """From near rest; one that was gone before is not gone again."""
    if (name, bath) not in subject.walks:
        subject.walks[name, bath] = go(at_rest(subject, atoms, bath.ensemble in NPT), bath, step(atoms))
    found: Walk = subject.walks[name, bath]
    return found


def long_walk(subject: Subject, name: str, atoms: Atoms, bath: Bath) -> Walk:
    """As `walk`, with as many samples as are quick to have, for means that need many."""
    if name not in subject.walks:
        began = perf_counter()
        for k in range(10):
            moved = atoms.copy()
            moved.positions[0] += 1e-3 * k
            subject(moved)
        subject.walks[name] = (perf_counter() - began) / 10  # seconds of a step
    times = LONG / (subject.walks[name] * bath.n_samples * bath.every)
    return walk(subject, name, atoms, bath._replace(n_samples=int(bath.n_samples * np.clip(times, 1, LONGER))))


class NoEntropy:
    """A calculator that does not tell a free energy: without entropy of electrons it is the energy.

    ASE's chains of thermostats ask for it.
    """

    def __init__(self, calculator: Any):
        self._calculator = calculator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calculator, name)

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:
        """As ASE's, eV."""
        return float(self._calculator.get_potential_energy(atoms))


def at_rest(subject: Subject, atoms: Atoms, with_cell: bool) -> Atoms:
    """A copy of the structure near rest, with the calculator; its cell too if asked."""
    out = start(subject, atoms)
    tells = "free_energy" in subject.calculator.implemented_properties
    out.calc = subject.calculator if tells else NoEntropy(subject.calculator)
    if with_cell:
        FIRE(FrechetCellFilter(out), logfile=None).run(fmax=0.05, steps=200)
    return out


def go(atoms: Atoms, bath: Bath, dt: float) -> Walk:
    """Molecular dynamics of atoms that have a calculator, by steps of dt (fs); the beginning is left out."""
    rng = np.random.default_rng(bath.seed)
    settings = {
        "model": "on trial",
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
        lines.append({"time": k * bath.every * dt / 1000} | observe(atoms, known))
        positions.append(atoms.positions.copy())
        kinetic.append(atoms.get_momenta() ** 2 / (2 * atoms.get_masses()[:, None]))
    seen = {key: np.array([line[key] for line in lines]) for key in lines[0]}
    atoms.calc = None
    return Walk(atoms, known.n_degrees, seen.pop("time"), seen, np.array(positions), np.array(kinetic))
