"""Native calls, and SchNet on knots in one: weights out of the modules, atoms in, energies and forces out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mlpot.graph import AtomGraph
from mlpot.kernels import loops
from mlpot.kernels.ops import has_loops
from mlpot.kernels.threads import block_size, run, shares, take
from mlpot.knots import RadialTable
from mlpot.models.layers import MAX_Z
from mlpot.models.schnet import Interaction, SchNet
from mlpot.stages.spline_grid import SPLINES
from mlpot.terms.core_repulsion import CoreRepulsion
from mlpot.terms.zbl import SCREENING, ZBL

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


def has_native_call(backbone: object, weight: Tensor) -> TypeGuard[SchNet]:
    """Whether a backbone is a SchNet without obstacles."""
    if not isinstance(backbone, SchNet):
        return False
    return (backbone.native_obstacle() or obstacle_of_weights(weight)) is None


class Weights(NamedTuple):
    """Those of a SchNet, layers stacked; matrices as in nn.Linear, (n_layers, n_out, n_in)."""

    features: Tensor  # (n_elements, n_features), embedding of each element
    first: Tensor  # (n_elements, n_features), messages of the first layer
    tables: Tensor  # (n_layers, n_rows, n_features)
    to_message: Tensor
    hidden: Tensor
    hidden_bias: Tensor  # (n_layers, n_features)
    update: Tensor
    update_bias: Tensor  # (n_layers, n_features)
    read: Tensor  # (n_hidden, n_features)
    read_bias: Tensor  # (n_hidden,)
    last: Tensor  # (n_hidden,)
    last_bias: Tensor  # (1,)


def weights_of(backbone: SchNet, elements: Tensor) -> Weights:
    """The weights as a differentiable function of those of the modules."""
    layers, read, last = _layers(backbone), *cast("list[nn.Linear]", [backbone.readout[0], backbone.readout[2]])
    assert backbone.table is not None
    features = backbone.embedding(elements)
    first, second = (cast("list[nn.Linear]", [layer.update[k] for layer in layers]) for k in (0, 2))
    return Weights(
        features=features,
        first=layers[0].to_message(features),
        tables=backbone.table.stacked([layer.filter for layer in layers]),
        to_message=torch.stack([layer.to_message.weight for layer in layers]),
        hidden=torch.stack([layer.weight for layer in first]),
        hidden_bias=torch.stack([layer.bias for layer in first]),
        update=torch.stack([layer.weight for layer in second]),
        update_bias=torch.stack([layer.bias for layer in second]),
        read=read.weight,
        read_bias=read.bias,
        last=last.weight[0],
        last_bias=last.bias,
    )


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
        """Both ends of the core repulsion and the end of ZBL, (n_elements, n_elements, 3) float64, Å, or 0."""
        n = len(self.numbers)
        limits = torch.zeros(n, n, 3, dtype=torch.float64, device="cpu")
        if self.core_repulsion is not None:
            limits[..., :2] = self.core_repulsion.distances
        if self.repulsion is not None:
            limits[..., 2] = self.repulsion.ends(self.numbers)
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
    loops.pairs.offsets(begin, batch, shift, cell, out)
    return out


def native_schnet(backbone: object, elements: Elements, lone: Tensor) -> NativeCall | None:
    """The native call for a backbone that no longer changes, None if there is none for it.

    Args:
        backbone: see `has_native_call`.
        elements: those of the potential.
        lone: (n_elements,) what the backbone gives for a lone atom.
    """
    if not has_native_call(backbone, elements.scale):
        return None
    with torch.no_grad():
        weights = Weights(*(w.clone() for w in weights_of(backbone, torch.tensor(elements.kinds))))
    net = network(weights, backbone.table, elements, lone)
    return NativeCall(loops.native, net, _room, work=net.first.shape[1], block_size=block_size)


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
        native, pairs, net, edges = loops.native, loops.pairs, self.net, graph.edges
        element = np.empty(graph.n_atoms, np.int64)
        if not pairs.elements(graph.numbers.numpy(), net.index, element):
            return None
        block = self._block_size(graph.n_atoms)
        structure = pairs.Structure(
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
        answer = native.Answer(np.empty(n_graphs), np.empty((n_atoms, 3)), np.empty((n_graphs, 3, 3)))
        state = self._room(take(self._rooms), n_atoms, len(edges), net)
        parts = shares(structure.row_ptr, self._work, block)
        run(self._stages, parts, len(parts), np.zeros(1, np.int64), structure, net, state, answer)
        native.totals(structure.batch, state.energy, state.virial, answer)
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


def _layers(backbone: SchNet) -> list[Interaction]:
    return cast("list[Interaction]", list(backbone.interactions))


def network(weights: Weights, table: RadialTable | None, elements: Elements, lone: Tensor) -> Any:
    """Everything as the loops read it, `kernels.native.Network`; lone as for `native_schnet`."""
    assert table is not None
    to_message, from_message = both_ways(weights.to_message)
    hidden, from_hidden = both_ways(weights.hidden)
    update, from_update = both_ways(weights.update)
    read, unread = both_ways(weights.read)
    arrays = {
        "features": padded(weights.features),
        "first": padded(weights.first),
        "tables": padded(weights.tables),
        "to_message": to_message,
        "from_message": from_message,
        "hidden": hidden,
        "from_hidden": from_hidden,
        "update": update,
        "from_update": from_update,
        "hidden_bias": padded(weights.hidden_bias),
        "update_bias": padded(weights.update_bias),
        "read": read,
        "unread": unread,
        "read_bias": padded(weights.read_bias),
        "last": padded(weights.last),
        "polynomials": _polynomials(table.degree, table.n_knots / table.cutoff).to(weights.first.dtype),
        **of_elements(elements, lone, weights.last_bias),
    }
    aligned = {name: array.contiguous().numpy() for name, array in arrays.items()}
    net = loops.native.Network(
        **aligned, index=elements.places(), stride=SPLINES[table.degree].stride, cutoff=table.cutoff
    )
    check_types(net)
    return net


def of_elements(elements: Elements, lone: Tensor, last_bias: Tensor) -> dict[str, Tensor]:
    """What every network has of its elements; lone as for `native_schnet`, and the bias of what is read out.

    A ghost has neither a learned energy nor a reference. Of the energy of two nuclei, half is that of each.
    """
    columns = elements.scale, elements.shift, lone, last_bias.expand_as(lone), elements.reference
    limits = elements.core_repulsion
    coordination = torch.zeros(len(lone), 2, dtype=torch.float64) if limits is None else limits.coordination
    charge = torch.tensor(elements.numbers, dtype=torch.float64)
    per_element = torch.cat([torch.stack([c.double() for c in columns], dim=1), coordination], dim=1)
    nuclei, ends = torch.stack([charge, charge**0.23, torch.ones_like(charge)], dim=1), elements.limits()
    if elements.ghosts:
        silent = torch.tensor([0, 0, 1, 1, 0, 1, 1], dtype=torch.float64)
        per_element = torch.cat([per_element, per_element * silent])
        nuclei = torch.cat([nuclei, nuclei * torch.tensor([1, 1, 0], dtype=torch.float64)])
        ends = ends.repeat(2, 2, 1)
    return {
        "per_element": per_element,
        "nuclei": nuclei,
        "limits": ends,
        "screenings": torch.tensor(SCREENING, dtype=torch.float64),
    }


@cache
def _polynomials(degree: int, per_length: float) -> Tensor:
    """`Network.polynomials`, float64, for knots 1/per_length Å apart; a training asks in every step."""
    value, slope = (np.array(SPLINES[degree].derivative(order, per_length)) for order in (0, 1))
    slope = np.pad(slope, ((0, 0), (0, 1)))  # a power less
    return torch.from_numpy(np.concatenate([value, slope]).T)


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


def _room(state: Any, n_atoms: int, n_edges: int, net: Any) -> Any:
    """Arrays for so many atoms and edges: those there are, if they are large enough."""
    if state is not None and len(state.energy) >= n_atoms and len(state.pairs.d) >= n_edges:
        return state
    n_layers, _, n_features = net.tables.shape
    n_atoms, n_edges = n_atoms + n_atoms // 8, n_edges + n_edges // 8
    number, per_layer = torch.from_numpy(net.first).dtype, (n_layers, n_atoms, n_features)
    return loops.native.State(
        pairs=loops.pairs.Pairs(
            earlier=empty(n_atoms, dtype=torch.int64),
            later=empty(n_atoms, dtype=torch.int64),
            neighbor=empty(n_edges, dtype=torch.int32),
            row=empty(n_edges, dtype=torch.int32),
            t=empty(n_edges, dtype=number),
            coefficients=empty(net.polynomials.shape[1], n_edges, dtype=number),
            unit=empty(n_edges, 3),
            d=empty(n_edges),
            pull=empty(n_edges, dtype=number),
            crowd=empty(n_atoms),
        ),
        sums=empty(n_atoms, n_features, dtype=number),
        x=empty(*per_layer, dtype=number),
        slope=empty(*per_layer, dtype=number),
        q=empty(*per_layer, dtype=number),
        h=empty(n_atoms, n_features, dtype=number),
        shifting=empty(n_atoms),
        energy=empty(n_atoms),
        virial=empty(n_atoms, 3, 3),
    )


def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Array:
    """PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice as much."""
    return torch.zeros(shape, dtype=dtype, device="cpu").numpy()
