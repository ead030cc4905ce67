"""Whether samples of a simulation follow the expected distribution."""

from __future__ import annotations

from itertools import accumulate, takewhile

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]


def correlation_time(values: Floats) -> float:
    """Integrated autocorrelation time, in samples: 0.5 if they are independent.

    The sum ends at a window of five times itself: A. D. Sokal, in Functional Integration (1997), p. 131.
    """
    x, n = values - values.mean(), len(values)
    if not x.any():
        return 0.5
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum)[:n]
    rho /= rho[0]
    times = accumulate(rho[1:], initial=0.5)
    return max(0.5, float([*takewhile(lambda kt: kt[0] <= 5 * kt[1], enumerate(times))][-1][1]))


def independent(values: Floats) -> Floats:
    """Some of the samples, two correlation times apart."""
    return values[:: max(1, int(np.ceil(2 * correlation_time(values))))]


def n_independent(values: Floats) -> float:
    """Effective number of independent samples, n / 2τ."""
    return len(values) / (2 * correlation_time(values))


def mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean of correlated samples and its standard error, by their correlation time: of the long series of checks.

    `dynamics.log.mean_and_error` takes blocks, as a run may be too short to tell a correlation time.
    """
    return float(values.mean()), float(values.std() / np.sqrt(n_independent(values)))


def bar_of(sigmas: float, n_tests: int) -> float:
    """The bar for the worst of several tests, in standard deviations (S. Holm, Scand. J. Stat. 6, 65 (1979))."""
    return float(stats.norm.isf(stats.norm.sf(sigmas) / n_tests))


def distance_from_gamma(values: Floats, shape: float, scale: float, p: float) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of independent samples from a gamma distribution, and its quantile 1 − p."""
    found = stats.kstest(values, stats.gamma(shape, scale=scale).cdf)
    return float(found.statistic), float(stats.kstwo.isf(p, len(values)))


def slope_of_log_ratio(a: Floats, b: Floats) -> tuple[float, float]:
    """Slope of ln p_b(x) / p_a(x) from independent samples of both, by maximum likelihood, and its error.

    M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013).
    """
    x = np.concatenate([a, b])
    x, width = (x - x.mean()) / x.std(), x.std()
    of_b = np.arange(len(x)) >= len(a)

    def unlikely(k: Floats) -> float:
        return float(np.logaddexp(0.0, np.where(of_b, -1, 1) * (k[0] + k[1] * x)).sum())

    k = optimize.minimize(unlikely, np.zeros(2)).x
    chance = special.expit(k[0] + k[1] * x)
    columns = np.stack([np.ones_like(x), x])
    information = (columns * chance * (1 - chance)) @ columns.T
    return float(k[1] / width), float(np.sqrt(np.linalg.inv(information)[1, 1]) / width)
