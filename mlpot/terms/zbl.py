"""Universal screened nuclear repulsion, so that atoms pushed together are always pushed apart.

    E = ½ Σ_ij k Z_i Z_j / d_ij · φ(d_ij / a_ij) · u(d_ij / (R_i + R_j))
    a_ij = 0.8854 a_0 / (Z_i^0.23 + Z_j^0.23)

J. F. Ziegler, J. P. Biersack and U. Littmark, The Stopping and Range of Ions in Solids (1985). The envelope u
ends it at the sum of covalent radii R (B. Cordero et al., Dalton Trans. 2832 (2008)), where the learned part
takes over.
"""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.units import BOHR, HARTREE

SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def screened_repulsion(d: Tensor, z_i: Tensor, z_j: Tensor) -> Tensor:
    """The energy of two nuclei without an end, (n_edges,) eV, from their distance in Å and atomic numbers."""
    x = d * (z_i**0.23 + z_j**0.23) / (0.8854 * BOHR)
    screening = sum(c * torch.exp(-b * x) for c, b in SCREENING)
    return HARTREE * BOHR * z_i * z_j / d * screening


class ZBL(nn.Module):
    """Atomic energies (n_atoms,) eV of the screened Coulomb repulsion of nuclei."""

    radii: Tensor

    def __init__(self, cutoff: float):
        super().__init__()
        self.cutoff = cutoff  # Å; pairs are known up to here
        self.envelope = PolynomialEnvelope(1.0)
        self.register_buffer("radii", torch.as_tensor(covalent_radii, dtype=torch.float32))

    def ends(self, elements: tuple[int, ...]) -> Tensor:
        """Where the repulsion of two elements ends, (n_elements, n_elements) float64, Å."""
        radius = self.radii[list(elements)].double()
        return (radius[:, None] + radius).clamp(max=self.cutoff)

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        d = distances(vectors)
        charge, radius = numbers.to(d.dtype), gather(self.radii, numbers)
        z_i, z_j = gather(charge, edges.center), gather(charge, edges.neighbor)
        end = (gather(radius, edges.center) + gather(radius, edges.neighbor)).clamp(max=self.cutoff)
        pair = screened_repulsion(d, z_i, z_j) * self.envelope(d / end)
        return sum_at_centers(pair / 2, edges)
