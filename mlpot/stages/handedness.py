"""What a list of stages does to mirror images: whether inversion of all positions can change its energies.

Under inversion every component of an array keeps its number or changes its sign, or is a sum of both kinds. An
energy that only has terms that keep it is that of the mirror image too, whatever the weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.harmonics import degree_of
from mlpot.stages.linear import Linear
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.pointwise import Activation
from mlpot.stages.products import Products
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Program
from mlpot.stages.stage import Stage

Parities = frozenset[int]
EVEN, ODD = frozenset({1}), frozenset({-1})


def tells_mirror_images(program: Program) -> bool:
    """Whether energies have terms that change their sign; if not, mirror images have one energy."""
    return parities(program)[ENERGY] != [EVEN]


def parities(program: Program) -> dict[str, list[Parities]]:
    """Of each component of each array, the factors under inversion, ±1, of its terms."""
    found = {name: [frozenset[int]()] * shape.n_components for name, shape in program.shapes.items()}
    for step in program.steps:
        read, write = program.windows(step)
        x = [] if step.source is None else found[step.source][read]
        y = x if step.stage is None else _written(step.stage, x)
        found[step.target][write] = [old | new for old, new in zip(found[step.target][write], y, strict=True)]
    return found


def _written(stage: Stage, x: Sequence[Parities]) -> list[Parities]:
    """Of what a stage writes."""
    none: Parities = frozenset()
    out = [none] * stage.n_written
    if isinstance(stage, NeighborSum):
        for path in stage.terms:
            sign = (-1) ** degree_of(path.harmonic)
            out[path.target] |= {sign * p for p in x[path.source]}
    elif isinstance(stage, Linear):
        for block in stage.blocks:
            out[block.target] |= x[block.source]
        if stage.bias is not None:
            out = [own | EVEN for own in out]
    elif isinstance(stage, Products):
        for product in stage.terms:
            factors = itertools.product(*(x[a] for a in product.factors))
            out[product.target] |= {math.prod(signs) for signs in factors}
    elif isinstance(stage, Activation):  # of odd numbers tanh is odd, the others are neither
        out = [own if own == EVEN or stage.function == "tanh" else own | EVEN for own in x]
    elif isinstance(stage, EdgeNetwork):  # of scalars and distances; steps of atoms are vectors
        scalars = frozenset().union(*x[:2])
        out = [scalars if scalars == EVEN else EVEN | ODD] + [ODD if scalars == EVEN else EVEN | ODD] * len(
            out[1:]
        )
    elif isinstance(stage, Readout):
        out = [x[0] if stage.bias is None else x[0] | EVEN]
    else:
        assert isinstance(stage, Embedding), type(stage)
        out = [EVEN] * len(out)
    return out
