"""Training SchNet on knots: energies and forces in one native call, the gradient of a loss on them in another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mlpot.graph import AtomGraph
from mlpot.kernels import loops
from mlpot.kernels.threads import block_size, run, shares, take
from mlpot.knots import RadialTable
from mlpot.models.native import Elements, Weights, has_native_call, network, offsets, weights_of

Array = NDArray[Any]

LINE = 64  # bytes of a line of the cache
WORK = 3  # of an edge, against that of energies and forces alone


class NativeTraining:
    """Energies, forces and virials of a SchNet, differentiable once by its weights, see `kernels.adjoint`.

    What a forward pass leaves for the backward pass stands in memory that the next pass uses again.
    """

    def __init__(self) -> None:
        self._free: list[Array] = []

    def __call__(
        self, backbone: object, elements: Elements, graph: AtomGraph
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV, float64.

        Args:
            backbone: see `has_native_call`.
            elements: those of the potential.
            graph: its edges may go beyond the cutoff.

        Returns:
            None if there is no native call for the backbone, or an element is unknown.
        """
        if not has_native_call(backbone, elements.scale) or torch.is_autocast_enabled("cpu"):
            return None
        kinds = torch.tensor(elements.numbers, device="cpu")
        numbers = torch.cat([graph.numbers, kinds])  # a lone atom of each element rides along
        element = torch.empty_like(numbers)
        if not loops.pairs.elements(numbers.numpy(), elements.places(), element.numpy()):
            return None
        b, forces, virial, shifted, crowd = _Readout.apply(  # type: ignore[no-untyped-call]
            self._free, _structure(graph, element), backbone.table, elements, *weights_of(backbone, kinds)
        )
        n, kind = graph.n_atoms, element[: graph.n_atoms]
        scale = elements.scale.double().index_select(0, kind)
        learned = scale * (b[:n] - b[n:].index_select(0, kind))
        energy = torch.where(crowd[:n] != 0, learned + shifted[:n], 0.0)
        energy = energy + elements.reference.index_select(0, kind)
        energies = energy.new_zeros(graph.n_graphs).index_add(0, graph.batch, energy)
        return energies, forces[:n], torch.zeros_like(graph.cell).index_add(0, graph.batch, virial[:n])

    def __deepcopy__(self, memo: object) -> NativeTraining:
        return NativeTraining()

    def __reduce__(self) -> tuple[type[NativeTraining], tuple[()]]:
        return NativeTraining, ()


