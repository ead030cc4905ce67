"""Error against number of training frames as a power law: its exponent and how sure it is, frames for an error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class PowerLaw:
    """log(error) = height + slope · (log(size) − center), with natural logarithms."""

    slope: float
    height: float
    center: float
    covariance: tuple[float, float, float]  # of height with itself, of height with slope, of slope with itself
    degrees_of_freedom: float  # NaN: there is nothing that the uncertainty could be told from
    sizes: tuple[int, ...]  # that were fitted
    n_seeds: int

    @property
    def standard_error(self) -> float:
        """Of the slope; NaN where it is not known."""
        return math.sqrt(self.covariance[2])

    @property
    def interval(self) -> tuple[float, float]:
        """Of the slope, in which it is with a probability of `LEVEL`."""
        half = self.quantile * self.standard_error
        return self.slope - half, self.slope + half

    @property
    def quantile(self) -> float:
        """Standard errors in half an interval, by Student's t distribution."""
        return float(stats.t.ppf(0.5 + LEVEL / 2, self.degrees_of_freedom))

    def errors(self, sizes: ArrayLike) -> Floats:
        """The errors of the law at some sizes."""
        at = np.log(np.asarray(sizes, dtype=np.float64)) - self.center
        return np.asarray(np.exp(self.height + self.slope * at))


@dataclass(frozen=True)
class Needed:
    """Frames with which the law reaches an error."""

    frames: float  # infinite: the error does not fall
    low: float
    high: float  # infinite: no number of frames is known to suffice; NaN: the uncertainty is not known
    beyond: float  # frames over those of the largest training; above 1 this is an extrapolation


def fit(sizes: ArrayLike, errors: ArrayLike) -> PowerLaw:
    """Fit a power law to the errors of trainings of several sizes and seeds.

    The line is that of least squares. Trainings of one seed have frames in common, so that their errors are not
    independent; and a law that is not quite a power of the size errs at each size by the same for all seeds. So
    the variance of the line has two parts, as in an analysis of variance of sizes and seeds: that of the lines of
    single seeds, divided by the number of seeds, and that of the distances from the line that all seeds share, as
    far as they exceed what single trainings scatter by. Their degrees of freedom are joined by the formula of
    Satterthwaite (Biometrics Bulletin 2, 110, 1946).

    Args:
        sizes: (n_sizes,) numbers of frames, at least two that differ.
        errors: (n_seeds, n_sizes), above zero.
    """
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(errors, dtype=np.float64))
    n_seeds, n_sizes = y.shape
    u = x - x.mean()
    spread = float(u @ u)
    assert spread > 0
    assert np.isfinite(y).all()
    slopes, heights = y @ u / spread, y.mean(axis=1)
    slope, height = float(slopes.mean()), float(heights.mean())
    shared = y.mean(axis=0) - height - slope * u
    own = y - heights[:, None] - slopes[:, None] * u - shared
    by_seed = np.cov(heights, slopes) / n_seeds if n_seeds > 1 else np.zeros((2, 2))
    excess = 0.0
    if n_sizes > 2:
        single = float((own**2).sum()) / ((n_seeds - 1) * (n_sizes - 2)) if n_seeds > 1 else 0.0
        excess = max(0.0, float(shared @ shared) / (n_sizes - 2) - single / n_seeds)
    by_size = excess * np.diag([1 / n_sizes, 1 / spread])
    freedom = _freedom((by_seed[1, 1], n_seeds - 1), (by_size[1, 1], n_sizes - 2))
    total = by_seed + by_size if math.isfinite(freedom) else np.full((2, 2), math.nan)
    covariance = (float(total[0, 0]), float(total[0, 1]), float(total[1, 1]))
    whole = tuple(int(n) for n in np.asarray(sizes))
    return PowerLaw(slope, height, float(x.mean()), covariance, freedom, whole, n_seeds)


def _freedom(*parts: tuple[float, int]) -> float:
    """Degrees of freedom of a sum of variances, each with its own; NaN where none has any."""
    known = [(float(variance), freedom) for variance, freedom in parts if freedom > 0]
    total = sum(variance for variance, _ in known)
    if not known or total == 0.0:
        return float(sum(freedom for _, freedom in known)) or math.nan
    return total**2 / sum(variance**2 / freedom for variance, freedom in known)


def frames_needed(law: PowerLaw, error: float) -> Needed:
    """With how many frames the law reaches an error, and the interval of all numbers that are compatible with it.

    A number n is in the interval if the error lies within that of the law at n (Fieller, J. Royal Stat. Soc. B 16,
    175, 1954): (height + slope u − log(error))² ≤ t² Var(height + slope u), where u = log(n) − center.
    """
    gap = law.height - math.log(error)
    frames = _exp(law.center - gap / law.slope) if law.slope < 0 else math.inf
    low, high = _roots(law, gap)
    return Needed(frames, low, high, frames / max(law.sizes))


def _roots(law: PowerLaw, gap: float) -> tuple[float, float]:
    """The ends of Fieller's interval."""
    if not math.isfinite(law.degrees_of_freedom):
        return math.nan, math.nan
    t2, (v_h, v_hs, v_s) = law.quantile**2, law.covariance
    a, b, c = law.slope**2 - t2 * v_s, law.slope * gap - t2 * v_hs, gap**2 - t2 * v_h
    if a <= 0 or law.slope >= 0:  # the slope may be zero: no number of frames is excluded from above
        return math.nan, math.inf
    root = math.sqrt(max(0.0, b * b - a * c))
    return _exp(law.center + (-b - root) / a), _exp(law.center + (-b + root) / a)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
