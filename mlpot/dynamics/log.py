"""The log of a run: one line of a CSV file every few steps, and statistics of the lines."""

from __future__ import annotations

import hashlib
import math
import os
import resource
import time
from array import array
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from mlpot.atomic_files import storing, write_all
from mlpot.dynamics.checkpoints import CheckpointError
from mlpot.dynamics.ensembles import Ensemble
from mlpot.units import GPA

Floats = NDArray[np.float64]
N_BLOCKS = 10
LEAST_PS = 1.0
"""Ten periods of a vibration of 330 / cm. In a shorter run the error of steps goes up and down."""
BLOCK = 2**20  # bytes of a log that are read at once


@dataclass(frozen=True)
class Observation:
    """The state of a run at one step; NaN where a quantity does not exist."""

    step: int
    time_ps: float
    potential_eV: float  # capitals as in the units
    kinetic_eV: float
    total_eV: float
    conserved_eV: float
    slope_meV_atom_ns: float  # of the conserved quantity, by least squares since the beginning of the stage
    temperature_K: float
    target_K: float
    pressure_GPa: float
    volume_A3: float
    max_force_eV_A: float
    nearest_A: float
    neighbors: float  # mean number of neighbors of an atom, every 100 steps, as the next
    extrapolation_grade: float  # the highest of all atoms, see `extrapolation`
    steps_per_s: float
    ns_per_day: float
    memory_MB: float


def observe(atoms: Atoms, ensemble: Ensemble) -> dict[str, float]:
    """The quantities of a line of the log, of the current atoms."""
    potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
    pressure = volume = math.nan
    if atoms.pbc.all():
        volume = float(atoms.get_volume())
        pressure = (2 * kinetic / volume - float(atoms.get_stress()[:3].sum())) / 3 / GPA
    return {
        "potential_eV": potential,
        "kinetic_eV": kinetic,
        "total_eV": potential + kinetic,
        "conserved_eV": math.nan if ensemble.conserved is None else float(ensemble.conserved()),
        "temperature_K": 2 * kinetic / (ensemble.n_degrees * units.kB),
        "pressure_GPa": pressure,
        "volume_A3": volume,
        "max_force_eV_A": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
    }


