"""What either way of passing messages between processes costs, from counts; the cheaper is chosen.

    t_ghosts   = n(passes × cutoff) a / R                  n(r): own atoms and those within r of them
    t_exchange = n(0) a / R + 2 [n(cutoff) − n(0)] b / B + 2 m 26 λ

a: multiply-adds of an atom and its edges, forward, and twice as many back. b: bytes that are sent of an atom, and
as many of their adjoints. m: exchanges, each with 26 neighbors. Atoms count once whatever their images, and are
spread evenly over the box. The ways are those of `own_energies`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpot.potential import Potential
from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.exchange import exchanged
from mlpot.stages.linear import Linear
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import Activation
from mlpot.stages.products import Products
from mlpot.stages.run import Program

RATE = 2e9  # multiply-adds a second, of one core; see bench/README.md
BANDWIDTH = 1e9  # bytes a second that a process sends, as a slow network and packing let it
LATENCY = 2e-5  # s of a message
NEIGHBORS = 26  # of a process in a grid
FUNCTION = 20  # multiply-adds that a function of one number costs


class Costs(NamedTuple):
    """Of one step of one process."""

    ghosts: float  # s, with large ghosts
    exchange: float  # s, with exchanged features
    n_ghosts: float  # atoms, with exchanged features
    n_bytes: float  # sent, both ways


def costs(potential: Potential, n_atoms: int, heights: NDArray[np.float64], grid: NDArray[np.int64]) -> Costs:
    """Of both ways.

    Args:
        potential: with a network of stages.
        n_atoms: of all processes.
        heights: (3,) Å, of the box, between opposite faces.
        grid: (3,) processes along each.
    """
    assert isinstance(potential.backbone, StagedNetwork)
    program, cutoff = potential.backbone.program(), potential.cutoff
    density = n_atoms / float(heights.prod())

    def within(depth: float) -> float:
        sides = np.where(grid > 1, np.minimum(heights, heights / grid + 2 * depth), heights)
        return density * float(sides.prod())

    work = 3 * multiply_adds(program, density * 4 / 3 * math.pi * cutoff**3) / RATE
    sent = [s for s in exchanged(program) if s is not None]
    of_atom = 2 * sum((s.components.stop - s.components.start) * s.n_channels for s in sent)
    own, near = within(0), within(cutoff)
    n_bytes = (near - own) * of_atom * potential.energy_scale.element_size()
    partners = 0 if grid.prod() == 1 else NEIGHBORS
    messages = n_bytes / BANDWIDTH + 2 * len(sent) * partners * LATENCY
    return Costs(within(potential.n_passes * cutoff) * work, own * work + messages, near - own, n_bytes)


def multiply_adds(program: Program, n_neighbors: float) -> float:
    """Of all stages for one atom and its edges, forward."""
    total = 0.0
    for step in program.steps:
        stage = step.stage
        n = 0 if step.source is None else program.shapes[step.source].n_channels
        if isinstance(stage, Linear):
            total += len(stage.blocks) * math.prod(stage.weight.shape[-2:])
        elif isinstance(stage, Products):
            total += n * sum(len(t.factors) for t in stage.terms)
        elif isinstance(stage, Activation):
            total += n * stage.n_read * FUNCTION
        elif isinstance(stage, NeighborSum):
            _, n_paths, _ = stage.table.shape
            total += n_neighbors * n * (n_paths * (stage.grid.degree + 1) + len(stage.terms))
        elif isinstance(stage, EdgeNetwork):
            layers = n * ((stage.second is not None) + (stage.move is not None))
            total += n_neighbors * n * (len(stage.from_radial) + layers + FUNCTION)
    return total
