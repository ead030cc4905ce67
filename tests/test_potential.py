"""A potential: references, scale and shift around a backbone, repulsion, known elements."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from differences import derivative
from potentials import new_potential, small_potential, training_errors
from structures import (
    CUTOFF,
    ELEMENTS,
    REFERENCES,
    STRUCTURES,
    batch_of,
    ethanol,
    evaluate,
    graph_of,
    isolated_atom,
    worst,
)
from torch.func import functional_call

from mlpot.calculator import MLPotCalculator
from mlpot.forces import predict
from mlpot.graph import Edges
from mlpot.kernels.reductions import sum_at_centers
from mlpot.models import build_backbone
from mlpot.potential import Potential, UnknownElementError
from mlpot.stages.radial import PolynomialEnvelope
from mlpot.terms.zbl import ZBL

BOHR, COULOMB = 0.529177210903, 14.3996454784  # Å, e²/4πε₀ in eV Å


def test_training_teaches(variant: str) -> None:
    before, after = training_errors(variant)
    assert after < before / 5


def test_the_energy_is_the_formula(variant: str) -> None:
    """E_i = E0 + s (b_i − b alone) + t (1 − exp(−n_i²)), from the backbone's own numbers."""
    potential = small_potential(variant, trained=True)
    potential.energy_scale.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5]))
    potential.freeze()
    graph = batch_of([make() for make in STRUCTURES.values()] + [isolated_atom(z) for z in ELEMENTS])
    vectors = graph.positions[graph.edges.neighbor] - graph.positions[graph.edges.center]
    vectors += torch.einsum("ea,eab->eb", graph.cell_shift, graph.cell[graph.batch[graph.edges.center]])
    b = potential.backbone(graph.numbers, graph.edges, vectors)
    alone = dict(zip(ELEMENTS, b[-5:], strict=True))
    n = sum_at_centers(PolynomialEnvelope(CUTOFF)(vectors.norm(dim=-1)), graph.edges)
    expected = torch.zeros(graph.n_graphs, dtype=torch.float64)
    for i, z in enumerate(graph.numbers.tolist()):
        k = ELEMENTS.index(z)
        s, t = potential.energy_scale[k], potential.energy_shift[k]
        expected[graph.batch[i]] += REFERENCES[z] + s * (b[i] - alone[z]) + t * (1 - torch.exp(-(n[i] ** 2)))
    assert worst(predict(potential, graph).energy, expected) <= 1e-10


@pytest.mark.parametrize(
    ("number", "name"), [(7, "N"), (92, "U"), *((z, f"atomic number {z}") for z in (0, -1, 119, 1000))]
)
def test_an_unknown_element_is_refused_by_name(number: int, name: str) -> None:
    potential = small_potential().freeze()
    with pytest.raises(UnknownElementError, match=rf"^{name} is unknown.*H, C, O, Si, Cu"):
        potential.check_elements(torch.tensor([1, number]))
    with pytest.raises(UnknownElementError):
        potential.reference_energies(torch.tensor([1, number]))


def test_an_element_changed_in_place_is_refused() -> None:
    atoms = STRUCTURES["ethanol"]()
    atoms.calc = MLPotCalculator(small_potential())
    atoms.get_potential_energy()
    atoms.numbers[2] = 7
    with pytest.raises(UnknownElementError, match="N is unknown"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("references", [{}, {0: 1.0}, {119: 1.0}])
def test_a_potential_needs_elements_that_exist(references: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="needs elements"):
        Potential("schnet", {}, reference_energies=references)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown backbone 'shnet'. Did you mean schnet\? Choose one of ace, .*, schnet"
    ):
        build_backbone("shnet")
    with pytest.raises(ValueError, match="Unknown radial basis 'bessell'"):
        build_backbone("schnet", elements=(1,), radial="bessell")
    with pytest.raises(ValueError, match="Unknown envelope"):
        build_backbone("egnn", elements=(1,), envelope="step")
    with pytest.raises(ValueError, match="Unknown activation"):
        build_backbone("deepsets", activation="relu")
    with pytest.raises(TypeError, match="cutof"):
        build_backbone("schnet", elements=(1,), cutof=5.0)


