"""Thermostats: velocities and energies have the distributions of the temperature, for every element and direction.

These checks judge mlpot's integrators together with the potential, on a molecule and a crystal, with three seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlpot.certificate.bars import BOLTZMANN, DRIFT_IN_HEAT_BATH, POSITIONS, SHARE, SIGNIFICANCE
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, verdict
from mlpot.certificate.heat_bath import (
    N_SAMPLES,
    SEEDS,
    HeatBath,
    HeatBathRun,
    long_run_in_heat_bath,
    run_in_heat_bath,
)
from mlpot.certificate.nve import TEMPERATURE, drift_measurement, length, typical
from mlpot.certificate.statistics import (
    bar_of,
    distance_from_gamma,
    independent,
    mean_and_error,
    n_independent,
    slope_of_log_ratio,
)
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.dynamics.recipe import EnsembleName

Floats = NDArray[np.float64]
THERMOSTATS: tuple[EnsembleName, ...] = ("langevin", "bussi")
LITTLE = 1e-3  # Å, a step of differences of forces


def kinetic_energy(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P22: kinetic energies follow their gamma distribution, and every element and direction has its share.

    Shares are judged with Langevin's thermostat only: the other one does not exchange energy between the
    vibrations of a harmonic crystal.
    """
    figures, lengths, at = [], [], typical(structures)
    n_runs, kT = max(1, len(at) * len(THERMOSTATS) * len(SEEDS)), units.kB * TEMPERATURE
    for name, atoms in at.items():
        for ensemble in THERMOSTATS:
            runs = [long_run_in_heat_bath(tested, name, atoms, HeatBath(ensemble, seed)) for seed in SEEDS]
            where = f"{name}, {ensemble}"
            for w in runs:
                energies = independent(w.observables["kinetic_eV"])
                distance = distance_from_gamma(energies, w.n_degrees / 2, kT, SIGNIFICANCE / n_runs)
                figures.append(
                    Measurement(
                        "Kolmogorov-Smirnov distance of the kinetic energies from their gamma distribution",
                        where,
                        *distance,
                    )
                )
        groups = list(_groups(atoms.numbers))
        runs = [long_run_in_heat_bath(tested, name, atoms, HeatBath("langevin", seed)) for seed in SEEDS]
        lengths.append(len(runs[0].time))
        for group, here in groups:
            shares = [2 * w.kinetic[:, here].mean(axis=1) for w in runs]
            off = abs(np.mean(shares) - kT) / (kT * np.sqrt(2 / here.sum() / sum(map(n_independent, shares))))
            figures.append(Measurement(f"share of {group}, σ", name, off, bar_of(SHARE, len(groups) * len(at))))
    return verdict("P22", "kinetic energies", figures, _told(lengths))


