"""How spherical tensors couple: Clebsch-Gordan coefficients of real harmonics, and products of many factors.

The coefficients are those of e3nn's `wigner_3j`, for the harmonics of `harmonics`: Frobenius norm one, and

    (x ⊗ y)_lm = √(2l + 1) Σ w_{m₁m₂m} x_{l₁m₁} y_{l₂m₂}

has components of the size of those of x and y. A tensor of degree l with natural parity changes by (−1)^l under
inversion; only products with l₁ + l₂ + l even keep that (R. Drautz, Phys. Rev. B 99, 014104 (2019)). Others turn
as tensors too, but have the other parity: 1 ⊗ 1 -> 1 is a cross product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from math import copysign, factorial, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Polynomial = dict[tuple[int, ...], Array]  # sorted components of the factors -> coefficient of each m


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Array:
    """w (2 l₁ + 1, 2 l₂ + 1, 2 l₃ + 1) of three degrees.

    Raises:
        ValueError: the degrees violate the triangle inequality.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"Degrees {l1}, {l2} do not couple to {l3}: that needs |l1 - l2| <= l3 <= l1 + l2.")
    complex_ = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1, m2 in itertools.product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        if abs(m1 + m2) <= l3:
            complex_[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3)
    one, two, three = _to_complex(l1), _to_complex(l2), _to_complex(l3).conj()
    w = np.einsum("abc,ai,bj,ck->ijk", complex_, one, two, three)
    assert np.abs(w.imag).max() < 1e-12
    real = w.real / np.linalg.norm(w.real)
    real[np.abs(real) < 1e-14] = 0
    real.setflags(write=False)
    return real


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """⟨l₁ m₁ l₂ m₂ | l₃ m₁ + m₂⟩ by Racah's formula (A. R. Edmonds, 1957, eq. 3.6.10)."""
    m3, f = m1 + m2, factorial
    whole = Fraction((2 * l3 + 1) * f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(l2 - l1 + l3), f(l1 + l2 + l3 + 1))
    whole *= f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    total = Fraction(0)
    for k in range(l1 + l2 - l3 + 1):
        rest = (l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        if min(rest) >= 0:
            total += Fraction((-1) ** k, f(k) * int(np.prod([f(n) for n in rest], dtype=object)))
    return sqrt(whole) * float(total)


def _to_complex(l: int) -> NDArray[np.complex128]:  # noqa: E741
    """Complex harmonics (rows, m = −l … l) of real ones (columns), times (−i)^l: so couplings are real."""
    q = np.zeros((2 * l + 1, 2 * l + 1), complex)
    q[l, l] = 1
    for m in range(1, l + 1):
        q[l - m, l + m], q[l - m, l - m] = sqrt(0.5), -1j * sqrt(0.5)
        q[l + m, l + m], q[l + m, l - m] = (-1) ** m * sqrt(0.5), 1j * (-1) ** m * sqrt(0.5)
    return (-1j) ** l * q


class Coupling(NamedTuple):
    """A nonzero coefficient: components m₁ and m₂ of the factors, m of the product, counted from 0."""

    m1: int
    m2: int
    m: int
    value: float


@cache
def couplings(l1: int, l2: int, l3: int) -> tuple[Coupling, ...]:
    """The nonzero √(2 l₃ + 1) w of x ⊗ y -> l₃."""
    w = sqrt(2 * l3 + 1) * wigner_3j(l1, l2, l3)
    return tuple(Coupling(int(a), int(b), int(c), _root(float(w[a, b, c]))) for a, b, c in np.argwhere(w))


def _root(x: float) -> float:
    """The root of a rational number that x is but for rounding: so equal coefficients are equal to the bit."""
    exact = copysign(sqrt(Fraction(x * x).limit_denominator(1_000_000)), x)
    assert abs(exact - x) < 1e-13
    return exact


@cache
def symmetric_products(
    degrees: tuple[int, ...], degree: int, order: int, *, parity: bool = True
) -> tuple[Polynomial, ...]:
    """Independent products of `order` factors of one tensor A to a tensor of one degree.

    Args:
        degrees: those of A, each once; components stand in this order, 2l + 1 of each.
        degree: of the products.
        order: number of factors; the products of order ν are the invariants of ν + 1 bodies.
        parity: only products of natural parity.

    Returns:
        Each product as a polynomial in the components of A. Together they span all symmetric products.
    """
    kept: list[Polynomial] = []
    basis: list[Array] = []
    for candidate in _trees(degrees, degree, order, parity):
        vector = _flat(candidate, sum(2 * n + 1 for n in degrees), order)
        rest = vector / max(float(np.linalg.norm(vector)), 1e-300)
        for _ in range(2):
            for other in basis:
                rest = rest - (rest @ other) * other
        if np.linalg.norm(rest) > 1e-8:
            basis.append(rest / np.linalg.norm(rest))
            kept.append(candidate)
    return tuple(kept)


def _trees(degrees: Sequence[int], degree: int, order: int, parity: bool) -> Iterator[Polynomial]:
    """All products ((A ⊗ A) ⊗ A) …, with parity those whose every step has the natural one."""
    first = dict(zip(degrees, np.cumsum([0, *(2 * n + 1 for n in degrees)]).tolist(), strict=False))
    single: dict[int, Polynomial] = {
        n: {(first[n] + m,): np.eye(2 * n + 1)[m] for m in range(2 * n + 1)} for n in degrees
    }
    if order == 1:
        if degree in single:
            yield single[degree]
        return
    for last, between in itertools.product(degrees, range(sum(degrees) + max(degrees) + 1)):
        is_odd = (last + between + degree) % 2 == 1
        if abs(last - between) <= degree <= last + between and not (parity and is_odd):
            for tree in _trees(degrees, between, order - 1, parity):
                product = _coupled(tree, between, single[last], last, degree)
                if product:
                    yield product


def _coupled(a: Polynomial, la: int, b: Polynomial, lb: int, degree: int) -> Polynomial:
    """The product of two polynomials in the same components."""
    w = sqrt(2 * degree + 1) * wigner_3j(la, lb, degree)
    out: Polynomial = {}
    for (one, x), (two, y) in itertools.product(a.items(), b.items()):
        key = tuple(sorted(one + two))
        out[key] = out.get(key, np.zeros(2 * degree + 1)) + np.einsum("a,b,abc->c", x, y, w)
    return {key: c for key, c in out.items() if np.abs(c).max() > 1e-12}


def _flat(polynomial: Polynomial, n_components: int, order: int) -> Array:
    monomials = {
        key: k for k, key in enumerate(itertools.combinations_with_replacement(range(n_components), order))
    }
    out = np.zeros((len(monomials), len(next(iter(polynomial.values())))))
    for key, c in polynomial.items():
        out[monomials[key]] = c
    return out.ravel()
