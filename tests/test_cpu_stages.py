"""The compiled executor gives what the definition of the stages gives: every list, width and number of threads."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from stage_lists import NETWORKS, atoms, random_program
from torch import Tensor

from mlpot.cpu import executor
from mlpot.cpu.layout import layout_of
from mlpot.stages.run import Program, Step, edge_gradient, loss_gradient
from mlpot.stages.stage import Environments

Answer = tuple[Tensor, Tensor, list[Tensor]]


def cast(program: Program, dtype: torch.dtype) -> Program:
    """The same list with weights of another type."""
    for step in program.steps:
        for name in ("weight", "bias", "table"):
            if getattr(step.stage, name, None) is not None:
                setattr(step.stage, name, getattr(step.stage, name).to(dtype))
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
    return values["energy"][:, 0, 0], gradient, [w for of_step in weights for w in of_step]


def compiled(
    program: Program, positions: Tensor, at: Environments, given: list[Tensor], dtype: torch.dtype
) -> Answer:
    s, b_bar, f_bar, w_bar = given
    cast(program, dtype)
    layout = layout_of(program, dtype)
    structure = executor.Structure(
        positions.numpy(),
        at.element.numpy(),
        at.edges.row_ptr.numpy(),
        at.edges.neighbor.numpy(),
        np.empty((0, 3)),
    )
    found = executor.energies(layout, layout.plan(program.weights), structure, s, training=True)
    b, gradient = torch.tensor(found.room.b), -torch.tensor(found.room.gradient)[at.edges.reverse]
    weights = executor.loss_gradient(found, program, b_bar, f_bar, w_bar)
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


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlpot.kernels.threads.ONE_THREAD", 0)
    torch.manual_seed(0)
    program, (positions, at), given = Program(NETWORKS["mace"](8, 2)), atoms(90, 2), seeds(90)
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
