"""The arrays of a network along motions of the atoms: by the compiled executor if there is one, or as defined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mlpot.cpu.calls import native_obstacle, structure_of
from mlpot.cpu.door import compiled_code
from mlpot.graph import AtomGraph, edge_vectors
from mlpot.models.native import offsets
from mlpot.stages.network import StagedNetwork
from mlpot.stages.run import Program, forward, tangents
from mlpot.stages.stage import Environments

Arrays = dict[str, Tensor]


def along(
    network: StagedNetwork, program: Program, graph: AtomGraph, names: Sequence[str], motions: Iterable[Tensor]
) -> Iterator[Arrays]:
    """Arrays of a program (n_atoms, n_components, n_channels), and then their derivatives along each motion.

    Args:
        network: whose program it is, perhaps with more steps.
        program: with the weights of now.
        graph: the structures.
        names: of the arrays.
        motions: (n_atoms, 3) Å each.
    """
    element = network.element_index.index_select(0, graph.numbers)
    weight = next(network.parameters())
    if native_obstacle(network, weight) is None:
        yield from _compiled(program, graph, element, names, motions, weight.dtype)
    else:
        yield from _defined(program, graph, element, names, motions, weight.dtype)


def _compiled(
    program: Program,
    graph: AtomGraph,
    element: Tensor,
    names: Sequence[str],
    motions: Iterable[Tensor],
    dtype: torch.dtype,
) -> Iterator[Arrays]:
    executor = compiled_code().Executor(program, dtype)
    plan, structure = executor.layout.plan(program.weights), structure_of(graph, element.numpy(), offsets(graph))
    still = torch.zeros(graph.n_atoms, dtype=dtype)
    evaluation = executor.evaluate(plan, structure, seeds=still, training=True)
    channels = {name: program.shapes[name].n_channels for name in names}
    yield {name: executor.array(evaluation, name, n) for name, n in channels.items()}
    for motion in motions:
        executor.tangents(evaluation, motion)
        yield {name: executor.array(evaluation, name, n, tangent=True) for name, n in channels.items()}


def _defined(
    program: Program,
    graph: AtomGraph,
    element: Tensor,
    names: Sequence[str],
    motions: Iterable[Tensor],
    dtype: torch.dtype,
) -> Iterator[Arrays]:
    vectors, edges = edge_vectors(graph).to(dtype), graph.edges
    arrays = forward(program, Environments(element, edges, vectors))
    yield {name: arrays[name] for name in names}
    for motion in motions:
        of_edges = motion.index_select(0, edges.neighbor) - motion.index_select(0, edges.center)
        dots = tangents(program, Environments(element, edges, vectors, of_edges.to(dtype)), arrays)
        yield {name: dots[name] for name in names}
