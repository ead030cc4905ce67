"""A list of stages, compiled: energies of atoms and ∂E/∂r of edges, and the gradient of a loss on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.cpu import driver
from mlpot.cpu.edge_tiles import n_rows_kept
from mlpot.cpu.edge_writer import EDGES
from mlpot.cpu.exchange import Exchanges, forward, stops, whole
from mlpot.cpu.layout import Layout, layout_of
from mlpot.cpu.outer import Answer, Outer
from mlpot.cpu.parts import Parts, most_in_one, parts_of, parts_of_graphs, parts_of_process
from mlpot.cpu.plan import COEFFICIENTS, Near, Plan, Workspace
from mlpot.kernels import ahead
from mlpot.kernels.threads import run, shares, take
from mlpot.stages.exchange import exchanged
from mlpot.stages.run import Program

Array = NDArray[Any]
Found = tuple[Array, Array, Array]

GROUPS = 4  # at most, of parts: each sums gradients of weights for itself
ON_EDGES = 512 << 20  # bytes of what `EdgeNetwork`s may keep of edges


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
    workspace: Workspace
    near: Near
    answer: Answer
    parts: Parts


NO_OUTER = Outer(np.zeros((1, 7)), np.zeros((1, 3)), np.zeros((1, 1, 3)), np.zeros((4, 2)), 0.0)
"""For b and ∂E/∂r alone."""


class Executor:
    """All networks of one shape: their layout, and memory that is used again.

    Args:
        program: any of them.
        dtype: float32 or float64.
    """

    def __init__(self, program: Program, dtype: torch.dtype):
        self.layout, self._sent = layout_of(program, dtype), exchanged(program)
        self._kinds = driver.kinds_in(self.layout.steps)
        self._whole = most_in_one(self.layout.n_arena)
        self._is_begun = False  # to compile what only training needs
        self._free: list[Memory] = []
        self._plans: list[Plan] = []  # whose weights nobody needs any more

    def energies(self, plan: Plan, structure: Structure, outer: Outer, batch: Array, n_graphs: int) -> Found:
        """Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV.

        Those of a graph do not depend on the others, to the last bit. `batch` (n_atoms,) ascends.
        """
        evaluation = self.evaluate(plan, structure, outer, parts=self.parts(structure, batch, n_graphs))
        self.release(evaluation)
        return self.totals(evaluation, batch, n_graphs)

    def totals(self, evaluation: Evaluation, batch: Array, n_graphs: int) -> Found:
        """What `energies` gives, of an evaluation that may be released."""
        answer, energy, virial = evaluation.answer, np.empty(n_graphs), np.empty((n_graphs, 3, 3))
        driver.totals(batch, answer.energy, answer.virial, energy, virial)
        return energy, answer.forces, virial

    def evaluate(
        self,
        plan: Plan,
        structure: Structure,
        outer: Outer = NO_OUTER,
        *,
        seeds: Tensor | None = None,
        training: bool = False,
        parts: Parts | None = None,
        exchanges: Exchanges | None = None,
        forward_only: bool = False,
        by_atom: bool = False,
    ) -> Evaluation:
        """Everything; `release` it when it is no longer needed.

        Args:
            plan: from `layout`, with the weights.
            structure: the atoms.
            outer: the terms around the network; they say what ∂E/∂b is.
            seeds: ∂E/∂b (n_atoms,) without outer terms.
            training: whether `loss_gradient` will be asked.
            parts: where the atoms are cut; by their number alone without it.
            exchanges: of features with other processes; what ghosts are left with means nothing.
            forward_only: for arrays at atoms alone; there is no answer then.
            by_atom: share the virial of two atoms equally; if not, its sum alone means something.
        """
        memory = take(self._free) or Memory()
        if parts is None:
            parts = Parts(parts_of(structure.row_ptr, self._whole), apart=False)
        schedule = (forward if forward_only else whole)(plan, len(parts.ends) - 1)
        if exchanges is not None:
            ends, n_own = parts_of_process(structure.row_ptr, exchanges.n_own, self._whole)
            parts, schedule = Parts(ends, apart=False), stops(plan, self._sent, n_own)
        workspace, near = memory.records(self.layout, structure, training, len(parts.ends) - 1)
        if seeds is not None:
            workspace.seeds[:] = seeds.numpy()
        answer = _answer(len(structure.element), by_atom)
        if training and not self._is_begun:
            self._begin_gradient(plan, parts, workspace, near)
        for extent, sent, back in schedule:
            arrays = parts.ends, plan, workspace, near, outer, answer, extent
            self._run(driver.energies(self._kinds), parts.ends, parts.apart, near, *arrays)
            if exchanges is not None and sent is not None:
                arena = workspace.adjoints if back else workspace.values
                rows = _array(self.layout, arena, workspace.n_atoms, sent.array)[
                    :, sent.components, : sent.n_channels
                ]
                (exchanges.halo.gather if back else exchanges.halo.fill)(rows)
        return Evaluation(memory, plan, workspace, near, answer, parts)

    def parts(self, structure: Structure, batch: Array, n_graphs: int) -> Parts:
        """Where the atoms of some graphs are cut; `batch` as for `energies`."""
        return parts_of_graphs(structure.row_ptr, batch, n_graphs, self._whole)

    def plan(self, weights: Sequence[Tensor]) -> Plan:
        """For one evaluation; `forget` it after its release."""
        last = take(self._plans)
        return self.layout.plan(weights, None if last is None else torch.from_numpy(last.weights))

    def forget(self, plan: Plan) -> None:
        """Use the memory of a plan again."""
        self._plans.append(plan)

    def release(self, evaluation: Evaluation) -> None:
        """Give back the memory of an evaluation; its answer stays."""
        self._free.append(evaluation.memory)

    def tangents(self, at: Evaluation, motion: Tensor, strain: Tensor | None = None) -> None:
        """Derive all arrays along a motion of the atoms and a strain, after `evaluate` with training.

        Args:
            at: from it.
            motion: (n_atoms, 3) Å.
            strain: (n_atoms, 3, 3), of the structure of each atom.
        """
        strains = np.zeros((len(motion), 3, 3)) if strain is None else strain.double().contiguous().numpy()
        nothing = torch.empty(0, 0, dtype=self.layout.dtype, device="cpu").numpy()
        self._along(at, -motion.double().numpy(), strains, nothing)

    def array(self, at: Evaluation, name: str, n_channels: int, *, tangent: bool = False) -> Tensor:
        """A copy of an array at atoms (n_atoms, n_components, n_channels), or of its tangent."""
        arena = at.workspace.dots if tangent else at.workspace.values
        return _array(self.layout, arena, at.workspace.n_atoms, name)[:, :, :n_channels].clone()

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
        layout, workspace = self.layout, at.workspace
        workspace.b_bar[:] = b_bar.numpy()
        n_groups = min(GROUPS, len(at.parts.ends) - 1)
        w_bar = at.memory.get("w_bar", n_groups, layout.n_weights + layout.panel, dtype=layout.dtype)
        of_forces, of_virials = (t.double().contiguous().numpy() for t in (forces, virials))
        self._along(at, of_forces, of_virials, w_bar)
        total = torch.from_numpy(w_bar[0])
        for part in w_bar[1:]:
            total += torch.from_numpy(part)
        gradients = [torch.zeros(0, device="cpu")] * len(program.weights)
        for slot in layout.slots:
            flat = total[slot.place : slot.place + math.prod(slot.shape)].view(slot.shape)
            gradients[slot.weight] = slot.unpack(flat).clone()  # the memory is used again
        return gradients

    def _begin_gradient(self, plan: Plan, parts: Parts, workspace: Workspace, near: Near) -> None:
        """Let another process compile the gradient of a loss, while this one compiles energies and forces."""
        self._is_begun, counter = True, np.zeros(1, np.int64)
        w_bar = torch.empty(0, 0, dtype=self.layout.dtype, device="cpu").numpy()
        arrays = counter, parts.ends, plan, workspace, near, np.empty((0, 3)), np.empty((0, 3, 3)), w_bar
        ahead.begin(driver.loss_gradient, self._kinds, (0, 1, 1, counter, *arrays))

    def _along(self, at: Evaluation, forces: Array, virials: Array, w_bar: Array) -> None:
        (ends, apart), n_parts = at.parts, len(at.parts.ends) - 1
        groups = np.linspace(0, n_parts, min(GROUPS, n_parts) + 1).astype(np.int64)
        arrays = groups, ends, at.plan, at.workspace, at.near, forces, virials, w_bar
        ahead.wait()
        self._run(driver.loss_gradient(self._kinds), ends[groups], apart, at.near, *arrays)

    def _run(self, loop: Any, ends: Array, apart: bool, near: Near, *rest: Any) -> None:
        """All parts or groups of them, which end at some atoms, by as many threads as there are and as pay."""
        own = shares(near.row_ptr[ends], self.layout.n_arena) if len(ends) > 2 else [(0, 1)]
        run(loop, own, 1 if apart else len(own), np.zeros(1, np.int64), *rest)


class Memory:
    """Arrays that grow when they must, and are used again."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._last: tuple[tuple[int, int, bool, int], Workspace, Near] | None = None

    def get(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Array:
        """An array of that shape, with anything in it."""
        n = math.prod(shape)
        kept = self._arrays.get(name)
        if kept is None or len(kept) < n:
            # PyTorch begins an array at a cache line, NumPy does not, and vectors across two lines cost twice.
            kept = self._arrays[name] = torch.empty(n + n // 8, dtype=dtype, device="cpu").numpy()
        return kept[:n].reshape(shape)

    def records(
        self, layout: Layout, structure: Structure, training: bool, n_parts: int
    ) -> tuple[Workspace, Near]:
        """All arrays for some atoms and edges; those of the last structure if there are as many."""
        key = len(structure.element), len(structure.neighbor), training, n_parts
        if self._last is not None and self._last[0] == key:
            _, workspace, near = self._last
            kind = structure.element if structure.kind is None else structure.kind
            workspace = workspace._replace(element=structure.element, kind=kind)
            return workspace, near._replace(
                row_ptr=structure.row_ptr,
                listed=structure.neighbor,
                reverse=structure.reverse,
                positions=structure.positions,
                offset=structure.offset,
            )
        workspace, near = (
            _workspace(self, layout, structure, training),
            _near(self, layout, structure, training, n_parts),
        )
        self._last = key, workspace, near
        return workspace, near


def _workspace(memory: Memory, layout: Layout, structure: Structure, training: bool) -> Workspace:
    n_atoms, dtype, get = len(structure.element), layout.dtype, memory.get
    arena = n_atoms * layout.n_arena
    return Workspace(
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
    )


def _near(memory: Memory, layout: Layout, structure: Structure, training: bool, n_parts: int) -> Near:
    n_atoms, n_listed, dtype = len(structure.element), len(structure.neighbor), layout.dtype
    n, n_grids, get, whole = n_listed + 2 * EDGES * n_atoms, len(layout.grids), memory.get, torch.int64
    return Near(
        row_ptr=structure.row_ptr,
        listed=structure.neighbor,
        reverse=structure.reverse,
        positions=structure.positions,
        offset=structure.offset,
        ends=get("ends", n_atoms, 4, dtype=whole),
        other=get("other", n, dtype=whole),
        original=get("original", n, dtype=whole),
        exact=get("exact", n, 5),
        knots=get("knots", n_grids * n, dtype=whole),
        coefficients=get("coefficients", n_grids * n * COEFFICIENTS, dtype=dtype),
        harmonics=get("harmonics", n, 16, dtype=dtype),
        by_distance=get("by_distance", n, dtype=dtype),
        by_harmonic=get("by_harmonic", n, 16, dtype=dtype),
        gradient=get("gradient", n_listed, 3),
        d_dot=get("d_dot", n if training else 0, dtype=dtype),
        harmonics_dot=get("harmonics_dot", n if training else 0, 16, dtype=dtype),
        **_on_edges(memory, layout, structure, training, n_parts),
    )


def _on_edges(
    memory: Memory, layout: Layout, structure: Structure, training: bool, n_parts: int
) -> dict[str, Array]:
    """What `EdgeNetwork`s read and leave."""
    get, whole, dtype, there = memory.get, torch.int64, layout.dtype, layout.n_bar > 0
    n_atoms, n = len(structure.element) * there, len(structure.neighbor) * there
    n_tape = layout.n_tape * n_rows_kept(n, n_atoms)
    tapes = [n_tape * (k * n_tape * dtype.itemsize <= ON_EDGES) for k in (1, 2)]
    return {
        "n_near": get("n_near", n_atoms, dtype=whole),
        "center": get("center", n, dtype=whole),
        "edge": get("edge", n, dtype=whole),
        "separation": get("separation", n, 4),
        "separation_dot": get("separation_dot", n * training, 4),
        "tape": get("tape", tapes[0], dtype=dtype),
        "tape_dot": get("tape_dot", tapes[1] * training, dtype=dtype),
        "work": get("work", n_parts, layout.n_work, dtype=dtype),
        "edge_bars": get("edge_bars", 2, n, layout.n_bar, dtype=dtype),
        "edge_moves": get("edge_moves", 2, n, 3),
    }


def _answer(n: int, is_shared: bool) -> Answer:
    return Answer(
        coordination=np.empty(n),
        by_coordination=np.empty(n),
        energy=np.empty(n),
        added=np.empty(n),
        forces=np.empty((n, 3)),
        virial=np.empty((n, 3, 3)),
        is_shared=is_shared,
    )


def _array(layout: Layout, arena: Array, n_atoms: int, name: str) -> Tensor:
    """An array at atoms of the arena, (n_atoms, n_components, padded channels)."""
    base, k, c = layout.arrays[name]
    return torch.from_numpy(arena)[base * n_atoms : (base + k * c) * n_atoms].view(n_atoms, k, c)