def _groups(numbers: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for z in np.unique(numbers):
        for axis in range(3):
            here = np.zeros((len(numbers), 3), dtype=bool)
            here[numbers == z, axis] = True
            yield f"{chemical_symbols[z]} along {'xyz'[axis]}", here


def configurational(tested: CalculatorUnderTest, structures: Structures, n_frames: int = 40) -> Check:
    """P23: the temperature of positions, ⟨F²⟩ / ⟨−∇·F⟩, is that of velocities.

    H. H. Rugh, Phys. Rev. Lett. 78, 772 (1997).
    """
    figures, lengths = [], []
    for name, atoms in typical(structures).items():
        runs = [long_run_in_heat_bath(tested, name, atoms, HeatBath("langevin", seed)) for seed in SEEDS]
        lengths.append(len(runs[0].time))
        square = _over_seeds([_squares(tested.double, w) for w in runs])
        divergence = _over_seeds([_divergences(tested.double, w, n_frames) for w in runs])
        kinetic = _over_seeds([w.thermal_energy for w in runs])
        error = float(np.linalg.norm([error / mean for mean, error in (square, divergence, kinetic)]))
        off = abs(square[0] / divergence[0] / kinetic[0] - 1)
        figures.append(Measurement("|T(positions) / T(velocities) − 1|", name, off, max(POSITIONS, 3 * error)))
    told = f"{_told(lengths)}; the bar is {POSITIONS:g}, or three standard errors"
    return verdict("P23", "temperature of positions", figures, told)


def _over_seeds(series: Sequence[Floats]) -> tuple[float, float]:
    """Mean of several runs, and its standard error."""
    means, errors = zip(*(mean_and_error(values) for values in series), strict=True)
    return float(np.mean(means)), float(np.linalg.norm(errors)) / len(series)


def _squares(tested: CalculatorUnderTest, w: HeatBathRun) -> Floats:
    """F², (eV/Å)², of all frames of a run."""
    return np.array([(tested(_at(w, positions)).forces ** 2).sum() for positions in w.positions])


def _divergences(tested: CalculatorUnderTest, w: HeatBathRun, n_frames: int) -> Floats:
    """−∇·F by differences, eV/Å², of frames spread over a run."""
    found = []
    for positions in w.positions[:: max(1, len(w.positions) // n_frames)]:
        total = []
        for (i, axis), sign in product(np.ndindex(len(w.atoms), 3), (-1, 1)):
            moved = _at(w, positions)
            moved.positions[i, axis] += sign * LITTLE
            total.append(-sign * tested(moved).forces[i, axis] / (2 * LITTLE))
        found.append(np.sum(total))
    return np.array(found)


def _at(w: HeatBathRun, positions: Floats) -> Atoms:
    atoms = w.atoms.copy()
    atoms.positions = positions
    return atoms


def ensembles(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P24: the ratio of potential energy distributions at two temperatures is the Boltzmann factor."""
    figures, at = [], typical(structures)
    bar = bar_of(BOLTZMANN, max(1, len(at) * len(THERMOSTATS) * len(SEEDS)))
    for name, atoms in at.items():
        hot = TEMPERATURE * (1 + (2 / (3 * len(atoms))) ** 0.5)  # energies one standard deviation apart
        expected = 1 / (units.kB * TEMPERATURE) - 1 / (units.kB * hot)
        for ensemble in THERMOSTATS:
            for seed in SEEDS:
                baths = [HeatBath(ensemble, seed, t) for t in (TEMPERATURE, hot)]
                runs = [run_in_heat_bath(tested, name, atoms, bath) for bath in baths]
                slope, error = slope_of_log_ratio(*(independent(w.observables["potential_eV"]) for w in runs))
                off = abs(slope - expected) / error
                figures.append(Measurement("slope of ln p₂/p₁, σ", f"{name}, {ensemble}, seed {seed}", off, bar))
    return verdict("P24", "energies at two temperatures", figures, _told([N_SAMPLES]))


def conserved(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P25: the conserved quantities of thermostats and barostats do not drift."""
    figures, errors = [], []
    for name, atoms in typical(structures).items():
        names: list[EnsembleName] = ["bussi", "nose-hoover"]
        if atoms.pbc.all() and tested.has_stress:
            names += ["npt-isotropic", "npt"]
        for ensemble in names:
            w = long_run_in_heat_bath(tested, name, atoms, HeatBath(ensemble, SEEDS[0]))
            energy, where = w.observables["conserved_eV"], f"{name}, {ensemble}"
            figure, error = drift_measurement(w.time, energy, len(atoms), where, DRIFT_IN_HEAT_BATH)
            figures.append(figure)
            errors.append(error)
    if not figures:
        raise NothingToCheckError("the check applies to none of the structures; give one with --structures")
    return verdict("P25", "conserved quantities", figures, length(float(w.time[-1]), errors))


def _told(lengths: Sequence[int]) -> str:
    return f"{len(SEEDS)} seeds, {min(lengths, default=0)} samples each"
