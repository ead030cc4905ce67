"""A list of stages, compiled: energies of atoms and ∂E/∂r of edges, and the gradient of a loss on both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.cpu import driver
from mlpot.cpu.layout import Layout
from mlpot.cpu.plan import Plan, Room
from mlpot.kernels.threads import run, shares
from mlpot.stages.linear import Linear
from mlpot.stages.run import Program

Array = NDArray[Any]

PARTS = 4  # at most, of the atoms: each sums gradients of weights for itself


class Structure(NamedTuple):
    """Atoms and their list of edges, which may go beyond the cutoff."""

    positions: Array  # (n_atoms, 3) float64, Å
    element: Array  # (n_atoms,) int64, among the elements of the network
    row_ptr: Array  # (n_atoms + 1,) int64
    neighbor: Array  # (n_edges,) int64
    offset: Array  # (n_edges, 3) float64, shift · cell; empty if nothing is periodic


@dataclass
class Evaluation:
    """What `energies` found and `loss_gradient` needs."""

    layout: Layout
    plan: Plan
    room: Room
    parts: Array


def energies(
    layout: Layout, plan: Plan, structure: Structure, seeds: Tensor, training: bool = False
) -> Evaluation:
    """b and ∂E/∂r for ∂E/∂b = seeds (n_atoms,), in `room.b` and `room.gradient`."""
    room = _room(layout, structure, seeds, training)
    parts = _parts(structure.row_ptr)
    _run(driver.energies, layout, structure.row_ptr, parts, plan, room)
    return Evaluation(layout, plan, room, parts)


def loss_gradient(
    at: Evaluation, program: Program, b_bar: Tensor, forces: Tensor, virials: Tensor
) -> list[Tensor]:
    """Gradients by the weights of a program of a loss with gradients b̄ by b, F̄ by forces and W̄ by virials.

    Args:
        at: from `energies` with training.
        program: its weights are not read.
        b_bar: (n_atoms,).
        forces: (n_atoms, 3).
        virials: (n_atoms, 3, 3), of the graph of each atom.
    """
    layout, room = at.layout, at.room
    room.b_bar[:] = b_bar.numpy()
    w_bar = torch.empty(len(at.parts) - 1, layout.n_weights + layout.panel, dtype=layout.dtype)
    arrays = (t.double().contiguous().numpy() for t in (forces, virials))
    _run(driver.loss_gradient, layout, room.row_ptr, at.parts, at.plan, room, *arrays, w_bar.numpy())
    total = w_bar[0]
    for part in w_bar[1:]:
        total = total + part
    gradients = [torch.zeros(0)] * len(program.weights)
    for slot in layout.slots:
        if not slot.is_matrix and not slot.is_copy:
            flat = total[slot.place : slot.place + math.prod(slot.shape)].view(slot.shape)
            gradients[slot.weight] = slot.unpack(flat)
    number = 0
    for step in program.steps:
        if isinstance(step.stage, Linear):
            gradients[number] = _matrices(layout, program, room, step)
        number += 0 if step.stage is None else len(step.stage.weights)
    return gradients


def _run(loop: Any, layout: Layout, row_ptr: Array, parts: Array, plan: Plan, room: Room, *rest: Any) -> None:
    """All parts, by as many threads as there are and as pay."""
    begin = row_ptr[parts]
    own = shares(begin, layout.n_arena)
    run(loop, own, len(own), np.zeros(1, np.int64), parts, plan, room, *rest)


def _parts(row_ptr: Array) -> Array:
    """Where the parts begin: whole blocks, about as many edges each, whatever the number of threads."""
    n_atoms = len(row_ptr) - 1
    n_parts = min(PARTS, max(1, n_atoms // driver.BLOCK))
    ends = np.searchsorted(row_ptr, np.linspace(0, row_ptr[-1], n_parts + 1))
    ends = (ends + driver.BLOCK // 2) // driver.BLOCK * driver.BLOCK
    ends[0], ends[-1] = 0, n_atoms
    return np.minimum(ends, n_atoms).astype(np.int64)


def _empty(*shape: int, dtype: torch.dtype = torch.float64) -> Array:
    """PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice as much."""
    return torch.empty(shape, dtype=dtype).numpy()


def _room(layout: Layout, structure: Structure, seeds: Tensor, training: bool) -> Room:
    n_atoms, n_edges, dtype = len(structure.element), len(structure.neighbor), layout.dtype
    arena = n_atoms * layout.n_arena
    return Room(
        n_atoms=n_atoms,
        element=structure.element,
        values=_empty(arena, dtype=dtype),
        adjoints=_empty(arena, dtype=dtype),
        dots=_empty(arena if training else 0, dtype=dtype),
        backs=_empty(arena if training else 0, dtype=dtype),
        b=_empty(n_atoms),
        seeds=seeds.to(dtype).contiguous().numpy(),
        b_bar=_empty(n_atoms, dtype=dtype),
        row_ptr=structure.row_ptr,
        near=_empty(n_atoms, dtype=torch.int64),
        neighbor=_empty(n_edges, dtype=torch.int64),
        original=_empty(n_edges, dtype=torch.int64),
        d=_empty(n_edges),
        unit=_empty(n_edges, 3),
        positions=structure.positions,
        offset=structure.offset,
        listed=structure.neighbor,
        gradient=_empty(n_edges, 3),
        motion=_empty(n_edges if training else 0, 3),
    )


def _matrices(layout: Layout, program: Program, room: Room, step: Any) -> Tensor:
    """Σ over atoms of x ⊗ ȳ + ẋ ⊗ g for the matrices of a `Linear`, by a BLAS."""
    stage: Linear = step.stage
    (read, write), n = program.windows(step), room.n_atoms
    x, x_dot = (
        _array(layout, a, n, step.source)[:, read, : stage.weight.shape[2]] for a in (room.values, room.dots)
    )
    y, g = (
        _array(layout, a, n, step.target)[:, write, : stage.weight.shape[3]] for a in (room.backs, room.adjoints)
    )
    out = torch.zeros_like(stage.weight, requires_grad=False)
    element = torch.from_numpy(room.element)
    for number in {b.matrix for b in stage.blocks}:
        own = [b for b in stage.blocks if b.matrix == number]
        sources, targets = [b.source for b in own], [b.target for b in own]
        for z in range(len(out)):
            rows = slice(None) if len(out) == 1 else element == z
            left = torch.cat([a[rows][:, sources].flatten(0, 1) for a in (x, x_dot)])
            right = torch.cat([a[rows][:, targets].flatten(0, 1) for a in (y, g)])
            out[z, number] = left.T @ right
    return out


def _array(layout: Layout, arena: Array, n_atoms: int, name: str) -> Tensor:
    """An array at atoms of the arena, (n_atoms, n_components, padded channels)."""
    base, k, c = layout.arrays[name]
    return torch.from_numpy(arena)[base * n_atoms : (base + k * c) * n_atoms].view(n_atoms, k, c)
