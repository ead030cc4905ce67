"""EGNN in native calls: weights out of the modules, atoms in, energies and forces out."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mlpot.kernels import loops
from mlpot.models.egnn import EGNN, SOFTENING, TYPICAL_NEIGHBORS, EquivariantLayer
from mlpot.models.native import (
    Array,
    Elements,
    NativeCall,
    both_ways,
    empty,
    obstacle_of_weights,
    of_elements,
    padded,
)
from mlpot.stages.radial import GaussianBasis

WORK = 50  # of an edge, against that of a convolution
BLOCK = 16  # atoms, whose edges leave what they compute in the second cache
KEPT = 512 * 2**20  # bytes of what edges may leave for the way back


def native_egnn(backbone: object, elements: Elements, lone: Tensor) -> NativeCall | None:
    """The native call for an EGNN that no longer changes."""
    if not isinstance(backbone, EGNN) or backbone.native_obstacle() or obstacle_of_weights(elements.scale):
        return None
    with torch.no_grad():
        net = _network(backbone, elements, lone)
    room = partial(_room, n_layers=len(backbone.layers))
    return NativeCall(loops.native_egnn, net, room, work=WORK * net.features.shape[1], block_size=_block_size)


def _block_size(n_atoms: int) -> int:
    return BLOCK


def _layers(backbone: EGNN) -> list[EquivariantLayer]:
    return cast("list[EquivariantLayer]", list(backbone.layers))


def _network(backbone: EGNN, elements: Elements, lone: Tensor) -> Any:
    """Everything as the loops read it, `kernels.native_egnn.Network`."""
    layers, basis = _layers(backbone), cast("GaussianBasis", backbone.basis)
    read, last = cast("list[nn.Linear]", [backbone.readout[0], backbone.readout[2]])
    update = cast("list[list[nn.Linear]]", [[layer.update[0], layer.update[2]] for layer in layers])
    split = [first.weight.chunk(2, dim=1) for first, _ in update]  # of features and of sums
    pairs = {
        ("from_center", "to_center"): [layer.from_center.weight for layer in layers],
        ("from_neighbor", "to_neighbor"): [layer.from_neighbor.weight for layer in layers],
        ("own", "from_own"): [own for own, _ in split],
        ("sums", "from_sums"): [sums for _, sums in split],
        ("update", "from_update"): [second.weight for _, second in update],
    }
    arrays = {
        "features": padded(backbone.embedding(torch.tensor(elements.kinds))),
        "center_bias": padded(torch.stack([layer.from_center.bias for layer in layers])),
        "hidden_bias": padded(torch.stack([first.bias for first, _ in update])),
        "update_bias": padded(torch.stack([second.bias for _, second in update])),
        "read_bias": padded(read.bias),
        "last": padded(last.weight[0]),
        **of_elements(elements, lone, last.bias),
    }
    arrays["read"], arrays["unread"] = both_ways(read.weight)
    for names, matrices in pairs.items():
        arrays.update(zip(names, both_ways(torch.stack(matrices)), strict=True))
    return loops.native_egnn.Network(
        **{name: _array(t) for name, t in arrays.items()},
        layers=_messages(layers, basis),
        index=elements.places(),
        cutoff=backbone.cutoff,
        n_moves=sum(layer.move is not None for layer in layers),
        weight=1 / math.sqrt(TYPICAL_NEIGHBORS),
        softening=SOFTENING,
    )


def _messages(layers: list[EquivariantLayer], basis: GaussianBasis) -> Any:
    """`kernels.messages.Layers`; what a layer does not have is zero."""
    second = cast("list[nn.Linear]", [layer.edge[1] for layer in layers])
    still = [torch.zeros_like(t) for t in (second[0].weight, second[0].bias, second[0].weight[0])]
    moves = [still if m is None else _of_move(m) for m in (layer.move for layer in layers)]
    gates = [cast("nn.Linear", layer.gate[0]) for layer in layers if layer.gate is not None]
    nothing = second[0].weight[:0]
    arrays = {
        "bias": padded(torch.stack([layer.bias for layer in second])),
        "move_bias": padded(torch.stack([bias for _, bias, _ in moves])),
        "along": padded(torch.stack([along for *_, along in moves])),
        "gate": padded(torch.cat([gate.weight for gate in gates]) if gates else nothing),
        "gate_bias": torch.cat([gate.bias for gate in gates]) if gates else nothing[:, 0],
        "centers": basis.centers,
    }
    pairs = {
        ("distance", "from_distance"): [cast("nn.Linear", layer.from_distance).weight for layer in layers],
        ("second", "from_second"): [layer.weight for layer in second],
        ("move", "from_move"): [matrix for matrix, *_ in moves],
    }
    for names, matrices in pairs.items():
        arrays.update(zip(names, both_ways(torch.stack(matrices)), strict=True))
    return loops.messages.Layers(**{name: _array(t) for name, t in arrays.items()}, width=basis.width)


def _of_move(move: nn.Module) -> list[Tensor]:
    """Matrix and bias of its hidden layer, and the vector that makes φ_x of it."""
    first, last = cast("list[nn.Linear]", [move.get_submodule("0"), move.get_submodule("2")])
    return [first.weight, first.bias, last.weight[0]]


def _array(t: Tensor) -> Array:
    return t.detach().clone(memory_format=torch.contiguous_format).numpy()


def _room(state: Any, n_atoms: int, n_edges: int, net: Any, n_layers: int) -> Any:
    """Arrays for so many atoms and edges: those there are, if they are large enough."""
    if state is not None and len(state.energy) >= n_atoms and len(state.d) >= n_edges:
        return state
    n_atoms, n_edges, n_features = n_atoms + n_atoms // 8, n_edges + n_edges // 8, net.features.shape[1]
    number = torch.from_numpy(net.features).dtype
    of_edges = n_layers, n_edges, n_features
    keeps = 4 * math.prod(of_edges) * net.features.itemsize <= KEPT
    kept, z = (of_edges, of_edges) if keeps else ((0, 0, n_features), (2, n_edges, n_features))
    per_layer = n_layers, n_atoms, n_features
    kernels, whole = loops.native_egnn, partial(empty, dtype=torch.int64)
    of_number = partial(empty, dtype=number)
    return kernels.State(
        slot=whole(n_edges),
        first=whole(n_atoms),
        last=whole(n_atoms),
        ends=whole(n_edges, 2),
        reverse=whole(n_edges),
        vector=empty(n_edges, 3),
        d=empty(n_edges),
        true=empty(n_edges),
        weight=of_number(n_edges),
        t=of_number(n_layers, n_edges),
        tape=kernels.Tape(of_number(*z), *(of_number(*kept) for _ in range(3))),
        vector_bar=empty(n_edges, 3),
        weight_bar=empty(n_edges),
        moved_bar=empty(2, n_edges, 3),
        a=of_number(*per_layer),
        b=of_number(*per_layer),
        slope=of_number(*per_layer),
        sums=of_number(n_atoms, n_features),
        h=of_number(n_atoms, n_features),
        displacement=empty(n_layers + 1, n_atoms, 3),
        displacement_bar=empty(n_atoms, 3),
        crowd=empty(n_atoms),
        shifting=empty(n_atoms),
        energy=empty(n_atoms),
        virial=empty(n_atoms, 3, 3),
    )
