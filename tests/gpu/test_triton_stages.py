"""Networks of stages by Triton's kernels are their definition: each function, energies, forces and gradients.

Sizes are tiny, for the interpreter; blocks and tiles are made smaller than the sums.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from slow_parts import quick
from stage_lists import TERMS, coupled, environments, randn, random_table
from structures import CUTOFF, batch_of, copper_atom, isolated_atom, worst
from torch import Tensor
from triton_runs import CUDA, INTERPRETED, check_compiled, compiles, interpret, on_device, runs_the_others

from mlpot.calculator import MLPotCalculator
from mlpot.executors import computed_by, computed_on_cuda_by, device_obstacle
from mlpot.forces import energies_and_pulls, hessian, predict
from mlpot.graph import AtomGraph, Properties, edge_vectors
from mlpot.potential import Potential
from mlpot.repeated_forces import RepeatedForces
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.products import Product, Products, coupled_products
from mlpot.stages.stage import Environments, Stage
from mlpot.terms.core_repulsion import TrainingLimits

pytest.importorskip("triton", reason="Triton is installed with PyTorch for CUDA, and by the dev extra on Linux")
from mlpot.gpu import neighbor_sum as triton_sums
from mlpot.gpu import products as triton_products

TO_L3 = tuple(Term(b % 3, b, 0, b, 1.0) for b in range(16))
MIXED = (*coupled(0, 2, 1, 0, 1, 0), *coupled(1, 3, 2, 3, 1, 3), Term(0, 0, 1, 7, -0.3))
SUMS: dict[str, tuple[int, int, tuple[Term, ...]]] = {  # paths, degree of the splines, terms
    "schnet": (1, 3, TERMS["schnet"]),
    "painn": (3, 5, TERMS["vectors"]),
    "to_l3": (3, 5, TO_L3),
    "mixed": (2, 3, MIXED),
}
PRODUCTS: dict[str, Callable[[int, int], Products]] = {  # channels, elements
    "gates": lambda c, z: Products(tuple(Product((0, 1 + m), m) for m in range(3))),
    "invariants": lambda c, z: Products(coupled_products((0, 1), 0), randn(z, 5, c)),
    "of_one_weight": lambda c, z: Products(coupled_products((0, 1), 1, (1, 2)), randn(2, c)),
    "cubes": lambda c, z: Products((Product((1, 1, 1), 2, 0, 0.4), Product((1, 0, 1), 0), Product((0,), 1))),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of edges a program in the interpreter, where an operation takes as long as a thousand numbers."""
    torch.manual_seed(0)
    if INTERPRETED:
        monkeypatch.setattr(triton_sums, "EDGES", 8)
        monkeypatch.setattr(triton_products, "ATOMS", 4)


def moved(at: Environments, device: str, dtype: torch.dtype) -> Environments:
    assert at.vectors_dot is not None
    vectors, motion = (t.to(device, dtype) for t in (at.vectors, at.vectors_dot))
    return Environments(at.element.to(device), at.edges.to(device), vectors, motion)


def four(stage: Stage, at: Environments, arrays: list[Tensor]) -> list[Tensor]:
    """What the four functions give."""
    x, x_dot, y_bar, g = arrays
    x_bar, gradient = stage.adjoint(at, x, y_bar)
    both, weights = stage.both_adjoints(at, x, x_dot, y_bar, g)
    found = [stage.value(at, x), stage.tangent(at, x, x_dot), x_bar, both, *weights]
    return found if gradient is None else [*found, gradient]


def check_sum(name: str, n_channels: int, n_atoms: int, device: str, dtype: torch.dtype, bar: float) -> None:
    n_paths, degree, terms = SUMS[name]
    table, grid = random_table(n_paths, n_channels, degree)
    mine = triton_sums.TritonSum(table.to(device, dtype), grid, terms)
    check_four(NeighborSum(table, grid, terms), mine, n_channels, n_atoms, device, dtype, bar)


def check_four(
    exact: Stage, mine: Stage, n_channels: int, n_atoms: int, device: str, dtype: torch.dtype, bar: float
) -> None:
    at = environments(n_atoms, 2, moving=True)
    read, written = (n_atoms, exact.n_read, n_channels), (n_atoms, exact.n_written, n_channels)
    arrays = [randn(*read), randn(*read).permute(2, 0, 1).contiguous().permute(1, 2, 0), randn(*written)]
    arrays.append(torch.cat([randn(*written), randn(*written)], 1)[:, exact.n_written :])  # any memory layout
    wanted = four(exact, at, arrays)
    found = four(mine, moved(at, device, dtype), [a.to(device, dtype) for a in arrays])
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        assert worst(a.cpu().double(), b) <= bar * max(1.0, worst(b, 0.0))


