"""A learned propagator: positions and velocities of a molecule after a fixed interval, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from mlpot.propagators.frame_pairs import FramePairs
from mlpot.propagators.network import VelocityNetwork

FAR = 64.0  # Å; what is nearer to the origin keeps its bits


class Propagator(nn.Module):
    """A network with its elements and its interval, from Å and Å/fs to Å and Å/fs.

    With antisymmetric pairs, what comes out has the total momentum and angular momentum of what went in, by
    construction: `network.VelocityLayer` says how. Equivariant in any case.

    Args:
        arguments: of `VelocityNetwork`, without n_classes.
        elements: ascending atomic numbers that it knows; 0 for particles that are no atoms.
        interval: fs; units of the experiment for such particles.
    """

    def __init__(self, arguments: Mapping[str, Any], *, elements: Sequence[int], interval: float):
        super().__init__()
        self.arguments, self.elements, self.interval = dict(arguments), tuple(elements), interval
        self.network = VelocityNetwork(n_classes=len(elements), **arguments)
        self.header: dict[str, Any] = {}

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self.network.of_class.weight.dtype

    def classes(self, numbers: Tensor) -> Tensor:
        """The place of each atomic number among `elements`.

        Raises:
            ValueError: one that it does not know.
        """
        known = torch.tensor(self.elements, device=numbers.device)
        places = torch.searchsorted(known, numbers.contiguous()).clamp(max=len(known) - 1)
        if unknown := sorted(set(numbers[known[places] != numbers].tolist())):
            names, ours = (", ".join(chemical_symbols[z] for z in zs) for zs in (unknown, self.elements))
            raise ValueError(
                f"The propagator has not learned {names}, it knows {ours}. Train one on such structures."
            )
        return places

    def forward(
        self, classes: Tensor, charges: Tensor, masses: Tensor, positions: Tensor, velocities: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Positions and velocities after one interval.

        The network sees positions from the center of mass on, so that far from the origin it is as precise. With
        antisymmetric pairs it sees velocities from there too: the motion of the whole changes nothing else.

        Args:
            classes: (b, n) of `classes`.
            charges: (b, n).
            masses: (b, n) u.
            positions: (b, n, 3) Å.
            velocities: (b, n, 3) Å/fs.
        """
        share = (masses / masses.sum(1, keepdim=True)).unsqueeze(-1)
        center = (share * positions).sum(1, keepdim=True)
        drift = torch.zeros_like(center)
        if self.network.antisymmetric:
            drift = (share * velocities).sum(1, keepdim=True)
        own = (velocities - drift) * self.interval
        x, v = self.network(classes, charges, masses, positions - center, own)
        return x + center + drift * self.interval, v / self.interval + drift


def tensors_of(pairs: FramePairs, propagator: Propagator) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """What `Propagator.forward` takes, and the positions and velocities that it should find.

    Both are moved together, by whole multiples of `FAR`: float32 has 8e-3 Å at 1e5 Å from the origin.
    """
    origin = FAR * np.round(pairs.positions.mean(axis=1, keepdims=True) / FAR)
    arrays = (pairs.charges, pairs.masses, pairs.positions - origin, pairs.velocities)
    given = tuple(torch.as_tensor(a, dtype=propagator.dtype) for a in arrays)
    wanted = pairs.later_positions - origin, pairs.later_velocities
    x, v = (torch.as_tensor(a, dtype=propagator.dtype) for a in wanted)
    return (propagator.classes(torch.as_tensor(pairs.numbers)), *given), (x, v)
