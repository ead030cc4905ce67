"""The certificate's checks of thermostats and barostats: they pass what is sound and catch what is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from faulty_calculators import StressInGPa, Toy

from mlpot.certificate import heat_bath, pressure, thermal
from mlpot.certificate.check import Check, Structures
from mlpot.certificate.heat_bath import HeatBath
from mlpot.certificate.statistics import (
    bar_of,
    correlation_time,
    distance_from_gamma,
    independent,
    mean_and_error,
    slope_of_log_ratio,
)
from mlpot.certificate.tested import CalculatorUnderTest
from mlpot.dynamics.ensembles import Ensemble, build_ensemble

CLUSTER: Structures = {
    "cluster": Atoms("Cu4", positions=[(0, 0, 0), (2.4, 0.1, 0), (0.3, 2.5, 0.2), (1.1, 0.9, 2.3)])
}
SHORT = partial(HeatBath, n_samples=100, every=15, thermostat=15, barostat=100)
CRYSTAL: Structures = {"crystal": bulk("Cu", cubic=True, a=3.4)}


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thermal, "HeatBath", SHORT)
    monkeypatch.setattr(heat_bath, "LONGER", 1)


def toy(kind: type[Toy] = Toy) -> CalculatorUnderTest:
    return CalculatorUnderTest(kind.__name__, kind, (29,))


# --- statistics ---


def test_correlated_samples_have_a_larger_error() -> None:
    rng = np.random.default_rng(0)
    noise, chain = rng.normal(size=20_000), np.zeros(20_000)
    for k in range(1, len(chain)):
        chain[k] = 0.9 * chain[k - 1] + noise[k]
    assert correlation_time(noise) == pytest.approx(0.5, abs=0.1)
    assert correlation_time(chain) == pytest.approx(0.5 + 0.9 / 0.1, rel=0.15)
    assert len(independent(chain)) == pytest.approx(20_000 / 19, rel=0.2)
    assert mean_and_error(chain)[1] == pytest.approx(1 / 0.1 / np.sqrt(20_000), rel=0.1)
    assert correlation_time(np.ones(5)) == 0.5


def test_the_ratio_of_two_distributions_is_found_with_its_error() -> None:
    """Energies of n/2 oscillators are of a gamma distribution, whose ratio is exactly exponential."""
    off = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        slope, error = slope_of_log_ratio(rng.gamma(13.5, 0.025, 300), rng.gamma(13.5, 0.031, 300))
        off.append((slope - (1 / 0.025 - 1 / 0.031)) / error)
    assert abs(np.mean(off)) < 0.5
    assert np.std(off) == pytest.approx(1.0, abs=0.3)


def test_a_distribution_of_too_many_degrees_is_told() -> None:
    values = np.random.default_rng(0).gamma(10.5, 0.025, 500)
    distance, bar = distance_from_gamma(values, 10.5, 0.025, 0.01)
    assert distance < bar
    distance, bar = distance_from_gamma(values, 13.5, 0.025, 0.01)
    assert distance > bar


def test_many_tests_have_a_higher_bar() -> None:
    assert bar_of(3.0, 1) == pytest.approx(3.0)
    assert 3.3 < bar_of(3.0, 4) < 3.5


# --- checks ---


@pytest.mark.parametrize(("work", "n_samples"), [(10**6, 12), (64, 8), (0, 4)])
def test_walks_are_as_long_as_their_atoms_are_few(
    work: int, n_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer on a fast machine: a verdict is the same everywhere."""
    monkeypatch.setattr(heat_bath, "LONGER", 3)
    monkeypatch.setattr(heat_bath, "WORK", work)
    atoms, short = CLUSTER["cluster"], HeatBath("langevin", 0, n_samples=4, every=2)
    assert len(heat_bath.long_run_in_heat_bath(toy(), "cluster", atoms, short).time) == n_samples


def conserved(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """As `thermal.conserved`, for long enough to tell a drift from the noise of the runs of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thermal, "HeatBath", partial(SHORT, n_samples=400))
        return thermal.conserved(tested, structures)


CHECKS: list[tuple[Callable[..., Check], Structures]] = [
    (thermal.kinetic_energy, CLUSTER),
    (partial(thermal.configurational, n_frames=4), CLUSTER),
    (thermal.ensembles, CLUSTER),
    (conserved, CLUSTER),
    (partial(pressure.ideal_gas, n_samples=200), {}),
    (pressure.two_pressures, CRYSTAL),
]


@pytest.mark.parametrize(("check", "structures"), CHECKS, ids=["P22", "P23", "P24", "P25", "P26", "P27"])
@pytest.mark.slow
def test_our_integrators_pass(check: Any, structures: Structures) -> None:
    verdict = check(toy(), structures)
    assert verdict.passed, verdict


def too_hot(*args: Any, **settings: Any) -> Ensemble:
    """Thermostats and barostats that aim at twice the temperature."""
    recipe = args[1].model_copy(update={"temperature_K": 2 * args[1].temperature_K})
    return build_ensemble(args[0], recipe, *args[2:], **settings)


@pytest.mark.parametrize(
    ("check", "structures"), [pytest.param(*CHECKS[0], marks=pytest.mark.slow), CHECKS[4]], ids=["P22", "P26"]
)
def test_a_bath_that_is_too_hot_is_caught(check: Any, structures: Structures, monkeypatch: Any) -> None:
    monkeypatch.setattr(heat_bath, "build_ensemble", too_hot)
    assert not check(toy(), structures).passed


@pytest.mark.slow
def test_energies_that_are_not_those_of_the_forces_are_caught() -> None:
    class TwiceTheEnergy(Toy):
        def spoil(self) -> None:
            self.results["energy"] *= 3.0

    assert not thermal.ensembles(toy(TwiceTheEnergy), CLUSTER).passed


@pytest.mark.slow
def test_a_stress_in_other_units_is_not_under_the_pressure_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "HeatBath", SHORT)
    assert not pressure.two_pressures(toy(StressInGPa), CRYSTAL).passed
