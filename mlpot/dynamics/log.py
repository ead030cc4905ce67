"""What is observed along a run: one line of a CSV file every few steps, and what the lines add up to."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from mlpot.dynamics.ensembles import Ensemble
from mlpot.units import GPA

Floats = NDArray[np.float64]
N_BLOCKS = 10


@dataclass(frozen=True)
class Observation:
    """The state of a run at one step; NaN where a quantity does not exist."""

    step: int
    time_ps: float
    potential_eV: float  # (units are spelt as units are)
    kinetic_eV: float
    total_eV: float
    conserved_eV: float
    temperature_K: float
    pressure_GPa: float
    volume_A3: float
    max_force_eV_A: float
    steps_per_s: float


def observe(atoms: Atoms, ensemble: Ensemble, step: int, time_ps: float, steps_per_s: float) -> Observation:
    """Everything a line of the log says of the atoms as they are."""
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    pressure = volume = math.nan
    if atoms.pbc.all():
        volume = float(atoms.get_volume())
        pressure = (2 * kinetic / volume - float(atoms.get_stress()[:3].sum())) / 3 / GPA
    return Observation(
        step=step,
        time_ps=time_ps,
        potential_eV=potential,
        kinetic_eV=kinetic,
        total_eV=potential + kinetic,
        conserved_eV=math.nan if ensemble.conserved is None else ensemble.conserved(),
        temperature_K=2 * kinetic / (ensemble.n_degrees * units.kB),
        pressure_GPa=pressure,
        volume_A3=volume,
        max_force_eV_A=float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
        steps_per_s=steps_per_s,
    )


class Log:
    """A CSV file with a line per observation, on disk as soon as it is written."""

    def __init__(self, path: Path):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(field.name for field in fields(Observation))
        self._rows: list[tuple[float, ...]] = []
        self._last = (0, time.perf_counter())

    def speed(self, step: int) -> float:
        """Steps per second since the last call."""
        (last_step, last_time), now = self._last, time.perf_counter()
        self._last = (step, now)
        return (step - last_step) / max(now - last_time, 1e-9)

    def add(self, observation: Observation) -> None:
        """Write one line."""
        row = astuple(observation)
        self._rows.append(row)
        self._writer.writerow("" if math.isnan(x) else x for x in row)
        self._file.flush()

    def columns(self) -> dict[str, Floats]:
        """Everything written so far, column by column."""
        table = np.array(self._rows, dtype=np.float64).reshape(-1, len(fields(Observation)))
        return {field.name: table[:, k] for k, field in enumerate(fields(Observation))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


@dataclass(frozen=True)
class Drift:
    """How well a conserved quantity was conserved."""

    slope: float  # meV/atom/ns, by least squares
    slope_error: float  # its standard deviation, from blocks, so that correlated steps do not flatter it
    fluctuation: float  # meV/atom, root mean square about the line


def drift(time_ps: Floats, energy: Floats, n_atoms: int) -> Drift | None:
    """Drift of an energy in eV; None with fewer than 2 points a block."""
    if len(time_ps) < 2 * N_BLOCKS or not np.isfinite(energy).all():
        return None
    t, e = time_ps / 1e3, (energy - energy[0]) * 1e3 / n_atoms  # ns, meV/atom
    line = np.polynomial.Polynomial.fit(t, e, 1)
    blocks = np.array_split(np.arange(len(t)), N_BLOCKS)
    t_block, e_block = (np.array([x[b].mean() for b in blocks]) for x in (t, e))
    residual = e_block - np.polynomial.Polynomial.fit(t_block, e_block, 1)(t_block)
    variance = np.square(residual).sum() / (N_BLOCKS - 2) / np.square(t_block - t_block.mean()).sum()
    return Drift(float(line.convert().coef[1]), float(np.sqrt(variance)), float((e - line(t)).std()))


def mean_and_error(values: Floats) -> tuple[float, float | None]:
    """Mean of a series and its standard error from blocks; no error for a short series."""
    mean = float(values.mean())
    if len(values) < 2 * N_BLOCKS:
        return mean, None
    blocks = [block.mean() for block in np.array_split(values, N_BLOCKS)]
    return mean, float(np.std(blocks, ddof=1)) / math.sqrt(N_BLOCKS)
