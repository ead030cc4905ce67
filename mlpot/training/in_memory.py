"""A training set as flat tensors: neighbor lists built once, batches put together by gathers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from mlpot.data.h5md import Frame
from mlpot.graph import AtomGraph, Edges, Properties
from mlpot.neighbors import build_graph
from mlpot.training.losses import Labels


@dataclass(frozen=True)
class FlatSet:
    """Many structures one after the other; indices of neighbors and edges count within their structure."""

    table: Tensor  # (4, n_frames) int64, on the CPU: first atom, atoms, first edge, edges of each frame
    numbers: Tensor  # (n_atoms,) int64
    positions: Tensor  # (n_atoms, 3) float64, Å
    degree: Tensor  # (n_atoms,) int32, edges of each center
    neighbor: Tensor  # (n_edges,) int32
    reverse: Tensor  # (n_edges,) int32
    cell_shift: Tensor  # (n_edges, 3) int16
    cell: Tensor  # (n_frames, 3, 3) float64, Å
    pbc: Tensor  # (n_frames, 3) bool
    energy: Tensor  # (n_frames,) float64, eV
    forces: Tensor  # (n_atoms, 3) float64, eV/Å
    stress: Tensor  # (n_frames, 3, 3) float64, eV/Å³; NaN where there is none to learn
    weight: Tensor  # (n_frames,) float64, how much a frame counts; (0,) where all count alike

    def __len__(self) -> int:
        return self.table.shape[1]

    @property
    def n_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def to(self, device: torch.device | str) -> FlatSet:
        """The same set on another device, where batches are then made; the table stays on the CPU."""
        return replace(
            self, **{f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "table"}
        )

    def batch(self, frames: Tensor) -> tuple[AtomGraph, Properties]:
        """The frames with these indices (n_batch,), as `graph.collate` joins them, and their labels."""
        device = self.numbers.device
        table = self.table.index_select(1, frames)
        n_atoms, n_edges = int(table[1].sum()), int(table[3].sum())  # on the CPU: nothing waits for the device
        table = torch.cat([table, table[1::2].cumsum(1)]).to(device, non_blocking=True)
        first_atom, n_atom, first_edge, n_edge, end_atom, end_edge = table
        atom0, edge0 = end_atom - n_atom, end_edge - n_edge  # where each frame starts in the batch
        graphs = torch.arange(len(frames), device=device)
        batch = graphs.repeat_interleave(n_atom, output_size=n_atoms)
        edge_batch = graphs.repeat_interleave(n_edge, output_size=n_edges)
        atoms = torch.arange(n_atoms, device=device)
        rows = atoms + (first_atom - atom0).index_select(0, batch)
        edges = torch.arange(n_edges, device=device) + (first_edge - edge0).index_select(0, edge_batch)
        degree = self.degree.index_select(0, rows)
        frames = frames.to(device, non_blocking=True)
        graph = AtomGraph(
            positions=self.positions.index_select(0, rows),
            numbers=self.numbers.index_select(0, rows),
            cell=self.cell.index_select(0, frames),
            pbc=self.pbc.index_select(0, frames),
            edges=Edges(
                center=atoms.repeat_interleave(degree, output_size=n_edges),
                neighbor=self.neighbor.index_select(0, edges) + atom0.index_select(0, edge_batch),
                row_ptr=torch.cat([degree.new_zeros(1, dtype=torch.int64), degree.cumsum(0)]),
                reverse=self.reverse.index_select(0, edges) + edge0.index_select(0, edge_batch),
            ),
            cell_shift=self.cell_shift.index_select(0, edges).double(),
            batch=batch,
        ).know()
        labels = Labels(
            energy=self.energy.index_select(0, frames),
            forces=self.forces.index_select(0, rows),
            stress=self.stress.index_select(0, frames),
            weight=self.weight.index_select(0, frames) if len(self.weight) else self.weight,
        )
        return graph, labels


def flatten(
    frames: Iterable[Frame],
    cutoff: float,
    indices: Iterable[int | str] | None = None,
    weights: Iterable[float] | None = None,
) -> FlatSet:
    """The flat set of frames, with every pair closer than `cutoff` (Å).

    Args:
        indices: names of the frames in errors; their places by default.
        weights: how much each frame counts in the loss; all alike by default.

    Raises:
        ValueError: a structure that `build_graph` refuses; no frames.
    """
    sizes, columns = [], []
    for k, frame in zip(count() if indices is None else indices, frames, strict=False):
        try:
            graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, cutoff)
        except ValueError as error:
            raise ValueError(f"Frame {k}: {error}") from None
        sizes.append((graph.n_atoms, len(graph.edges)))
        columns.append(
            (
                graph.numbers,
                graph.positions,
                graph.edges.row_ptr.diff().int(),
                graph.edges.neighbor.int(),
                graph.edges.reverse.int(),
                graph.cell_shift.to(torch.int16),
                graph.cell,
                graph.pbc,
                torch.tensor([frame.energy], dtype=torch.float64),
                torch.from_numpy(np.asarray(frame.forces, dtype=np.float64)),
                torch.from_numpy(frame.stress)[None],
            )
        )
    if not sizes:
        raise ValueError("The set has no structures. Give at least one.")
    counts = torch.tensor(sizes).T
    starts = counts.cumsum(1) - counts
    table = torch.stack([starts[0], counts[0], starts[1], counts[1]])
    weight = torch.tensor([] if weights is None else list(weights), dtype=torch.float64)
    joined = [torch.cat(column) for column in zip(*columns, strict=True)] + [weight]
    return FlatSet(table, *joined)
