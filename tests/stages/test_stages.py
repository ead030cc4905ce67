"""Every stage proves its four functions, and lists of them prove energies, forces and the gradient of a loss."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from stage_lists import CUTOFF, NETWORKS, TERMS, edge_network, environments, random_program, random_table
from torch import Tensor

from mlpot.knots import RadialTable
from mlpot.stages.coupling import couplings, symmetric_products, wigner_3j
from mlpot.stages.harmonics import harmonic_gradients, harmonics
from mlpot.stages.linear import Block, Linear, per_degree
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import FUNCTIONS, Activation
from mlpot.stages.products import Product, Products, coupled_products
from mlpot.stages.radial import BesselBasis, PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import Program, Step, atomic_values, edge_gradient, loss_gradient
from mlpot.stages.spline_grid import SplineGrid
from mlpot.stages.stage import Environments, Stage

TRIPLES = [t for t in itertools.product(range(4), repeat=3) if abs(t[0] - t[1]) <= t[2] <= t[0] + t[1]]
f64 = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, **f64)


def close(a: Tensor, b: Tensor, bar: float = 1e-12) -> None:
    """Equal within `bar` of the largest number."""
    assert a.shape == b.shape
    assert float((a - b).abs().max() if a.numel() else 0) <= bar * max(
        1.0, float(b.abs().max() if b.numel() else 0)
    )


@pytest.mark.parametrize("degrees", TRIPLES, ids=str)
def test_couplings_are_those_of_e3nn(degrees: tuple[int, int, int]) -> None:
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn comes with the dev extra")
    close(torch.tensor(wigner_3j(*degrees)), o3.wigner_3j(*degrees, **f64), 1e-14)


@pytest.mark.parametrize("degrees", TRIPLES, ids=str)
def test_coefficients_that_are_equal_but_for_their_sign_are_so_to_the_bit(degrees: tuple[int, int, int]) -> None:
    found = {(c.m1, c.m2, c.m): c.value for c in couplings(*degrees)}
    expected = (2 * degrees[2] + 1) ** 0.5 * wigner_3j(*degrees)
    for place, value in found.items():
        assert value == pytest.approx(float(expected[place]), abs=1e-14)
    sizes = sorted({abs(value) for value in found.values()})
    assert all(b - a > 1e-6 for a, b in itertools.pairwise(sizes))  # else an edge has a factor of its own for each


def test_harmonics_are_those_of_e3nn() -> None:
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn comes with the dev extra")
    u = torch.nn.functional.normalize(randn(40, 3), dim=1)
    u = torch.cat([u, torch.eye(3, **f64), -torch.eye(3, **f64)])
    expected = [o3.spherical_harmonics(degree, u, True, "component") for degree in range(4)]
    close(harmonics(u), torch.cat(expected, 1), 1e-14)


def test_gradients_of_harmonics_hold_on_the_axes_too() -> None:
    r = torch.cat([randn(20, 3), 1.3 * torch.eye(3, **f64), -0.7 * torch.eye(3, **f64)])
    exact = torch.func.jacrev(lambda r: harmonics(r / r.norm(dim=1, keepdim=True)).sum(0))(r).permute(1, 0, 2)
    d = r.norm(dim=1)
    close(harmonic_gradients(r / d[:, None], d), exact, 1e-13)


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_products_turn_as_tensors_of_their_degree(order: int, degree: int, parity: bool) -> None:
    degrees, directions = (0, 1, 2, 3), torch.nn.functional.normalize(randn(50, 3), dim=1)
    rotation = torch.linalg.qr(randn(3, 3))[0]  # perhaps with a reflection, which natural parity allows
    if not parity:
        rotation = rotation * torch.linalg.det(rotation)
    by_rotation = torch.linalg.lstsq(harmonics(directions), harmonics(directions @ rotation.T)).solution.T
    at, x = environments(3, 1), randn(3, 16, 1)
    for polynomial in symmetric_products(degrees, degree, order, parity=parity):
        terms = [Product(f, m, 0, float(v)) for f, c in polynomial.items() for m, v in enumerate(c) if v]
        stage, window = Products(tuple(terms)), slice(degree**2, (degree + 1) ** 2)
        turned = by_rotation[window, window] @ stage.value(at, x)
        close(stage.value(at, by_rotation @ x), turned, 1e-11)


@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_numbers_of_independent_products(order: int, degree: int, parity: bool) -> None:
    """As many as characters tell: how often a degree is in a symmetric power of the degrees 0 to 3."""
    angle = torch.arange(64, **f64) * torch.pi / 64 + torch.pi / 128

    def character(l: int, a: Tensor, inverted: int) -> Tensor:  # noqa: E741
        return (-1) ** (l * inverted) * sum(torch.cos(m * a) for m in range(-l, l + 1))  # type: ignore[no-any-return]  # a sum of tensors

    def of_power(k: int, inverted: int) -> Tensor:
        return torch.stack([character(l, k * angle, k * inverted) for l in range(4)]).sum(0)  # noqa: E741

    found = []
    for inverted in (0, 1):
        one, two, three = (of_power(k, inverted) for k in (1, 2, 3))
        power = {1: one, 2: (one**2 + two) / 2, 3: (one**3 + 3 * one * two + 2 * three) / 6}[order]
        found.append(float((power * character(degree, angle, inverted) * (1 - torch.cos(angle))).mean()))
    expected = sum(found) / 2 if parity else found[0]
    assert len(symmetric_products((0, 1, 2, 3), degree, order, parity=parity)) == pytest.approx(expected, abs=1e-9)


def by_autograd(
    stage: Stage, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor
) -> list[Tensor]:
    """What the four functions give, from `value` alone."""
    x, vectors = x.clone().requires_grad_(), at.vectors.clone().requires_grad_()
    weights = tuple(w.requires_grad_() for w in stage.weights)

    y = stage.value(Environments(at.element, at.edges, vectors), x)
    u = torch.zeros_like(
        y
    ).requires_grad_()  # ẏ is linear in x and r: the gradient by u of the gradient along both
    back = torch.autograd.grad((y * u).sum(), (x, vectors), create_graph=True, materialize_grads=True)
    along = (back[0] * x_dot).sum() + (back[1] * at.vectors_dot).sum()
    (y_dot,) = torch.autograd.grad(along, u, create_graph=True, materialize_grads=True)
    x_bar, gradient = torch.autograd.grad(
        (y * y_bar).sum(), (x, vectors), retain_graph=True, materialize_grads=True
    )
    total = (y * y_bar).sum() + (y_dot * g).sum()
    both = torch.autograd.grad(total, (x, *weights), materialize_grads=True)
    return [t.detach() for t in (y, y_dot, x_bar, gradient, *both)]


def by_itself(stage: Stage, at: Environments, x: Tensor, x_dot: Tensor, y_bar: Tensor, g: Tensor) -> list[Tensor]:
    with torch.no_grad():
        x_bar, gradient = stage.adjoint(at, x, y_bar)
        both, weights = stage.both_adjoints(at, x, x_dot, y_bar, g)
        gradient = torch.zeros_like(at.vectors) if gradient is None else gradient
        return [stage.value(at, x), stage.tangent(at, x, x_dot), x_bar, gradient, both, *weights]


def all_degrees(n_paths: int) -> list[tuple[int, int, int, int, float]]:
    """Terms with every harmonic, from scalars and from vectors."""
    terms = [(b % n_paths, b, 0, b, 1.0) for b in range(16)]
    return terms + [
        ((b + a) % n_paths, b, 1 + a, 16 + (a + b) % 3, 0.3 + a - b) for a in range(3) for b in range(16)
    ]


STAGES: dict[str, Callable[[int, int], tuple[Stage, int]]] = {
    # name: n_channels, n_elements -> the stage and the channels that it writes
    "neighbor_sum": lambda c, z: (NeighborSum(*random_table(3, c), TERMS["vectors"]), c),
    "neighbor_sum_scalar": lambda c, z: (NeighborSum(*random_table(1, c, degree=3), TERMS["schnet"]), c),
    "neighbor_sum_to_l3": lambda c, z: (NeighborSum(*random_table(5, c), tuple(all_degrees(5))), c),
    "linear": lambda c, z: (Linear(randn(3, c, c + 2), per_degree([0, 1, 2])), c + 2),
    "linear_by_element": lambda c, z: (Linear(randn(z, 2, c, 5), per_degree([0, 1]), randn(z, 4, 5)), 5),
    "linear_of_several": lambda c, z: (
        Linear(randn(3, c, c), (Block(0, 0, 0), Block(1, 0, 1), Block(0, 2, 2)), randn(3, c)),
        c,
    ),
    "products": lambda c, z: (Products(coupled_products((0, 1, 2), 0), randn(z, 9, c)), c),
    "products_to_vectors": lambda c, z: (Products(coupled_products((0, 1, 2, 3), 1), randn(16, c)), c),
    "gates": lambda c, z: (Products(tuple(Product((0, 1 + m), m) for m in range(3))), c),
    "embedding": lambda c, z: (Embedding(randn(z, 2, c)), c),
    "readout": lambda c, z: (Readout(randn(z, c), randn(z)), 1),
    "edge_network": lambda c, z: (edge_network(c), c),
    "edge_network_of_one_layer": lambda c, z: (edge_network(c, deep=False, radial="bessel", gated=True), c),
    "edge_network_that_moves": lambda c, z: (edge_network(c, moves=True, envelope="cosine"), c),
    "edge_network_of_one_layer_that_moves": lambda c, z: (edge_network(c, deep=False, moves=True), c),
    "edge_network_between_displaced": lambda c, z: (
        edge_network(c, moves=True, displaced=True, gated=True, function="ssp", radial="bessel"),
        c,
    ),
    "edge_network_between_displaced_that_stay": lambda c, z: (
        edge_network(c, displaced=True, radial="expnormal"),
        c,
    ),
    **{name: lambda c, z, name=name: (Activation(name, 2, 1.7), c) for name in FUNCTIONS},
}


@pytest.mark.parametrize("n_channels", [1, 3, 8, 17])
@pytest.mark.parametrize("name", STAGES)
def test_the_four_functions_of_a_stage(name: str, n_channels: int) -> None:
    """At widths that fill no vector, with one element and several, bonds along the axes and atoms alone."""
    for n_elements in (1, 3):
        stage, n_written = STAGES[name](n_channels, n_elements)
        at = environments(6, n_elements, moving=True)
        x, x_dot = randn(6, stage.n_read, n_channels), randn(6, stage.n_read, n_channels)
        x = x.square() if name == "root" else x
        y_bar, g = randn(6, stage.n_written, n_written), randn(6, stage.n_written, n_written)
        expected = by_autograd(stage, at, x, x_dot, y_bar, g)
        for mine, exact in zip(by_itself(stage, at, x, x_dot, y_bar, g), expected, strict=True):
            close(mine, exact)


@pytest.mark.parametrize("name", STAGES)
def test_zero_features_are_harmless(name: str) -> None:
    stage, n_written = STAGES[name](4, 2)
    at = environments(5, 2, moving=True)
    x, y_bar = torch.zeros(5, stage.n_read, 4, **f64), randn(5, stage.n_written, n_written)
    for tensor in by_itself(stage, at, x, x, y_bar, y_bar):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", STAGES)
def test_any_memory_layout_gives_the_same(name: str) -> None:
    stage, n_written = STAGES[name](4, 2)
    at = environments(5, 2, moving=True)
    arrays = [randn(5, stage.n_read, 4).square() for _ in range(2)]
    arrays += [randn(5, stage.n_written, n_written) for _ in range(2)]
    strange = [a.permute(2, 0, 1).contiguous().permute(1, 2, 0) for a in arrays]
    for mine, exact in zip(by_itself(stage, at, *strange), by_itself(stage, at, *arrays), strict=True):
        close(mine, exact)


def loss_by_autograd(
    make: Callable[[], Program], at: Environments, s: Tensor, b_bar: Tensor
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """b, ∂E/∂r and the gradient of Σ b̄ b + ∂E/∂r · ṙ by the weights, by differentiating twice."""
    vectors, program = at.vectors.clone().requires_grad_(), make()
    weights = [w.requires_grad_() for w in program.weights]
    b = atomic_values(program, Environments(at.element, at.edges, vectors))
    (gradient,) = torch.autograd.grad((s * b).sum(), vectors, create_graph=True, materialize_grads=True)
    loss = (b_bar * b).sum() + (gradient * at.vectors_dot).sum()
    by_weights = torch.autograd.grad(loss, weights, materialize_grads=True)
    return b.detach(), gradient.detach(), by_weights


def check(program: Program, at: Environments) -> None:
    n = len(at.element)
    s, b_bar = randn(n), randn(n)
    b, gradient, by_weights = loss_by_autograd(lambda: program, at, s, b_bar)
    with torch.no_grad():
        mine, values, adjoints = edge_gradient(program, at, s)
        of_steps, b_dot = loss_gradient(program, at, b_bar, values, adjoints)
    close(atomic_values(program, at).detach(), b)
    close(mine, gradient)
    close((s * b_dot).sum(), (gradient * at.vectors_dot).sum())
    for one, other in zip([w for weights in of_steps for w in weights], by_weights, strict=True):
        close(one, other)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("n_elements", [1, 3])
def test_networks_of_stages(name: str, n_elements: int) -> None:
    check(Program(NETWORKS[name](5, n_elements)), environments(7, n_elements, moving=True))


@pytest.mark.parametrize("seed", range(8))
def test_random_lists(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n_elements, n_channels = rng.choice([1, 2, 3]), rng.choice([1, 2, 5, 9])
    at = environments(rng.choice([1, 2, 6]), n_elements, moving=True)
    check(Program(random_program(rng, n_channels, n_elements)), at)


@pytest.mark.parametrize("name", NETWORKS)
def test_energies_do_not_change_with_rotation_and_reflection(name: str) -> None:
    program, at = Program(NETWORKS[name](5, 2)), environments(7, 2)
    turn = torch.linalg.qr(randn(3, 3))[0]
    turn[0] *= -torch.linalg.det(turn)
    close(
        atomic_values(program, Environments(at.element, at.edges, at.vectors @ turn.T)), atomic_values(program, at)
    )


def test_a_network_of_stages_is_a_backbone() -> None:
    class Small(StagedNetwork):
        def __init__(self, elements: tuple[int, ...]):
            super().__init__(elements=elements, cutoff=CUTOFF, features="h1")
            basis, envelope = BesselBasis(6, CUTOFF), PolynomialEnvelope(CUTOFF)
            self.table = RadialTable(basis, envelope, cutoff=CUTOFF, n_knots=32)
            self.radial = torch.nn.Sequential(torch.nn.Linear(6, 4, bias=False))
            self.embedding = torch.nn.Parameter(torch.randn(len(elements), 4))

        def stages(self) -> list[Step]:
            table = self.table([self.radial])[0].view(-1, 1, 4)
            return [
                Step(Embedding(self.embedding), None, "h0"),
                Step(NeighborSum(table, self.table.grid, TERMS["schnet"]), "h0", "m"),
                Step(Activation("silu"), "m", "h1"),
                Step(Readout(torch.ones(4)), "h1", "energy"),
            ]

    network, at = Small((1, 8)), environments(6, 2)
    numbers = torch.tensor([1, 8])[at.element]
    energies = network(numbers, at.edges, at.vectors.float())
    assert energies.shape == (6,)
    (energies.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    with pytest.raises(ValueError, match="at least one element"):
        Small(())


def test_a_list_that_does_not_fit_says_where() -> None:
    first, last = Step(Embedding(randn(2, 4)), None, "x"), Step(Readout(randn(4)), "x", "energy")
    for steps, words in [
        ([first, Step(Linear(randn(1, 3, 4)), "x", "y"), last], "Stage 1.*Linear.*3 channels.*4"),
        ([first, Step(Readout(randn(4)), "z", "energy")], "no stage before it writes"),
        ([first, Step(Activation("silu", 2), "x", "y"), last], r"components \[1\] of 'x' were not written"),
        ([first, Step(Activation(), "x", "y"), Step(None, "y", "x"), last], "were read before"),
        ([first], "needs a Readout"),
        ([first, Step(Activation(), "x", "energy")], "and only that, writes"),
    ]:
        with pytest.raises(ValueError, match=words):
            Program(steps)


def test_a_stage_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="rows"):
        NeighborSum(randn(5, 1, 4), SplineGrid(4.0, 12, 3), TERMS["schnet"])
    with pytest.raises(ValueError, match="path"):
        NeighborSum(*random_table(1, 4), ((1, 0, 0, 0, 1.0),))
    with pytest.raises(ValueError, match="Choose one of"):
        Activation("relu")
    with pytest.raises(ValueError, match="matrix"):
        Linear(randn(1, 4, 4), (Block(0, 0, 1),))
    with pytest.raises(ValueError, match="factors"):
        Products((Product((0, 0, 0, 0), 0),))
    with pytest.raises(ValueError, match="do not couple"):
        wigner_3j(1, 1, 3)
