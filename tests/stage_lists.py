"""Lists of stages for tests: networks of the literature in small, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from mlpot.graph import Edges
from mlpot.stages.coupling import couplings
from mlpot.stages.edge_network import Dense, EdgeNetwork, Gate, Move
from mlpot.stages.linear import Block, Linear, per_degree
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.pointwise import Activation
from mlpot.stages.products import Product, Products, coupled_products
from mlpot.stages.radial import BASES, ENVELOPES
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step
from mlpot.stages.spline_grid import SplineGrid
from mlpot.stages.stage import Environments

CUTOFF = 4.0


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def random_table(n_paths: int, n_channels: int, degree: int = 5) -> tuple[Tensor, SplineGrid]:
    grid = SplineGrid(CUTOFF, 12, degree)
    table = randn(grid.n_rows, n_paths, n_channels) / 3
    table[-(3 if degree == 3 else 2) :] = 0  # ends smoothly
    return joined(table, degree), grid


def joined(table: Tensor, degree: int) -> Tensor:
    """Rows whose changes are those from each value to the next one, and to zero at the end."""
    if degree == 5:
        values = table[2::4]
        table[3::4] = values.diff(dim=0, append=torch.zeros_like(values[:1]))
    return table


def environments(n_atoms: int, n_elements: int, moving: bool = False) -> Environments:
    """Those of `atoms`."""
    return atoms(n_atoms, n_elements, moving)[1]


def atoms(n_atoms: int, n_elements: int, moving: bool = False) -> tuple[Tensor, Environments]:
    """Random positions, two bonds along the axes, edges beyond the cutoff, and an atom without any."""
    positions = torch.rand(n_atoms, 3, dtype=torch.float64) * 4
    if n_atoms > 3:
        positions[1] = positions[0] + torch.tensor([0.0, 1.5, 0.0])
        positions[2] = positions[0] - torch.tensor([0.0, 0.0, 1.2])
        positions[-1] = 20.0
    distance = torch.cdist(positions, positions).fill_diagonal_(99)
    center, neighbor = torch.nonzero(distance < 1.1 * CUTOFF, as_tuple=True)
    motion = randn(n_atoms, 3)
    return positions, Environments(
        element=torch.arange(n_atoms) % n_elements,
        edges=edges_of(center, neighbor, n_atoms),
        vectors=positions[neighbor] - positions[center],
        vectors_dot=motion[neighbor] - motion[center] if moving else None,
    )


def edges_of(center: Tensor, neighbor: Tensor, n_atoms: int) -> Edges:
    row_ptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(center, minlength=n_atoms).cumsum(0)])
    key = {pair: e for e, pair in enumerate(zip(center.tolist(), neighbor.tolist(), strict=True))}
    reverse = torch.tensor([key[j, i] for i, j in key], dtype=torch.int64)
    return Edges(center, neighbor, row_ptr, reverse)


def coupled(path: int, degree_y: int, degree_x: int, first: int, degree: int, target: int) -> list[Term]:
    """Terms of one path: harmonics of a degree with components of a tensor, to a tensor of a third degree."""
    return [
        Term(path, degree_y**2 + c.m1, first + c.m2, target + c.m, c.value)
        for c in couplings(degree_y, degree_x, degree)
    ]


TERMS = {
    "schnet": (Term(0, 0, 0, 0),),
    "first": tuple(Term(0 if b == 0 else 1 + (b > 3), b, 0, b) for b in range(9)),
    "vectors": tuple(
        coupled(0, 0, 0, 0, 0, 0)
        + coupled(1, 1, 0, 0, 1, 1)
        + coupled(2, 1, 1, 1, 0, 0)
        + coupled(0, 0, 1, 1, 1, 1)
    ),
}


def schnet(c: int, z: int) -> list[Step]:
    return [
        Step(Embedding(randn(z, c)), None, "h0"),
        Step(Linear(randn(1, c, c)), "h0", "x"),
        Step(NeighborSum(*random_table(1, c), TERMS["schnet"]), "x", "m"),
        Step(Linear(randn(1, c, c), bias=randn(1, c)), "m", "a"),
        Step(Activation(), "a", "s"),
        Step(Linear(randn(1, c, c), bias=randn(1, c)), "s", "h1"),
        Step(None, "h0", "h1"),
        Step(Linear(randn(1, c, 3), bias=randn(1, 3)), "h1", "r"),
        Step(Activation("ssp"), "r", "t"),
        Step(Readout(randn(3), randn(1)), "t", ENERGY),
    ]


def painn(c: int, z: int) -> list[Step]:
    """One layer from scalars, one from both, with gates and norms; (s, v) stand as four components."""
    norm = tuple(Product((4 + m, 4 + m), 0) for m in range(3))
    gates = (Product((0,), 0), *(Product((1, 3 + m), 1 + m) for m in range(3)))
    gates += tuple(Product((2, 3 + m, 6 + m), 0) for m in range(3))
    both = per_degree([1, 1])
    return [
        Step(Embedding(randn(z, c)), None, "x0"),
        Step(
            NeighborSum(*random_table(2, c, 3), (Term(0, 0, 0, 0), *(Term(1, b, 0, b) for b in (1, 2, 3)))),
            "x0",
            "x1",
        ),
        Step(NeighborSum(*random_table(3, c, 3), TERMS["vectors"]), "x1", "x2"),
        Step(None, "x1", "x2"),
        Step(
            Linear(randn(2, c, c) / 2, tuple(Block(1 + b.source % 3, b.target, b.matrix) for b in both)),
            "x2",
            "uv",
            write=1,
        ),
        Step(None, "x2", "uv", read=0, n_copied=1),
        Step(Products(norm), "uv", "n"),
        Step(Activation("root"), "n", "norm"),
        Step(
            Linear(randn(6, c, c) / 2, tuple(Block(a, k, 3 * a + k) for a in (0,) for k in range(3))), "norm", "g"
        ),
        Step(Activation("sigmoid", 3), "g", "gates"),
        Step(None, "uv", "gates", read=1, write=3),
        Step(Products(gates), "gates", "x3"),
        Step(None, "x2", "x3"),
        Step(Readout(randn(z, c)), "x3", ENERGY),
    ]


def mace(c: int, z: int) -> list[Step]:
    """Two layers, harmonics to degree 2, products to order 3, a skip by element, two readouts."""
    vectors = tuple(Product(t.factors, 1 + t.target, 9 + t.path, t.value) for t in coupled_products((0, 1, 2), 1))
    second = [Term(0 if b == 0 else 1 + (b > 3), b, 0, b) for b in range(9)]
    second += (
        coupled(3, 1, 1, 1, 0, 0)
        + coupled(4, 0, 1, 1, 1, 1)
        + coupled(5, 1, 1, 1, 2, 4)
        + coupled(6, 2, 1, 1, 1, 1)
    )
    return [
        Step(Embedding(randn(z, c)), None, "e"),
        Step(NeighborSum(*random_table(3, c), TERMS["first"]), "e", "A1"),
        Step(Linear(randn(3, c, c + 1) / 2, per_degree([0, 1, 2])), "A1", "B1"),
        Step(Products(coupled_products((0, 1, 2), 0) + vectors, randn(z, 17, c + 1) / 3), "B1", "P1"),
        Step(Linear(randn(2, c + 1, c) / 2, per_degree([0, 1])), "P1", "h1"),
        Step(Readout(randn(c)), "h1", ENERGY),
        Step(NeighborSum(*random_table(7, c), tuple(second)), "h1", "A2"),
        Step(Products(coupled_products((0, 1, 2), 0), randn(z, 9, c) / 3), "A2", "P2"),
        Step(Linear(randn(z, 1, c, c) / 2), "h1", "P2"),
        Step(Readout(randn(z, c), randn(z)), "P2", ENERGY),
    ]


def edge_network(
    c: int,
    *,
    radial: str = "gaussian",
    envelope: str = "polynomial",
    function: str = "silu",
    deep: bool = True,
    gated: bool = False,
    moves: bool = False,
    displaced: bool = False,
) -> EdgeNetwork:
    """One with random weights; without vectors where there are fewer channels than they need."""
    basis, has_room = BASES[radial](6, CUTOFF).double(), c >= 3
    return EdgeNetwork(
        randn(6, c),
        basis.places,
        basis,
        ENVELOPES[envelope](CUTOFF),
        factor=0.6,
        function=function,
        second=Dense(randn(c, c) / c**0.5, randn(c)) if deep else None,
        gate=Gate(randn(c) / c**0.5, randn(1)) if gated else None,
        move=Move(randn(c, c) / c**0.5, randn(c), randn(c) / (5 * c)) if moves and has_room else None,
        softening=1e-3 if displaced and has_room else None,
    )


ENDS = (Block(0, 0, 0), Block(0, 1, 1))  # a and b from features


def egnn(c: int, z: int) -> list[Step]:
    """Three layers with a gate: the first makes atoms step, the second sees that and they step again."""
    steps, h, moves = [Step(Embedding(randn(z, c)), None, "h0")], "h0", c >= 3
    for k in range(3):
        steps.append(Step(Linear(randn(2, c, c) / (2 * c**0.5), ENDS, randn(2, c)), h, f"x{k}"))
        if k > 0 and moves:
            steps.append(Step(None, f"y{k - 1}", f"x{k}", read=1, write=2))
        if k > 1 and moves:
            steps.append(Step(None, f"x{k - 1}", f"x{k}", read=2, write=2))
        stage = edge_network(c, gated=True, moves=k < 2, displaced=k > 0)
        steps += [Step(stage, f"x{k}", f"y{k}"), Step(Linear(randn(1, c, c) / c**0.5), f"y{k}", f"h{k + 1}")]
        steps.append(Step(None, h, f"h{k + 1}"))
        h = f"h{k + 1}"
    return [*steps, Step(Readout(randn(c), randn(1)), h, ENERGY)]


NETWORKS: dict[str, Callable[[int, int], list[Step]]] = {
    "schnet": schnet,
    "painn": painn,
    "mace": mace,
    "egnn": egnn,
}
"""Name -> steps for n_channels and n_elements."""


def random_program(rng: random.Random, c: int, z: int) -> list[Step]:
    """An embedding, random stages on four components that may read any earlier array, and readouts."""
    steps = [Step(Embedding(randn(z, 4, c)), None, "a0")]
    for k in range(1, rng.randint(2, 7)):
        source, target = f"a{rng.randrange(k)}", f"a{k}"
        stage = rng.choice([_sum, _linear, _products, _pointwise])(rng, c, z)
        steps.append(Step(stage, source, target))
        if rng.random() < 0.7:  # residual
            steps.append(Step(None, f"a{rng.randrange(k)}", target))
        if rng.random() < 0.3:
            steps.append(Step(Readout(randn(z, c)), target, ENERGY, read=rng.randrange(4)))
    return [
        *steps,
        Step(Readout(randn(c), randn(1)), steps[-1].target if steps[-1].target != ENERGY else "a0", ENERGY),
    ]


def _sum(rng: random.Random, c: int, z: int) -> NeighborSum:
    n_paths = rng.randint(1, 4)

    def pick() -> Term:
        return Term(rng.randrange(n_paths), rng.randrange(16), rng.randrange(4), rng.randrange(4), rng.random())

    terms = tuple(pick() for _ in range(rng.randint(1, 12)))
    return NeighborSum(*random_table(n_paths, c, rng.choice([3, 5])), (*terms, Term(0, 0, 3, 3)))


def _linear(rng: random.Random, c: int, z: int) -> Linear:
    blocks = tuple(Block(rng.randrange(4), rng.randrange(4), rng.randrange(3)) for _ in range(rng.randint(1, 6)))
    bias = randn(rng.choice([1, z]), 4, c) if rng.random() < 0.5 else None
    return Linear(randn(rng.choice([1, z]), 3, c, c) / c**0.5, (*blocks, Block(3, 3, 0)), bias)


def _products(rng: random.Random, c: int, z: int) -> Products:
    terms = [
        Product(
            tuple(rng.randrange(4) for _ in range(rng.randint(1, 3))),
            rng.randrange(4),
            rng.randrange(3),
            rng.random(),
        )
        for _ in range(rng.randint(1, 9))
    ]
    return Products((*terms, Product((3,), 3)), randn(rng.choice([1, z]), 3, c) / 3)


def _pointwise(rng: random.Random, c: int, z: int) -> Activation:
    return Activation(rng.choice(["silu", "ssp", "sigmoid", "tanh"]), 4, 0.5 + rng.random())
