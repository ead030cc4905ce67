"""Are atoms that are closer or lonelier than any of the training kept sane, smoothly, and at no other price?"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from differences import derivative
from potentials import new_potential, small_potential
from sets import crystals, small_recipe, write
from structures import CUTOFF, ELEMENTS, STRUCTURES, batch_of, evaluate, graph_of, worst

from mlpot.forces import hessian, predict
from mlpot.graph import Properties
from mlpot.model_file import load_potential, save_potential
from mlpot.potential import Potential
from mlpot.terms.core_repulsion import EARLY, FEW, LATE, WIDTH, Seen
from mlpot.training.fit import train
from mlpot.training.outputs import seen_in

SEEN = Seen(nearest={(1, 6): 1.0, (6, 8): 1.35, (29, 29): 2.2}, fewest={6: 1.5, 29: 6.0})  # others never met
PAIRS = [(a, b) for i, a in enumerate(ELEMENTS) for b in ELEMENTS[i:]]


def walled(variant: str, *, trained: bool = False, repulsion: bool = False) -> Potential:
    """A frozen potential that knows how close atoms came in training."""
    potential = new_potential(variant, repulsion=repulsion)
    if trained:
        potential.load_state_dict(small_potential(variant, trained=True).state_dict(), strict=False)
    potential.freeze().build_wall(SEEN)
    return potential


def dimer(a: int, b: int, d: float) -> Atoms:
    return Atoms([a, b], positions=[(0, 0, 0), (0.36 * d, 0.48 * d, 0.8 * d)])


def shortest(a: int, b: int) -> float:
    return SEEN.nearest.get((a, b), covalent_radii[a] + covalent_radii[b])


def ends(potential: Potential, a: int, b: int) -> tuple[float, float]:
    """Between which distances two elements meet the wall."""
    assert potential.wall is not None
    low, high = potential.wall.distances[potential.element_index[a], potential.element_index[b]].tolist()
    return low, high


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_a_trained_potential_pushes_atoms_apart_the_more_the_closer(variant: str, repulsion: bool) -> None:
    potential = walled(variant, trained=True, repulsion=repulsion)
    for a, b in PAIRS:
        r = np.linspace(0.05, ends(potential, a, b)[0], 60)
        assert (evaluate(potential, *[dimer(a, b, d) for d in r]).energy.diff() < 0).all(), (a, b)


def test_within_the_wall_only_nuclei_repel(variant: str) -> None:
    """The learned part does not know where between them the atoms are."""
    potential = walled(variant, trained=True)
    for a, b in PAIRS:
        r = np.array([0.2, 0.5, 0.7, 0.9]) * ends(potential, a, b)[0]
        out = evaluate(potential, *[dimer(a, b, d) for d in r])
        d = torch.from_numpy(r).requires_grad_()
        x = d * (a**0.23 + b**0.23) / (0.8854 * 0.529177210903)
        shares = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
        nuclei = 14.3996454784 * a * b / d * sum(c * torch.exp(-k * x) for c, k in shares)
        nuclei.sum().backward()
        assert d.grad is not None
        assert worst(out.energy.diff(), nuclei.detach().diff()) <= 1e-7 * nuclei.max().item()
        pushed = out.forces.view(-1, 2, 3)[:, 1] @ torch.tensor([0.36, 0.48, 0.8]).double()
        assert pushed.numpy() == pytest.approx(-d.grad.numpy(), rel=1e-6)


def test_structures_like_those_of_training_have_the_same_energy_to_the_last_bit(variant: str) -> None:
    plain = new_potential(variant).freeze()
    graph = batch_of([make() for make in STRUCTURES.values()])
    walled = copy.deepcopy(plain)
    walled.build_wall(seen_in([(graph, None)], CUTOFF))
    for native in (True, False):
        if not native:
            plain.native = walled.native = None
        without, behind = predict(plain, graph), predict(walled, graph)
        assert torch.equal(without.energy, behind.energy)
        assert torch.equal(without.forces, behind.forces)
        assert torch.equal(without.stress.nan_to_num(), behind.stress.nan_to_num())


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_the_force_of_a_lone_pair_changes_its_sign_once_at_most(variant: str, repulsion: bool) -> None:
    potential = walled(variant, trained=True, repulsion=repulsion)
    for a, b in PAIRS:
        if a == 6 or b == 6:  # of which training saw a chain: it may say what it likes of pairs
            continue
        out = evaluate(potential, *[dimer(a, b, d) for d in np.linspace(0.3, CUTOFF - 1e-3, 150)])
        pull = out.forces.view(-1, 2, 3)[:, 1, 2]
        assert (pull[pull.abs() > 1e-9].sign().diff() != 0).sum() <= 1, (a, b)


def test_what_training_showed_of_pairs_stays() -> None:
    plain = small_potential(trained=True).freeze()
    taught = copy.deepcopy(plain)
    pairs = [dimer(a, b, d) for a, b in PAIRS for d in (1.1 * shortest(a, b), CUTOFF - 0.3)]
    taught.build_wall(seen_in([(batch_of(pairs), None)], CUTOFF))
    assert torch.equal(evaluate(plain, *pairs).energy, evaluate(taught, *pairs).energy)
    assert torch.equal(evaluate(plain, *pairs).forces, evaluate(taught, *pairs).forces)


def strange() -> list[Atoms]:
    """Pairs deep in the wall, at its foot, and before it; atoms with little company, and with just enough."""
    out = [dimer(6, 8, d) for d in (0.8, 1.5, 3.0)]
    out += [Atoms("OCO", [(0, 0, 0), (0, 0.3, d), (0.2, 0, 2 * d)]) for d in (1.4, 1.8, 2.2, 2.6)]
    for by in (0.6, 0.8, 0.9, 0.97):
        for atoms in (molecule("CH3CH2OH"), bulk("Cu") * (2, 1, 1)):
            atoms.positions *= by
            atoms.cell *= by
            out.append(atoms)
    return out


@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
def test_forces_and_stress_are_derivatives_of_the_energy_within_the_wall(variant: str, repulsion: bool) -> None:
    potential = walled(variant, repulsion=repulsion)
    for atoms in strange():
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


def test_curvature_is_continuous_at_the_foot_and_at_the_top_of_the_wall() -> None:
    potential = walled("schnet", trained=True)
    potential.native = None
    for a, b in ((1, 6), (6, 8), (29, 29), (1, 14)):
        for d in ends(potential, a, b):
            inner, outer = (hessian(potential, graph_of(dimer(a, b, d + s))) for s in (-1e-7, 1e-7))
            assert worst(inner, outer) <= 1e-5 * max(1.0, inner.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("repulsion", [False, True], ids=["plain", "repulsive"])
@pytest.mark.parametrize("variant", ["schnet", "egnn", "egnn_moving"])
def test_native_calls_have_the_same_wall(variant: str, repulsion: bool, dtype: torch.dtype) -> None:
    exact = walled(variant, repulsion=repulsion)
    native = copy.deepcopy(exact).to(dtype)
    assert native.native is not None
    exact.native = None
    for graph in map(graph_of, strange()):
        truth, out = predict(exact, graph), predict(native, graph)
        assert differ(truth, out) <= (1e-11 if dtype == torch.float64 else 5e-5)


def differ(a: Properties, b: Properties) -> float:
    """Greatest difference of energies, forces and stress, relative to the greatest value."""
    pairs = ((a.energy, b.energy), (a.forces, b.forces), (a.stress.nan_to_num(), b.stress.nan_to_num()))
    return max(worst(x, y) / max(1.0, x.abs().max().item()) for x, y in pairs)


def test_the_file_keeps_the_wall_in_double_precision(variant: str, tmp_path: Path) -> None:
    potential = walled(variant)
    save_potential(potential.to(torch.float32), tmp_path / "model.safetensors")
    loaded = load_potential(tmp_path / "model.safetensors")
    assert loaded.dtype == torch.float32
    assert loaded.wall is not None
    high = 1.1 * 0.8 * (covalent_radii[1] + covalent_radii[6])
    assert ends(loaded, 1, 6) == (high - WIDTH * 1.0, high)
    assert ends(loaded, 29, 29)[1] == EARLY * 2.2
    assert ends(loaded, 14, 14)[1] == LATE * 2 * covalent_radii[14]
    assert torch.equal(loaded.wall.distances, loaded.wall.distances.transpose(0, 1))
    assert loaded.wall.crowds[:2].tolist() == [[1.0, FEW], [EARLY * 1.5 / FEW, EARLY * 1.5]]
    pair = dimer(1, 6, 0.5)
    assert evaluate(loaded, pair).energy.item() == evaluate(potential, pair).energy.item()


def test_a_wall_goes_on_if_the_potential_is_trained_again() -> None:
    potential = walled("schnet")
    graph = batch_of([dimer(6, 8, 0.8), dimer(1, 6, 0.95)])
    before = predict(potential, graph)
    out = predict(potential.train().requires_grad_(True), graph, training=True)
    assert worst(before.energy, out.energy.detach()) <= 1e-11
    assert worst(before.forces, out.forces.detach()) <= 1e-11
    out.forces.square().sum().backward()


def test_no_pair_is_kept_farther_apart_than_the_cutoff() -> None:
    potential = new_potential("schnet", cutoff=1.0).freeze()
    potential.build_wall(Seen({}, {}))
    assert potential.wall is not None
    assert potential.wall.distances.max() < 1.0


@pytest.mark.parametrize("backbone", ["schnet", "egnn", "deepsets"])
def test_training_builds_the_wall_unless_told_not_to(backbone: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals())
    potential = load_potential(train(small_recipe(data, tmp_path / "run", backbone=backbone)).model)
    assert potential.wall is not None
    for a, b in ((29, 29), (29, 79), (79, 79)):
        out = evaluate(potential, *[dimer(a, b, d) for d in np.linspace(0.05, ends(potential, a, b)[0], 60)])
        assert (out.energy.diff() < 0).all()
    none = small_recipe(data, tmp_path / "none", "model.wall=false", backbone=backbone)
    assert load_potential(train(none).model).wall is None
