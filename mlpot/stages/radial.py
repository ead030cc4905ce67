"""Functions of a distance: radial bases, and envelopes that end them smoothly at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def _even(first: float, last: float, n: int) -> Tensor:
    """Numbers an equal distance apart; on device "meta" linspace itself takes a second to import what it needs."""
    numbers = torch.linspace(first, last, n, dtype=torch.float32, device="cpu")
    return numbers.to(torch.get_default_device())


class GaussianBasis(nn.Module):
    """e_k(d) = exp(−(d − μ_k)² / 2w²), centers μ_k evenly over [0, cutoff], w their distance.

    K. T. Schütt et al., NeurIPS 30 (2017), section 4.2.
    """

    centers: Tensor

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        self.register_buffer("centers", _even(0, cutoff, n_radial))
        self.width = cutoff / (n_radial - 1)  # Å

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        return torch.exp(-0.5 * ((d[:, None] - self.centers) / self.width).square())


class BesselBasis(nn.Module):
    """e_k(d) = √(2/c) sin(kπd/c) / d, k = 1 … n_radial.

    J. Gasteiger et al., ICLR 2020, eq. 7.
    """

    frequencies: Tensor

    def __init__(self, n_radial: int, cutoff: float):
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1, n_radial + 1, dtype=torch.float32) * math.pi / cutoff)
        self.prefactor = math.sqrt(2 / cutoff)

    def forward(self, d: Tensor) -> Tensor:
        """(n_edges,) Å -> (n_edges, n_radial)."""
        return self.prefactor * torch.sin(d[:, None] * self.frequencies) / d[:, None]


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
        return torch.exp(-self.beta * (torch.exp(-self.alpha * d)[:, None] - self.centers).square())


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


BASES = {"gaussian": GaussianBasis, "bessel": BesselBasis, "expnormal": ExpNormalBasis}
ENVELOPES = {"polynomial": PolynomialEnvelope, "cosine": CosineEnvelope}
