"""Core repulsion: are atoms closer than in training kept apart, smoothly, and all others as before?"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from differences import derivative
from places import TESTS
from potentials import new_potential, small_potential
from safetensors import safe_open
from safetensors.torch import save_file
from sets import crystals, small_recipe, write
from structures import CUTOFF, ELEMENTS, STRUCTURES, batch_of, evaluate, graph_of, worst

from mlpot.forces import hessian, native_obstacle, predict
from mlpot.graph import AtomGraph, Properties
from mlpot.model_file import ModelFileError, load_potential, read_header, save_potential
from mlpot.potential import RENAMED, Potential
from mlpot.terms.core_repulsion import EARLY, FEW, LATE, WIDTH, CoreRepulsion, TrainingLimits
from mlpot.training.fit import train
from mlpot.training.outputs import training_limits

pytestmark = pytest.mark.usefixtures("_no_pictures")

LIMITS = TrainingLimits(
    distance={(1, 1): 1.54, (1, 6): 1.0, (6, 8): 1.35, (29, 29): 2.2}, coordination={6: 1.5, 29: 6.0}
)
PAIRS = [(a, b) for i, a in enumerate(ELEMENTS) for b in ELEMENTS[i:]]


def with_core_repulsion(variant: str, *, trained: bool = False, repulsion: bool = False) -> Potential:
    """A frozen potential with the core repulsion that follows from LIMITS."""
    potential = new_potential(variant, repulsion=repulsion)
    if trained:
        potential.load_state_dict(small_potential(variant, trained=True).state_dict(), strict=False)
    potential.freeze().add_core_repulsion(LIMITS)
    return potential


def dimer(a: int, b: int, d: float) -> Atoms:
    return Atoms([a, b], positions=[(0, 0, 0), (0.36 * d, 0.48 * d, 0.8 * d)])


def shortest(a: int, b: int) -> float:
    return LIMITS.distance.get((a, b), covalent_radii[a] + covalent_radii[b])


def ends(potential: Potential, a: int, b: int) -> tuple[float, float]:
    """The two distances of two elements between which the core repulsion takes over."""
    assert potential.core_repulsion is not None
    low, high = potential.core_repulsion.distances[potential.element_index[a], potential.element_index[b]].tolist()
    return low, high


def strength(potential: Potential, a: int, b: int) -> float:
    """How many times the repulsion of nuclei stands for what the network does not see of two elements."""
    assert potential.core_repulsion is not None
    return potential.core_repulsion.strength[potential.element_index[a], potential.element_index[b]].item()


@cache
def pairs_at(a: int, b: int, first: float, last: float, n: int) -> AtomGraph:
    """Two atoms at n distances."""
    return batch_of([dimer(a, b, d) for d in np.linspace(first, last, n)])


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_a_trained_potential_pushes_atoms_apart_the_more_the_closer(variant: str, repulsion: bool) -> None:
    potential = with_core_repulsion(variant, trained=True, repulsion=repulsion)
    for a, b in PAIRS:
        graph = pairs_at(a, b, 0.05, ends(potential, a, b)[0], 60)
        assert (predict(potential, graph).energy.diff() < 0).all(), (a, b)


def test_what_the_network_does_not_see_is_resisted_where_nuclei_are_soft_too() -> None:
    """Two H of one CH3 come nearer than in training when it is hot; their nuclei hardly repel at 1.4 Å."""
    potential = with_core_repulsion("schnet")
    assert strength(potential, 1, 1) == pytest.approx(
        3.0 / 0.785, rel=1e-3
    )  # eV/Å at 1.432 Å, by the formula below
    assert strength(potential, 29, 29) == strength(potential, 1, 6) == 1.0
    far = TrainingLimits(distance={(1, 1): 4.5}, coordination={})
    assert CoreRepulsion.of((1,), far, 5.0).strength.item() == 4.0  # times next to nothing
    low, high = ends(potential, 1, 1)
    assert (low, high) == pytest.approx((0.80 * 1.54, 0.93 * 1.54), abs=1e-6)
    near, far = dimer(1, 1, low - 1e-4), dimer(1, 1, low + 1e-4)
    energy = evaluate(potential, near, far).energy
    assert (energy[0] - energy[1]).item() / 2e-4 > 3.0  # eV/Å


def test_below_the_lower_distance_only_nuclei_repel(variant: str) -> None:
    """The network's part of the energy is constant there."""
    potential = with_core_repulsion(variant, trained=True)
    for a, b in PAIRS:
        r = np.array([0.2, 0.5, 0.7, 0.9]) * ends(potential, a, b)[0]
        out = evaluate(potential, *[dimer(a, b, d) for d in r])
        d = torch.from_numpy(r).requires_grad_()
        x = d * (a**0.23 + b**0.23) / (0.8854 * 0.529177210903)
        shares = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
        nuclei = (
            strength(potential, a, b) * 14.3996454784 * a * b / d * sum(c * torch.exp(-k * x) for c, k in shares)
        )
        nuclei.sum().backward()
        assert d.grad is not None
        assert worst(out.energy.diff(), nuclei.detach().diff()) <= 1e-7 * nuclei.max().item()
        pushed = out.forces.view(-1, 2, 3)[:, 1] @ torch.tensor([0.36, 0.48, 0.8]).double()
        assert pushed.numpy() == pytest.approx(-d.grad.numpy(), rel=1e-6)


