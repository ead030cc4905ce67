"""Radial functions equal their formulas, are smooth, and end at the cutoff as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from differences import derivative
from structures import worst
from torch import Tensor

from mlpot.stages.radial import (
    BASES,
    ENVELOPES,
    BesselBasis,
    CosineEnvelope,
    ExpNormalBasis,
    GaussianBasis,
    PolynomialEnvelope,
)

C = 5.0  # Å
D = torch.linspace(0.3, C, 200, dtype=torch.float64)


def derivatives(f, at: float, n: int) -> list[float]:  # type: ignore[no-untyped-def]
    """f, f', … at a point, by automatic differentiation."""
    d = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    value: Tensor = f(d).sum()
    out = [value.item()]
    for _ in range(n):
        (value,) = torch.autograd.grad(value, d, create_graph=True)
        out.append(value.item())
    return out


def test_gaussians_are_those_of_the_formula() -> None:
    basis = GaussianBasis(11, C).double()
    d = D.numpy()[:, None]
    assert worst(basis(D), np.exp(-((d - 0.5 * np.arange(11)) ** 2) / (2 * 0.5**2))) < 1e-14


def test_bessel_functions_are_orthonormal_and_vanish_at_the_cutoff() -> None:
    basis = BesselBasis(6, C).double()
    d = (torch.arange(20000, dtype=torch.float64) + 0.5) * C / 20000
    e = basis(d) * d[:, None]  # over the ball, ∫ e_k e_l d² dd = δ_kl
    assert worst(e.T @ e * C / 20000, np.eye(6)) < 1e-6
    assert worst(basis(torch.tensor([C], dtype=torch.float64)), 0.0) < 1e-6


def test_exponential_normal_functions_are_those_of_the_formula() -> None:
    n, first = 8, math.exp(-5.0)
    centers, beta = np.linspace(first, 1, n), (2 / n * (1 - first)) ** -2
    expected = np.exp(-beta * (np.exp(-D.numpy()[:, None]) - centers) ** 2)
    assert worst(ExpNormalBasis(n, C).double()(D), expected) < 1e-6  # centers are made in float32


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_basis_has_one_value_a_function_and_the_type_of_its_distances(name: str, dtype: torch.dtype) -> None:
    basis = BASES[name](7, C).to(dtype)
    out = basis(D.to(dtype))
    assert out.shape == (200, 7)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert basis(D[:0].to(dtype)).shape == (0, 7)


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_falls_from_one_to_zero(name: str) -> None:
    envelope = ENVELOPES[name](C)
    d = torch.linspace(0, C, 1001, dtype=torch.float64)
    u = envelope(d)
    assert u[0].item() == pytest.approx(1, abs=1e-12)
    assert u[-1].item() == pytest.approx(0, abs=1e-12)
    assert (u.diff() <= 1e-15).all()
    assert worst(envelope(torch.tensor([C, C + 1e-9, 2 * C, 1e3], dtype=torch.float64)), 0.0) < 1e-30


@pytest.mark.parametrize("exponent", [3, 6, 9])
def test_the_polynomial_envelope_is_c2_at_the_cutoff(exponent: int) -> None:
    u, up, upp, uppp = derivatives(PolynomialEnvelope(C, exponent), C - 1e-9, 3)
    assert max(abs(u), abs(up)) < 1e-13
    assert abs(upp) < 1e-6  # u‴ times the 1e-9 Å that are left
    assert uppp == pytest.approx(-exponent * (exponent + 1) * (exponent + 2) / C**3, rel=1e-6)
    assert derivatives(PolynomialEnvelope(C, exponent), C + 1e-9, 2) == [0, 0, 0]


def test_the_cosine_envelope_is_only_c1_at_the_cutoff() -> None:
    u, up, upp = derivatives(CosineEnvelope(C), C - 1e-9, 2)
    assert max(abs(u), abs(up)) < 1e-9
    assert upp == pytest.approx(math.pi**2 / (2 * C**2), rel=1e-6)
    assert derivatives(CosineEnvelope(C), C + 1e-9, 2)[1:] == [0, 0]


@pytest.mark.parametrize("function", [*BASES, *ENVELOPES])
def test_every_radial_function_has_the_derivative_it_claims(function: str) -> None:
    f = BASES[function](6, C).double() if function in BASES else ENVELOPES[function](C)
    for at in (0.4, 1.7, 3.3, 4.9):
        expected = derivative(
            lambda steps, at=at: f(torch.tensor(steps, dtype=torch.float64) + at).numpy(), 1e-3, 6
        )
        claimed = torch.autograd.functional.jacobian(f, torch.tensor([at], dtype=torch.float64))
        assert worst(claimed.flatten(), np.ravel(expected)) < 1e-9
