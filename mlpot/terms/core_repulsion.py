"""A wall around what was learned, for atoms that are closer, or lonelier, than any of the training.

    E = E_learned({φ(d_ij)}) + ½ Σ_ij [V(d_ij) − V(φ(d_ij))],    φ′(d) = S((d − low) / (high − low))

φ(d) is d beyond `high`, a little below the shortest distance of the two elements in training, and constant within
`low`: what a network makes of distances that nobody showed it is never asked. The rest of the way inwards, from
φ(d) to d, costs what the screened repulsion V of nuclei says (`zbl`). V falls, ever more slowly, and 0 ≤ φ′ ≤ 1,
so what is added rises strictly inwards, from nothing at `high`. S(x) = x⁴ (35 − 84x + 70x² − 20x³) rises from 0 to
1, and four derivatives of the energy are continuous.

Likewise the backbone's part of the energy of an atom with the crowd n = Σ_j u(φ(d_ij)) is multiplied by
S((n − low) / (high − low)), with `high` below every crowd of the training and never above that of two close
neighbours, `low` never above that of one. So a pair alone, which hardly a training set shows, is bound by what its
elements are bound by on average (the shift in `potential`), and where it is too close parted by nuclei.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.reductions import distances, gather, sum_at_centers
from mlpot.terms.zbl import screened_repulsion

# Of the shortest distance in training. What was learned is good for some way further in, and a steep wall that hot
# atoms touch needs short steps: it begins as late as it can and still be steep where covalent radii overlap.
EARLY, LATE, WIDTH = 0.99, 0.93, 0.13
OVERLAP = 1.1 * 0.8  # of the sum of covalent radii
FEW = 1.9  # two close neighbours; one is at most 1


class Seen(NamedTuple):
    """How close, and how lonely, atoms were in training."""

    nearest: Mapping[tuple[int, int], float]  # Å, by two atomic numbers, the smaller first; ΣR if they never met
    fewest: Mapping[int, float]  # Σ_j u(d_ij) by atomic number, of atoms that have neighbours at all


class Wall(nn.Module):
    """The edge vectors that a trained potential is shown, and what it costs to be closer."""

    distances: Tensor
    crowds: Tensor

    def __init__(self, n_elements: int):
        super().__init__()
        # Low and high; float64 whatever the type of the weights.
        self.register_buffer("distances", torch.empty(n_elements, n_elements, 2, dtype=torch.float64))  # Å
        self.register_buffer("crowds", torch.empty(n_elements, 2, dtype=torch.float64))

    @classmethod
    def of(cls, elements: tuple[int, ...], seen: Seen, cutoff: float) -> Wall:
        """The wall of a potential for some elements, sorted, that was trained on what is given."""
        wall = cls(len(elements))
        for i, a in enumerate(elements):
            for j, b in enumerate(elements):
                radii = float(covalent_radii[a] + covalent_radii[b])
                shortest = seen.nearest.get((min(a, b), max(a, b)), min(radii, cutoff))
                high = min(max(OVERLAP * radii, LATE * shortest), EARLY * shortest)
                wall.distances[i, j, 0], wall.distances[i, j, 1] = high - WIDTH * shortest, high
            wall.crowds[i, 1] = min(FEW, EARLY * seen.fewest.get(a, math.inf))
            wall.crowds[i, 0] = wall.crowds[i, 1] / FEW
        return wall

    def forward(self, numbers: Tensor, kind: Tensor, edges: Edges, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Edge vectors of length φ(d), (n_edges, 3) Å, and ½ Σ_j [V(d) − V(φ(d))], (n_atoms,) eV.

        Args:
            numbers: (n_atoms,) atomic numbers.
            kind: (n_atoms,) index of each atom's element.
            edges: the pairs.
            vectors: (n_edges, 3) Å.
        """
        pair = gather(kind, edges.center) * len(self.crowds) + gather(kind, edges.neighbor)
        low, high = (gather(limit.flatten().to(vectors.dtype), pair) for limit in self.distances.unbind(-1))
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

    def share(self, kind: Tensor, crowd: Tensor) -> Tensor:
        """How much of the backbone's part counts, (n_atoms,), from 0 to 1, of elements with so many neighbours."""
        low, high = gather(self.crowds.to(crowd.dtype), kind).unbind(-1)
        x = ((crowd - low) / (high - low)).clamp(0, 1)
        return x**4 * (35 - x * (84 - x * (70 - x * 20)))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        exact = self.distances, self.crowds
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.distances, self.crowds = (limits.to(self.crowds.device) for limits in exact)
        return self