@on_device
@pytest.mark.parametrize(
    ("name", "n_channels", "n_atoms", "dtype", "bar"),
    [
        ("schnet", 5, 6, torch.float64, 1e-12),
        ("schnet", 1, 1, torch.float64, 1e-12),  # no edges
        pytest.param("painn", 5, 3, torch.float64, 1e-12, marks=pytest.mark.slow),  # has no terms that others lack
        ("to_l3", 4, 2, torch.float32, 1e-5),
        ("mixed", 3, 3, torch.float64, 1e-12),
    ],
)
def test_the_four_functions_are_the_definition(device, name, n_channels, n_atoms, dtype, bar, monkeypatch):
    """Of more edges than a block and more channels than a tile has, and of targets in groups."""
    monkeypatch.setattr(triton_sums, "TILE", 4)
    monkeypatch.setattr(triton_sums, "EDGES", 4)
    monkeypatch.setattr(triton_sums, "MOST_TARGETS", 9)
    check_sum(name, n_channels, n_atoms, device, dtype, bar)


@on_device
def test_long_intervals_are_shared_among_programs(device, monkeypatch):
    monkeypatch.setattr(triton_sums, "LONG", 1)
    monkeypatch.setattr(triton_sums, "BLOCK", 2)
    check_sum("schnet", 3, 6, device, torch.float64, 1e-12)


@on_device
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_the_definition(device, name, monkeypatch):
    """Of more atoms than a program, more channels than a tile and more terms than a kernel has."""
    monkeypatch.setattr(triton_products, "TILE", 4)
    monkeypatch.setattr(triton_products, "MOST_TERMS", 4)
    for n_atoms, n_elements, n_channels, dtype, bar in (
        (6, 2, 5, torch.float64, 1e-12),
        (1, 1, 1, torch.float32, 1e-5),
    ):
        exact = PRODUCTS[name](n_channels, n_elements)
        weight = None if exact.weight is None else exact.weight.to(device, dtype)
        mine = triton_products.TritonProducts(exact.terms, weight)
        check_four(exact, mine, n_channels, n_atoms, device, dtype, bar)


def made(
    backbone: str, elements: tuple[int, ...] = (6, 8), dtype: torch.dtype = torch.float64, **arguments: object
) -> Potential:
    torch.manual_seed(0)
    knots = {} if backbone in ("egnn", "deepsets") else {"n_knots": 8}
    sizes = {"cutoff": CUTOFF, "n_features": 4, "n_radial": 3, **knots, **arguments}
    return Potential(
        backbone,
        sizes,
        reference_energies={z: -1.0 * z for z in elements},
        energy_scale=dict.fromkeys(elements, 1.7),
        energy_shift=dict.fromkeys(elements, 0.3),
        repulsion=True,
    ).to(dtype)


NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "schnet": ("schnet", {"n_interactions": 1, "degree": 3}),
    "painn": ("painn", {"n_interactions": 2}),
    "ace": ("ace", {"max_degree": 1, "message_degree": 1}),
    "mace": ("mace", {"max_degree": 1, "message_degree": 1, "correlation": 2, "radial_layers": [4]}),
    "nequip": ("nequip", {"max_degree": 1, "n_interactions": 2, "radial_layers": [4]}),
}


def molecule_and_atom() -> AtomGraph:
    """Three atoms of two elements, with a bond along an axis, and one that has no edges."""
    bent = Atoms("CO2", [[0, 0, 0], [0, 1.3, 0], [1.1, -0.6, 0.4]])
    return batch_of([bent, isolated_atom()])


def answer(
    potential: Potential, graph: AtomGraph, executor, training: bool
) -> tuple[Properties, dict[str, Tensor]]:
    """What a potential predicts, and the gradient of a loss on all of it."""
    out = predict(potential, graph, training=training, executor=executor)
    if not training:
        return out, {}
    (out.energy.square().sum() + out.forces.square().sum() + out.stress.nan_to_num().square().sum()).backward()
    gradients = {n: p.grad.cpu().clone() for n, p in potential.named_parameters() if p.grad is not None}
    potential.zero_grad()
    return out, gradients


def check_network(potential: Potential, graph: AtomGraph, device: str, *, training: bool, bar: float) -> None:
    exact, wanted = answer(potential, graph, "definition", training)
    found, gradients = answer(potential.to(device), graph.to(device), "gpu", training)
    found = found.to("cpu")
    for a, b in ((found.energy, exact.energy), (found.forces, exact.forces), (found.stress, exact.stress)):
        scale = max(1.0, worst(b.detach().nan_to_num(), 0.0))
        torch.testing.assert_close(a.detach(), b.detach(), rtol=bar, atol=bar * scale, equal_nan=True)
    assert gradients.keys() == wanted.keys()
    size = max((worst(g, 0.0) for g in wanted.values()), default=0.0)
    for name, gradient in wanted.items():
        assert worst(gradients[name], gradient) <= 10 * bar * size, name


