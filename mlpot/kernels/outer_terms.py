"""What a potential adds around a network, edge by edge, as `terms` and `potential` have it, with slopes."""

from __future__ import annotations

import numpy as np

from mlpot.kernels.simd import inlined
from mlpot.units import BOHR, HARTREE


@inlined
def envelope(x):
    """`radial.PolynomialEnvelope` of exponent 6, x < 1."""
    return 1 - x**6 * (28 - x * (48 - x * 21))


@inlined
def envelope_slope(x):
    """Its derivative by x."""
    return -168 * x**5 * (1 - x) * (1 - x)


@inlined
def envelope_of(x, p):
    """`radial.PolynomialEnvelope` of exponent p, x < 1, and its derivative by x."""
    lower = x ** (p - 1)
    value = 1 - lower * x * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return value, -p * (p + 1) * (p + 2) / 2 * lower * (1 - x) * (1 - x)


@inlined
def smooth_step(x, low, high):
    """S((x − low) / (high − low)) of `terms.core_repulsion`, and its derivative by x; 1 without (high = 0)."""
    if high <= 0 or not x < high:  # of a neighbor at the cutoff it may be −1e-16
        return 1.0, 0.0
    width = high - low
    x = max((x - low) / width, 0.0)
    return x**4 * (35 - x * (84 - x * (70 - x * 20))), 140 * (x * (1 - x)) ** 3 / width


@inlined
def effective_distance(d, limits):
    """φ(d) of `terms.core_repulsion`, the distance that the learned part is given, and its derivative."""
    low, high = limits[0], limits[1]
    if not d < high:
        return d, 1.0
    x = max((d - low) / (high - low), 0.0)
    path = x**5 * (7 - x * (14 - x * (10 - x * 2.5)))
    return (low + high) / 2 + (high - low) * path, smooth_step(d, low, high)[0]


@inlined
def switch_on(coordination, shift):
    """The energy of the shift that neighbors switch on, and its derivative by their coordination."""
    switch = np.exp(-coordination * coordination)
    return shift * (1 - switch), 2 * shift * coordination * switch


@inlined
def _screened(d, one, other, screenings, form):
    """The energy of two nuclei in eV and its derivative by d, see `terms.zbl`; half of it with a ghost.

    Form 0 is the universal one, form 1 that of the potential's own term.
    """
    per_length = (one[1 + 3 * form] + other[1 + 3 * form]) / (0.8854 * BOHR)
    screening, slope = 0.0, 0.0
    for k in range(len(screenings)):
        decay = screenings[k, 1 + 2 * form] * per_length
        term = screenings[k, 2 * form] * np.exp(-decay * d)
        screening += term
        slope -= decay * term
    bare = HARTREE * BOHR * one[3 * form] * other[3 * form] / d * ((one[2] + other[2]) / 2)
    return bare * screening, bare * (slope - screening / d)


@inlined
def with_nuclei(d, one, other, limits, screenings):
    """The effective distance, its derivative, and the energy of nuclei in eV with its derivative by d."""
    (effective, effective_slope), end, energy, slope = effective_distance(d, limits), limits[2], 0.0, 0.0
    if effective < end:
        bare, bare_slope = _screened(effective, one, other, screenings, 1)
        u, u_slope = envelope_of(effective / end, limits[3])
        energy, slope = bare * u, effective_slope * (bare_slope * u + bare * u_slope / end)
    if d < limits[1]:
        inner, inner_slope = _screened(d, one, other, screenings, 0)
        outer, outer_slope = _screened(effective, one, other, screenings, 0)
        k = limits[4]
        energy, slope = energy + k * (inner - outer), slope + k * (inner_slope - effective_slope * outer_slope)
    return effective, effective_slope, energy, slope
