"""Native calls of networks with kernels of their own: weights out of modules, energies and forces from atoms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mlpot.graph import AtomGraph
from mlpot.kernels import loops
from mlpot.kernels.ops import has_loops
from mlpot.kernels.threads import run, shares, take
from mlpot.models.layers import MAX_Z
from mlpot.terms.core_repulsion import CoreRepulsion
from mlpot.terms.zbl import UNIVERSAL, ZBL

Array = NDArray[Any]

GHOST = 256
"""Added to the atomic number of a ghost: an atom that others see, but whose energy is counted elsewhere."""

EXACT = {
    **dict.fromkeys(("per_element", "nuclei", "limits", "screenings"), np.float64),
    "index": np.int64,
}
"""Types of the arrays of a network that are not of the type of its weights."""
PANEL = {4: 16, 8: 8}  # columns of a panel by bytes of a number: two vectors of `simd`


def obstacle_of_weights(weight: Tensor) -> str | None:
    """Why no native call can compute with weights of such a type, where they are; None if one can."""
    if not has_loops():
        return "Numba is not installed"
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
    ghosts: bool = False  # whether each element is there a second time, see `GHOST`

    @property
    def kinds(self) -> tuple[int, ...]:
        """The atomic number of each kind of atom that the loops tell apart."""
        return self.numbers * (2 if self.ghosts else 1)

    def limits(self) -> Tensor:
        """Both ends of the core repulsion and the end of ZBL, Å, or 0, and the exponent of its envelope.

        (n_elements, n_elements, 4) float64.
        """
        n = len(self.numbers)
        limits = torch.zeros(n, n, 4, dtype=torch.float64, device="cpu")
        if self.core_repulsion is not None:
            limits[..., :2] = self.core_repulsion.distances
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


class NativeCall:
    """Energies, forces and virials of a backbone whose weights no longer change.

    The arrays between the stages are kept and used again; calls from several threads take different ones.

    Args:
        kernel: the module of `kernels.loops` with the stages.
        network: the weights as they read them.
        room: arrays for so many atoms and edges, from those there are if they are large enough.
        work: of an edge, see `threads.shares`.
        block_size: atoms of a block, from the number of atoms.
    """

    def __init__(
        self,
        kernel: Any,
        network: Any,
        room: Callable[[Any, int, int, Any], Any],
        *,
        work: int,
        block_size: Callable[[int], int],
    ):
        check_types(network)
        self.net, self._stages = network, kernel.stages
        self._room, self._work, self._block_size = room, work, block_size
        self._rooms: list[Any] = []
        self._last: tuple[AtomGraph, Tensor, Array] | None = None

    def __call__(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor] | None:
        """Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV, float64.

        Args:
            graph: its edges may go beyond the cutoff.

        Returns:
            None if an element is unknown.
        """
        loop, net, edges = loops.structure, self.net, graph.edges
        element = np.empty(graph.n_atoms, np.int64)
        if not loop.elements(graph.numbers.numpy(), net.index, element):
            return None
        block = self._block_size(graph.n_atoms)
        structure = loop.Structure(
            positions=graph.positions.numpy(),
            element=element,
            row_ptr=edges.row_ptr.numpy(),
            neighbor=edges.neighbor.numpy(),
            reverse=edges.reverse.numpy(),
            offset=self._offset(graph),
            batch=graph.batch.numpy(),
            block=block,
        )
        n_atoms, n_graphs = graph.n_atoms, graph.n_graphs
        answer = loop.Answer(np.empty(n_graphs), np.empty((n_atoms, 3)), np.empty((n_graphs, 3, 3)))
        state = self._room(take(self._rooms), n_atoms, len(edges), net)
        parts = shares(structure.row_ptr, self._work, block)
        run(self._stages, parts, len(parts), np.zeros(1, np.int64), structure, net, state, answer)
        loop.totals(structure.batch, state.energy, state.virial, answer)
        self._rooms.append(state)
        return torch.from_numpy(answer.energy), torch.from_numpy(answer.forces), torch.from_numpy(answer.virial)

    def _offset(self, graph: AtomGraph) -> Array:
        """shift · cell of each edge, none without periodic images; kept while list and cell are the same."""
        if self._last is not None:
            last, cell, offset = self._last
            if last.cell_shift is graph.cell_shift and torch.equal(cell, graph.cell):
                return offset
        offset = offsets(graph)
        self._last = graph, graph.cell.clone(), offset
        return offset


def check_types(network: Any) -> None:
    """All arrays of a network are of the type of its features, but for `EXACT`: loops read one type of numbers."""
    for name, value in network._asdict().items():
        if isinstance(value, tuple):
            check_types(value)
        elif isinstance(value, np.ndarray):
            expected = EXACT.get(name, network[0].dtype)
            assert value.dtype == expected, f"{name} is {value.dtype}, expected {expected}"
            assert value.flags.c_contiguous, f"{name} is not contiguous"


def of_elements(elements: Elements, lone: Tensor, last_bias: Tensor) -> dict[str, Tensor]:
    """What every network has of its elements; what it gives for an isolated atom of each, and the last bias.

    A ghost has neither a learned energy nor a reference. Of the energy of two nuclei, half is that of each.
    """
    columns = elements.scale, elements.shift, lone, last_bias.expand_as(lone), elements.reference
    limits = elements.core_repulsion
    coordination = (
        torch.zeros(len(lone), 2, dtype=torch.float64, device="cpu") if limits is None else limits.coordination
    )
    charge = torch.tensor(elements.numbers, dtype=torch.float64, device="cpu")
    per_element = torch.cat([torch.stack([c.double() for c in columns], dim=1), coordination], dim=1)
    form, ends = UNIVERSAL if elements.repulsion is None else elements.repulsion.form, elements.limits()
    # As the loops multiply them: by the constants of the universal form.
    charges = charge * math.sqrt(form.charge / UNIVERSAL.charge)
    powers = charge**form.power * (UNIVERSAL.length / form.length)
    nuclei = torch.stack([charge, charge**0.23, torch.ones_like(charge), charges, powers], dim=1)
    if elements.ghosts:
        silent = torch.tensor([0, 0, 1, 1, 0, 1, 1], dtype=torch.float64, device="cpu")
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


def padded(t: Tensor) -> Tensor:
    """With zeros up to a whole number of panels along the last axis."""
    missing = -t.shape[-1] % PANEL[t.element_size()]
    return functional.pad(t, (0, missing)) if missing else t


def both_ways(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (…, n_out, n_in) of linear layers, to multiply rows from features to outputs and back."""
    whole = padded(padded(matrices).mT)
    return packed(whole), packed(whole.mT)


def packed(matrix: Tensor) -> Tensor:
    """(…, n_in, n_out) -> (…, n_panels, n_in, panel), contiguous along the way that `simd.dense` reads it."""
    *rows, n_out = matrix.shape
    panel = PANEL[matrix.element_size()]
    return matrix.reshape(*rows, n_out // panel, panel).transpose(-3, -2)


def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Array:
    """PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice as much."""
    return torch.zeros(shape, dtype=dtype, device="cpu").numpy()
