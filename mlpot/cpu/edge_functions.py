"""What an `EdgeNetwork` computes of single numbers: radial bases, envelopes, and activations with derivatives."""

from __future__ import annotations

import numpy as np

from mlpot.cpu.pointwise import SILU, _curvature, _function, _slope
from mlpot.cpu.tiles import apart
from mlpot.kernels.simd import bare, exp
from mlpot.stages.radial import BesselBasis, ExpNormalBasis, GaussianBasis

GAUSSIAN, BESSEL, EXPNORMAL = range(3)
BASIS_NUMBERS: dict[type, int] = {GaussianBasis: GAUSSIAN, BesselBasis: BESSEL, ExpNormalBasis: EXPNORMAL}


@bare
def basis(number, order, one, other, weights, at, n, s, array, out0):
    """e_k(s), e_k′(s) or e_k″(s) for n places; the constants are those of `radial.Basis`."""
    apart()
    kind, places, out = array.dtype.type, weights[at : at + n], array[out0 : out0 + n]
    unit = kind(1)
    if number == GAUSSIAN:
        half, per_width = kind(-0.5), unit / one
        for k in range(n):
            x = (s - places[k]) * per_width
            e = exp(half * x * x)
            if order == 1:
                e *= -x * per_width
            elif order == 2:
                e *= (x * x - unit) * per_width * per_width
            out[k] = e
    elif number == BESSEL:
        for k in range(n):
            x = s * places[k]
            sine = np.sin(x) / s
            slope = (places[k] * np.cos(x) - sine) / s
            if order == 0:
                out[k] = one * sine
            elif order == 1:
                out[k] = one * slope
            else:
                out[k] = -one * (places[k] * places[k] * sine + (slope + slope) / s)
    else:
        y = exp(-one * s)
        for k in range(n):
            x, both = y - places[k], (one + one) * other
            e = exp(-other * x * x)
            if order == 1:
                e *= both * x * y
            elif order == 2:
                e *= both * x * y * both * x * y - one * both * y * (x + y)
            out[k] = e


@bare
def envelope(x, exponent):
    """u and du/dx at x = d/cutoff: the polynomial of that exponent, or the cosine if it is zero."""
    if x >= 1:
        return 0.0, 0.0
    if exponent == 0:
        return 0.5 * (np.cos(np.pi * x) + 1), -np.pi / 2 * np.sin(np.pi * x)
    p, power = exponent, 1.0
    for _ in range(p - 1):
        power *= x
    u = 1 - power * x * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return u, -p * (p + 1) * (p + 2) / 2 * power * (1 - x) * (1 - x)


@bare
def activate(number, order, x, x0, n, out, f0, slope0, curvature0):
    """φ of n numbers at x0 to f0, φ′ to slope0 if the order is one, and φ″ to curvature0 if it is two."""
    apart()
    one = x.dtype.type(1)
    two, own, f = one + one, x[x0 : x0 + n], out[f0 : f0 + n]
    slope, curvature = out[slope0 : slope0 + n], out[curvature0 : curvature0 + n]
    if number != SILU:
        _function(number, own, f, n)
        if order > 0:
            _slope(number, own, slope, n)
        if order > 1:
            _curvature(number, own, curvature, n)
    elif order == 0:
        for k in range(n):
            f[k] = own[k] / (one + exp(-own[k]))
    elif order == 1:
        for k in range(n):
            v = own[k]
            s = one / (one + exp(-v))
            f[k], slope[k] = v * s, s * (one + v * (one - s))
    else:
        for k in range(n):
            v = own[k]
            s = one / (one + exp(-v))
            f[k], slope[k] = v * s, s * (one + v * (one - s))
            curvature[k] = s * (one - s) * (two + v * (one - two * s))


@bare
def times(array, a0, b0, n, out0):
    """array[out0:] ← array[a0:] ∘ array[b0:], n numbers."""
    apart()
    a, b, out = array[a0 : a0 + n], array[b0 : b0 + n], array[out0 : out0 + n]
    for k in range(n):
        out[k] = a[k] * b[k]


@bare
def scale(array, a0, b0, n):
    """array[a0:] ← array[a0:] ∘ array[b0:], n numbers."""
    apart()
    a, b = array[a0 : a0 + n], array[b0 : b0 + n]
    for k in range(n):
        a[k] *= b[k]


@bare
def through_activation(array, bar0, of_g0, n, slope0, curvature0, dot0):
    """Both adjoints through an activation: B ← B φ′ + G φ″ ẋ, G ← G φ′."""
    apart()
    bar, of_g, slope = array[bar0 : bar0 + n], array[of_g0 : of_g0 + n], array[slope0 : slope0 + n]
    curvature, dot = array[curvature0 : curvature0 + n], array[dot0 : dot0 + n]
    for k in range(n):
        g = of_g[k]
        bar[k], of_g[k] = bar[k] * slope[k] + g * curvature[k] * dot[k], g * slope[k]
