"""Universal screened nuclear repulsion, so that atoms pushed together are always pushed apart.

    E = ½ Σ_ij k Z_i Z_j / d_ij · φ(d_ij / a_ij) · u(d_ij / (R_i + R_j))
    a_ij = 0.8854 a_0 / (Z_i^0.23 + Z_j^0.23)

J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of Ions in Solids (1985). The envelope u
ends it at the sum of covalent radii R (B. Cordero et al., Dalton Trans. 2832 (2008)), where the learned part
takes over.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.units import BOHR, HARTREE


class Form(NamedTuple):
    """Constants of the repulsion; other packages have others."""

    screening: tuple[tuple[float, float], ...]  # share and decay of each term of φ
    length: float  # Å, a_ij = length / (Z_i^power + Z_j^power)
    power: float
    charge: float  # eV Å, k
    exponent: int  # of the envelope


UNIVERSAL = Form(
    screening=((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162)),
    length=0.8854 * BOHR,
    power=0.23,
    charge=HARTREE * BOHR,
    exponent=6,
)


def screened_repulsion(d: Tensor, z_i: Tensor, z_j: Tensor, form: Form = UNIVERSAL) -> Tensor:
    """The energy of two nuclei without an end, (n_edges,) eV, from their distance in Å and atomic numbers."""
    x = d * (z_i**form.power + z_j**form.power) / form.length
    screening = sum(c * torch.exp(-b * x) for c, b in form.screening)
    return form.charge * z_i * z_j / d * screening


class ZBL(nn.Module):
    """Atomic energies (n_atoms,) eV of the screened Coulomb repulsion of nuclei."""

    radii: Tensor

    def __init__(self, cutoff: float, form: Form = UNIVERSAL):
        super().__init__()
        self.cutoff, self.form = cutoff, form  # Å; pairs are known up to the cutoff
        self.envelope = PolynomialEnvelope(1.0, form.exponent)
        if form == UNIVERSAL:
            self.register_buffer("radii", torch.as_tensor(covalent_radii, dtype=torch.float32))
        else:  # those of another package have all digits, and no file holds them
            exact = torch.tensor(covalent_radii, dtype=torch.float64, device="cpu")
            self.register_buffer("radii", exact, persistent=False)

    def ends(self, elements: tuple[int, ...]) -> Tensor:
        """Where the repulsion of two elements ends, (n_elements, n_elements) float64, Å."""
        radius = self.radii[list(elements)].double()
        return (radius[:, None] + radius).clamp(max=self.cutoff)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        d = distances(vectors)
        charge, radius = numbers.to(d.dtype), gather(self.radii, numbers)
        z_i, z_j = gather(charge, edges.center), gather(charge, edges.neighbor)
        end = (gather(radius, edges.center) + gather(radius, edges.neighbor)).clamp(max=self.cutoff)
        pair = screened_repulsion(d, z_i, z_j, self.form) * self.envelope(d / end)
        return sum_at_centers(pair / 2, edges)
