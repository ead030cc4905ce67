"""Graphs that nobody here made: compiled code follows their indices, so that wrong ones would write anywhere.

Those of `neighbors` and `collate` are known to hold, and so is a graph that was looked at, with other positions.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mlpot.graph import AtomGraph, Edges

Shape = tuple[str | int, ...]
FIELDS: dict[str, tuple[torch.dtype, Shape]] = {
    "positions": (torch.float64, ("n_atoms", 3)),
    "numbers": (torch.int64, ("n_atoms",)),
    "cell": (torch.float64, ("n_graphs", 3, 3)),
    "pbc": (torch.bool, ("n_graphs", 3)),
    "cell_shift": (torch.float64, ("n_edges", 3)),
    "batch": (torch.int64, ("n_atoms",)),
}
EDGE_FIELDS: dict[str, Shape] = {
    "center": ("n_edges",),
    "neighbor": ("n_edges",),
    "row_ptr": ("n_atoms + 1",),
    "reverse": ("n_edges",),
}
BUILD_IT = "mlpot.build_graph makes graphs of structures, and mlpot.graph.collate joins them."


@runtime_checkable
class AtomicEnergies(Protocol):
    """What `predict` needs: atomic energies from edge vectors, and float64 reference energies."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor: ...

    def reference_energies(self, numbers: Tensor) -> Tensor: ...


def check_energies(potential: Any, caller: str) -> None:
    """Raise TypeError for what has no atomic energies, such as the path of a potential, or a calculator."""
    if not isinstance(potential, AtomicEnergies):
        raise TypeError(
            f"{caller} takes a potential and a graph, and the first argument is of type "
            f"{type(potential).__name__}. mlpot.load(file) has the potential of a file; that of a calculator is "
            "calculator.potential."
        )


def check_graph(graph: Any, caller: str) -> None:
    """Raise what is wrong with a graph before indices of it are followed.

    Raises:
        TypeError: no AtomGraph, such as ASE's Atoms.
        ValueError: a tensor has another type or shape, or an index points to nothing.
    """
    if not isinstance(graph, AtomGraph):
        raise TypeError(
            f"{caller} takes an AtomGraph, and this is of type {type(graph).__name__}. "
            "mlpot.build_graph makes it, and ASE's Atoms have forces from mlpot.MLPotCalculator."
        )
    r = graph.positions
    moved = isinstance(graph.edges, Edges) and graph.is_known() and isinstance(r, Tensor)
    if moved and r.dtype == torch.float64 and r.shape == (len(graph.numbers), 3):
        return
    _check_tensors(graph)
    _check_edges(graph)
    graph.know()


def _check_tensors(graph: AtomGraph) -> None:
    if not isinstance(graph.edges, Edges):
        raise ValueError(f"edges of a graph are of type {type(graph.edges).__name__}, not Edges. {BUILD_IT}")
    if isinstance(graph.cutoff, bool) or not isinstance(graph.cutoff, int | float):
        raise ValueError(f"cutoff of a graph is {str(graph.cutoff)[:40]}, not a number of Å. {BUILD_IT}")
    found = {name: getattr(graph, name) for name in FIELDS}
    found |= {f"edges.{name}": getattr(graph.edges, name) for name in EDGE_FIELDS}
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} of a graph is of type {type(tensor).__name__}, not a tensor. {BUILD_IT}")
    sizes = {
        "n_atoms": found["numbers"].numel(),
        "n_atoms + 1": found["numbers"].numel() + 1,
        "n_graphs": found["cell"].numel() // 9,
        "n_edges": found["edges.center"].numel(),
    }
    expected = FIELDS | {f"edges.{name}": (torch.int64, shape) for name, shape in EDGE_FIELDS.items()}
    for name, (dtype, shape) in expected.items():
        tensor, wanted = found[name], tuple(n if isinstance(n, int) else sizes[n] for n in shape)
        if tensor.dtype != dtype or tensor.shape != wanted:
            raise ValueError(
                f"{name} of a graph is {tuple(tensor.shape)} of {tensor.dtype}, expected {wanted} of {dtype}. "
                f"{BUILD_IT}"
            )
        if tensor.device != found["numbers"].device:
            raise ValueError(f"{name} of a graph is on {tensor.device}, and others are not. Use graph.to(device).")


def _check_edges(graph: AtomGraph) -> None:
    """Indices are of atoms, edges are sorted by center as `row_ptr` says, and each has one that points back."""
    e, n = graph.edges, graph.n_atoms
    in_order = bool((graph.batch.diff() >= 0).all()) and _within(graph.batch, graph.n_graphs)
    if not in_order:
        raise ValueError(f"batch of a graph is no sorted list of indices of its structures. {BUILD_IT}")
    counts = e.row_ptr.diff()
    sorted_ = int(e.row_ptr[0]) == 0 and int(e.row_ptr[-1]) == len(e) and bool((counts >= 0).all())
    if not sorted_ or not torch.equal(torch.repeat_interleave(counts), e.center):
        raise ValueError(f"Edges of a graph are not sorted by center as its row_ptr says. {BUILD_IT}")
    if not _within(e.neighbor, n) or not _within(e.reverse, len(e)):
        raise ValueError(f"Edges of a graph point to atoms or edges that are not there. {BUILD_IT}")
    there_and_back = torch.equal(e.center[e.reverse], e.neighbor) and torch.equal(e.neighbor[e.reverse], e.center)
    if not there_and_back or not torch.equal(graph.cell_shift[e.reverse], -graph.cell_shift):
        raise ValueError(
            "An edge of a graph has none that points back: each pair has two, and `reverse` says which. "
            + BUILD_IT
        )


def _within(indices: Tensor, n: int) -> bool:
    return bool(((indices >= 0) & (indices < n)).all())
