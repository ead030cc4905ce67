"""Is a radial function on knots the function itself, and its force the derivative of its energy?"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from stage_lists import joined
from torch import Tensor, nn

from mlpot.forces import hessian, predict
from mlpot.graph import AtomGraph
from mlpot.kernels.reference import interpolate
from mlpot.knots import RadialTable
from mlpot.models.layers import mlp
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.radial import BASES, ENVELOPES
from mlpot.stages.spline_grid import SPLINES, KnotEdges

CUTOFF = 5.0


def schnet(
    n_knots: int | None, degree: int = 5, *, envelope: str = "polynomial", n_features: int = 32
) -> Potential:
    torch.manual_seed(3)
    arguments = {"n_knots": n_knots, "degree": degree, "envelope": envelope, "n_features": n_features}
    return Potential("schnet", arguments, reference_energies={6: 0.0, 14: 0.0}).double()


def cluster(seed: int = 0, n_atoms: int = 8) -> AtomGraph:
    rng = np.random.default_rng(seed)
    grid = 2.2 * np.array(list(itertools.product(range(2), repeat=3)), dtype=float)
    positions = grid[:n_atoms] + rng.uniform(-0.3, 0.3, (n_atoms, 3))
    return build_graph([6, 14] * (n_atoms // 2), positions, np.zeros((3, 3)), [False] * 3, CUTOFF)


def moved(graph: AtomGraph, atom: int, axis: int, step: float) -> AtomGraph:
    positions = graph.positions.numpy().copy()
    positions[atom, axis] += step
    return build_graph(graph.numbers, positions, graph.cell[0], graph.pbc[0], CUTOFF)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("activation", ["silu", "ssp"])
@pytest.mark.parametrize("radial", sorted(BASES))
def test_splines_follow_the_function_and_its_derivatives(radial, activation):
    n_knots, bars = 1024, {3: (1e-7, 1e-5, 3e-3), 5: (1e-10, 1e-8, 1e-5)}
    torch.manual_seed(0)
    basis, u = BASES[radial](12, CUTOFF).double(), ENVELOPES["polynomial"](CUTOFF)
    network = mlp(12, 6, 4, activation=activation).double()
    d = torch.linspace(0.5, CUTOFF, 301, dtype=torch.float64, requires_grad=True)
    f = network(basis(d)) * u(d)[:, None]
    for order in range(3):
        for degree in (3, 5):
            table = RadialTable(basis, u, cutoff=CUTOFF, n_knots=n_knots, degree=degree).double()
            on = KnotEdges(cluster().edges, d, cutoff=CUTOFF, n_knots=n_knots, degree=degree)
            found = interpolate(table([network])[0], on, order)
            assert (found - f).abs().max().item() <= bars[degree][order] * f.abs().max().item()
            assert found[-1].abs().max().item() == 0
        f = torch.stack([torch.autograd.grad(c.sum(), d, create_graph=True)[0] for c in f.unbind(-1)], dim=-1)


@pytest.mark.parametrize("degree", [3, 5])
def test_pieces_join_smoothly(degree):
    n_knots, step = 10, 1e-9
    table = joined(torch.randn(SPLINES[degree].n_rows(n_knots), 3, dtype=torch.float64), degree)
    d = torch.arange(1, n_knots, dtype=torch.float64) * CUTOFF / n_knots
    edges = cluster().edges
    for order in range(3):
        left, right = (
            interpolate(table, KnotEdges(edges, d + s, cutoff=CUTOFF, n_knots=n_knots, degree=degree), order)
            for s in (-step, step)
        )
        torch.testing.assert_close(left, right, rtol=0, atol=1e3 * step * (n_knots / CUTOFF) ** (order + 1))


@pytest.mark.parametrize("n_knots", [128, 4096])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_finer_grids_do_not_blur_slopes_in_float32(dense, frozen, n_knots):
    """Values of close knots differ in their last digits alone, so that slopes were off by their rounding over h.

    Where weights may change and layers are dense, values are still found in float32.
    """
    torch.manual_seed(0)
    basis, u = BASES["bessel"](8, CUTOFF), ENVELOPES["polynomial"](CUTOFF)
    network = mlp(8, 6, 4, activation="silu") if dense else nn.Sequential(nn.Linear(8, 4, bias=False))
    d, slopes = torch.linspace(1.0, CUTOFF - 0.01, 400), []
    for dtype in (torch.float32, torch.float64):
        table = RadialTable(basis, u, cutoff=CUTOFF, n_knots=n_knots, degree=5).to(dtype)
        if frozen:
            table.freeze()
        on = KnotEdges(cluster().edges, d.to(dtype), cutoff=CUTOFF, n_knots=n_knots, degree=5)
        slopes.append(interpolate(table([network.to(dtype)])[0], on, 1))
    bar = 2e-8 * n_knots if dense and not frozen else 5e-7
    assert relative(*(slope.detach() for slope in slopes)) <= bar


def test_table_is_faithful_to_the_filter_network():
    graph = cluster()
    exact, cubic, quintic = schnet(None), schnet(512, 3), schnet(256, 5)
    f = predict(exact, graph).forces
    assert relative(predict(cubic, graph).forces, f) <= 1e-4
    assert relative(predict(quintic, graph).forces, f) <= 1e-6
    assert relative(hessian(quintic, graph), hessian(exact, graph)) <= 1e-4


@pytest.mark.parametrize(
    ("n_knots", "degree", "bar"),
    [(256, 5, 1e-7), (512, 3, 2e-6)],  # the third derivative of a cubic spline jumps, which differences see
)
def test_forces_are_the_derivative_of_the_energy(n_knots, degree, bar):
    graph, h = cluster(), 1e-3
    potential = schnet(n_knots, degree).freeze()
    forces = predict(potential, graph).forces
    for atom, axis in itertools.product(range(graph.n_atoms), range(3)):
        e = [predict(potential, moved(graph, atom, axis, k * h)).energy.item() for k in (-2, -1, 1, 2)]
        slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
        assert abs(slope + forces[atom, axis].item()) <= bar


@pytest.mark.parametrize("degree", [3, 5])
def test_energy_ends_smoothly_at_the_cutoff(degree):
    potential = schnet(256, degree).freeze()

    def dimer(d: float) -> tuple[float, float]:
        out = predict(potential, build_graph([6, 14], [[0, 0, 0], [d, 0, 0]], np.zeros((3, 3)), [False] * 3, 9.0))
        return out.energy.item(), out.forces[1, 0].item()

    step = 1e-5
    (e0, f0), (e1, f1) = dimer(CUTOFF - step), dimer(CUTOFF + step)
    assert abs(e1 - e0) <= 1e-9
    assert abs(f1 - f0) <= 1e-8
    scan = np.linspace(1.5, CUTOFF - 1e-3, 400)
    steepest = np.abs(np.gradient([dimer(d)[1] for d in scan], scan)).max()
    assert abs(f0 / step) <= 1e-3 * steepest


def test_the_potential_that_is_trained_is_the_potential_that_is_run():
    graph, potential = cluster(), schnet(128)
    trained = predict(potential, graph, training=True)
    run = predict(potential.freeze(), graph)
    again = predict(potential, graph)
    for out in (run, again):
        torch.testing.assert_close(trained.energy.detach(), out.energy, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(trained.forces.detach(), out.forces, rtol=1e-12, atol=1e-12)
    backbone = potential.backbone
    filters = [layer.filter for layer in backbone.interactions]
    in_training, in_use = copy.deepcopy(backbone.table).train()(filters), backbone.table(filters)
    called = [step.stage.table[:, 0] for step in backbone.program().steps if isinstance(step.stage, NeighborSum)]
    for trained_on, kept, stage in zip(in_training, in_use, called, strict=True):
        assert torch.equal(trained_on, kept)
        assert torch.equal(trained_on, stage)


def test_a_kept_table_is_forgotten_when_weights_may_change():
    graph, potential = cluster(), schnet(128).freeze()
    before = predict(potential, graph).energy
    potential.train().requires_grad_(True)
    with torch.no_grad():
        potential.backbone.interactions[0].filter[0].weight.mul_(1.5)
    assert not torch.equal(predict(potential, graph).energy, before)
    single = potential.freeze().float()
    assert single.backbone.table.exact_basis.dtype == torch.float64
    torch.testing.assert_close(
        predict(single, graph).energy, predict(single.double(), graph).energy, rtol=1e-5, atol=0
    )


def test_weight_gradients_follow_the_filter_network():
    graph = cluster()
    gradients = []
    for potential in (schnet(None), schnet(512, 3), schnet(256, 5)):
        out = predict(potential, graph, training=True)
        (out.energy.sum() + out.forces.square().sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in potential.backbone.interactions.parameters()]))
    assert relative(gradients[1], gradients[0]) <= 1e-4
    assert relative(gradients[2], gradients[0]) <= 1e-6


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_compiled_loops_build_the_table_of_pytorch(dtype, bar, monkeypatch):
    torch.manual_seed(0)
    networks = [mlp(8, 12, 10, 12, activation="silu").to(dtype) for _ in range(2)]
    table = RadialTable(
        BASES["bessel"](8, CUTOFF), ENVELOPES["polynomial"](CUTOFF), cutoff=CUTOFF, n_knots=32, degree=5
    )
    weights, table = [w for net in networks for w in net.parameters()], table.to(dtype)
    found = table.stacked(networks)
    monkeypatch.setattr("mlpot.knots.has_loops", lambda: False)
    wanted = table.stacked(networks)
    along = torch.randn_like(wanted)
    both = zip(*(torch.autograd.grad(rows, weights, along) for rows in (found, wanted)), strict=True)
    assert relative(found.detach(), wanted.detach()) <= bar
    assert max(relative(a, b) for a, b in both) <= bar


@pytest.mark.parametrize("radial", sorted(BASES))
def test_no_product_that_builds_a_table_has_subnormal_numbers(radial: str) -> None:
    """With the tails of Gaussians a step of training took twice as long on Intel's CPUs."""
    table = Potential("schnet", {"radial": radial, "n_radial": 50}, reference_energies={6: 0.0}).backbone.table
    for values in (table.exact_basis, table.exact_envelope, table.exact_products):
        assert values[values != 0].abs().min() > 1e7 * torch.finfo(torch.float32).tiny