class _Readout(torch.autograd.Function):
    """What the readout gives, forces and virials, all by atom, as a function of the weights."""

    @staticmethod
    def forward(
        ctx: Any, free: list[Array], structure: Any, table: RadialTable, elements: Elements, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        nothing = torch.zeros_like(elements.scale)  # lone atoms are taken off by `NativeTraining`
        net = network(Weights(*(w.detach() for w in weights)), table, elements, nothing)
        memory, tape = _tape(free, net, structure)
        parts = shares(structure.row_ptr, WORK * net.first.shape[1], structure.block)
        run(loops.adjoint.energies, parts, len(parts), np.zeros(1, np.int64), structure, net, tape)
        ctx.kept, ctx.shapes = (free, memory, table, structure, net, tape), [w.shape for w in weights]
        if not any(ctx.needs_input_grad):
            free.append(memory)
        out = tape.b, tape.forces, tape.virial, tape.shifted, tape.pairs.crowd
        b, forces, virial, shifted, crowd = (torch.from_numpy(array) for array in out)
        ctx.mark_non_differentiable(shifted, crowd)
        return b, forces, virial, shifted, crowd

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, b: Tensor, forces: Tensor, virial: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("The gradient of this loss was taken before. Compute energies and forces again.")
        free, memory, table, structure, net, tape = ctx.kept
        ctx.kept = None
        adjoint = loops.adjoint
        pulls = adjoint.Pulls(*(t.contiguous().numpy() for t in (b, forces, virial)))
        parts = shares(structure.row_ptr, WORK * net.first.shape[1], structure.block)
        run(adjoint.gradients, parts, len(parts), np.zeros(1, np.int64), structure, net, tape, pulls)
        gradients = _gradients(structure, net, tape, b, _tables(table, structure, net, tape))
        free.append(memory)
        # Without the zeros that filled up rows to whole vectors.
        cropped = (g[tuple(map(slice, shape))] for g, shape in zip(gradients, ctx.shapes, strict=True))
        return None, None, None, None, *cropped


def _structure(graph: AtomGraph, element: Tensor) -> Any:
    """That of `kernels.pairs`, with lone atoms at the end."""
    edges, n_lone = graph.edges, len(element) - graph.n_atoms
    return loops.pairs.Structure(
        positions=graph.positions.numpy(),
        element=element.numpy(),
        row_ptr=torch.cat([edges.row_ptr, edges.row_ptr[-1:].expand(n_lone)]).numpy(),
        neighbor=edges.neighbor.numpy(),
        reverse=edges.reverse.numpy(),
        offset=offsets(graph),
        batch=graph.batch.numpy(),
        block=block_size(graph.n_atoms),  # as in use, for the same sums
    )


def _tape(free: list[Array], net: Any, structure: Any) -> tuple[Array, Any]:
    """Room for all that a pass leaves, and the memory in which it stands, but for what it returns."""
    n_layers, _, n_features = net.tables.shape
    n_atoms, n_edges, n_hidden, number = (
        len(structure.element),
        len(structure.neighbor),
        len(net.last),
        net.first.dtype,
    )
    pairs = {
        "earlier": ((n_atoms,), np.int64),
        "later": ((n_atoms,), np.int64),
        "neighbor": ((n_edges,), np.int32),
        "row": ((n_edges,), np.int32),
        "t": ((n_edges,), number),
        "coefficients": ((net.polynomials.shape[1], n_edges), number),
        "unit": ((n_edges, 3), np.float64),
        "d": ((n_edges,), np.float64),
        "pull": ((n_edges,), number),
    }
    both, single, hidden = (
        (n_layers, 2, n_atoms, n_features),
        (n_layers, n_atoms, n_features),
        (2, n_atoms, n_hidden),
    )
    rest = {
        "h": ((n_layers + 1, 2, n_atoms, n_features), number),
        **dict.fromkeys(("x", "m", "s", "h_bar", "x_bar", "m_bar", "u_bar"), (both, number)),
        **dict.fromkeys(("u", "u_dot", "slope", "v"), (single, number)),
        **dict.fromkeys(("z", "r_bar"), (hidden, number)),
        **dict.fromkeys(("r", "r_slope"), (hidden[1:], number)),
        "turn": ((n_edges,), number),
        "shifting": ((n_atoms,), np.float64),
    }
    memory, arrays = _carve(free, pairs | rest)
    returned = {"b": (n_atoms,), "shifted": (n_atoms,), "forces": (n_atoms, 3), "virial": (n_atoms, 3, 3)}
    laid = loops.pairs.Pairs(**{name: arrays[name] for name in pairs}, crowd=np.empty(n_atoms))
    out = {name: np.empty(shape) for name, shape in returned.items()}
    return memory, loops.adjoint.Tape(pairs=laid, **{name: arrays[name] for name in rest}, **out)


def _carve(free: list[Array], shapes: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
    """Arrays side by side in memory that is free, or in new memory if that is too small."""
    places, end = {}, 0
    for name, (shape, kind) in shapes.items():
        places[name] = end
        end += -(-int(np.prod(shape)) * np.dtype(kind).itemsize // LINE) * LINE
    memory = take(free)
    if memory is None or len(memory) < end:
        memory = torch.empty(
            end + end // 8, dtype=torch.uint8, device="cpu"
        ).numpy()  # at a line of the cache, unlike NumPy's
    return memory, {name: np.ndarray(shape, kind, memory, places[name]) for name, (shape, kind) in shapes.items()}


def _tables(table: RadialTable, structure: Any, net: Any, tape: Any) -> Tensor:
    """Gradient of the loss by the tables (n_layers, n_rows, n_features)."""
    adjoint, n_edges = loops.adjoint, len(structure.neighbor)
    pair, center, begin = (np.empty(n, np.int64) for n in (n_edges, n_edges, table.n_knots + 1))
    adjoint.sort_pairs(structure, tape.pairs, net.stride, pair, center, begin)
    n_layers, _, n_features = net.tables.shape
    out = np.empty_like(net.tables)
    part = torch.from_numpy(out).new_empty(table.n_knots, table.degree + 1, n_features)
    parts = shares(begin, 2 * n_features)
    for layer in range(n_layers):
        run(adjoint.tables, parts, begin, pair, center, layer, tape, part.numpy())
        loops.edges.sum_intervals(part.numpy(), net.stride, out[layer])
    return torch.from_numpy(out)


def _gradients(structure: Any, net: Any, tape: Any, b: Tensor, tables: Tensor) -> list[Tensor]:
    """Gradients of the loss by `Weights`: products of adjoints and values, dots beside them."""
    h, s, m, z, h_bar, x_bar, u_bar, r_bar = (
        torch.from_numpy(array)
        for array in (tape.h, tape.s, tape.m, tape.z, tape.h_bar, tape.x_bar, tape.u_bar, tape.r_bar)
    )
    element, n_elements = torch.from_numpy(structure.element), len(net.features)
    scale = torch.from_numpy(net.per_element)[:, 0].index_select(0, element)
    to_last = torch.stack([b, scale]).to(z.dtype)
    nothing = x_bar.new_zeros(n_elements, x_bar.shape[-1])
    gradients = Weights(
        features=nothing.index_add(0, element, h_bar[0, 0]),
        first=nothing.index_add(0, element, x_bar[0, 0]),
        tables=tables,
        to_message=functional.pad(_products(x_bar[1:], h[1:-1]), (0, 0, 0, 0, 1, 0)),
        hidden=_products(u_bar, m),
        hidden_bias=u_bar[:, 0].sum(1),
        update=_products(h_bar, s),
        update_bias=h_bar[:, 0].sum(1),
        read=_products(r_bar, h[-1]),
        read_bias=r_bar[0].sum(0),
        last=(to_last[:, :, None] * z).sum((0, 1)),
        last_bias=to_last[0].sum()[None],
    )
    return list(gradients)


def _products(adjoint: Tensor, value: Tensor) -> Tensor:
    """Σ over atoms, values and dots, of adjoint ⊗ value: (…, n_out, n_in)."""
    return adjoint.flatten(-3, -2).mT @ value.flatten(-3, -2)