def resident_memory() -> float:
    """Resident memory of this process, MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:  # not on Linux: the maximum so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Slope:
    """A least-squares line through points that are added one by one."""

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def plus(self, x: float, y: float) -> Slope:
        """The line with one more point (Welford, Technometrics 4, 419 (1962))."""
        n = self.n + 1
        dx, dy = x - self.mean_x, y - self.mean_y
        mean_x = self.mean_x + dx / n
        return Slope(n, mean_x, self.mean_y + dy / n, self.xx + dx * (x - mean_x), self.xy + (x - mean_x) * dy)

    @property
    def value(self) -> float:
        """NaN before there are two points."""
        return self.xy / self.xx if self.xx > 0 else math.nan


@dataclass(frozen=True)
class Kept:
    """The part of a log that a checkpoint vouches for."""

    n_bytes: int = 0
    digest: str | None = None  # SHA-256 of them; None in checkpoints of before


class Log:
    """A CSV file with a line per observation, handed to the system as soon as it is written.

    Args:
        path: the file.
        keep: of the file that is there; nothing for a new one.

    Raises:
        StorageError: it cannot be written; CheckpointError: what is to be kept is not there.
    """

    def __init__(self, path: Path, *, keep: Kept = Kept()):
        self.path, self._size, self._sum = path, keep.n_bytes, hashlib.sha256()
        if keep.n_bytes:
            _check(path, keep, self._sum)
        with storing(path, 0):
            self._file = path.open("r+b" if keep.n_bytes else "wb", buffering=0)
            if keep.n_bytes:
                self._file.truncate(keep.n_bytes)
                self._file.seek(keep.n_bytes)
        if not keep.n_bytes:
            try:
                self._write(",".join(field.name for field in fields(Observation)))
            except BaseException:
                self._file.close()
                raise

    def add(self, observation: Observation) -> None:
        """Write one line."""
        self._write(",".join("" if math.isnan(x) else repr(x) for x in vars(observation).values()))

    def _write(self, line: str) -> None:
        content = f"{line}\n".encode()
        with storing(self.path, len(content)):
            write_all(self._file, content)
        self._size += len(content)
        self._sum.update(content)

    @property
    def kept(self) -> Kept:
        """All that was written so far."""
        return Kept(self._size, self._sum.hexdigest())

    def sync(self) -> None:
        """Write every line to disk."""
        with storing(self.path, 0):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _check(path: Path, keep: Kept, digest: Any) -> None:
    """Raise CheckpointError if a log does not begin with what was written, and add that to its digest."""
    there = path.stat().st_size if path.exists() else 0
    if there < keep.n_bytes:
        what = f"has {there} bytes, and {keep.n_bytes} were written" if path.exists() else "is gone"
        raise CheckpointError(f"{path} {what}. Restore it, or start the run anew.")
    with path.open("rb") as file:
        left = keep.n_bytes
        while block := file.read(min(left, BLOCK)):
            digest.update(block)
            left -= len(block)
    if keep.digest not in (None, digest.hexdigest()):
        raise CheckpointError(
            f"{path} is the log of another run, or was changed. Restore that of this run, or start the run anew."
        )


def read_log(path: Path) -> dict[str, Floats]:
    """A log column by column, NaN where a line has no value.

    Raises:
        ValueError: it is damaged.
    """
    values, lines = array("d"), 1
    try:
        with path.open(encoding="utf-8") as file:
            names = next(file).strip().split(",")
            for line in file:
                lines += 1
                values.extend(float(x or "nan") for x in line.rstrip("\n").split(",", len(names) - 1))
        table = np.frombuffer(values, np.float64).reshape(-1, len(names))
    except (ValueError, StopIteration):
        raise ValueError(f"{path} is no log of a run, or is damaged near line {lines}. Restore it.") from None
    return {name: table[:, k] for k, name in enumerate(names)}


def of_stage(columns: dict[str, Floats], began_ps: float) -> dict[str, Floats]:
    """The lines of a log from a stage on; the line at its beginning is the last of the stage before."""
    time_ps = columns["time_ps"]
    own = time_ps > began_ps * (1 + 1e-12) if began_ps else time_ps >= 0
    own[-1:] = True  # a stage that has just begun has no other line
    return {name: values[own] for name, values in columns.items()}


class Pace:
    """Speed of a run, in steps per second."""

    def __init__(self, step: int):
        self._last = (step, time.perf_counter())

    def since_last(self, step: int) -> float:
        """Steps per second since the last call."""
        (last_step, last_time), now = self._last, time.perf_counter()
        self._last = (step, now)
        return (step - last_step) / max(now - last_time, 1e-9)


@dataclass(frozen=True)
class Drift:
    """How well a conserved quantity was conserved."""

    slope: float  # meV/atom/ns, by least squares
    slope_error: float  # its standard error from blocks, as steps are correlated
    fluctuation: float  # meV/atom, root mean square about the line


def untold_drift(time_ps: Floats, energy: Floats) -> str | None:
    """Why a conserved energy has no drift, in words; None if it has one, or if none is conserved."""
    if not np.isfinite(energy).all():
        return None
    length = float(np.ptp(time_ps)) if len(time_ps) else 0.0
    if length < LEAST_PS * (1 - 1e-9):
        return f"not told by {length:.3g} ps, within which it goes up and down; it takes {LEAST_PS:g} ps or more"
    if len(time_ps) < 2 * N_BLOCKS:
        return f"not told by {len(time_ps)} lines of the log; it takes {2 * N_BLOCKS} or more"
    return None


def told_drift(time_ps: Floats, energy: Floats, n_atoms: int) -> Drift | None:
    """As `drift`; None also where a run is too short for one, as `untold_drift` says."""
    return drift(time_ps, energy, n_atoms) if untold_drift(time_ps, energy) is None else None


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
    slope = float(line.deriv()(0.0))  # `convert` drops a slope of exactly zero
    return Drift(slope, float(np.sqrt(variance)), float((e - line(t)).std()))


def with_error(value: float, error: float | None) -> str:
    """A value and its standard error, both to the second digit of the error, such as 307.4 ± 1.8."""
    if error is None:
        return f"{value:.4g}"
    if not (math.isfinite(value) and 1e-6 < error < math.inf):
        return f"{value:.4g} ± {error:.2g}"
    digits = 1 - math.floor(math.log10(float(f"{error:.1e}")))  # behind the point; 0.0996 counts as 0.10
    return " ± ".join(f"{round(x, digits):.{max(digits, 0)}f}" for x in (value, error))


def mean_and_error(values: Floats) -> tuple[float, float | None]:
    """Mean of a series and its standard error from blocks; no error for a short series."""
    mean = float(values.mean())
    if len(values) < 2 * N_BLOCKS:
        return mean, None
    blocks = [block.mean() for block in np.array_split(values, N_BLOCKS)]
    return mean, float(np.std(blocks, ddof=1)) / math.sqrt(N_BLOCKS)
