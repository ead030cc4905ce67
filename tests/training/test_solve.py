"""Does the closing solve find the least squares of what the energy is linear in?"""

from __future__ import annotations

import copy

import pytest
import torch
from potentials import Morse
from structures import CUTOFF, REFERENCES, ethanol, quartz

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork
from mlpot.training import solve as closing
from mlpot.training.linear_features import LinearFeatures, within
from mlpot.training.losses import Labels
from mlpot.training.solve import LabeledSet, arrays_that_fit, closing_solve, rows_of, strains_of

Batch = tuple[AtomGraph, Properties]
WEIGHTS = {"energy_weight": 1.0, "forces_weight": 10.0}


def known(*batches: Batch) -> LabeledSet:
    """A set that knows how many labels it has."""
    counts = [
        int((~getattr(labels, name).isnan()).sum()) for name in ("energy", "forces") for _, labels in batches
    ]
    return LabeledSet(batches, sum(counts[: len(batches)]), sum(counts[len(batches) :]))


def features_of(potential: Potential) -> LinearFeatures:
    network = potential.backbone
    assert isinstance(network, StagedNetwork)
    return LinearFeatures(potential, network, arrays_that_fit(network))


def new(backbone: str = "ace", **arguments: object) -> Potential:
    torch.manual_seed(3)
    arguments = {"cutoff": CUTOFF, "n_features": 3, "n_radial": 4, "n_knots": 32, "max_degree": 1, **arguments}
    if backbone == "painn":
        del arguments["max_degree"]
    scale = {z: 0.5 + 0.1 * z for z in REFERENCES}
    return Potential(backbone, arguments, reference_energies=REFERENCES, energy_scale=scale)


def labeled(*seeds: int) -> Batch:
    """Ethanol and quartz with the energies and forces of a known truth; one force is not known."""
    structures = [make(seed) for seed in seeds for make in (ethanol, quartz)]
    graph = collate([build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in structures])
    truth = predict(Morse(), graph)
    forces = truth.forces.clone()
    forces[4, 1] = torch.nan
    return graph, Properties(truth.energy, forces, truth.stress)


