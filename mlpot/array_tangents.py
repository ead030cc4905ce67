"""Derivatives of the arrays of a network along motions of the atoms: by compiled code, or by the definition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlpot.cpu.calls import native_obstacle, structure_of
from mlpot.cpu.door import compiled_code
from mlpot.graph import AtomGraph, edge_vectors
from mlpot.models.native import offsets
from mlpot.stages.network import StagedNetwork
from mlpot.stages.readout import Readout
from mlpot.stages.run import ENERGY, Program, Step, forward, tangents
from mlpot.stages.stage import Environments

Arrays = dict[str, Tensor]


class Motion(NamedTuple):
    """How structures change: r -> r + t (motion + r ε), cells with them."""

    atoms: Tensor  # (n_atoms, 3) Å
    strain: Tensor | None = None  # ε (n_atoms, 3, 3), symmetric, of the structure of each atom


class ArrayTangents:
    """Some arrays at the atoms of structures, and their derivatives along motions, with the weights of now.

    Args:
        network: whose arrays they are.
        steps: its own, perhaps with more.
        names: of the arrays. Steps that none of them depends on are left out.
    """

    def __init__(self, network: StagedNetwork, steps: Iterable[Step], names: Sequence[str]):
        self.network, self.names = network, tuple(names)
        self.program = _towards(tuple(steps), self.names)
        self.dtype = next(network.parameters()).dtype
        self._executor: Any = None
        if native_obstacle(network, next(network.parameters())) is None:
            self._executor = compiled_code().Executor(self.program, self.dtype)
            self._plan = self._executor.layout.plan(self.program.weights)

    def along(self, graph: AtomGraph, motions: Iterable[Motion]) -> Iterator[Arrays]:
        """Arrays (n_atoms, n_components, n_channels), and then their derivatives along each motion in turn.

        Those of one motion are valid until the next is asked for.

        Args:
            graph: the structures.
            motions: of these.
        """
        element = self.network.element_index.index_select(0, graph.numbers)
        if self._executor is None:
            yield from self._defined(graph, element, motions)
        else:
            yield from self._compiled(graph, element, motions)

    def _compiled(self, graph: AtomGraph, element: Tensor, motions: Iterable[Motion]) -> Iterator[Arrays]:
        executor, structure = self._executor, structure_of(graph, element.numpy(), offsets(graph))
        still = torch.zeros(graph.n_atoms, dtype=self.dtype)
        evaluation = executor.evaluate(self._plan, structure, seeds=still, training=True)
        channels = {name: self.program.shapes[name].n_channels for name in self.names}
        yield {name: executor.array(evaluation, name, n) for name, n in channels.items()}
        for motion in motions:
            executor.tangents(evaluation, motion.atoms, motion.strain)
            yield {name: executor.array(evaluation, name, n, tangent=True) for name, n in channels.items()}
        executor.release(evaluation)

    def _defined(self, graph: AtomGraph, element: Tensor, motions: Iterable[Motion]) -> Iterator[Arrays]:
        vectors, edges = edge_vectors(graph).to(self.dtype), graph.edges
        arrays = forward(self.program, Environments(element, edges, vectors))
        yield {name: arrays[name] for name in self.names}
        for motion, strain in motions:
            of_edges = motion.index_select(0, edges.neighbor) - motion.index_select(0, edges.center)
            if strain is not None:
                of_edges = of_edges + torch.einsum("eb,eba->ea", vectors, strain.index_select(0, edges.center))
            dots = tangents(self.program, Environments(element, edges, vectors, of_edges.to(self.dtype)), arrays)
            yield {name: dots[name] for name in self.names}


def _towards(steps: Sequence[Step], names: Sequence[str]) -> Program:
    """The steps that some arrays depend on, and a readout of nothing, as every program has one."""
    wanted, kept = set(names), []
    for step in reversed(steps):
        if step.target in wanted:
            kept.append(step)
            wanted |= {step.source} if step.source is not None else set()
    kept.reverse()
    program = Program(steps)
    n = program.shapes[names[0]].n_channels
    weight = next(w for w in program.weights)
    return Program([*kept, Step(Readout(weight.new_zeros(n)), names[0], ENERGY)])
