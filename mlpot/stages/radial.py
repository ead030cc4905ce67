"""Functions of a distance: radial bases, and envelopes that end them smoothly at the cutoff."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn


class Basis(Protocol):
    """Functions of a distance that differ in one number each, with their first two derivatives."""

    @property
    def places(self) -> Tensor:
        """(n_radial,), that number: a center or a frequency."""
        ...

    @property
    def constants(self) -> tuple[float, float]:
        """What all functions share."""
        ...

    def derivative(self, d: Tensor, order: int, places: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial) of order 0, 1 or 2, in Å to the minus that order."""
        ...


class Envelope(Protocol):
    """A function that ends at a cutoff."""

    cutoff: float  # Å

    def __call__(self, d: Tensor) -> Tensor: ...

    def slope(self, d: Tensor) -> Tensor:
        """Its derivative, 1/Å."""
        ...


def _even(first: float, last: float, n: int) -> Tensor:
    """Numbers an equal distance apart; on device "meta" linspace itself takes a second to import what it needs."""
    numbers = torch.linspace(first, last, n, dtype=torch.float32, device="cpu")
    return numbers.to(torch.get_default_device())


class GaussianBasis(nn.Module):
    """e_k(d) = exp(−(d − μ_k)² / 2w²), centers μ_k evenly over [0, cutoff], w their distance.

    K. T. Schütt et al., NeurIPS 30 (2017), section 4.2.

    Raises:
        ValueError: one alone, which has no distance to another.
    """

    centers: Tensor

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        if n_radial < 2:
            raise ValueError(
                f"n_radial is {n_radial}: Gaussians are as wide as they are apart, which needs two. "
                "Give more, or another radial basis."
            )
        self.register_buffer("centers", _even(0, cutoff, n_radial))
        self.width = cutoff / (n_radial - 1)  # Å

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        return self.derivative(d, 0, self.centers)

    @property
    def places(self) -> Tensor:
        """μ, Å."""
        return self.centers

    @property
    def constants(self) -> tuple[float, float]:
        """w, Å."""
        return self.width, 0.0

    def derivative(self, d: Tensor, order: int, places: Tensor) -> Tensor:
        """See `Basis`."""
        x = (d[:, None] - places) / self.width
        e = torch.exp(-0.5 * x.square())
        if order == 0:
            return e
        return -x * e / self.width if order == 1 else (x.square() - 1) * e / self.width**2


class BesselBasis(nn.Module):
    """e_k(d) = √(2/c) sin(kπd/c) / d, k = 1 … n_radial.

    J. Gasteiger et al., ICLR 2020, eq. 7.
    """

    frequencies: Tensor

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        whole = torch.arange(1, n_radial + 1, dtype=torch.float32, device="cpu")  # as in `_even`
        self.register_buffer("frequencies", (whole * math.pi / cutoff).to(torch.get_default_device()))
        self.prefactor = math.sqrt(2 / cutoff)

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        return self.derivative(d, 0, self.frequencies)

    @property
    def places(self) -> Tensor:
        """kπ/c, 1/Å."""
        return self.frequencies

    @property
    def constants(self) -> tuple[float, float]:
        """√(2/c)."""
        return self.prefactor, 0.0

    def derivative(self, d: Tensor, order: int, places: Tensor) -> Tensor:
        """See `Basis`."""
        d, sine = d[:, None], torch.sin(d[:, None] * places)
        if order == 0:
            return self.prefactor * sine / d
        slope = places * torch.cos(d * places) - sine / d
        if order == 1:
            return self.prefactor * slope / d
        return -self.prefactor * (places.square() * sine + 2 * slope / d) / d


class ExpNormalBasis(nn.Module):
    """e_k(d) = exp(−β (exp(−αd) − μ_k)²), α = 5/c, μ_k evenly over [exp(−αc), 1]: finer where atoms are close.

    O. T. Unke and M. Meuwly, J. Chem. Theory Comput. 15, 3678 (2019), eq. 7.
    """

    centers: Tensor

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        self.alpha = 5.0 / cutoff  # 1/Å
        first = math.exp(-self.alpha * cutoff)
        self.register_buffer("centers", _even(first, 1, n_radial))
        self.beta = (2 / n_radial * (1 - first)) ** -2

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        return self.derivative(d, 0, self.centers)

    @property
    def places(self) -> Tensor:
        """μ."""
        return self.centers

    @property
    def constants(self) -> tuple[float, float]:
        """α in 1/Å, and β."""
        return self.alpha, self.beta

    def derivative(self, d: Tensor, order: int, places: Tensor) -> Tensor:
        """See `Basis`."""
        y = torch.exp(-self.alpha * d)[:, None]
        x = y - places
        e = torch.exp(-self.beta * x.square())
        if order == 0:
            return e
        slope = 2 * self.alpha * self.beta * x * y  # of ln e
        return (
            slope * e
            if order == 1
            else (slope.square() - self.alpha * (slope + 2 * self.alpha * self.beta * y * y)) * e
        )


class PolynomialEnvelope(nn.Module):
    """u(x) = 1 − (p+1)(p+2)/2 xᵖ + p(p+2) xᵖ⁺¹ − p(p+1)/2 xᵖ⁺², x = d/cutoff; zero beyond.

    Value, first and second derivative vanish at the cutoff (C2). J. Gasteiger et al., ICLR 2020, eq. 8.
    """

    def __init__(self, cutoff: float, exponent: int = 6):
        super().__init__()
        self.cutoff, self.exponent = cutoff, exponent

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges,)."""
        p = self.exponent
        x = (d / self.cutoff).clamp(max=1.0)
        xp = x**p
        u = 1 - xp * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
        return torch.where(d < self.cutoff, u, 0.0)

    def slope(self, d: Tensor) -> Tensor:
        """u′, (n_edges,) Å -> (n_edges,) 1/Å."""
        p = self.exponent
        x = (d / self.cutoff).clamp(max=1.0)
        return -p * (p + 1) * (p + 2) / (2 * self.cutoff) * x ** (p - 1) * (1 - x).square()


class CosineEnvelope(nn.Module):
    """u(d) = (cos(πd/c) + 1) / 2, zero beyond the cutoff.

    Only C1: its second derivative jumps at the cutoff, and with it the Hessian. J. Behler, J. Chem. Phys.
    134, 074106 (2011), eq. 4.
    """

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = cutoff

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges,)."""
        x = (d / self.cutoff).clamp(max=1.0)
        return 0.5 * (torch.cos(math.pi * x) + 1)

    def slope(self, d: Tensor) -> Tensor:
        """u′, (n_edges,) Å -> (n_edges,) 1/Å."""
        x = (d / self.cutoff).clamp(max=1.0)
        return -math.pi / (2 * self.cutoff) * torch.sin(math.pi * x)


class Enveloped(nn.Module):
    """e_k(d) u(d): a radial basis that ends smoothly before anything else is done with it."""

    def __init__(self, basis: nn.Module, envelope: nn.Module):
        super().__init__()
        self.basis, self.envelope = basis, envelope

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        product: Tensor = self.basis(d) * self.envelope(d)[:, None]
        return product


BASES = {"gaussian": GaussianBasis, "bessel": BesselBasis, "expnormal": ExpNormalBasis}
ENVELOPES = {"polynomial": PolynomialEnvelope, "cosine": CosineEnvelope}
