"""A network averaged over rotated copies of a structure: it rotates with it as far as these are a group.

    b_i = 1/|G| Σ_{g in G} b_i(numbers, edges, g · vectors)

For a finite group G the mean is exactly invariant under G, as an element of it reorders the sum (the groups of the
cube and the icosahedron, see `rotations`); under other rotations the less is left, the finer G is. All copies are
one batch, and the cost is |G| times that of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.models.backbone import Backbone
from mlpot.models.layers import choose
from mlpot.rotations import GENERATORS, Matrices, group, random_rotations

RANDOM = "random"
GROUPS = (*GENERATORS, RANDOM)


def matrices(over: str, *, reflections: bool, n_rotations: int, seed: int) -> Matrices:
    """The rotations of copies, (n, 3, 3); of random ones with reflections each and its inversion.

    Raises:
        ValueError: no such group.
    """
    choose(dict.fromkeys(GROUPS), over, "group")
    if over != RANDOM:
        return group(over, reflections=reflections)
    rotations = random_rotations(n_rotations, np.random.default_rng(seed))
    return np.concatenate([rotations, -rotations]) if reflections else rotations


class Averaged(nn.Module):
    """The mean of a network over rotations of the structure.

    Args:
        network: that is averaged.
        over: a finite group, "octahedral" (24 rotations) or "icosahedral" (60), or "random": fixed random ones.
        reflections: with inverted copies too, twice as many; then mirror images have one energy.
        n_rotations: of random ones.
        seed: of random ones.

    Raises:
        ValueError: no such group.
    """

    def __init__(
        self, network: Backbone, *, over: str, reflections: bool = False, n_rotations: int = 60, seed: int = 1
    ):
        super().__init__()
        self.network, self.cutoff, self.reflections = network, network.cutoff, reflections
        # Not a tensor of the module: in float64 whatever the weights are, and in no file, as arguments give it.
        self.rotations = matrices(over, reflections=reflections, n_rotations=n_rotations, seed=seed)
        self.parity, self.equivariant = network.parity, network.equivariant

    @property
    def readout(self) -> nn.Module:
        """That of the network; its first rows are of the first copy, with a finite group the structure itself."""
        return self.network.readout

    @property
    def n_passes(self) -> int:
        """As of the network."""
        return self.network.n_passes

    def native_obstacle(self) -> str | None:
        """Copies are made and averaged by PyTorch."""
        return f"{len(self.rotations)} rotated copies are averaged"

    def handedness_obstacle(self) -> str | None:
        """That of the network, or that copies are reflected."""
        if self.parity:
            return None
        removed = "it is averaged over copies with reflections, which removes handedness"
        return removed if self.reflections else self.network.handedness_obstacle()

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """As those of the network."""
        own = self.network.widened({name.removeprefix("network."): w for name, w in weights.items()}, elements)
        return {f"network.{name}": weight for name, weight in own.items()}

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å."""
        rotations = torch.tensor(self.rotations, dtype=vectors.dtype, device=vectors.device)
        rotated = torch.einsum("gab,eb->gea", rotations, vectors).reshape(-1, 3)
        out = self.network(numbers.repeat(len(rotations)), copies(edges, len(rotations)), rotated)
        return out.view(len(rotations), -1).mean(0)


def copies(edges: Edges, n: int) -> Edges:
    """The edges of n copies of all atoms, one copy after the other."""
    copy = torch.arange(n, device=edges.center.device)[:, None]
    atom0, edge0 = copy * edges.n_atoms, copy * len(edges)
    return Edges(
        center=(edges.center + atom0).flatten(),
        neighbor=(edges.neighbor + atom0).flatten(),
        row_ptr=torch.cat([edges.row_ptr[:1], (edges.row_ptr[1:] + edge0).flatten()]),
        reverse=(edges.reverse + edge0).flatten(),
    )
