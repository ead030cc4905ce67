"""Barostats: an ideal gas has the volumes of an ideal gas, a crystal those of the pressure from outside."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from mlpot.certificate.bars import BOLTZMANN, GAS_VARIANCE, GAS_VOLUME, PRESSURE
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, periodic, verdict
from mlpot.certificate.heat_bath import N_SAMPLES, SEEDS, HeatBath, at_rest, go, run_in_heat_bath
from mlpot.certificate.nve import TEMPERATURE, typical
from mlpot.certificate.statistics import (
    bar_of,
    correlation_time,
    independent,
    mean_and_error,
    slope_of_log_ratio,
)
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.units import GPA

Floats = NDArray[np.float64]
N_ATOMS = 1000  # of the gas: so many that N or N + 1 makes no difference


class Nothing:
    """The calculator of atoms that do not see each other."""

    implemented_properties = ("energy", "forces", "stress")

    def get_potential_energy(self, atoms: Atoms, force_consistent: bool = False) -> float:
        """None, eV."""
        return 0.0

    def get_forces(self, atoms: Atoms) -> Floats:
        """None, eV/Å."""
        return np.zeros((len(atoms), 3))

    def get_stress(self, atoms: Atoms) -> Floats:
        """None, eV/Å³."""
        return np.zeros(6)


def ideal_gas(tested: CalculatorUnderTest, structures: Structures, n_samples: int = 6000) -> Check:
    """P26: the barostat gives an ideal gas ⟨V⟩ = N kT / P and σ(V) / ⟨V⟩ = 1 / √N."""
    pressure, rng = 1e-4, np.random.default_rng(0)
    expected = N_ATOMS * units.kB * TEMPERATURE / pressure
    edge = expected ** (1 / 3)
    gas = Atoms(f"Ar{N_ATOMS}", edge * rng.random((N_ATOMS, 3)), cell=edge * np.eye(3), pbc=True)
    gas.calc = Nothing()
    volumes = go(gas, HeatBath("npt-isotropic", 0, TEMPERATURE, pressure, n_samples, 5, 10, 25), 4.0).observables[
        "volume_A3"
    ]
    mean, error = (x / expected for x in mean_and_error(volumes))
    spread = volumes.var() * N_ATOMS / expected**2
    little = 3 * (4 * correlation_time(volumes) / len(volumes)) ** 0.5  # of a variance
    figures = [
        Measurement("|⟨V⟩ P / NkT − 1|", "ideal gas", abs(mean - 1), max(GAS_VOLUME, 3 * error)),
        Measurement("|N σ²(V) / ⟨V⟩² − 1|", "ideal gas", abs(spread - 1), max(GAS_VARIANCE, little)),
    ]
    return verdict("P26", "ideal gas", figures, "of the barostat alone, whatever the potential")


def two_pressures(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P27: a crystal has the given pressure, and volumes at two pressures have the ratio of Boltzmann factors."""
    if not tested.has_stress:
        raise NothingToCheckError("the calculator gives no stress")
    figures, at = [], periodic(typical(structures))
    n_tests = max(1, len(at) * len(SEEDS))
    for name, atoms in at.items():
        kT, higher = units.kB * TEMPERATURE, _pressure_that_shows(tested, atoms)
        for seed in SEEDS:
            baths = [HeatBath("npt-isotropic", seed, TEMPERATURE, p) for p in (0.0, higher)]
            runs = [run_in_heat_bath(tested, name, atoms, bath) for bath in baths]
            slope, error = slope_of_log_ratio(*(independent(w.observables["volume_A3"]) for w in runs))
            where = f"{name}, seed {seed}"
            off = abs(slope + higher / kT) / error
            figures.append(Measurement("slope of ln p₂/p₁, σ", where, off, bar_of(BOLTZMANN, n_tests)))
            for bath, w in zip(baths, runs, strict=True):
                mean, error = mean_and_error(w.observables["pressure_GPa"] * GPA)
                off = abs(mean - bath.pressure) / error
                figures.append(Measurement("⟨P⟩ − P, σ", where, off, bar_of(PRESSURE, 2 * n_tests)))
    return verdict("P27", "two pressures", figures, f"{len(SEEDS)} seeds, {N_SAMPLES} samples each")


def _pressure_that_shows(tested: CalculatorUnderTest, atoms: Atoms) -> float:
    """eV/Å³, which moves the mean volume by its standard deviation: √(B kT / V)."""
    rest = at_rest(tested, atoms, with_cell=True)
    pressures = []
    for size in (1.005, 0.995):
        strained = rest.copy()
        strained.set_cell(size * rest.cell.array, scale_atoms=True)
        pressures.append(-np.trace(tested(strained).stress) / 3)
    bulk_modulus = (pressures[1] - pressures[0]) / 0.03
    return float(np.sqrt(max(bulk_modulus, 0.0) * units.kB * TEMPERATURE / rest.get_volume()))
