"""Is the exponent of a power law found, and is its uncertainty true?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpot.studies.power_law import LEVEL, PowerLaw, fit, frames_needed

SIZES = np.array([50, 100, 200, 400])


def synthetic(
    rng: np.random.Generator, n_seeds: int, *, lines: float = 0.0, shared: float = 0.0, single: float = 0.0
) -> np.ndarray:
    """Errors 300 · size^-0.6: lines of seeds, sizes and single trainings are off by normal numbers."""
    u = np.log(SIZES / 141.4)
    y = np.log(300.0) - 0.6 * np.log(SIZES) + shared * rng.normal(size=len(SIZES))
    own = lines * rng.normal(size=(n_seeds, 2))
    return np.asarray(np.exp(y + own[:, :1] + own[:, 1:] * u + single * rng.normal(size=(n_seeds, len(SIZES)))))


def test_an_exact_power_law_is_found_exactly() -> None:
    law = fit(SIZES, synthetic(np.random.default_rng(0), 3))
    assert law.slope == pytest.approx(-0.6, abs=1e-12)
    assert law.standard_error == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(law.errors(SIZES), 300.0 * SIZES**-0.6, rtol=1e-12)
    needed = frames_needed(law, 3.0)
    assert needed.frames == pytest.approx(100 ** (1 / 0.6), rel=1e-9)
    assert needed.low == pytest.approx(needed.high, rel=1e-6)
    assert needed.beyond == pytest.approx(needed.frames / 400)


@pytest.mark.parametrize(
    ("n_seeds", "noise"),
    [
        (3, {"single": 0.05}),
        (3, {"lines": 0.1}),
        (3, {"shared": 0.1}),
        (5, {"lines": 0.05, "shared": 0.05, "single": 0.05}),
        (1, {"shared": 0.1}),
    ],
)
def test_intervals_hold_the_true_law_as_often_as_they_say(n_seeds: int, noise: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    laws = [fit(SIZES, synthetic(rng, n_seeds, **noise)) for _ in range(400)]
    held = np.mean([law.interval[0] < -0.6 < law.interval[1] for law in laws])
    assert LEVEL - 0.04 < held <= 1.0
    true = 100 ** (1 / 0.6)  # frames for an error of 3
    needed = [frames_needed(law, 3.0) for law in laws]
    held = np.mean([not (n.low > true or n.high < true) for n in needed])
    assert held > LEVEL - 0.04
    assert np.mean([law.slope for law in laws]) == pytest.approx(-0.6, abs=0.01)


def test_an_uncertainty_that_nothing_tells_is_not_made_up() -> None:
    law = fit([50, 100], [[4.0, 3.0]])
    assert law.slope == pytest.approx(math.log(3 / 4) / math.log(2))
    assert math.isnan(law.standard_error)
    needed = frames_needed(law, 1.0)
    assert math.isfinite(needed.frames)
    assert math.isnan(needed.high)


def test_an_error_that_does_not_fall_reaches_no_target() -> None:
    law = fit(SIZES, np.exp(0.01 * np.random.default_rng(2).normal(size=(3, 4))) * [4.0, 4.1, 4.2, 4.3])
    assert frames_needed(law, 1.0).frames == math.inf
    assert frames_needed(law, 1.0).high == math.inf


def test_a_slope_that_may_be_zero_leaves_the_frames_open_upwards() -> None:
    law = PowerLaw(-0.1, 1.0, math.log(100), (0.01, 0.0, 0.04), 4.0, (50, 200), 3)
    needed = frames_needed(law, 1.0)
    assert needed.frames == pytest.approx(100 * math.exp(10))
    assert needed.high == math.inf
