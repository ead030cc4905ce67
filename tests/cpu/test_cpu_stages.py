"""The compiled executor gives what the definition of the stages gives: every list, width and number of threads."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ase import Atoms
from slow_parts import quick
from stage_lists import NETWORKS, atoms, random_program
from structures import CUTOFF, REFERENCES, batch_of, copper_atom, ethanol, quartz, slab
from torch import Tensor

from mlpot import forces
from mlpot.cpu.calls import native_obstacle
from mlpot.cpu.executor import Executor, Structure
from mlpot.forces import predict
from mlpot.graph import Properties
from mlpot.models import build_backbone
from mlpot.potential import Potential
from mlpot.stages.run import Program, Step, edge_gradient, loss_gradient
from mlpot.stages.stage import Environments
from mlpot.terms.core_repulsion import TrainingLimits

Answer = tuple[Tensor, Tensor, list[Tensor]]


def cast(program: Program, dtype: torch.dtype) -> Program:
    """The same list with weights of another type."""
    for step in program.steps:
        for name in ("weight", "bias", "table", "from_radial", "places"):
            if getattr(step.stage, name, None) is not None:
                setattr(step.stage, name, getattr(step.stage, name).to(dtype))
        for name in ("second", "gate", "move"):
            if getattr(step.stage, name, None) is not None:
                part = getattr(step.stage, name)
                setattr(step.stage, name, type(part)(*(t.to(dtype) for t in part)))
    return program


def seeds(n_atoms: int) -> list[Tensor]:
    """s, b̄, F̄ and W̄ of some loss on one structure."""
    given = [torch.randn(n_atoms, *shape, dtype=torch.float64) for shape in ((), (), (3,))]
    return [*given, torch.randn(3, 3, dtype=torch.float64).expand(n_atoms, 3, 3)]


def by_definition(program: Program, at: Environments, given: list[Tensor]) -> Answer:
    s, b_bar, f_bar, w_bar = given
    center, neighbor = at.edges.center, at.edges.neighbor
    strain = (w_bar[center].mT @ at.vectors[:, :, None])[..., 0]
    moving = Environments(at.element, at.edges, at.vectors, f_bar[center] - f_bar[neighbor] + strain)
    with torch.no_grad():
        gradient, values, adjoints = edge_gradient(program, moving, s)
        weights, _ = loss_gradient(program, moving, b_bar, values, adjoints)
    gradient = gradient - gradient[at.edges.reverse]  # of an edge and its reverse
    return values["energy"][:, 0, 0], gradient, [w for of_step in weights for w in of_step]


def compiled(
    program: Program, positions: Tensor, at: Environments, given: list[Tensor], dtype: torch.dtype
) -> Answer:
    s, b_bar, f_bar, w_bar = given
    cast(program, dtype)
    run = Executor(program, dtype)
    structure = Structure(
        positions.numpy(),
        at.element.numpy(),
        at.edges.row_ptr.numpy(),
        at.edges.neighbor.numpy(),
        at.edges.reverse.numpy(),
        np.empty((0, 3)),
    )
    found = run.evaluate(run.layout.plan(program.weights), structure, seeds=s, training=True)
    b, gradient = torch.tensor(found.workspace.b), torch.tensor(found.near.gradient)
    gradient = gradient - gradient[at.edges.reverse]
    weights = run.loss_gradient(found, program, b_bar, f_bar, w_bar)
    return b, gradient, [w.clone() for w in weights]


def compare(steps: list[Step], n_atoms: int, n_elements: int, dtype: torch.dtype, bar: float) -> None:
    program, (positions, at) = Program(steps), atoms(n_atoms, n_elements)
    given = seeds(n_atoms)
    exact = by_definition(program, at, given)
    mine = compiled(program, positions, at, given, dtype)
    for a, b in zip((*mine[:2], *mine[2]), (*exact[:2], *exact[2]), strict=True):
        assert a.shape == b.shape
        size = max(1.0, float(b.abs().max()) if b.numel() else 0.0)
        assert float((a - b).abs().max() if a.numel() else 0) <= bar * size


@pytest.mark.parametrize("n_channels", [1, 5, 16, 33])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_as_defined(name: str, n_channels: int) -> None:
    """At widths that fill no vector, one and two panels; float64 and float32."""
    for n_elements in (1, 3):
        torch.manual_seed(0)
        compare(NETWORKS[name](n_channels, n_elements), 7, n_elements, torch.float64, 1e-12)
        torch.manual_seed(0)
        compare(NETWORKS[name](n_channels, n_elements), 7, n_elements, torch.float32, 2e-5)


@pytest.mark.parametrize("seed", range(12))
def test_random_lists_as_defined(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n_elements, n_channels, n_atoms = rng.choice([1, 2, 3]), rng.choice([1, 3, 9, 20]), rng.choice([1, 2, 6, 40])
    compare(random_program(rng, n_channels, n_elements), n_atoms, n_elements, torch.float64, 1e-12)


@pytest.mark.parametrize("name", ["mace", "egnn"])
def test_bits_do_not_depend_on_the_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlpot.kernels.threads.ONE_THREAD", 0)
    torch.manual_seed(0)
    program, (positions, at), given = Program(NETWORKS[name](8, 2)), atoms(90, 2), seeds(90)
    answers = []
    for n in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr("mlpot.kernels.threads.MOST_THREADS", 2)
            patch.setattr(torch, "get_num_threads", lambda n=n: n)
            answers.append(compiled(program, positions, at, given, torch.float32))
    for a, b in zip((*answers[0][:2], *answers[0][2]), (*answers[1][:2], *answers[1][2]), strict=True):
        assert torch.equal(a, b)


def test_a_nan_among_positions_reaches_the_energy() -> None:
    torch.manual_seed(0)
    program, (positions, at) = Program(NETWORKS["schnet"](4, 1)), atoms(5, 1)
    positions[0] = torch.nan
    assert compiled(program, positions, at, seeds(5), torch.float64)[0].isnan().any()


def _properties(potential: Potential, native: bool, training: bool) -> tuple[Properties, list[Tensor]]:
    """What a potential predicts, and the gradient of a loss on all of it."""
    graph = batch_of([ethanol(), quartz(), slab(), copper_atom()])
    found = predict(potential, graph, training=training, native=native)
    if not training:
        return found, []
    loss = found.energy.square().sum() + found.forces.square().sum() + found.stress.nan_to_num().square().sum()
    loss.backward()
    gradients = [p.grad.clone() for p in potential.parameters() if p.grad is not None]
    potential.zero_grad()
    return found, gradients


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "with_core_repulsion_and_zbl"])
@pytest.mark.parametrize("backbone", ["painn", "ace", "egnn", "nequip"])
def test_native_calls_of_potentials_are_their_definition(backbone: str, repulsion: bool) -> None:
    """Energy, forces, stress and, in training, the gradient of a loss; molecules and crystals in one batch."""
    torch.manual_seed(0)
    potential = Potential(
        backbone,
        {"cutoff": CUTOFF, "n_features": 8, "n_radial": 5},
        reference_energies=REFERENCES,
        energy_scale={6: 2.0, 1: 0.5},
        energy_shift={1: 0.3, 8: -0.2},
        repulsion=repulsion,
    ).double()
    if repulsion:
        near = {(1, 6): 1.25, (1, 8): 1.1, (8, 14): 1.75}  # Å; bonds are shorter, here
        potential.add_core_repulsion(TrainingLimits(near, dict.fromkeys(REFERENCES, 1.5)))
    else:
        (one, mine), (two, exact) = (_properties(potential, native, True) for native in (True, False))
        assert torch.allclose(one.forces, two.forces, atol=1e-10)
        size = max(float(g.abs().max()) for g in exact)
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12 * size) for a, b in zip(mine, exact, strict=True))
    potential.freeze()
    assert forces.native_obstacle(potential) is None
    (one, _), (two, _) = (_properties(potential, native, False) for native in (True, False))
    for a, b in ((one.energy, two.energy), (one.forces, two.forces), (one.stress, two.stress)):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("backbone", quick(["schnet", "painn", "ace", "mace", "nequip"], ["schnet", "ace"]))
def test_networks_of_the_size_of_recipes_are_their_definition(backbone: str, dtype: torch.dtype) -> None:
    """Their loops need more memory than small ones: forces were wrong by 10 %, while energies were right."""
    torch.manual_seed(0)
    arguments = {"cutoff": CUTOFF, "n_features": 64}
    potential = Potential(backbone, arguments, reference_energies=REFERENCES).to(dtype)
    worst = 1e-11 if dtype == torch.float64 else 3e-5
    (one, mine), (two, exact) = (_properties(potential, native, True) for native in (True, False))
    size = max(float(g.abs().max()) for g in exact)
    assert all((a - b).abs().max() < 10 * worst * size for a, b in zip(mine, exact, strict=True))
    potential.freeze()
    assert forces.native_obstacle(potential) is None
    (use, _), (plain, _) = (_properties(potential, native, False) for native in (True, False))
    for found, right in ((one, two), (use, plain)):
        assert (found.forces - right.forces).abs().max() < worst * right.forces.abs().max()
        assert torch.allclose(found.energy, right.energy, rtol=worst, atol=worst)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("backbone", ["schnet", "painn", "ace", "egnn"])
def test_neighbors_just_before_a_knot_count(backbone: str, dtype: torch.dtype) -> None:
    """In float32 their place between two knots rounds to 1, as at the cutoff: crystals lost neighbors by that."""
    torch.manual_seed(0)
    arguments = {"cutoff": CUTOFF, "n_features": 16} | ({} if backbone == "egnn" else {"n_knots": 64})
    potential = Potential(backbone, arguments, reference_energies=REFERENCES).to(dtype).freeze()
    for side in (CUTOFF / 2, CUTOFF):
        sides = [side * (1 + k * 2.0**-52) for k in range(-4, 5)] + [side * (1 - 1e-10), side * (1 - 3e-8)]
        crystals = batch_of([Atoms("C", cell=[a, a, a], pbc=True) for a in sides])
        use, plain = (predict(potential, crystals, native=native) for native in (True, False))
        worst = 1e-11 if dtype == torch.float64 else 1e-5
        assert torch.allclose(use.energy, use.energy[:1], rtol=1e-5, atol=1e-5)
        assert torch.allclose(use.energy, plain.energy, rtol=worst, atol=worst)
        assert torch.allclose(use.stress, plain.stress, rtol=worst, atol=worst)


def test_what_keeps_a_network_from_the_native_call_is_said() -> None:
    weight = torch.zeros(1)
    assert native_obstacle(torch.nn.Linear(1, 1), weight) == "Linear is not made of stages"
    network = build_backbone("painn", elements=(1,), n_features=4)
    assert native_obstacle(network, weight.half()) == "its weights are torch.float16, not float32 or float64"
    assert native_obstacle(network, weight.to("meta")) == "its weights are on meta"
    assert native_obstacle(network, weight) is None