@on_device
@pytest.mark.parametrize(
    "name",
    # ACE has the stages of the others, and PaiNN is trained in a crystal below.
    quick(NETWORKS, ("schnet", "ace")),
)
def test_energies_forces_and_gradients_of_a_loss_are_those_of_the_definition(device, name):
    backbone, arguments = NETWORKS[name]
    check_network(made(backbone, **arguments), molecule_and_atom(), device, training=True, bar=1e-12)


@on_device
def test_single_precision_and_one_element_in_a_crystal(device):
    potential, graph = (
        made("painn", (29,), torch.float32, n_interactions=1, cutoff=2.7),
        batch_of([copper_atom()], 2.7),
    )
    check_network(potential, graph, device, training=True, bar=1e-5)
    check_network(potential.to("cpu").freeze(), graph, device, training=False, bar=1e-5)


@on_device
def test_terms_around_the_network_stay_those_of_the_potential(device):
    """Core repulsion changes the vectors that a network sees, and how much its energy counts."""
    potential = made("painn", n_interactions=1)
    potential.add_core_repulsion(TrainingLimits({(6, 8): 1.5, (8, 8): 1.2}, {6: 1.5, 8: 1.5}))
    check_network(potential.freeze(), molecule_and_atom(), device, training=False, bar=1e-12)


@on_device
@pytest.mark.parametrize("label", ["energy", "forces"])
def test_a_loss_may_see_energies_or_forces_alone(device, label):
    potential, graph, gradients = made("schnet", n_interactions=1).to(device), molecule_and_atom().to(device), []
    for executor in ("definition", "gpu"):
        out = predict(potential, graph, training=True, executor=executor)
        getattr(out, label).square().sum().backward()
        weights = list(potential.backbone.parameters())
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in weights])
        potential.zero_grad()
    size = max(float(g.abs().max()) for g in gradients[0])
    assert size > 1e-3
    assert all(worst(a.cpu(), b.cpu()) <= 1e-12 * size for a, b in zip(*gradients, strict=True))


@on_device
def test_a_frozen_potential_knows_when_its_constants_change(device):
    potential, graph = made("painn", n_interactions=1).freeze().to(device), molecule_and_atom().to(device)
    first = predict(potential, graph, executor="gpu").forces
    with torch.no_grad():
        next(potential.backbone.parameters()).mul_(3.0)
    again = predict(potential.freeze(), graph, executor="gpu").forces
    torch.testing.assert_close(again, predict(potential, graph, executor="definition").forces)
    assert (again - first).abs().max() > 1e-6


@on_device
def test_features_of_atoms_are_those_of_the_definition(device, monkeypatch):
    potential, graph = made("schnet", n_interactions=1).freeze(), molecule_and_atom()
    with monkeypatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        wanted = potential.atom_features(graph)
    found = potential.to(device).atom_features(graph.to(device))
    assert worst(found.cpu(), wanted) <= 1e-12


@on_device
def test_curvature_comes_from_the_definition(device):
    potential, graph = made("painn", n_interactions=1).freeze(), molecule_and_atom()
    wanted = hessian(potential, graph)
    assert worst(hessian(potential.to(device), graph.to(device)).cpu(), wanted) <= 1e-10


@on_device
def test_forces_again_and_again_are_those_of_each_structure(device):
    """With room for edges that are not there; lists and cells change, and what is too long does not fit."""
    potential, crystal = made("painn", (29,), n_interactions=1, cutoff=2.7).freeze().to(device), copper_atom()
    repeated = None
    for side in (3.2, 3.6, 3.4):
        crystal.set_cell(side * crystal.cell.array / crystal.cell.array.max() / 2, scale_atoms=True)
        graph = batch_of([crystal], 2.7).to(device)
        repeated = RepeatedForces(potential, graph) if repeated is None else repeated
        assert repeated.fits(graph)
        found, wanted = repeated(graph), predict(potential, graph, executor="definition")
        for a, b in ((found.energy, wanted.energy), (found.forces, wanted.forces), (found.stress, wanted.stress)):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert not repeated.fits(batch_of([crystal], 4.0).to(device))
    assert not repeated.fits(batch_of([isolated_atom()]).to(device))