def test_reference_energies_stay_float64() -> None:
    exact = -1305.123456789012
    potential = Potential("deepsets", {"n_features": 8}, reference_energies={29: exact}).double().float()
    potential = potential.to(torch.float32).freeze().to("cpu")
    assert potential.dtype == torch.float32
    assert evaluate(potential, Atoms("Cu")).energy.item() == exact


def test_the_shift_is_switched_on_by_neighbors() -> None:
    # A backbone silenced by its scale leaves references and shifts alone.
    potential = small_potential()
    potential.energy_scale.zero_()
    potential.freeze()
    energies = [
        evaluate(potential, Atoms("C2", positions=[(0, 0, 0), (0, 0, d)])).energy.item() for d in (1.2, 3.99, 5)
    ]
    shift = float(potential.energy_shift[ELEMENTS.index(6)])
    assert energies[0] == pytest.approx(2 * REFERENCES[6] + 2 * shift * (1 - np.exp(-1)), abs=0.1)
    assert energies[1] == pytest.approx(2 * REFERENCES[6], abs=1e-9)
    assert energies[2] == 2 * REFERENCES[6]


def test_frozen_and_free_potentials_agree_and_freezing_forgets_nothing(variant: str) -> None:
    potential = small_potential(variant)
    graph = batch_of([make() for make in STRUCTURES.values()] + [isolated_atom(8)])
    free = predict(potential, graph)
    frozen = predict(potential.freeze(), graph)
    assert worst(free.energy, frozen.energy) <= 1e-10
    assert worst(free.forces, frozen.forces) <= 1e-11
    assert not any(weight.requires_grad for weight in potential.parameters())
    potential.train().requires_grad_(True)
    with torch.no_grad():
        for weight in potential.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    for state in (potential, potential.eval(), potential.freeze()):
        assert evaluate(state, isolated_atom(8)).energy.item() == pytest.approx(REFERENCES[8], abs=1e-10)


def test_new_weights_in_a_frozen_potential_keep_the_isolated_atom(variant: str) -> None:
    potential = new_potential(variant, seed=0).freeze()
    potential.load_state_dict(new_potential(variant, seed=1).state_dict())
    assert evaluate(potential, isolated_atom(8)).energy.item() == pytest.approx(REFERENCES[8], abs=1e-10)


def dimers(one: np.ndarray, other: np.ndarray) -> tuple[torch.Tensor, Edges]:
    """Numbers and edges of pairs of atoms (0, 1), (2, 3), …, far from each other."""
    n = 2 * len(one)
    center = torch.arange(n)
    swap = center + 1 - 2 * (center % 2)
    return torch.from_numpy(np.stack([one, other], axis=1).reshape(-1)), Edges(
        center, swap, torch.arange(n + 1), swap
    )


