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
from mlpot.cpu.layout import Layout, layout_of
from mlpot.cpu.outer import Answer, Outer
from mlpot.cpu.plan import Plan, Room
from mlpot.kernels.threads import run, shares, take
from mlpot.stages.linear import Linear, grouped
from mlpot.stages.run import Program

Array = NDArray[Any]

PARTS = 4  # at most, of the atoms: each sums gradients of weights for itself


class Structure(NamedTuple):
    """Atoms and their list of edges, which may go beyond the cutoff."""

    positions: Array  # (n_atoms, 3) float64, Å
    element: Array  # (n_atoms,) int64, among the elements of the network
    row_ptr: Array  # (n_atoms + 1,) int64
    neighbor: Array  # (n_edges,) int64
    reverse: Array  # (n_edges,) int64, the edge that points back
    offset: Array  # (n_edges, 3) float64, shift · cell; empty if nothing is periodic
    kind: Array | None = None  # (n_atoms,) int64, as `element`, but ghosts are kinds of their own


@dataclass
class Evaluation:
    """What the energies leave behind for the gradient of a loss."""

    memory: Memory
    plan: Plan
    room: Room
    answer: Answer
    parts: Array


NO_OUTER = Outer(np.zeros((1, 7)), np.zeros((1, 3)), np.zeros((1, 1, 3)), np.zeros((4, 2)), 0.0)
"""For b and ∂E/∂r alone."""


class Executor:
    """All networks of one shape: their layout, and memory that is used again.

    Args:
        program: any of them.
        dtype: float32 or float64.
    """

    def __init__(self, program: Program, dtype: torch.dtype):
        self.layout = layout_of(program, dtype)
        self._free: list[Memory] = []

    def energies(self, plan: Plan, structure: Structure, outer: Outer) -> Answer:
        """Energies, forces and virials of atoms."""
        evaluation = self.evaluate(plan, structure, outer)
        self.release(evaluation)
        return evaluation.answer

    def evaluate(
        self,
        plan: Plan,
        structure: Structure,
        outer: Outer = NO_OUTER,
        *,
        seeds: Tensor | None = None,
        training: bool = False,
    ) -> Evaluation:
        """Everything; `release` it when it is no longer needed.

        Args:
            plan: from `layout`, with the weights.
            structure: the atoms.
            outer: the terms around the network; they say what ∂E/∂b is.
            seeds: ∂E/∂b (n_atoms,) without outer terms.
            training: whether `loss_gradient` will be asked.
        """
        memory = take(self._free) or Memory()
        room = _room(memory, self.layout, structure, training)
        if seeds is not None:
            room.seeds[:] = seeds.numpy()
        answer, parts = _answer(len(structure.element)), _parts(structure.row_ptr)
        self._run(driver.energies, parts, plan, room, outer, answer)
        return Evaluation(memory, plan, room, answer, parts)

    def release(self, evaluation: Evaluation) -> None:
        """Give back the memory of an evaluation; its answer stays."""
        self._free.append(evaluation.memory)

    def tangents(self, at: Evaluation, motion: Tensor) -> None:
        """Derive all arrays along a motion of the atoms (n_atoms, 3), after `evaluate` with training."""
        virials, nothing = np.zeros((len(motion), 3, 3)), torch.empty(0, 0, dtype=self.layout.dtype).numpy()
        self._run(driver.loss_gradient, at.parts, at.plan, at.room, -motion.double().numpy(), virials, nothing)

    def array(self, at: Evaluation, name: str, n_channels: int, *, tangent: bool = False) -> Tensor:
        """A copy of an array at atoms (n_atoms, n_components, n_channels), or of its tangent."""
        arena = at.room.dots if tangent else at.room.values
        return _array(self.layout, arena, at.room.n_atoms, name)[:, :, :n_channels].clone()

    def loss_gradient(
        self, at: Evaluation, program: Program, b_bar: Tensor, forces: Tensor, virials: Tensor
    ) -> list[Tensor]:
        """Gradients by the weights of a loss with gradients b̄ by b, F̄ by forces and W̄ by virials.

        Args:
            at: from `evaluate` with training.
            program: of this shape; its weights are not read.
            b_bar: (n_atoms,).
            forces: (n_atoms, 3).
            virials: (n_atoms, 3, 3), of the graph of each atom.
        """
        layout, room = self.layout, at.room
        room.b_bar[:] = b_bar.numpy()
        w_bar = torch.empty(len(at.parts) - 1, layout.n_weights + layout.panel, dtype=layout.dtype)
        arrays = (t.double().contiguous().numpy() for t in (forces, virials))
        self._run(driver.loss_gradient, at.parts, at.plan, room, *arrays, w_bar.numpy())
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

    def _run(self, loop: Any, parts: Array, plan: Plan, room: Room, *rest: Any) -> None:
        """All parts, by as many threads as there are and as pay."""
        own = shares(room.row_ptr[parts], self.layout.n_arena)
        run(loop, own, len(own), np.zeros(1, np.int64), parts, plan, room, *rest)


