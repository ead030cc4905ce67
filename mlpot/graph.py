"""The records that flow through everything: an AtomGraph goes in, Properties come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Movable:
    """A frozen record of tensors (and records of tensors) that moves between devices as one."""

    def to(self: Record, device: torch.device | str, non_blocking: bool = False) -> Record:
        """The same record on another device; itself if it is there."""
        if _device(self) == torch.device(device):
            return self
        return _map(self, lambda t: t.to(device, non_blocking=non_blocking))

    def clone(self: Record) -> Record:
        """The same record in memory of its own."""
        return _map(self, lambda t: t.clone())

    def pin_memory(self: Record) -> Record:
        """The same record in page-locked memory, for copies that overlap with computation."""
        return _map(self, lambda t: t.pin_memory())


Record = TypeVar("Record", bound=Movable)


@dataclass(frozen=True)
class Edges(Movable):
    """Who is near whom. Integers only: a potential cannot see positions or cells."""

    center: Tensor  # (n_edges,) int64, sorted; edge e points from center to neighbor
    neighbor: Tensor  # (n_edges,) int64
    row_ptr: Tensor  # (n_atoms + 1,) int64, edges of atom i are row_ptr[i]:row_ptr[i + 1]
    reverse: Tensor  # (n_edges,) int64, index of the edge that points back

    known_with: ClassVar[tuple[Tensor, ...] | None] = None  # of a graph, see `AtomGraph.know`; no argument

    @property
    def n_atoms(self) -> int:
        return len(self.row_ptr) - 1

    def __len__(self) -> int:
        return len(self.center)


@dataclass(frozen=True)
class AtomGraph(Movable):
    """One or more structures with their neighbor edges."""

    positions: Tensor  # (n_atoms, 3) float64, Å
    numbers: Tensor  # (n_atoms,) int64, atomic number Z
    cell: Tensor  # (n_graphs, 3, 3) float64, Å, rows are cell vectors
    pbc: Tensor  # (n_graphs, 3) bool
    edges: Edges
    cell_shift: Tensor  # (n_edges, 3) float64, whole cells S crossed from center to neighbor
    batch: Tensor  # (n_atoms,) int64, graph of each atom
    cutoff: float = inf  # Å, to which all pairs have edges, as whoever made them says

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def n_graphs(self) -> int:
        return len(self.cell)

    def know(self) -> AtomGraph:
        """Itself, whose indices hold from now on: also with other positions, and on other devices."""
        object.__setattr__(
            self.edges, "known_with", (self.numbers, self.cell, self.pbc, self.cell_shift, self.batch)
        )
        return self

    def is_known(self) -> bool:
        """Whether `know` was called of a graph with these edges, numbers, cells, shifts and structures."""
        if self.edges.known_with is None:
            return False
        numbers, cell, pbc, cell_shift, batch = self.edges.known_with
        return (
            self.numbers is numbers
            and self.cell is cell
            and self.pbc is pbc
            and self.cell_shift is cell_shift
            and self.batch is batch
        )


@dataclass(frozen=True)
class Properties(Movable):
    """What a potential predicts, what a calculation labels, what a loss compares."""

    energy: Tensor  # (n_graphs,) float64, eV
    forces: Tensor  # (n_atoms, 3) float64, eV/Å
    stress: Tensor  # (n_graphs, 3, 3) float64, eV/Å³; NaN where there is no volume or no label


@dataclass(frozen=True)
class Prediction(Properties):
    """What a potential predicts, and how far from its training set."""

    extrapolation_grade: Tensor | None  # (n_graphs,) the highest of the atoms; None if the potential cannot tell
    energy_std: Tensor | None = None  # (n_graphs,) eV, standard deviation over the members; of a committee alone
    forces_std: Tensor | None = None  # (n_atoms, 3) eV/Å, likewise


def edge_vectors(graph: AtomGraph) -> Tensor:
    """Vectors r_e = r_j + S_e · cell − r_i from center to neighbor, (n_edges, 3) float64, Å."""
    center, neighbor = graph.edges.center, graph.edges.neighbor
    vectors = graph.positions.index_select(0, neighbor) - graph.positions.index_select(0, center)
    if not graph.pbc.any():
        return vectors
    if graph.n_graphs == 1:
        return vectors + graph.cell_shift @ graph.cell[0]
    cell = graph.cell.index_select(0, graph.batch.index_select(0, center))
    return vectors + torch.einsum("ea,eab->eb", graph.cell_shift, cell)


def collate(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """Join graphs into one: concatenate, and shift atom, edge and graph indices.

    Raises:
        ValueError: no graphs were given.
        TypeError: something is no AtomGraph, or there is no list of them.
    """
    if isinstance(graphs, AtomGraph) or not isinstance(graphs, Sequence):
        raise TypeError(f"collate takes a list of AtomGraph, and this is of type {type(graphs).__name__}.")
    for graph in graphs:
        if not isinstance(graph, AtomGraph):
            raise TypeError(
                f"collate takes graphs, and one is of type {type(graph).__name__}. mlpot.build_graph makes them."
            )
    if not graphs:
        raise ValueError("collate needs at least one graph, got none. Give a non-empty list of AtomGraph.")
    atom0 = _starts([g.n_atoms for g in graphs])
    edge0 = _starts([len(g.edges) for g in graphs])
    graph0 = _starts([g.n_graphs for g in graphs])
    edges = Edges(
        center=torch.cat([g.edges.center + a for g, a in zip(graphs, atom0, strict=True)]),
        neighbor=torch.cat([g.edges.neighbor + a for g, a in zip(graphs, atom0, strict=True)]),
        row_ptr=torch.cat(
            [graphs[0].edges.row_ptr[:1]] + [g.edges.row_ptr[1:] + e for g, e in zip(graphs, edge0, strict=True)]
        ),
        reverse=torch.cat([g.edges.reverse + e for g, e in zip(graphs, edge0, strict=True)]),
    )
    joined = AtomGraph(
        positions=torch.cat([g.positions for g in graphs]),
        numbers=torch.cat([g.numbers for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        edges=edges,
        cell_shift=torch.cat([g.cell_shift for g in graphs]),
        batch=torch.cat([g.batch + k for g, k in zip(graphs, graph0, strict=True)]),
        cutoff=min(g.cutoff for g in graphs),
    )
    return joined.know() if all(g.is_known() for g in graphs) else joined


def collate_properties(labels: Sequence[Properties]) -> Properties:
    """Join the labels of several graphs, in the order in which `collate` joins the graphs."""
    return Properties(
        energy=torch.cat([p.energy for p in labels]),
        forces=torch.cat([p.forces for p in labels]),
        stress=torch.cat([p.stress for p in labels]),
    )


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts


def _device(record: Movable) -> torch.device:
    """Where the first tensor of a record is, and so all of them."""
    first = getattr(record, fields(record)[0].name)
    return _device(first) if isinstance(first, Movable) else first.device


def _map(record: Record, move: Callable[[Tensor], Tensor]) -> Record:
    moved: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Movable):
            moved[field.name] = _map(value, move)
        elif isinstance(value, Tensor):
            moved[field.name] = move(value)
    new = replace(record, **moved)
    if isinstance(record, AtomGraph) and isinstance(new, AtomGraph) and record.is_known():
        new.know()
    return new