def test_structures_like_those_of_training_have_the_same_energy_to_the_last_bit(variant: str) -> None:
    plain = new_potential(variant).freeze()
    graph = batch_of([make() for make in STRUCTURES.values()])
    repelling = copy.deepcopy(plain)
    repelling.add_core_repulsion(training_limits([(graph, None)], CUTOFF))
    for native in (True, False):
        without, with_it = (predict(p, graph, native=native) for p in (plain, repelling))
        assert torch.equal(without.energy, with_it.energy)
        assert torch.equal(without.forces, with_it.forces)
        assert torch.equal(without.stress.nan_to_num(), with_it.stress.nan_to_num())


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_the_force_of_an_isolated_pair_changes_its_sign_once_at_most(variant: str, repulsion: bool) -> None:
    potential = with_core_repulsion(variant, trained=True, repulsion=repulsion)
    for a, b in PAIRS:
        if a == 6 or b == 6:  # of which training saw a chain: it may say what it likes of pairs
            continue
        out = predict(potential, pairs_at(a, b, 0.3, CUTOFF - 1e-3, 150))
        pull = out.forces.view(-1, 2, 3)[:, 1, 2]
        assert (pull[pull.abs() > 1e-9].sign().diff() != 0).sum() <= 1, (a, b)


def test_what_training_showed_of_pairs_stays() -> None:
    plain = small_potential(trained=True).freeze()
    taught = copy.deepcopy(plain)
    pairs = [dimer(a, b, d) for a, b in PAIRS for d in (1.1 * shortest(a, b), CUTOFF - 0.3)]
    taught.add_core_repulsion(training_limits([(batch_of(pairs), None)], CUTOFF))
    assert torch.equal(evaluate(plain, *pairs).energy, evaluate(taught, *pairs).energy)
    assert torch.equal(evaluate(plain, *pairs).forces, evaluate(taught, *pairs).forces)


