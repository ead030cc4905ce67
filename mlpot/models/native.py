"""SchNet on knots as one native call: weights out of the modules, atoms in, energies and forces out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlpot.graph import AtomGraph
from mlpot.kernels.ops import native_loops
from mlpot.kernels.splines import SPLINES
from mlpot.kernels.threads import block_size, run, shares
from mlpot.models.layers import MAX_Z, SiLU
from mlpot.models.schnet import Interaction, SchNet

Array = NDArray[Any]

PANEL = {4: 16, 8: 8}  # columns of a panel by bytes of a number: two vectors of `simd`


def native_schnet(
    backbone: nn.Module, elements: Sequence[int], reference: Tensor, scale: Tensor, shift: Tensor, lone: Tensor
) -> NativeSchNet | None:
    """The native call for a backbone that no longer changes, None if there is none for it.

    Args:
        backbone: there is one for SchNet on knots with SiLU, on CPU.
        elements: atomic numbers, sorted.
        reference, scale, shift, lone: (n_elements,) eV, as in `potential`.
    """
    known = scale.device.type == "cpu" and scale.dtype in (torch.float32, torch.float64)
    if not known or not isinstance(backbone, SchNet) or backbone.table is None:
        return None
    if not all(isinstance(m[1], SiLU) for m in (backbone.readout, *(layer.update for layer in _layers(backbone)))):
        return None
    loops = native_loops()
    if loops is None:
        return None
    last_bias = torch.full_like(scale, float(cast("nn.Linear", backbone.readout[2]).bias))
    per_element = torch.stack([c.double() for c in (scale, shift, lone, last_bias, reference)], dim=1)
    return NativeSchNet(_network(loops, backbone, elements, per_element))


class NativeSchNet:
    """Energies, forces and virials of a SchNet, see `kernels.native`.

    The arrays between the stages are kept and used again; calls from several threads take different ones.
    """

    def __init__(self, network: Any):
        self.net = network
        self._rooms: list[Any] = []
        self._last: tuple[AtomGraph, Tensor, Array] | None = None

    def __call__(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor] | None:
        """Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV, float64.

        Args:
            graph: its edges may go beyond the cutoff.

        Returns:
            None if an element is unknown.
        """
        loops, net, edges = native_loops(), self.net, graph.edges
        assert loops is not None
        element = np.empty(graph.n_atoms, np.int64)
        if not loops.elements(graph.numbers.numpy(), net.index, element):
            return None
        block = block_size(graph.n_atoms)
        structure = loops.Structure(
            positions=graph.positions.numpy(),
            element=element,
            row_ptr=edges.row_ptr.numpy(),
            neighbor=edges.neighbor.numpy(),
            offset=self._offset(graph),
            batch=graph.batch.numpy(),
            block=block,
        )
        n_atoms, n_graphs = graph.n_atoms, graph.n_graphs
        answer = loops.Answer(np.empty(n_graphs), np.empty((n_atoms, 3)), np.empty((n_graphs, 3, 3)))
        state = _room(loops, self._free_room(), n_atoms, len(edges), net)
        parts = shares(structure.row_ptr, net.first.shape[1], block)
        run(loops.stages, parts, len(parts), np.zeros(1, np.int64), structure, net, state, answer)
        loops.totals(structure, state, answer)
        self._rooms.append(state)
        return torch.from_numpy(answer.energy), torch.from_numpy(answer.forces), torch.from_numpy(answer.virial)

    def _offset(self, graph: AtomGraph) -> Array:
        """shift · cell of each edge, none without periodic images; kept while list and cell are the same."""
        if self._last is not None:
            last, cell, offset = self._last
            if last.shift is graph.shift and torch.equal(cell, graph.cell):
                return offset
        if not graph.pbc.any():
            offset = np.empty((0, 3))
        elif graph.n_graphs == 1:
            offset = (graph.shift @ graph.cell[0]).numpy()
        else:
            cells = graph.cell.index_select(0, graph.batch.index_select(0, graph.edges.center))
            offset = torch.einsum("ea,eab->eb", graph.shift, cells).numpy()
        self._last = graph, graph.cell.clone(), offset
        return offset

    def _free_room(self) -> Any:
        try:
            return self._rooms.pop()  # one step, so that no two threads take the same
        except IndexError:
            return None


def _layers(backbone: SchNet) -> list[Interaction]:
    return cast("list[Interaction]", list(backbone.interactions))


def _network(loops: Any, backbone: SchNet, elements: Sequence[int], per_element: Tensor) -> Any:
    layers = _layers(backbone)
    table, readout = backbone.table, backbone.readout
    assert table is not None
    with torch.no_grad():
        tables = table([layer.filter for layer in layers])
        features = backbone.embedding(torch.tensor(elements))
        first = layers[0].to_message(features)
    spline, per_length = SPLINES[table.degree], table.n_knots / table.cutoff
    value, slope = (np.array(spline.derivative(order, per_length)) for order in (0, 1))
    slope = np.pad(slope, ((0, 0), (0, 1)))  # a power less
    to_message = _matrices([layer.to_message for layer in layers])
    hidden, update = (_matrices([layer.update[k] for layer in layers]) for k in (0, 2))
    read = _matrices([readout[0]])
    index = np.full(MAX_Z + 1, -1)
    index[list(elements)] = np.arange(len(elements))
    arrays = {
        "features": _padded(features),
        "first": _padded(first),
        "tables": np.stack([_padded(t) for t in tables]),
        "to_message": to_message[0],
        "from_message": to_message[1],
        "hidden": hidden[0],
        "from_hidden": hidden[1],
        "update": update[0],
        "from_update": update[1],
        "hidden_bias": _biases([layer.update[0] for layer in layers]),
        "update_bias": _biases([layer.update[2] for layer in layers]),
        "read": read[0][0],
        "unread": read[1][0],
        "read_bias": _biases([readout[0]])[0],
        "last": _padded(cast("nn.Linear", readout[2]).weight)[0],
        "polynomials": np.concatenate([value, slope]).T.astype(features.numpy().dtype, order="C"),
        "per_element": per_element.numpy(),
        "index": index,
    }
    aligned = {name: _aligned(array) for name, array in arrays.items()}
    return loops.Network(**aligned, stride=spline.stride, cutoff=backbone.cutoff)


def _padded(t: Tensor, *axes: int) -> Array:
    """A copy with zeros up to a whole number of panels along the last axis, or along those given."""
    array = t.detach().numpy()
    panel = PANEL[array.dtype.itemsize]
    width = [(0, 0)] * array.ndim
    for axis in axes or (array.ndim - 1,):
        width[axis] = 0, -array.shape[axis] % panel
    return np.pad(array, width)


def _matrices(layers: Sequence[Any]) -> tuple[Array, Array]:
    """Packed matrices (n_layers, …) of linear layers, to multiply rows from features to outputs and back."""
    padded = [_padded(layer.weight, 0, 1) for layer in layers]
    return np.stack([_packed(w.T) for w in padded]), np.stack([_packed(w) for w in padded])


def _packed(matrix: Array) -> Array:
    """(n_in, n_out) -> (n_panels, n_in, panel), contiguous along the way that `simd.dense` reads it."""
    panel = PANEL[matrix.dtype.itemsize]
    n_in, n_out = matrix.shape
    return np.ascontiguousarray(matrix.reshape(n_in, n_out // panel, panel).transpose(1, 0, 2))


def _biases(layers: Sequence[Any]) -> Array:
    return np.stack([_padded(layer.bias) for layer in layers])


def _room(loops: Any, state: Any, n_atoms: int, n_edges: int, net: Any) -> Any:
    """Arrays for so many atoms and edges: those there are, if they are large enough."""
    if state is not None and len(state.later) >= n_atoms and len(state.d) >= n_edges:
        return state
    n_layers, _, n_features = net.tables.shape
    n_atoms, n_edges = n_atoms + n_atoms // 8, n_edges + n_edges // 8
    number, per_layer = torch.from_numpy(net.first).dtype, (n_layers, n_atoms, n_features)
    return loops.State(
        earlier=_empty(n_atoms, dtype=torch.int64),
        later=_empty(n_atoms, dtype=torch.int64),
        neighbor=_empty(n_edges, dtype=torch.int32),
        row=_empty(n_edges, dtype=torch.int32),
        t=_empty(n_edges, dtype=number),
        coefficients=_empty(net.polynomials.shape[1], n_edges, dtype=number),
        unit=_empty(n_edges, 3),
        d=_empty(n_edges),
        pull=_empty(n_edges, dtype=number),
        crowd=_empty(n_atoms),
        sums=_empty(n_atoms, n_features, dtype=number),
        x=_empty(*per_layer, dtype=number),
        slope=_empty(*per_layer, dtype=number),
        q=_empty(*per_layer, dtype=number),
        h=_empty(n_atoms, n_features, dtype=number),
        shifting=_empty(n_atoms),
        energy=_empty(n_atoms),
        virial=_empty(n_atoms, 3, 3),
    )


def _empty(*shape: int, dtype: torch.dtype = torch.float64) -> Array:
    """PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice as much."""
    return torch.zeros(shape, dtype=dtype).numpy()


def _aligned(array: Array) -> Array:
    return torch.from_numpy(np.ascontiguousarray(array)).clone().numpy()
