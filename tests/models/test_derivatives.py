"""Forces, stress and curvature are the derivatives of the energy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from differences import STENCILS, derivative
from potentials import small_potential, training_graph
from structures import CRYSTALS, CUTOFF, STRUCTURES, batch_of, copper, ethanol, evaluate, graph_of, worst

from mlpot.forces import hessian, hessian_vector_product, predict, predict_atoms
from mlpot.graph import edge_vectors
from mlpot.potential import Potential

pytestmark = pytest.mark.pairs
H = 1e-3  # Å, or strain
# At fourth order the short C-O bond of the slab left 8e-7 eV/Å of a moving EGNN, which fell 16-fold
# when H was halved, so it was the error of the difference; at sixth order 7e-9 eV/Å are left.
ORDER = 6
VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
MATTER = pytest.mark.parametrize("matter", STRUCTURES)
CRYSTAL = pytest.mark.parametrize("matter", CRYSTALS)


def clear_of_the_cutoff(atoms: Atoms) -> Atoms:
    """The structure, in which no pair crosses the cutoff under finite displacements.

    There the energy has two continuous derivatives and the third jumps, so a difference of any order has an error
    of order h² that says nothing about the force. The cutoff has its own tests, in test_locality.py.
    """
    d = torch.linalg.vector_norm(edge_vectors(graph_of(atoms, CUTOFF + 0.5)), dim=-1)
    assert (d - CUTOFF).abs().min() > 10 * H
    return atoms


def energies_when_displaced(potential: Potential, atoms: Atoms, steps: list[float]) -> np.ndarray:
    """(n_steps, n_atoms, 3) energies with one coordinate of one atom moved by each step."""
    moved = []
    for step in steps:
        for i, axis in np.ndindex(len(atoms), 3):
            moved.append(atoms.copy())
            moved[-1].positions[i, axis] += step
    return evaluate(potential, *moved).energy.numpy().reshape(len(steps), len(atoms), 3)


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    """Positions and cell vectors x -> (1 + ε) x."""
    out = atoms.copy()
    out.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    out.positions = atoms.positions @ (np.eye(3) + strain)
    return out


def voigt_strain(component: int, size: float) -> np.ndarray:
    """A symmetric strain; shear is shared by its two entries."""
    a, b = VOIGT[component]
    strain = np.zeros((3, 3))
    strain[a, b] += size / 2
    strain[b, a] += size / 2
    return strain


@MATTER
def test_forces_are_minus_the_derivative_of_the_energy(potential: Potential, matter: str) -> None:
    atoms = clear_of_the_cutoff(STRUCTURES[matter]())
    forces = -derivative(lambda steps: energies_when_displaced(potential, atoms, steps), H, ORDER)
    assert worst(evaluate(potential, atoms).forces, forces) <= 1e-7


@CRYSTAL
def test_stress_is_the_derivative_with_respect_to_strain(potential: Potential, matter: str) -> None:
    atoms = clear_of_the_cutoff(CRYSTALS[matter]())

    def energies(steps: list[float]) -> np.ndarray:
        cells = [strained(atoms, voigt_strain(c, s)) for s in steps for c in range(6)]
        return evaluate(potential, *cells).energy.numpy().reshape(len(steps), 6)

    expected = derivative(energies, H, ORDER) / atoms.get_volume()
    stress = evaluate(potential, atoms).stress[0].numpy()
    assert worst([stress[a, b] for a, b in VOIGT], expected) <= 1e-8
    assert worst(stress, stress.T) <= 1e-12


@MATTER
def test_float32_forces_and_stress_are_those_of_the_same_weights_in_float64(variant: str, matter: str) -> None:
    atoms = STRUCTURES[matter]()
    for trained in (False, True):
        single = small_potential(variant, trained=trained, dtype=torch.float32)
        double = small_potential(variant, trained=trained, dtype=torch.float32).double()
        out, exact = evaluate(single, atoms), evaluate(double, atoms)
        assert worst(out.forces, exact.forces) <= 5e-5 + 1e-5 * exact.forces.abs().max()
        if atoms.pbc.all():
            assert worst(out.stress, exact.stress) <= 1e-5


def test_a_compressed_crystal_pushes_outwards(variant: str) -> None:
    # Of a trained potential: an untrained one need not know that matter resists compression.
    potential = small_potential(variant, trained=True).freeze()
    squeezed, stretched = strained(copper(), -0.05 * np.eye(3)), strained(copper(), 0.05 * np.eye(3))
    pressed, pulled = evaluate(potential, squeezed, stretched).stress
    assert pressed.trace() < 0 < pulled.trace()


@pytest.mark.parametrize("matter", ["ethanol", "copper"])
def test_hessian_is_symmetric_and_the_derivative_of_the_forces(potential: Potential, matter: str) -> None:
    atoms = clear_of_the_cutoff(STRUCTURES[matter]())
    n = 3 * len(atoms)

    def forces(steps: list[float]) -> np.ndarray:
        moved = []
        for step in steps:
            for i, axis in np.ndindex(len(atoms), 3):
                moved.append(atoms.copy())
                moved[-1].positions[i, axis] += step
        return evaluate(potential, *moved).forces.numpy().reshape(len(steps), n, n)

    curvature = hessian(potential, graph_of(atoms)).numpy()
    assert np.linalg.norm(curvature - curvature.T) <= 1e-12 * np.linalg.norm(curvature)
    assert worst(curvature, -derivative(forces, H, ORDER)) <= 1e-7 * np.abs(curvature).max()


def test_hessian_vector_products_are_columns_of_the_hessian(potential: Potential) -> None:
    graph = graph_of(ethanol())
    v = torch.randn(graph.n_atoms, 3, dtype=torch.float64)
    expected = hessian(potential, graph) @ v.reshape(-1)
    product = hessian_vector_product(potential, graph, v).reshape(-1)
    assert worst(product, expected) <= 1e-12 * expected.abs().max()


def test_an_isolated_atom_has_a_hessian_of_zeros(potential: Potential) -> None:
    graph = graph_of(Atoms("C", positions=[(0, 0, 0)]))
    assert torch.equal(hessian(potential, graph), torch.zeros(3, 3, dtype=torch.float64))


def test_atomic_energies_and_virials_add_up(potential: Potential) -> None:
    graph = batch_of([make() for make in STRUCTURES.values()])
    out, atomic = predict(potential, graph), predict_atoms(potential, graph)
    energy = torch.zeros_like(out.energy).index_add(0, graph.batch, atomic.energies)
    virial = torch.zeros_like(out.stress).index_add(0, graph.batch, atomic.virials)
    stress = virial / graph.cell.det().abs()[:, None, None]
    periodic = graph.pbc.all(-1)
    assert worst(energy, out.energy) <= 1e-10
    assert worst(stress[periodic], out.stress[periodic]) <= 1e-12
    compiled = predict_atoms(copy.deepcopy(potential).freeze(), graph)
    assert worst(compiled.energies, atomic.energies) <= 1e-9
    assert worst(compiled.virials, atomic.virials) <= 1e-9


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
def test_gradients_of_a_loss_on_forces_and_stress(variant: str, trained: bool) -> None:
    """∂L/∂w · v for random directions v in the space of the weights, against differences of L(w + s v)."""
    potential = small_potential(variant, trained=trained)
    graph = training_graph()
    weights = list(potential.parameters())
    start = [w.detach().clone() for w in weights]

    def loss() -> torch.Tensor:
        out = predict(potential, graph, training=True)
        periodic = graph.pbc.all(-1)
        return out.energy.mean() / 1e4 + out.forces.square().mean() + 100 * out.stress[periodic].square().mean()

    def losses(steps: list[float]) -> np.ndarray:
        values = []
        for step in steps:
            with torch.no_grad():
                for w, w0, v in zip(weights, start, direction, strict=True):
                    w.copy_(w0 + step * v)
            values.append(loss().item())
        return np.array(values)

    gradient = torch.autograd.grad(loss(), weights)
    for _ in range(2):
        direction = [torch.randn_like(w) / w.numel() ** 0.5 for w in weights]
        slope = sum(float((g * v).sum()) for g, v in zip(gradient, direction, strict=True))
        expected = derivative(losses, H, ORDER)
        size = sum(float(g.norm() * v.norm()) for g, v in zip(gradient, direction, strict=True))
        assert abs(slope - expected) <= 1e-8 * size


def test_the_stencils_are_exact_for_polynomials_of_their_order() -> None:
    for order in STENCILS:
        value = derivative(lambda steps, n=order: np.array([(s - 1.0) ** n for s in steps]), 0.1, order)
        assert abs(value + order * (-1.0) ** order) < 1e-12
