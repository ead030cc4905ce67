"""Is the native call the same potential as the modules it was made from?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from thread_runs import n_threads_for_anything

from mlpot.calculator import MLPotCalculator
from mlpot.executors import computed_by
from mlpot.forces import native_call_of, native_obstacle, predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.kernels.ops import loops_obstacle
from mlpot.neighbors import build_graph
from mlpot.potential import Potential, UnknownElementError

ELEMENTS = {1: -13.6, 6: -1029.0, 8: -2042.0, 14: -7870.0}  # eV


def fresh(dtype: torch.dtype = torch.float64, *, repulsion: bool = False, **arguments: object) -> Potential:
    """A potential to be trained."""
    torch.manual_seed(0)
    potential = Potential(
        "schnet",
        {"n_knots": 64, "n_features": 32, "n_interactions": 2, **arguments},
        reference_energies=ELEMENTS,
        energy_scale={1: 0.5, 6: 0.7, 8: 0.9, 14: 1.1},
        energy_shift={1: 0.1, 6: -0.2, 8: 0.3, 14: -4.0},
        repulsion=repulsion,
    )
    return potential.to(dtype)


def made(dtype: torch.dtype = torch.float64, *, repulsion: bool = False, **arguments: object) -> Potential:
    """The same, frozen."""
    return fresh(dtype, repulsion=repulsion, **arguments).freeze()


def structures() -> list[Atoms]:
    rng = np.random.default_rng(1)
    crystal, large = bulk("Si", cubic=True) * (2, 1, 1), bulk("Si", cubic=True) * (3, 3, 3)
    slab = bulk("SiC", "zincblende", a=4.36) * (2, 2, 1)
    slab.pbc = (True, True, False)
    tiny = bulk("Si")  # sees many images of itself
    for atoms in (crystal, large, slab):
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return [molecule("CH3CH2OH"), crystal, Atoms("O"), slab, tiny, large, Atoms("H2", [(0, 0, 0), (0, 0, 6.0)])]


def graph_of(atoms: Atoms, cutoff: float = 5.0) -> AtomGraph:
    return build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def by_autograd(potential: Potential, graph: AtomGraph) -> Properties:
    return predict(potential, graph, native=False)


def deviations(a: Properties, b: Properties) -> float:
    """Greatest difference of energies per unit of binding, forces and stress, relative to the greatest value."""
    assert torch.equal(a.stress.isnan(), b.stress.isnan())
    energy = (a.energy - b.energy).abs().max() / 10.0
    forces = (a.forces - b.forces).abs().max() / b.forces.abs().max().clamp(min=1.0)
    stress = (a.stress - b.stress).nan_to_num().abs().max() / b.stress.nan_to_num().abs().max().clamp(min=1e-2)
    return float(torch.stack([energy, forces, stress]).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("n_features", [32, 20])
def test_energy_forces_and_stress_are_those_of_autograd(n_features: int, degree: int, dtype: torch.dtype) -> None:
    potential = made(dtype, n_features=n_features, degree=degree)
    assert native_obstacle(potential) is None
    exact = copy.deepcopy(potential).to(torch.float64)
    for graph in (*map(graph_of, structures()), collate([graph_of(a) for a in structures()])):
        truth, native = by_autograd(exact, graph), predict(potential, graph)
        bar = 1e-11 if dtype == torch.float64 else 1e-5  # 4e-6 was measured, and as much of autograd
        assert deviations(native, truth) <= bar


@pytest.mark.parametrize("degree", [3, 5])
def test_nuclei_repel_as_in_the_modules(degree: int) -> None:
    potential = made(repulsion=True, degree=degree)
    assert native_obstacle(potential) is None
    for atoms in structures():
        squeezed = atoms.copy()
        squeezed.positions *= 0.6
        squeezed.cell *= 0.6
        for graph in map(graph_of, (atoms, squeezed)):
            assert deviations(predict(potential, graph), by_autograd(potential, graph)) <= 1e-11


def test_an_isolated_atom_has_exactly_its_reference_energy() -> None:
    out = predict(made(torch.float32), graph_of(Atoms("O")))
    assert out.energy.item() == ELEMENTS[8]
    assert not out.forces.any()


@pytest.mark.parametrize("backbone", ["schnet", "egnn"])
def test_two_atoms_that_hardly_see_each_other_hardly_pull(backbone: str) -> None:
    potential = Potential(backbone, {"n_features": 32}, reference_energies=ELEMENTS).to(torch.float64).freeze()
    assert native_obstacle(potential) is None
    for inside in (3e-6, 1e-5, 2e-5, 1e-4):  # envelopes of 1e-16, of either sign
        for r in potential.cutoff - inside * np.linspace(0.5, 1.5, 21):
            out = predict(potential, graph_of(Atoms("H2", [(0, 0, 0), (2 / 3 * r, r / 3, 2 / 3 * r)])))
            assert out.energy.item() == pytest.approx(2 * ELEMENTS[1], abs=1e-9)
            assert out.forces.abs().max() < 1e-6


def a_crystal() -> AtomGraph:
    """Whose parts see each other, so that threads wait for one another."""
    atoms = bulk("Si", cubic=True) * (5, 5, 4)
    atoms.rattle(0.1, seed=0)
    return graph_of(atoms)


def molecules() -> AtomGraph:
    """Of which no thread needs to wait for another."""
    alike = [molecule("CH3CH2OH") for _ in range(40)]
    for k, atoms in enumerate(alike):
        atoms.rattle(0.05, seed=k)
    return collate([graph_of(atoms) for atoms in alike])


@pytest.mark.parametrize("make", [a_crystal, molecules])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(n_threads: int, make: Callable[[], AtomGraph]) -> None:
    potential, graph = made(torch.float32), make()
    alone = predict(potential, graph)
    with n_threads_for_anything(n_threads):
        shared = predict(potential, graph)
    assert torch.equal(shared.energy, alone.energy)
    assert torch.equal(shared.forces, alone.forces)
    torch.testing.assert_close(shared.stress, alone.stress, rtol=0, atol=0, equal_nan=True)


def test_edges_beyond_the_cutoff_change_nothing() -> None:
    potential = made(torch.float32)
    for atoms in structures():
        exact, wide = predict(potential, graph_of(atoms)), predict(potential, graph_of(atoms, 5.7))
        assert torch.equal(exact.energy, wide.energy)
        assert torch.equal(exact.forces, wide.forces)


def test_a_call_remembers_nothing_of_the_last() -> None:
    potential, atoms = made(), structures()
    first = [predict(potential, graph_of(a)).forces for a in atoms]
    for k in reversed(range(len(atoms))):
        assert torch.equal(predict(potential, graph_of(atoms[k])).forces, first[k])


def test_the_calculator_follows_a_cell_that_changes() -> None:
    potential, atoms = made(), bulk("Si", cubic=True)
    atoms.calc = MLPotCalculator(potential)
    atoms.get_forces()
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    expected = by_autograd(potential, graph_of(atoms))
    assert atoms.get_potential_energy() == pytest.approx(expected.energy.item(), abs=1e-9)
    assert np.allclose(atoms.get_stress(voigt=False), expected.stress[0].numpy(), atol=1e-12)


def test_a_cell_changed_in_place_is_seen() -> None:
    potential, graph = made(), graph_of(bulk("Si", cubic=True))
    predict(potential, graph)
    graph.cell.mul_(1.01)
    assert deviations(predict(potential, graph), by_autograd(potential, graph)) < 1e-11


def test_threads_of_a_program_do_not_disturb_one_another() -> None:
    potential, graphs = made(), [graph_of(a) for a in structures()]
    alone = [predict(potential, graph).forces for graph in graphs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda graph: predict(potential, graph).forces, 20 * graphs))
    for k, forces in enumerate(together):
        assert torch.equal(forces, alone[k % len(graphs)])


def test_a_position_that_is_not_a_number_gives_no_number() -> None:
    graph = graph_of(molecule("H2O"))
    graph.positions[1, 0] = torch.nan
    out = predict(made(), graph)
    assert out.energy.isnan().all()
    assert out.forces.isnan().any()


def test_an_unknown_element_is_named() -> None:
    with pytest.raises(UnknownElementError, match="N is unknown"):
        predict(made(), graph_of(molecule("NH3")))


def test_weights_that_change_are_followed() -> None:
    potential = made()
    other = made()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    graph = graph_of(molecule("H2O"))
    potential.load_state_dict(other.state_dict())
    assert deviations(predict(potential, graph), by_autograd(potential, graph)) < 1e-11
    with torch.no_grad():
        for weight in potential.train().parameters():
            weight.mul_(1.1)
    assert deviations(predict(potential, graph), by_autograd(potential, graph)) < 1e-11
    call = native_call_of(copy.deepcopy(made()).to(torch.float32))
    assert call.plan.weights.dtype == np.float32  # type: ignore[union-attr]


def test_filters_on_edges_go_by_autograd() -> None:
    assert native_obstacle(made(n_knots=None))


def test_the_shifted_softplus_is_native_too() -> None:
    potential, graph = made(activation="ssp"), graph_of(molecule("CH3CH2OH"))
    assert native_obstacle(potential) is None
    assert deviations(predict(potential, graph), by_autograd(potential, graph)) <= 1e-11


def test_where_numba_may_not_compile_the_definition_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = molecule("CH3CH2OH")
    energies = {}
    for disabled in ("0", "1"):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", disabled)
        loops_obstacle.cache_clear()
        try:
            potential = made()
            by = "PyTorch (NUMBA_DISABLE_JIT is set)" if disabled == "1" else "compiled code"
            assert computed_by(potential) == by
            atoms.calc = MLPotCalculator(potential)
            energies[disabled] = atoms.get_potential_energy()
        finally:
            loops_obstacle.cache_clear()
    assert energies["1"] == pytest.approx(energies["0"], abs=1e-9)
