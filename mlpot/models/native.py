"""What native calls know of the elements of a potential, and of periodic images."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.graph import AtomGraph
from mlpot.kernels import loops
from mlpot.kernels.ops import loops_obstacle
from mlpot.models.layers import MAX_Z
from mlpot.terms.core_repulsion import CoreRepulsion
from mlpot.terms.zbl import UNIVERSAL, ZBL

Array = NDArray[Any]

GHOST = 256
"""Added to the atomic number of a ghost: an atom that others see, but whose energy is counted elsewhere."""


def obstacle_of_weights(weight: Tensor) -> str | None:
    """Why no native call can compute with weights of such a type, where they are; None if one can."""
    if (why := loops_obstacle()) is not None:
        return why
    if weight.device.type != "cpu":
        return f"it computes on {weight.device.type}"
    return None if weight.dtype in (torch.float32, torch.float64) else f"weights are {weight.dtype}"


class Elements(NamedTuple):
    """What a potential knows of its elements beside the weights of its backbone."""

    numbers: tuple[int, ...]  # sorted
    reference: Tensor  # (n_elements,) eV, as all, see `potential`
    scale: Tensor
    shift: Tensor
    repulsion: ZBL | None
    core_repulsion: CoreRepulsion | None
    cutoff: float  # Å, of the coordination
    ghosts: bool = False  # whether each element is there a second time, see `GHOST`

    @property
    def kinds(self) -> tuple[int, ...]:
        """The atomic number of each kind of atom that the loops tell apart."""
        return self.numbers * (2 if self.ghosts else 1)

    def limits(self) -> Tensor:
        """Both ends of the core repulsion, the end of ZBL (Å or 0), the exponent of its envelope, the core's k.

        (n_elements, n_elements, 5) float64.
        """
        n = len(self.numbers)
        limits = torch.zeros(n, n, 5, dtype=torch.float64, device="cpu")
        if self.core_repulsion is not None:
            limits[..., :2] = self.core_repulsion.distances
            limits[..., 4] = self.core_repulsion.strength
        if self.repulsion is not None:
            limits[..., 2] = self.repulsion.ends(self.numbers)
            limits[..., 3] = self.repulsion.form.exponent
        return limits

    def places(self) -> Array:
        """(GHOST + MAX_Z + 1,) of each atomic number among the kinds, -1 if it is not one."""
        return _places(self.numbers, self.ghosts)


@cache
def _places(numbers: tuple[int, ...], ghosts: bool) -> Array:
    index, own = np.full(GHOST + MAX_Z + 1, -1), np.array(numbers)
    index[own] = np.arange(len(own))
    if ghosts:
        index[own + GHOST] = len(own) + np.arange(len(own))
    return index


def offsets(graph: AtomGraph) -> Array:
    """shift · cell of each edge (n_edges, 3) float64, Å; empty without periodic images."""
    if not graph.pbc.any():
        return np.empty((0, 3))
    out: Array = torch.empty_like(graph.cell_shift).numpy()
    begin, batch, shift, cell = (
        t.numpy() for t in (graph.edges.row_ptr, graph.batch, graph.cell_shift, graph.cell)
    )
    loops.structure.offsets(begin, batch, shift, cell, out)
    return out


def of_elements(elements: Elements, isolated: Tensor) -> dict[str, Tensor]:
    """What the loops read of the elements; `isolated` is what the network gives for an isolated atom of each.

    A ghost has neither a learned energy nor a reference. Of the energy of two nuclei, half is that of each.
    """
    columns = elements.scale, elements.shift, isolated, elements.reference
    limits = elements.core_repulsion
    coordination = (
        torch.zeros(len(isolated), 2, dtype=torch.float64, device="cpu") if limits is None else limits.coordination
    )
    charge = torch.tensor(elements.numbers, dtype=torch.float64, device="cpu")
    per_element = torch.cat([torch.stack([c.double() for c in columns], dim=1), coordination], dim=1)
    form, ends = UNIVERSAL if elements.repulsion is None else elements.repulsion.form, elements.limits()
    # As the loops multiply them: by the constants of the universal form.
    charges = charge * math.sqrt(form.charge / UNIVERSAL.charge)
    powers = charge**form.power * (UNIVERSAL.length / form.length)
    nuclei = torch.stack([charge, charge**0.23, torch.ones_like(charge), charges, powers], dim=1)
    if elements.ghosts:
        silent = torch.tensor([0, 0, 1, 0, 1, 1], dtype=torch.float64, device="cpu")
        per_element = torch.cat([per_element, per_element * silent])
        nuclei = torch.cat([nuclei, nuclei * torch.tensor([1, 1, 0, 1, 1], dtype=torch.float64, device="cpu")])
        ends = ends.repeat(2, 2, 1)
    return {
        "per_element": per_element,
        "nuclei": nuclei,
        "limits": ends,
        "screenings": torch.tensor([UNIVERSAL.screening, form.screening], dtype=torch.float64, device="cpu")
        .movedim(0, 1)
        .flatten(1),
    }
