"""Core repulsion: what replaces the network where atoms are closer than in training, or have fewer neighbors.

    E = E_learned({φ(d_ij)}) + ½ Σ_ij k [V(d_ij) − V(φ(d_ij))],    φ′(d) = S((d − low) / (high − low))

φ(d) equals d beyond `high`, a little below the shortest distance of the two elements in training, and is constant
below `low`. The network receives this effective distance, never one that is shorter than those it was trained on.
The difference between φ(d) and d costs the screened repulsion V of the nuclei (`zbl`), times k ≥ 1 where that is
soft. V falls, ever more slowly, and 0 ≤ φ′ ≤ 1, so the added energy is zero at `high` and rises strictly as d
decreases.
S(x) = x⁴ (35 − 84x + 70x² − 20x³) rises from 0 to 1, and four derivatives of the energy are continuous.

The coordination of an atom is n = Σ_j u(φ(d_ij)). The backbone's part of its energy is multiplied by
S((n − low) / (high − low)). `high` lies below every coordination in training and is at most that of two close
neighbors; `low` is at most that of one. So an isolated pair, which few training sets contain, is bound by the mean
binding energy of its elements (`energy_shift` in `potential`), and repelled by its nuclei where it is too close.
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

# Fractions of the shortest distance in training. The network is still accurate a little below that distance, and a
# steep repulsion that hot atoms reach needs short time steps: so it begins as far inside as it can, but is steep
# where covalent radii overlap.
EARLY, LATE, WIDTH = 0.99, 0.93, 0.13
OVERLAP = 1.1 * 0.8  # of the sum of covalent radii
SOFT, MOST = 3.0, 4.0
"""eV/Å, the least force of kV at `high`, as far as a k of 4 goes. What a network does not see of two atoms, it
does not resist either: V of two H on one C, at 1.4 Å, is softer than their angle, which a network of distances
would let close. Elements that training shows far apart alone do not repel there."""
FEW = 1.9  # coordination of two close neighbors; that of one is at most 1


class TrainingLimits(NamedTuple):
    """The shortest distances and lowest coordinations of the training structures."""

    # Å, by two atomic numbers, the smaller first; the sum of covalent radii stands in for absent pairs.
    distance: Mapping[tuple[int, int], float]
    coordination: Mapping[int, float]  # Σ_j u(d_ij) by atomic number, of atoms that have neighbors


class CoreRepulsion(nn.Module):
    """Edge vectors no shorter than those of training, and the energy of the difference."""

    distances: Tensor
    coordination: Tensor
    strength: Tensor

    def __init__(self, n_elements: int):
        super().__init__()
        # `low` and `high` of each pair and of each element; float64 whatever the type of the weights.
        self.register_buffer("distances", torch.empty(n_elements, n_elements, 2, dtype=torch.float64))  # Å
        self.register_buffer("coordination", torch.empty(n_elements, 2, dtype=torch.float64))
        self.register_buffer("strength", torch.ones(n_elements, n_elements, dtype=torch.float64))  # k

    @classmethod
    def of(cls, elements: tuple[int, ...], limits: TrainingLimits, cutoff: float) -> CoreRepulsion:
        """The core repulsion for elements (atomic numbers, sorted), from the limits of the training structures."""
        out = cls(len(elements))
        for i, a in enumerate(elements):
            for j, b in enumerate(elements):
                radii = float(covalent_radii[a] + covalent_radii[b])
                shortest = limits.distance.get((min(a, b), max(a, b)), min(radii, cutoff))
                high = min(max(OVERLAP * radii, LATE * shortest), EARLY * shortest)
                out.distances[i, j, 0], out.distances[i, j, 1] = high - WIDTH * shortest, high
                out.strength[i, j] = max(1.0, SOFT / max(_force(high, a, b), SOFT / MOST))
            out.coordination[i, 1] = min(FEW, EARLY * limits.coordination.get(a, math.inf))
            out.coordination[i, 0] = out.coordination[i, 1] / FEW
        return out

    def keep(
        self,
        former: CoreRepulsion,
        elements: tuple[int, ...],
        known: tuple[int, ...],
        limits: TrainingLimits | None,
    ) -> None:
        """Take over that of an earlier training on other structures, between the elements that it knew.

        Args:
            former: of the earlier training.
            elements: of this one.
            known: elements of the former.
            limits: of the structures of this one; where they lie further inside, this one stays. None: nowhere.
        """
        for i, a in enumerate(known):
            k = elements.index(a)
            if limits is None or self.coordination[k, 1] >= former.coordination[i, 1]:
                self.coordination[k] = former.coordination[i]
            for j, b in enumerate(known):
                low, high = former.distances[i, j].tolist()
                shortest = math.inf if limits is None else limits.distance.get((min(a, b), max(a, b)), math.inf)
                if shortest * WIDTH > high - low - 1e-9:
                    self.distances[k, elements.index(b)] = former.distances[i, j]
                    self.strength[k, elements.index(b)] = former.strength[i, j]

    def forward(self, numbers: Tensor, kind: Tensor, edges: Edges, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Edge vectors of length φ(d), (n_edges, 3) Å, and ½ Σ_j k [V(d) − V(φ(d))], (n_atoms,) eV.

        Args:
            numbers: (n_atoms,) atomic numbers.
            kind: (n_atoms,) index of each atom's element.
            edges: the pairs.
            vectors: (n_edges, 3) Å.
        """
        pair = gather(kind, edges.center) * len(self.coordination) + gather(kind, edges.neighbor)
        low, high = (gather(limit.flatten().to(vectors.dtype), pair) for limit in self.distances.unbind(-1))
        close = distances(vectors.detach()) < high
        if not close.is_cuda and not torch.compiler.is_compiling() and not bool(close.any()):  # nearly always
            return vectors, vectors.new_zeros(len(numbers))
        d = distances(vectors)
        x = ((d - low) / (high - low)).clamp(0, 1)
        path = x**5 * (7 - x * (14 - x * (10 - x * 2.5)))  # ∫S
        effective = torch.where(close, (low + high) / 2 + (high - low) * path, d)
        charge = numbers.to(d.dtype)
        z_i, z_j = gather(charge, edges.center), gather(charge, edges.neighbor)
        k = gather(self.strength.flatten().to(d.dtype), pair)
        cost = k * (screened_repulsion(d, z_i, z_j) - screened_repulsion(effective, z_i, z_j))
        return vectors * torch.where(close, effective / d, 1.0)[:, None], sum_at_centers(cost / 2, edges)

    def backbone_weight(self, kind: Tensor, coordination: Tensor) -> Tensor:
        """The factor of the backbone's energy, (n_atoms,), from 0 to 1, from coordinations (n_atoms,)."""
        low, high = gather(self.coordination.to(coordination.dtype), kind).unbind(-1)
        x = ((coordination - low) / (high - low)).clamp(0, 1)
        return x**4 * (35 - x * (84 - x * (70 - x * 20)))

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        exact = self.distances, self.coordination, self.strength
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.distances, self.coordination, self.strength = (
            limits.to(self.coordination.device) for limits in exact
        )
        return self


def _force(distance: float, z_i: int, z_j: int) -> float:
    """−V′ of two elements, eV/Å, at a distance in Å."""
    step = 1e-4
    d = torch.tensor([distance - step, distance + step], dtype=torch.float64, device="cpu")
    one, other = (torch.full_like(d, z) for z in (z_i, z_j))
    nearer, farther = screened_repulsion(d, one, other).tolist()
    return float(nearer - farther) / (2 * step)