def unlike_training() -> list[Atoms]:
    """Pairs within the core repulsion, where it begins, and beyond; atoms with few neighbors, and with enough."""
    out = [dimer(6, 8, d) for d in (0.8, 1.5, 3.0)]
    out += [Atoms("OCO", [(0, 0, 0), (0, 0.3, d), (0.2, 0, 2 * d)]) for d in (1.4, 1.8, 2.2, 2.6)]
    for by in (0.6, 0.8, 0.9, 0.97):
        for atoms in (molecule("CH3CH2OH"), bulk("Cu") * (2, 1, 1)):
            atoms.positions *= by
            atoms.cell *= by
            out.append(atoms)
    return out


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_forces_and_stress_are_derivatives_of_the_energy_with_core_repulsion(
    variant: str, repulsion: bool
) -> None:
    potential = with_core_repulsion(variant, repulsion=repulsion)
    for atoms in unlike_training():
        out = evaluate(potential, atoms)
        scale = max(1.0, out.forces.abs().max().item())

        def moved(steps: list[float], atoms: Atoms = atoms) -> np.ndarray:
            changed = [atoms.copy() for _ in steps]
            for a, s in zip(changed, steps, strict=True):
                a.positions[1] += s * np.array([0.6, 0.0, 0.8])
            return evaluate(potential, *changed).energy.numpy()

        slope = out.forces[1].numpy() @ np.array([0.6, 0.0, 0.8])
        assert -derivative(moved, 2e-4, order=6) == pytest.approx(slope, abs=3e-7 * scale)
        if atoms.pbc.all():

            def strained(steps: list[float], atoms: Atoms = atoms) -> np.ndarray:
                changed = [atoms.copy() for _ in steps]
                for a, s in zip(changed, steps, strict=True):
                    a.set_cell((1 + s) * a.cell.array, scale_atoms=True)
                return evaluate(potential, *changed).energy.numpy()

            expected = out.stress[0].trace().item() * atoms.get_volume()
            assert derivative(strained, 1e-4, order=6) == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_curvature_is_continuous_at_both_ends_of_the_core_repulsion() -> None:
    potential = with_core_repulsion("schnet", trained=True)
    for a, b in ((1, 6), (6, 8), (29, 29), (1, 14)):
        for d in ends(potential, a, b):
            inner, outer = (hessian(potential, graph_of(dimer(a, b, d + s))) for s in (-1e-7, 1e-7))
            assert worst(inner, outer) <= 1e-5 * max(1.0, inner.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
@pytest.mark.parametrize("variant", ["schnet", "egnn", "egnn_moving"])
def test_native_calls_have_the_same_core_repulsion(variant: str, repulsion: bool, dtype: torch.dtype) -> None:
    exact = with_core_repulsion(variant, repulsion=repulsion)
    native = copy.deepcopy(exact).to(dtype)
    assert native_obstacle(native) is None
    for graph in map(graph_of, unlike_training()):
        truth, out = predict(exact, graph, native=False), predict(native, graph)
        assert differ(truth, out) <= (1e-11 if dtype == torch.float64 else 5e-5)


def differ(a: Properties, b: Properties) -> float:
    """Greatest difference of energies, forces and stress, relative to the greatest value."""
    pairs = ((a.energy, b.energy), (a.forces, b.forces), (a.stress.nan_to_num(), b.stress.nan_to_num()))
    return max(worst(x, y) / max(1.0, x.abs().max().item()) for x, y in pairs)


def test_the_file_keeps_the_core_repulsion_in_double_precision(variant: str, tmp_path: Path) -> None:
    potential = with_core_repulsion(variant)
    save_potential(potential.to(torch.float32), tmp_path / "model.safetensors")
    loaded = load_potential(tmp_path / "model.safetensors")
    assert loaded.dtype == torch.float32
    assert loaded.core_repulsion is not None
    high = 1.1 * 0.8 * (covalent_radii[1] + covalent_radii[6])
    assert ends(loaded, 1, 6) == (high - WIDTH * 1.0, high)
    assert ends(loaded, 29, 29)[1] == EARLY * 2.2
    assert ends(loaded, 14, 14)[1] == LATE * 2 * covalent_radii[14]
    assert torch.equal(loaded.core_repulsion.distances, loaded.core_repulsion.distances.transpose(0, 1))
    assert loaded.core_repulsion.coordination[:2].tolist() == [[1.0, FEW], [EARLY * 1.5 / FEW, EARLY * 1.5]]
    pair = dimer(1, 6, 0.5)
    assert evaluate(loaded, pair).energy.item() == evaluate(potential, pair).energy.item()


def test_core_repulsion_stays_if_the_potential_is_trained_again() -> None:
    potential = with_core_repulsion("schnet")
    graph = batch_of([dimer(6, 8, 0.8), dimer(1, 6, 0.95)])
    before = predict(potential, graph)
    out = predict(potential.train().requires_grad_(True), graph, training=True)
    assert worst(before.energy, out.energy.detach()) <= 1e-11
    assert worst(before.forces, out.forces.detach()) <= 1e-11
    out.forces.square().sum().backward()


def test_no_pair_is_kept_farther_apart_than_the_cutoff() -> None:
    potential = new_potential("schnet", cutoff=1.0).freeze()
    potential.add_core_repulsion(TrainingLimits({}, {}))
    assert potential.core_repulsion is not None
    assert potential.core_repulsion.distances.max() < 1.0


@pytest.mark.parametrize("backbone", ["schnet", "egnn", "deepsets", "se3_transformer"])
def test_training_adds_core_repulsion_unless_told_not_to(backbone: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    potential = load_potential(train(small_recipe(data, tmp_path / "run", backbone=backbone)).model)
    assert potential.core_repulsion is not None
    for a, b in ((29, 29), (29, 79), (79, 79)):
        out = evaluate(potential, *[dimer(a, b, d) for d in np.linspace(0.05, ends(potential, a, b)[0], 60)])
        assert (out.energy.diff() < 0).all()
    none = small_recipe(data, tmp_path / "none", "model.core_repulsion=false", backbone=backbone)
    assert load_potential(train(none).model).core_repulsion is None


def test_a_file_of_format_2_is_read_under_the_names_of_today() -> None:
    """Written with the weights `scale`, `shift`, `wall.distances`, `wall.crowds`."""
    path = TESTS / "golden" / "golden_v2_core_repulsion.safetensors"
    assert read_header(path)["renamed_weights"]["wall.crowds"] == "core_repulsion.coordination"
    old = load_potential(path, dtype=torch.float64)
    assert old.energy_shift.tolist() == pytest.approx([-2.0, -2.1, -2.2, -2.3, -2.4], abs=1e-6)
    assert old.domain is not None
    assert old.core_repulsion is not None
    assert (old.core_repulsion.strength == 1).all()  # as it was before a soft one was raised
    assert old.core_repulsion.coordination[1].tolist() == pytest.approx([EARLY * 1.5 / FEW, EARLY * 1.5])
    out = evaluate(old, dimer(1, 6, 0.5), dimer(6, 8, 1.1), dimer(29, 29, 4.0))
    assert out.energy.tolist() == pytest.approx([-141.82366589318352, -574.0506793505865, -2612.4], abs=1e-8)
    assert out.forces[[1, 3, 5], 2].tolist() == pytest.approx(
        [101.63678185278201, 35.453155691369446, 0.0], abs=1e-8
    )


def test_a_weight_under_both_names_is_refused(tmp_path: Path) -> None:
    source = TESTS / "golden" / "golden_v2_core_repulsion.safetensors"
    with safe_open(source, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(
        weights | {"energy_shift": weights["shift"].clone()}, tmp_path / "both.safetensors", metadata=metadata
    )
    with pytest.raises(ModelFileError, match="under its old and under its new name"):
        load_potential(tmp_path / "both.safetensors")


def test_weights_of_an_earlier_checkpoint_are_read() -> None:
    potential = with_core_repulsion("schnet", trained=True)
    today = {f"module.{name}": tensor for name, tensor in potential.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in today.items()}
    for old, new in RENAMED.items():
        before[f"module.{old}"] = before.pop(f"module.{new}")
    module = torch.nn.Module()
    module.module = with_core_repulsion("schnet")
    module.load_state_dict(before)
    assert all(torch.equal(tensor, today[name]) for name, tensor in module.state_dict().items())