@on_device
def test_a_calculator_by_one_cuda_graph_gives_the_same(device):
    """From the second structure on, with a list that holds and one that does not."""
    potential, atoms = (
        made("schnet", n_interactions=1).freeze(),
        Atoms("CO2", [[0, 0, 0], [0, 1.3, 0], [1.1, 0, 0]]),
    )
    once, usual = (MLPotCalculator(potential, device=device, cuda_graph=graph) for graph in (True, False))
    for shift in (0.0, 0.1, 0.7, 0.8):
        atoms.positions[2] = [1.1 + shift, -0.6, 0.4]
        found, wanted = (calculator.get_property("forces", atoms.copy()) for calculator in (once, usual))
        assert worst(found, wanted) <= 1e-12
    assert once._repeated is not None
    assert once.neighbors.n_builds == 2
    again = pickle.loads(pickle.dumps(once))
    assert worst(again.get_property("forces", atoms.copy()), wanted) <= 1e-12


def test_what_keeps_a_network_from_the_kernels_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    potential, graph = made("painn", n_interactions=1), molecule_and_atom()
    on_cpu = "its weights are on cpu, not on a CUDA device"
    assert device_obstacle(potential) == on_cpu
    with pytest.raises(ValueError, match=f"The executor 'gpu' cannot compute this potential: {on_cpu}"):
        predict(potential, graph, executor="gpu")
    with pytest.raises(ValueError, match=f"No CUDA graph can compute this potential: {on_cpu}"):
        MLPotCalculator(potential, cuda_graph=True)
    with pytest.raises(ValueError, match="Choose one of definition, cpu, gpu"):
        predict(potential, graph, executor="tpu")  # type: ignore[arg-type]  # as a user may write
    assert computed_on_cuda_by(potential) == "Triton's kernels and PyTorch"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert device_obstacle(potential) is None
    assert computed_on_cuda_by(made("egnn")) == "PyTorch (there is no Triton kernel for its EdgeNetwork)"
    assert device_obstacle(made("egnn")) == "there is no Triton kernel for its EdgeNetwork"
    assert device_obstacle(made("schnet", n_knots=None)) == "filters are not on a spline grid (n_knots is null)"
    assert device_obstacle(made("deepsets")) == "DeepSets is not made of stages"


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_runs_are_equal_to_the_last_bit(device, name):
    """Outputs and what edges get; sums by element and of forces are PyTorch's, in any order."""
    backbone, arguments = NETWORKS[name]
    potential, graph = made(backbone, **arguments).to(device), molecule_and_atom().to(device)
    assert computed_by(potential) == "Triton's kernels and PyTorch"
    vectors, found = edge_vectors(graph), []
    for _ in range(5):
        energy, pulls = energies_and_pulls(potential, graph, vectors)
        found.append((energy.detach(), pulls))
    assert all(torch.equal(a, b) for run in found[1:] for a, b in zip(run, found[0], strict=True))


@pytest.mark.parametrize("device", [CUDA])
def test_no_array_of_edges_times_channels_is_made(device):
    """Energy and forces of a crystal of 1000 atoms take less memory than one such array."""
    potential = made("painn", (29,), torch.float32, n_features=256).freeze().to(device)
    graph = batch_of([copper_atom() * (10, 10, 10)], 9.0).to(device)
    predict(potential, graph)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    predict(potential, graph)
    assert torch.cuda.max_memory_allocated(device) - before < len(graph.edges) * 4 * 256 * 4


@runs_the_others
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_interpreter_finds_the_same(chosen: str) -> None:
    interpret(__file__, chosen)


KERNELS: dict[str, Callable[[dict[str, object]], dict[str, object]]] = {
    "gather": lambda c: c | {"N_TARGETS": 9, "MOVING": True, "TURNED": True, "EDGES": 4},
    "edge_grads": lambda c: c | {"EDGES": 4},
    "table_grads": lambda c: c | {"MOVING": True, "BLOCK": 16},
}


@compiles
@pytest.mark.parametrize("kind", ["fp32", pytest.param("fp64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_without_a_device_and_use_no_atomics(name: str, kind: str) -> None:
    kernel = getattr(triton_sums, name)
    (group,) = triton_sums._groups(MIXED, False, 64)
    constants = KERNELS[name]({"PATHS": group.paths, "N_TABLE": 2, "N_C": 6, "N_Y": 16, "TILE": 32})
    integers = {"row_ptr", "begin", "edge", "first", "center", "neighbor", "reverse"}
    numbers = {"n_edges", "n_channels", "n_written", "first_target"}
    names = [a for a in kernel.arg_names if a not in constants]
    types = {a: "*i64" if a in integers else f"*{kind}" for a in names}
    types |= {a: "i32" for a in names if a in numbers or a.endswith(("_atom", "_row"))}
    check_compiled(kernel, types, constants)
