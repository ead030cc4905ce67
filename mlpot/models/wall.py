"""A wall for atoms that come closer than any of the training: the learned part stops, and nuclei take over.

    E = E_learned({φ(d_ij)}) + ½ Σ_ij [V(d_ij) − V(φ(d_ij))],    φ′(d) = S((d − low) / (high − low))

φ(d) is d beyond `high`, a little below the shortest distance of the two elements in training, and constant within
`low`: what a network makes of distances that nobody showed it is never asked. The rest of the way inwards, from
φ(d) to d, costs what the screened repulsion V of nuclei says (`zbl`). V falls, ever more slowly, and 0 ≤ φ′ ≤ 1,
so what is added rises strictly inwards, from nothing at `high`. S(x) = x⁴ (35 − 84x + 70x² − 20x³) rises from 0 to
1, and four derivatives of the energy are continuous.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.models.zbl import screened_repulsion

LOW, HIGH = 0.9, 0.99  # of the shortest distance in training


class Wall(nn.Module):
    """The edge vectors that a trained potential is shown, and what it costs to be closer."""

    limits: Tensor

    def __init__(self, n_elements: int):
        super().__init__()
        # Low and high, Å; float64 whatever the type of the weights.
        self.register_buffer("limits", torch.empty(n_elements, n_elements, 2, dtype=torch.float64))

    @classmethod
    def of(cls, elements: tuple[int, ...], nearest: Mapping[tuple[int, int], float], cutoff: float) -> Wall:
        """The wall of a trained potential.

        Args:
            elements: sorted atomic numbers.
            nearest: Å, shortest distance of two elements, the smaller number first; those that never met are held
                apart at the sum of their covalent radii.
            cutoff: Å.
        """
        wall = cls(len(elements))
        for i, a in enumerate(elements):
            for j, b in enumerate(elements):
                unseen = min(float(covalent_radii[a] + covalent_radii[b]), cutoff)
                shortest = nearest.get((min(a, b), max(a, b)), unseen)
                wall.limits[i, j, 0], wall.limits[i, j, 1] = LOW * shortest, HIGH * shortest
        return wall

    def forward(self, numbers: Tensor, kind: Tensor, edges: Edges, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Edge vectors of length φ(d), (n_edges, 3) Å, and ½ Σ_j [V(d) − V(φ(d))], (n_atoms,) eV.

        Args:
            numbers: (n_atoms,) atomic numbers.
            kind: (n_atoms,) index of each atom's element.
            edges: the pairs.
            vectors: (n_edges, 3) Å.
        """
        pair = gather(kind, edges.center) * len(self.limits) + gather(kind, edges.neighbor)
        low, high = (gather(limit.flatten().to(vectors.dtype), pair) for limit in self.limits.unbind(-1))
        close = distances(vectors.detach()) < high
        if not torch.compiler.is_compiling() and not bool(close.any()):  # nearly always
            return vectors, vectors.new_zeros(len(numbers))
        d = distances(vectors)
        x = ((d - low) / (high - low)).clamp(0, 1)
        path = x**5 * (7 - x * (14 - x * (10 - x * 2.5)))  # ∫S
        seen = torch.where(close, (low + high) / 2 + (high - low) * path, d)
        charge = numbers.to(d.dtype)
        z_i, z_j = gather(charge, edges.center), gather(charge, edges.neighbor)
        cost = screened_repulsion(d, z_i, z_j) - screened_repulsion(seen, z_i, z_j)
        return vectors * torch.where(close, seen / d, 1.0)[:, None], sum_at_centers(cost / 2, edges)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        limits = self.limits
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.limits = limits.to(self.limits.device)
        return self