@pytest.mark.parametrize("backbone", ["ace", "painn", "nequip"])
def test_rows_are_the_derivatives_of_energies_and_forces_by_the_weights(backbone: str) -> None:
    potential = new(backbone).double()
    features = features_of(potential)
    graph, _ = labeled(0)
    before = predict(potential, graph)
    directions = [(atom, axis) for atom in range(9) for axis in range(3)]
    with torch.no_grad():
        energies, *forces = features.rows(graph, directions)
    for k in range(0, features.n, 7):
        changed = copy.deepcopy(potential)
        features.write(changed.backbone, torch.eye(features.n, dtype=torch.float64)[k])  # type: ignore[arg-type]
        after = predict(changed, graph)
        torch.testing.assert_close(energies[:, k], after.energy - before.energy, rtol=0, atol=1e-9)
        by_weight = (after.forces - before.forces).view(2, 9, 3)
        own = torch.stack([row[:, k] for row in forces], 1).view(2, 9, 3)
        torch.testing.assert_close(own, by_weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backbone", ["ace", "painn", "nequip"])
def test_rows_of_stresses_are_the_derivatives_of_stresses_by_the_weights(backbone: str) -> None:
    """Of a crystal and a tilted slab; of a molecule there are none."""
    potential = new(backbone).double()
    features = features_of(potential)
    flat = quartz(1)
    flat.pbc = (True, False, True)
    flat.rotate(40, (1, 2, 3), rotate_cell=True)
    structures = [quartz(0), ethanol(0), flat]
    graph = collate([build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in structures])
    before = predict(potential, graph)
    volume, strains = torch.linalg.det(graph.cell).abs(), strains_of(graph)
    with torch.no_grad():
        _, *rows = features.rows(graph, [], strains)
    for k in range(0, features.n, 7):
        changed = copy.deepcopy(potential)
        features.write(changed.backbone, torch.eye(features.n, dtype=torch.float64)[k])  # type: ignore[arg-type]
        by_weight = predict(changed, graph).stress - before.stress
        own = torch.stack([row[:, k] for row in rows], 1) / volume[:, None]
        expected = torch.stack([(strain * by_weight).sum((1, 2)) for strain in strains], 1)
        for crystal in (0, 2):
            torch.testing.assert_close(own[crystal], expected[crystal], rtol=0, atol=1e-9)
            torch.testing.assert_close(own[crystal].square().sum(), by_weight[crystal].square().sum())


def test_the_solve_heeds_stresses() -> None:
    """Of crystals in one cell, energies and forces do not tell the stress: it must be in the equations."""
    structures = [quartz(seed) for seed in range(8)]
    graph = collate([build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in structures])
    train, validation = ((graph, predict(Morse(), graph)), labeled(9))
    sets = [
        LabeledSet((one,), n, 27 * n, 9 * n_crystals) for one, n, n_crystals in ((train, 8, 8), (validation, 2, 1))
    ]
    solved = []
    for stress_weight in (0.0, 1e3):
        potential = new().double()
        solved.append(closing_solve(potential, *sets, **WEIGHTS, stress_weight=stress_weight))
    without, with_stress = solved
    assert with_stress.accepted
    assert with_stress.after.stress < 0.9 * with_stress.before.stress
    assert not without.accepted or with_stress.after.stress < without.after.stress
    after, (graph, labels) = predict(potential, validation[0]), validation
    error = (after.stress - labels.stress)[1].square().mean().sqrt().item()
    assert error == pytest.approx(with_stress.after.stress, rel=1e-6)


def test_the_solve_is_that_of_a_dense_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STRENGTHS", (1e-3,))
    potential, train, validation = new().double(), labeled(*range(8)), labeled(9)
    features = features_of(copy.deepcopy(potential))
    solved = closing_solve(potential, known(train), known(validation), **WEIGHTS)
    graph, labels = train
    predicted = predict(features.potential, graph)
    with torch.no_grad():
        energies, *forces = features.rows(graph, [divmod(k, 3) for k in range(27)])
    rows = torch.stack(forces, 1).view(16, 9, 3, -1).flatten(0, 2)
    left = (labels.forces - predicted.forces).flatten()
    rows, left = rows[~left.isnan()], left[~left.isnan()]
    weight = (10 / len(left)) ** 0.5
    a = torch.cat([energies / 9 * 16**-0.5, rows * weight])
    t = torch.cat([(labels.energy - predicted.energy) / 9 * 16**-0.5, left * weight])
    ridge = torch.diag(a.square().sum(0).sqrt() * 1e-3**0.5)
    stacked, target = torch.cat([a, ridge]), torch.cat([t, torch.zeros(len(ridge), dtype=t.dtype)])
    used = ridge.diagonal() > 0
    w = torch.zeros(len(ridge), dtype=torch.float64)
    w[used] = torch.linalg.lstsq(stacked[:, used], target, driver="gelsd").solution
    assert solved.n_rows == len(left)
    own = torch.cat([potential.backbone.linear_weight(n).flatten() for n in potential.backbone.linear])
    assert solved.accepted
    torch.testing.assert_close(own, w, rtol=1e-8, atol=1e-8 * float(w.abs().max()))
    after = predict(potential, validation[0])
    labeled_forces = ~validation[1].forces.isnan()
    error = (after.forces - validation[1].forces)[labeled_forces].square().mean().sqrt().item()
    assert error == pytest.approx(solved.after.forces, rel=1e-6)
    assert solved.after.forces < 0.9 * solved.before.forces


@pytest.mark.parametrize("backbone", ["ace", "painn", "nequip"])
def test_a_frozen_potential_that_was_used_before_predicts_with_its_new_weights(backbone: str) -> None:
    potential, (graph, labels) = new(backbone).double().freeze(), labeled(3)
    predict(potential, graph)
    solved = closing_solve(potential, known(labeled(0, 1), labeled(2)), known((graph, labels)), **WEIGHTS)
    assert solved.accepted
    after = predict(potential, graph)
    residual = (after.forces - labels.forces)[~labels.forces.isnan()]
    assert residual.square().mean().sqrt().item() == pytest.approx(solved.after.forces, rel=1e-6)
    per_atom = (after.energy - labels.energy) / 9
    assert per_atom.square().mean().sqrt().item() == pytest.approx(solved.after.energy, rel=1e-6)


def test_a_solve_that_does_not_help_changes_nothing() -> None:
    graph, labels = labeled(0)
    noise = Properties(labels.energy, torch.randn_like(labels.forces), labels.stress)
    potential = new()
    before = copy.deepcopy(potential.state_dict())
    other = labeled(5)
    exact = predict(potential.double(), other[0])
    potential.float()
    assert not closing_solve(potential, known((graph, noise)), known((other[0], exact)), **WEIGHTS).accepted
    assert all(torch.equal(a, before[name]) for name, a in potential.state_dict().items())


def test_a_solve_gives_the_same_bits_again() -> None:
    results = []
    for _ in range(2):
        potential = new()
        assert closing_solve(potential, known(labeled(0, 1), labeled(2)), known(labeled(3)), **WEIGHTS).accepted
        results.append(potential.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_rows_are_drawn_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "MOST_ROWS", 13)
    potential = new().double()
    with torch.no_grad():
        energies, *forces = rows_of(features_of(potential), known(labeled(0)))
    assert len(energies.targets) == 2
    assert sum(len(rows.targets) for rows in forces) in (13, 14)  # 7 of 27 directions of two structures


def test_a_frame_of_weight_two_counts_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "STRENGTHS", (1e-3,))
    graph, labels = labeled(0)
    ethanol_twice = Labels(
        labels.energy, labels.forces, labels.stress, torch.tensor([2.0, 1.0], dtype=torch.float64)
    )
    a = ethanol(0)
    alone = build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF)
    first = alone, Properties(labels.energy[:1], labels.forces[:9], labels.stress[:1])
    solved = []
    for train in ((graph, ethanol_twice),), ((graph, labels), first):
        potential = new().double()
        both = LabeledSet(train, 3, 100)
        assert closing_solve(potential, both, known(labeled(9)), **WEIGHTS).accepted
        solved.append(
            torch.cat([potential.backbone.linear_weight(n).flatten() for n in potential.backbone.linear])
        )
    torch.testing.assert_close(*solved, rtol=1e-8, atol=1e-8 * float(solved[0].abs().max()))


def test_arrays_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = new().backbone
    assert isinstance(network, StagedNetwork)
    assert arrays_that_fit(network) == ("A1", "A2")
    monkeypatch.setattr(closing, "MOST_WEIGHTS", network.linear_weight("A2").numel())
    assert arrays_that_fit(network) == ("A2",)


def test_atoms_are_counted_within_their_structure() -> None:
    assert within(labeled(0)[0]).tolist() == [*range(9), *range(9)]


def test_a_network_without_linear_weights_is_left_alone() -> None:
    potential = Potential("deepsets", {"cutoff": CUTOFF, "n_features": 8}, reference_energies=REFERENCES)
    solved = closing_solve(potential, known(labeled(0)), known(labeled(1)), **WEIGHTS)
    assert not solved.accepted
    assert solved.n_weights == 0
