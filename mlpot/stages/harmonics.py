"""Real spherical harmonics to degree 3 with their gradients, as e3nn has them.

Components of degree l stand from l² to (l + 1)², m = −l … l about the y axis, so that degree 1 is √3 (x, y, z).
They are normalized by component: Σ_m Y_lm² = 2l + 1 (M. Geiger and T. Smidt, arXiv 2207.09453).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mlpot.stages.constants import constants

MAX_DEGREE = 3
N_HARMONICS = (MAX_DEGREE + 1) ** 2

_S = {n: n**0.5 for n in (3, 5, 7, 15, 105)}
_A, _B = (35 / 8) ** 0.5, (21 / 8) ** 0.5

POLYNOMIALS: tuple[dict[tuple[int, int, int], float], ...] = (
    {(0, 0, 0): 1.0},
    {(1, 0, 0): _S[3]},
    {(0, 1, 0): _S[3]},
    {(0, 0, 1): _S[3]},
    {(1, 0, 1): _S[15]},
    {(1, 1, 0): _S[15]},
    {(0, 2, 0): 1.5 * _S[5], (0, 0, 0): -0.5 * _S[5]},
    {(0, 1, 1): _S[15]},
    {(0, 0, 2): _S[15] / 2, (2, 0, 0): -_S[15] / 2},
    {(1, 0, 2): 3 * _A, (3, 0, 0): -_A},
    {(1, 1, 1): _S[105]},
    {(1, 2, 0): 5 * _B, (1, 0, 0): -_B},
    {(0, 3, 0): 2.5 * _S[7], (0, 1, 0): -1.5 * _S[7]},
    {(0, 2, 1): 5 * _B, (0, 0, 1): -_B},
    {(0, 1, 2): _S[105] / 2, (2, 1, 0): -_S[105] / 2},
    {(0, 0, 3): _A, (2, 0, 1): -3 * _A},
)
"""Each harmonic of a unit vector (x, y, z): powers of x, y, z -> coefficient."""


def degree_of(component: int) -> int:
    """l of the component l² + l + m."""
    return int(component**0.5)


def harmonics(u: Tensor) -> Tensor:
    """Y_b of unit vectors u (n, 3): (n, 16)."""
    return _monomials(u) @ _coefficients(u)[0]


def harmonic_gradients(u: Tensor, d: Tensor) -> Tensor:
    """∂Y_b(r/d)/∂r = (∂Y_b/∂u) (1 − u uᵀ) / d at r = d u: (n, 16, 3) from (n, 3) and (n,)."""
    slopes = torch.stack([_monomials(u) @ c for c in _coefficients(u)[1:]], dim=2)
    along = (slopes * u[:, None]).sum(2, keepdim=True)
    return (slopes - along * u[:, None]) / d[:, None, None]


def harmonics_along(u: Tensor, d: Tensor, motion: Tensor) -> Tensor:
    """Ẏ_b = ∂Y_b/∂r · ṙ of motions ṙ (n, 3): (n, 16), without the gradients in memory."""
    turned = (motion - (u * motion).sum(1, keepdim=True) * u) / d[:, None]
    monomials = _monomials(u)
    parts = [turned[:, axis, None] * (monomials @ c) for axis, c in enumerate(_coefficients(u)[1:])]
    return parts[0] + parts[1] + parts[2]


def pulled_back(u: Tensor, d: Tensor, y_bar: Tensor) -> Tensor:
    """Σ_b Ȳ_b ∂Y_b/∂r of adjoints Ȳ (n, 16): (n, 3), likewise."""
    monomials = _monomials(u)
    slopes = torch.stack([(monomials * (y_bar @ c.T)).sum(1) for c in _coefficients(u)[1:]], dim=1)
    return (slopes - (slopes * u).sum(1, keepdim=True) * u) / d[:, None]


def _monomials(u: Tensor) -> Tensor:
    """All products of powers of x, y, z to degree 3, (n, 20)."""
    x, y, z = ([torch.ones_like(c), c, c * c, c * c * c] for c in u.unbind(1))
    return torch.stack([x[i] * y[j] * z[k] for i, j, k in _powers()], dim=1)


@cache
def _powers() -> tuple[tuple[int, int, int], ...]:
    numbers = range(MAX_DEGREE + 1)
    return tuple((i, j, k) for i in numbers for j in numbers for k in numbers if i + j + k <= MAX_DEGREE)


@cache
def _exact() -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Coefficients of the harmonics and of their derivatives by x, y and z, (4, 20, 16)."""
    place = {powers: k for k, powers in enumerate(_powers())}
    out = [[[0.0] * N_HARMONICS for _ in place] for _ in range(4)]
    for b, polynomial in enumerate(POLYNOMIALS):
        for powers, c in polynomial.items():
            out[0][place[powers]][b] += c
            for axis, power in enumerate(powers):
                if power > 0:
                    px, py, pz = (p - (q == axis) for q, p in enumerate(powers))
                    out[1 + axis][place[px, py, pz]][b] += power * c
    return tuple(tuple(map(tuple, rows)) for rows in out)


def _coefficients(like: Tensor) -> Tensor:
    return constants(_exact(), like.dtype, like.device)
