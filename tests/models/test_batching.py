"""A structure does not know what else is in its batch, and any batch can be trained on."""

from __future__ import annotations

import itertools

import pytest
import torch
from ase import Atoms
from potentials import new_potential
from structures import STRUCTURES, batch_of, evaluate, graph_of, isolated_atom, worst

from mlpot.forces import predict
from mlpot.graph import collate, collate_properties, edge_vectors
from mlpot.potential import Potential

APART = Atoms("CO", positions=[(0, 0, 0), (4.5, 0, 0)])  # Å, beyond the cutoff
BATCHES = {
    "one isolated atom": [isolated_atom()],
    "isolated atoms only": [isolated_atom(z) for z in (1, 6, 8)],
    "no edge": [APART, isolated_atom()],
    "isolated atoms and crystals": [
        isolated_atom(1),
        STRUCTURES["quartz"](),
        APART,
        STRUCTURES["copper_atom"](),
        isolated_atom(29),
    ],
    "every kind": [make() for make in STRUCTURES.values()] + [isolated_atom()],
}


def sixty_four() -> list[Atoms]:
    """All kinds of matter in one batch, isolated atoms among them."""
    kinds = itertools.cycle([*STRUCTURES.values(), isolated_atom, lambda: APART])
    return [make() for make in itertools.islice(kinds, 64)]


@pytest.mark.pairs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alone_and_in_a_batch_of_64_are_equal(potential: Potential, dtype: torch.dtype) -> None:
    # Forces relative to the largest too: 1.5e-5 eV/Å were measured beside a bond that pulls with 119 eV/Å.
    bar, relative = (1e-11, 0.0) if dtype == torch.float64 else (1e-5, 1e-6)
    potential = potential.to(dtype)
    structures = sixty_four()
    together = evaluate(potential, *structures)
    alone = collate_properties([evaluate(potential, atoms) for atoms in structures])
    n_atoms = torch.tensor([len(atoms) for atoms in structures])
    assert worst(together.energy / n_atoms, alone.energy / n_atoms) <= bar
    assert worst(together.forces, alone.forces) <= bar + relative * together.forces.abs().max()
    periodic = torch.tensor([bool(atoms.pbc.all()) for atoms in structures])
    assert worst(together.stress[periodic], alone.stress[periodic]) <= bar
    assert together.stress[~periodic].isnan().all()
    assert not together.stress[periodic].isnan().any()


def test_the_gradient_between_structures_is_exactly_zero(potential: Potential) -> None:
    graph = batch_of(BATCHES["every kind"])
    vectors = edge_vectors(graph).requires_grad_()
    energies = potential(graph.numbers, graph.edges, vectors)
    edge_batch = graph.batch[graph.edges.center]
    for k in range(graph.n_graphs - 1):  # the last has no edges
        (g,) = torch.autograd.grad(energies[graph.batch == k].sum(), vectors, retain_graph=True)
        assert (g[edge_batch != k] == 0).all()
        assert (g[edge_batch == k] != 0).any()


@pytest.mark.parametrize("batch", BATCHES)
def test_every_batch_has_finite_gradients_of_all_its_labels(variant: str, batch: str) -> None:
    potential = new_potential(variant)
    out = predict(potential, batch_of(BATCHES[batch]), training=True)
    has_stress = out.stress.isfinite()
    loss = out.energy.sum() + out.forces.square().sum() + torch.where(has_stress, out.stress, 0.0).square().sum()
    loss.backward()
    for name, weight in potential.named_parameters():
        assert weight.grad is None or weight.grad.isfinite().all(), name


def test_an_isolated_atom_teaches_the_weights_nothing(variant: str) -> None:
    # Its energy is E0 whatever the weights are, so its gradient is zero, not merely finite.
    potential = new_potential(variant)
    predict(potential, batch_of([isolated_atom(1), isolated_atom(8)]), training=True).energy.sum().backward()
    for name, weight in potential.named_parameters():
        assert weight.grad is None or worst(weight.grad, 0.0) <= 1e-13, name


def test_collating_collated_graphs_is_collating_once() -> None:
    a, b, c = (graph_of(make()) for make in (STRUCTURES["ethanol"], STRUCTURES["quartz"], isolated_atom))
    once, twice = collate([a, b, c]), collate([collate([a, b]), c])
    for name in ("positions", "numbers", "cell", "pbc", "cell_shift", "batch"):
        assert torch.equal(getattr(once, name), getattr(twice, name)), name
    for name in ("center", "neighbor", "row_ptr", "reverse"):
        assert torch.equal(getattr(once.edges, name), getattr(twice.edges, name)), name


def test_collating_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one graph"):
        collate([])


def test_prediction_changes_neither_graph_nor_weights(potential: Potential) -> None:
    graph = batch_of(BATCHES["every kind"])
    before = [t.clone() for t in (graph.positions, graph.cell, graph.cell_shift, graph.edges.center)]
    weights = {name: t.clone() for name, t in potential.state_dict().items()}
    out = predict(potential, graph)
    after = (graph.positions, graph.cell, graph.cell_shift, graph.edges.center)
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))
    assert all(torch.equal(t, weights[name]) for name, t in potential.state_dict().items())
    assert not any(t.requires_grad for t in (graph.positions, out.energy, out.forces, out.stress))
