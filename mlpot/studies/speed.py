"""What a potential costs in use: microseconds of a step of dynamics for each atom, through ASE's calculator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mlpot.calculator import MLPotCalculator

WARM = 5  # calls that may compile, or fill caches
MOVED = 0.01  # Å, as atoms are in a step of dynamics
FEWEST = 11  # calls that are measured


@dataclass(frozen=True)
class Speed:
    """What was measured."""

    microseconds: float  # of an atom and step
    spread: float  # half of the range of the middle half of the calls, likewise
    processor_share: float  # processor time over time: of a single thread, less than 1 where others took it


def measure_speed(model: Path, structures: Sequence[Atoms], seconds: float) -> Speed:
    """The time of energies and forces of structures whose atoms move a little from call to call.

    Of each structure the median counts, so that a call in which another program had the processor does not. As in
    dynamics, neighbors are found anew where an atom moved half of the calculator's skin, which here none does.

    Args:
        model: file of the potential.
        structures: of the user.
        seconds: in all.
    """
    total, spread, n_atoms = 0.0, 0.0, 0
    began, processor = time.perf_counter(), time.process_time()
    for k, structure in enumerate(structures):
        times = _calls(model, structure, seconds / len(structures), seed=k)
        low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
        total += float(middle)
        spread += float(high - low) / 2
        n_atoms += len(structure)
    share = (time.process_time() - processor) / (time.perf_counter() - began)
    return Speed(1e6 * total / n_atoms, 1e6 * spread / n_atoms, share)


def _calls(model: Path, structure: Atoms, seconds: float, *, seed: int) -> list[float]:
    """Seconds of each call."""
    rng, atoms = np.random.default_rng(seed), structure.copy()
    atoms.calc = MLPotCalculator(model, extrapolation_grade=None)  # moved at random
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < WARM + FEWEST or time.perf_counter() < until:
        atoms.positions = structure.positions + rng.normal(scale=MOVED, size=(len(atoms), 3))
        since = time.perf_counter()
        atoms.get_forces()
        times.append(time.perf_counter() - since)
    return times[WARM:]
