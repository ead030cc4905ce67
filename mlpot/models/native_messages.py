"""Messages of an EGNN that no longer changes, in compiled loops; derivatives beyond the first by autograd."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.kernels.ops import has_loops, loops
from mlpot.kernels.threads import run, shares
from mlpot.models.layers import SiLU
from mlpot.models.native import PANEL, packed, padded
from mlpot.radial import GaussianBasis

WORK = 50  # of an edge, against that of a convolution


class Radial:
    """A basis of distances (n_edges,) Å, for those who need its values (n_edges, n_radial)."""

    def __init__(self, basis: nn.Module, d: Tensor):
        self.basis, self.d = basis, d
        self._values: Tensor | None = None

    @property
    def values(self) -> Tensor:
        if self._values is None:
            self._values = self.basis(self.d)
        return self._values


class Layer(Protocol):
    """What is read of `egnn.EquivariantLayer`."""

    from_distance: nn.Module
    edge: nn.Sequential
    gate: nn.Sequential | None
    move: nn.Sequential | None

    def messages(
        self, edges: Edges, from_center: Tensor, from_neighbor: Tensor, radial: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor | None]: ...


def native_messages(
    layer: Layer, edges: Edges, from_center: Tensor, from_neighbor: Tensor, radial: Radial, weight: Tensor
) -> tuple[Tensor, Tensor | None] | None:
    """As `EquivariantLayer.messages`; None where there is no native call, as for weights that may change."""
    if torch.compiler.is_compiling() or not _is_known(layer, from_center):
        return None
    is_known = isinstance(radial.basis, GaussianBasis)
    basis, read = (radial.basis, radial.d[:, None]) if is_known else (None, radial.values)
    summed, along = _Messages.apply(layer, basis, edges, from_center, from_neighbor, read, weight)  # type: ignore[no-untyped-call]
    return summed, None if layer.move is None else along


def _is_known(layer: Layer, features: Tensor) -> bool:
    if features.device.type != "cpu" or features.dtype not in (torch.float32, torch.float64) or not has_loops():
        return False
    if features.shape[1] % PANEL[features.element_size()] or torch.is_autocast_enabled("cpu"):
        return False
    active = isinstance(layer.edge[0], SiLU)  # as the others of a backbone
    if len(layer.edge) == 1:  # the second linear layer is after the sum, and the rest is quick
        return False
    return active and not any(weight.requires_grad for weight in layer.edge.parameters())


class _Messages(torch.autograd.Function):
    """`kernels.messages`; where a derivative is to be differentiated again, it is that of the modules."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, basis: GaussianBasis | None, edges: Edges, *read: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.basis, ctx.edges, ctx.weights = layer, basis, edges, _weights(layer, basis)
        ctx.save_for_backward(*read)
        summed, along = torch.empty_like(read[0]), read[3].new_zeros(len(edges))
        row_ptr, inputs = edges.row_ptr.numpy(), _inputs(edges, read)
        parts = shares(row_ptr, WORK * summed.shape[1])
        run(loops("messages").send, parts, row_ptr, inputs, ctx.weights, summed.numpy(), along.numpy())
        return summed, along

    @staticmethod
    def backward(ctx: Any, g: Tensor, along: Tensor) -> tuple[Tensor | None, ...]:
        read, layer, basis, edges = ctx.saved_tensors, ctx.layer, ctx.basis, ctx.edges
        if torch.is_grad_enabled():
            from_center, from_neighbor, radial, weight = read
            values = radial if basis is None else basis(radial[:, 0])
            out = layer.messages(edges, from_center, from_neighbor, values, weight)
            known = [(value, bar) for value, bar in zip(out, (g, along), strict=True) if value is not None]
            out, bars = zip(*known, strict=True)
            asked = [t for t in read if t.requires_grad]
            found = iter(torch.autograd.grad(out, asked, bars, create_graph=True, materialize_grads=True))
            return None, None, None, *(next(found) if t.requires_grad else None for t in read)
        row_ptr, inputs = edges.row_ptr.numpy(), _inputs(edges, read)
        center, neighbor, radial, weight = (torch.empty_like(t) for t in read)
        z = g.new_empty(len(edges), g.shape[1])
        parts = shares(row_ptr, WORK * g.shape[1])
        arrays = (t.contiguous().numpy() for t in (g, along, z, radial, weight, center))
        run(loops("messages").pull_back, parts, row_ptr, inputs, ctx.weights, *arrays)
        run(loops("messages").to_neighbors, parts, row_ptr, edges.reverse.numpy(), z.numpy(), neighbor.numpy())
        return None, None, None, center, neighbor, radial, weight


def _inputs(edges: Edges, read: tuple[Tensor, ...]) -> Any:
    arrays = (t.detach().contiguous().numpy() for t in read)
    return loops("messages").Inputs(edges.center.numpy(), edges.neighbor.numpy(), *arrays)


def _weights(layer: Layer, basis: GaussianBasis | None) -> Any:
    """As the loops read them; empty ones for what the layer does not have."""
    second: Any = layer.edge[1]
    nothing = second.bias.new_empty(0)
    move: Any = layer.move
    gate: Any = layer.gate
    distance, from_distance = _both_ways(layer.from_distance.weight)  # type: ignore[arg-type]
    square, from_second = _both_ways(second.weight)
    moving, from_move = _both_ways(second.weight if move is None else move[0].weight)
    tensors = {
        "distance": distance,
        "from_distance": from_distance,
        "second": square,
        "from_second": from_second,
        "bias": second.bias,
        "move": moving,
        "from_move": from_move,
        "move_bias": nothing if move is None else move[0].bias,
        "along": nothing if move is None else move[2].weight[0],
        "gate": nothing if gate is None else gate[0].weight[0],
        "centers": nothing if basis is None else basis.centers,
    }
    arrays = {name: t.detach().contiguous().numpy() for name, t in tensors.items()}
    bias = 0.0 if gate is None else float(gate[0].bias)
    width = 1.0 if basis is None else basis.width
    return loops("messages").Layer(**arrays, gate_bias=bias, width=width)


def _both_ways(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Packed to multiply rows from inputs to outputs and back."""
    whole = padded(weight)
    return packed(whole.mT), packed(whole)