def repulsion(one: np.ndarray, other: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """ZBL energies of dimers, eV."""
    numbers, edges = dimers(one, other)
    vectors = torch.zeros(len(numbers), 3, dtype=torch.float64)
    vectors[:, 0] = torch.from_numpy(np.repeat(distance, 2)) * (1 - 2 * (torch.arange(len(numbers)) % 2))
    return ZBL(6.0).double()(numbers, edges, vectors).view(-1, 2).sum(1).numpy()


ALL_PAIRS = np.array([(a, b) for a in range(1, 97) for b in range(a, 97)]).T


def test_weights_changed_in_place_in_a_frozen_potential_count(variant: str) -> None:
    """By whatever computes it; a copy computes nothing anew that did not change."""
    potential, graph = new_potential(variant).freeze(), graph_of(ethanol())
    before = predict(potential, graph)
    with torch.no_grad():
        for weight in potential.backbone.parameters():
            weight.mul_(1.02)
        potential.energy_scale.mul_(2.0)
    copied = copy.deepcopy(potential)
    wanted = predict(copy.deepcopy(potential).train(mode=True).freeze(), graph, native=False)
    for native in (True, False):
        found = predict(potential, graph, native=native)
        torch.testing.assert_close(found.forces, wanted.forces, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.energy, wanted.energy, rtol=1e-9, atol=1e-4)
    assert worst(before.forces, wanted.forces) > 1e-3
    isolated = potential.isolated
    predict(potential, graph)
    assert potential.isolated is isolated
    assert torch.equal(predict(copied, graph).forces, predict(potential, graph).forces)


def _through_data(potential: Potential) -> None:
    for weight in potential.backbone.parameters():
        weight.data *= 1.02


def _through_numpy(potential: Potential) -> None:
    for weight in potential.backbone.parameters():
        np.multiply(weight.numpy(), 1.02, out=weight.numpy())


def _with_data_of_their_own(potential: Potential) -> None:
    for weight in potential.backbone.parameters():
        weight.data = 1.02 * weight.data


def _replaced(potential: Potential) -> None:
    parts = [potential.backbone.get_submodule(name.rpartition(".")[0]) for name in _names(potential)]
    for part, name in zip(parts, _names(potential), strict=True):
        last = name.rpartition(".")[2]
        setattr(part, last, torch.nn.Parameter(1.02 * part.get_parameter(last), requires_grad=False))


def _names(potential: Potential) -> list[str]:
    return [name for name, _ in potential.backbone.named_parameters()]


@pytest.mark.parametrize("change", [_through_data, _through_numpy, _with_data_of_their_own, _replaced])
def test_changes_that_pytorch_does_not_count_do(change: Callable[[Potential], None]) -> None:
    """As of a program that perturbs weights, or brings its own."""
    variant, graph = "schnet", graph_of(ethanol())
    potential, counted = new_potential(variant).freeze(), new_potential(variant).train()
    before = predict(potential, graph).forces
    change(potential)
    with torch.no_grad():
        for weight in counted.backbone.parameters():
            weight.mul_(1.02)
    wanted = predict(counted.freeze(), graph, native=False).forces
    for native in (True, False):
        assert worst(predict(potential, graph, native=native).forces, wanted) < 1e-10
    assert worst(before, wanted) > 1e-3


def test_weights_that_are_lent_for_one_call_count_in_it_alone() -> None:
    potential, graph = new_potential("schnet").freeze(), graph_of(ethanol())
    before, lent = predict(potential, graph).forces, {k: 1.02 * w for k, w in potential.named_parameters()}
    caller = torch.nn.ModuleDict({"of": potential})
    caller.forward = lambda: predict(potential, graph).forces  # type: ignore[method-assign]  # a caller's own forward
    within = functional_call(caller, {f"of.{name}": weight for name, weight in lent.items()}, ())
    other = copy.deepcopy(potential)
    other.load_state_dict(lent, strict=False)
    assert torch.equal(within, predict(other, graph).forces)
    assert worst(within, before) > 1e-3
    assert torch.equal(predict(potential, graph).forces, before)


def test_nuclei_repel_each_other_more_the_closer_they_are() -> None:
    a, b = ALL_PAIRS
    radii = covalent_radii[a] + covalent_radii[b]
    steps = np.linspace(0.0, 1.0, 40)
    energies = np.stack([repulsion(a, b, 0.05 + s * (0.8 * radii - 0.05)) for s in steps])
    assert np.isfinite(energies).all()
    assert (energies > 0).all()
    assert (np.diff(energies, axis=0) < 0).all()


def test_nuclei_repel_each_other_as_ziegler_biersack_and_littmark_say() -> None:
    a, b = ALL_PAIRS
    d = np.full(len(a), 0.02)  # the envelope is still 1 − 3e-8 here
    x = d * (a**0.23 + b**0.23) / (0.8854 * BOHR)
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    assert repulsion(a, b, d) == pytest.approx(COULOMB * a * b / d * phi, rel=1e-7)


def test_repulsion_ends_smoothly_at_the_sum_of_covalent_radii() -> None:
    a, b = ALL_PAIRS
    radii = covalent_radii[a] + covalent_radii[b]
    assert (repulsion(a, b, radii + 1e-6) == 0).all()
    assert (repulsion(a, b, radii + 1.0) == 0).all()
    for gap in (1e-2, 1e-3):  # C2: the energy goes with the cube of what is left
        ratio = repulsion(a, b, radii - gap) / repulsion(a, b, radii - gap / 2)
        assert ((ratio > 6) & (ratio < 9)).all()


def test_repulsion_has_the_derivative_it_claims() -> None:
    potential = new_potential("schnet", repulsion=True)
    potential.energy_scale.zero_()
    potential.energy_shift.zero_()
    potential.freeze()
    for d in (0.3, 0.6, 1.0, 1.3, 1.9):
        pair = Atoms("OCu", positions=[(0, 0, 0), (0, 0, d)])

        def energies(steps: list[float], pair: Atoms = pair) -> np.ndarray:
            moved = [Atoms(pair.numbers, positions=[(0, 0, 0), (0, 0, pair.positions[1, 2] + s)]) for s in steps]
            return evaluate(potential, *moved).energy.numpy()

        force = evaluate(potential, pair).forces[1, 2].item()
        assert force >= 0
        assert force == pytest.approx(-float(derivative(energies, 2e-4, order=6)), rel=1e-9, abs=1e-7)


def test_repulsion_is_silent_where_no_atoms_touch() -> None:
    with_it, without = new_potential("schnet", repulsion=True).freeze(), new_potential("schnet").freeze()
    far = Atoms("OCu", positions=[(0, 0, 0), (0, 0, 2.2)])
    near = Atoms("OCu", positions=[(0, 0, 0), (0, 0, 1.2)])
    assert evaluate(with_it, far).energy == evaluate(without, far).energy
    assert evaluate(with_it, near).energy > evaluate(without, near).energy + 1.0


def test_pushed_together_atoms_are_pushed_apart(variant: str) -> None:
    """Even by a trained potential that has never seen them so close."""
    potential = new_potential(variant, repulsion=True)
    potential.load_state_dict(small_potential(variant, trained=True).state_dict(), strict=False)
    potential.freeze()
    for symbols in ("H2", "CO", "SiO", "Cu2"):
        distances = np.linspace(0.05, 0.35, 31)
        energies = evaluate(
            potential, *[Atoms(symbols, positions=[(0, 0, 0), (d, 0, 0)]) for d in distances]
        ).energy
        assert (energies.diff() < 0).all(), symbols


@pytest.mark.parametrize("distance", [0.0, 1e-9, 5e-3])
def test_coincident_atoms_are_refused_by_name(distance: float) -> None:
    pair = Atoms("CO", positions=[(1, 1, 1), (1, 1, 1 + distance)])
    with pytest.raises(ValueError, match="the same atom twice"):
        graph_of(pair)
    pair.calc = MLPotCalculator(small_potential())
    with pytest.raises(ValueError, match="the same atom twice"):
        pair.get_potential_energy()


def test_a_calculator_leaves_the_potential_as_it_was() -> None:
    potential = small_potential()
    MLPotCalculator(potential, dtype=torch.float32)
    assert potential.dtype == torch.float64
    assert potential.training
    assert all(weight.requires_grad for weight in potential.parameters())


def test_structures_of_ase_are_not_predicted_but_say_what_takes_them() -> None:
    with pytest.raises(TypeError, match=r"this is of type Atoms\. .*MLPotCalculator"):
        predict(new_potential("schnet"), ethanol())  # type: ignore[arg-type]  # the fault itself


def test_the_calculator_gives_what_predict_gives() -> None:
    potential = small_potential(trained=True)
    atoms = STRUCTURES["quartz"]()
    out = evaluate(potential, atoms)
    atoms.calc = MLPotCalculator(potential)
    assert atoms.get_potential_energy() == pytest.approx(out.energy.item(), rel=1e-13)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert worst(atoms.get_forces(), out.forces) <= 1e-11
    assert worst(atoms.get_potential_energies().sum(), out.energy) <= 1e-10
    assert worst(atoms.get_stresses().sum(0), atoms.get_stress()) <= 1e-12