def _parts(row_ptr: Array) -> Array:
    """Where the parts begin: whole blocks, about as many edges each, whatever the number of threads."""
    n_atoms = len(row_ptr) - 1
    n_parts = min(PARTS, max(1, n_atoms // driver.BLOCK))
    ends = np.searchsorted(row_ptr, np.linspace(0, row_ptr[-1], n_parts + 1))
    ends = (ends + driver.BLOCK // 2) // driver.BLOCK * driver.BLOCK
    ends[0], ends[-1] = 0, n_atoms
    return np.minimum(ends, n_atoms).astype(np.int64)


class Memory:
    """Arrays that grow when they must, and are used again."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def get(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Array:
        """An array of that shape, with anything in it."""
        n = math.prod(shape)
        kept = self._arrays.get(name)
        if kept is None or len(kept) < n:
            # PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice.
            kept = self._arrays[name] = torch.empty(n + n // 8, dtype=dtype).numpy()
        return kept[:n].reshape(shape)


def _room(memory: Memory, layout: Layout, structure: Structure, training: bool) -> Room:
    n_atoms, n_edges, dtype, get = len(structure.element), len(structure.neighbor), layout.dtype, memory.get
    arena, whole, n_grids = n_atoms * layout.n_arena, torch.int64, len(layout.grids)
    return Room(
        n_atoms=n_atoms,
        element=structure.element,
        kind=structure.element if structure.kind is None else structure.kind,
        values=get("values", arena, dtype=dtype),
        adjoints=get("adjoints", arena, dtype=dtype),
        dots=get("dots", arena if training else 0, dtype=dtype),
        backs=get("backs", arena if training else 0, dtype=dtype),
        b=get("b", n_atoms),
        seeds=get("seeds", n_atoms, dtype=dtype),
        b_bar=get("b_bar", n_atoms, dtype=dtype),
        row_ptr=structure.row_ptr,
        near=get("near", n_atoms, dtype=whole),
        neighbor=get("neighbor", n_edges, dtype=whole),
        original=get("original", n_edges, dtype=whole),
        distance=get("distance", n_edges),
        d=get("d", n_edges),
        unit=get("unit", n_edges, 3),
        positions=structure.positions,
        offset=structure.offset,
        listed=structure.neighbor,
        reverse=structure.reverse,
        knots=get("knots", n_grids, n_edges, dtype=whole),
        coefficients=get("coefficients", n_grids, n_edges, 12, dtype=dtype),
        harmonics=get("harmonics", n_edges, 16, dtype=dtype),
        by_distance=get("by_distance", n_edges, dtype=dtype),
        by_harmonic=get("by_harmonic", n_edges, 16, dtype=dtype),
        gradient=get("gradient", n_edges, 3),
        d_dot=get("d_dot", n_edges if training else 0, dtype=dtype),
        harmonics_dot=get("harmonics_dot", n_edges if training else 0, 16, dtype=dtype),
    )


def _answer(n: int) -> Answer:
    return Answer(
        coordination=np.empty(n),
        by_coordination=np.empty(n),
        energy=np.empty(n),
        added=np.empty(n),
        forces=np.empty((n, 3)),
        virial=np.empty((n, 3, 3)),
    )


def _matrices(layout: Layout, program: Program, room: Room, step: Any) -> Tensor:
    """Σ over atoms of x ⊗ ȳ + ẋ ⊗ g for the matrices of a `Linear`, by a BLAS."""
    stage: Linear = step.stage
    (read, write), n = program.windows(step), room.n_atoms
    _, _, n_in, n_out = stage.weight.shape
    arrays = [_array(layout, a, n, step.source)[:, read, :n_in] for a in (room.values, room.dots)]
    arrays += [_array(layout, a, n, step.target)[:, write, :n_out] for a in (room.backs, room.adjoints)]
    out = torch.zeros_like(stage.weight, requires_grad=False)
    element = torch.from_numpy(room.element)
    for z in range(len(out)):
        own = arrays if len(out) == 1 else [a[element == z] for a in arrays]
        for number, (sources, targets) in grouped(stage.blocks):
            left, right = _components(sources), _components(targets)
            for x, y in ((own[0], own[2]), (own[1], own[3])):
                out[z, number].addmm_(x[:, left].reshape(-1, n_in).T, y[:, right].reshape(-1, n_out))
    return out


def _components(numbers: list[int]) -> slice | list[int]:
    """As a slice, which copies nothing, if they stand side by side."""
    first, n = numbers[0], len(numbers)
    return slice(first, first + n) if numbers == list(range(first, first + n)) else numbers


def _array(layout: Layout, arena: Array, n_atoms: int, name: str) -> Tensor:
    """An array at atoms of the arena, (n_atoms, n_components, padded channels)."""
    base, k, c = layout.arrays[name]
    return torch.from_numpy(arena)[base * n_atoms : (base + k * c) * n_atoms].view(n_atoms, k, c)
