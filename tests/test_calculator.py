"""Is the ASE calculator the potential, whatever is done to the atoms between two calls?"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import new_potential
from structures import STRUCTURES, copper, ethanol, evaluate, isolated_atom, quartz, slab

from mlpot.calculator import MLPotCalculator
from mlpot.model_file import save_potential
from mlpot.potential import Potential, UnknownElementError

PROPERTIES = ("energy", "forces", "stress")


@pytest.fixture
def calculator() -> MLPotCalculator:
    return MLPotCalculator(new_potential("schnet"))


def with_calculator(atoms: Atoms, calculator: MLPotCalculator) -> Atoms:
    atoms.calc = calculator
    return atoms


def fresh(atoms: Atoms, potential: Potential) -> dict[str, np.ndarray]:
    """What a calculator that has seen nothing else says."""
    copy = with_calculator(atoms.copy(), MLPotCalculator(potential))
    names = PROPERTIES if atoms.pbc.all() else PROPERTIES[:2]
    return {name: np.array(copy.calc.get_property(name, copy)) for name in names}


def assert_as_fresh(atoms: Atoms) -> None:
    for name, value in fresh(atoms, atoms.calc.potential).items():
        np.testing.assert_array_equal(atoms.calc.get_property(name, atoms), value, err_msg=name)


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_says_what_the_potential_says(name: str, calculator: MLPotCalculator) -> None:
    atoms = with_calculator(STRUCTURES[name](), calculator)
    out = evaluate(calculator.potential, atoms)
    assert atoms.get_potential_energy() == out.energy.item()
    assert atoms.get_potential_energy(force_consistent=True) == out.energy.item()
    np.testing.assert_array_equal(atoms.get_forces(), out.forces)
    if atoms.pbc.all():
        np.testing.assert_array_equal(atoms.get_stress(), full_3x3_to_voigt_6_stress(out.stress[0].numpy()))


@pytest.mark.parametrize("make", [ethanol, slab, isolated_atom])
def test_there_is_no_stress_without_three_periodic_directions(
    make: Callable[[], Atoms], calculator: MLPotCalculator
) -> None:
    with pytest.raises(PropertyNotImplementedError):
        with_calculator(make(), calculator).get_stress()


def test_atomic_energies_and_stresses_sum_to_the_whole(calculator: MLPotCalculator) -> None:
    atoms = with_calculator(quartz(), calculator)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), atoms.get_stress(), atol=1e-14)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.numbers.__setitem__(0, 14 if a.numbers[0] != 14 else 8),
        lambda a: a.positions.__iadd__(0.01 * np.arange(3 * len(a)).reshape(-1, 3)),
        lambda a: a.cell.array.__imul__(1.02),
        lambda a: a.pbc.__setitem__(2, False),
        lambda a: a.pbc.__setitem__(slice(None), False),
        lambda a: a.set_cell(1.01 * a.cell.array, scale_atoms=True),
        lambda a: a.rattle(0.3, seed=1),
        lambda a: a.pop(0),
    ],
    ids=["numbers", "positions", "cell", "one pbc", "all pbc", "set_cell", "rattle", "pop"],
)
def test_what_is_changed_in_place_is_seen(change: Callable[[Atoms], None], calculator: MLPotCalculator) -> None:
    atoms = with_calculator(quartz(), calculator)
    before = atoms.get_potential_energy()
    change(atoms)
    assert atoms.get_potential_energy() != before
    assert_as_fresh(atoms)


def test_one_calculator_serves_many_structures_in_turn(calculator: MLPotCalculator) -> None:
    for make in (ethanol, quartz, isolated_atom, slab, quartz, ethanol):
        assert_as_fresh(with_calculator(make(), calculator))


def test_an_unknown_element_is_named(calculator: MLPotCalculator) -> None:
    with pytest.raises(UnknownElementError, match=r"N is unknown.*H, C, O, Si, Cu"):
        with_calculator(Atoms("N2", positions=[(0, 0, 0), (0, 0, 1.1)]), calculator).get_potential_energy()


@pytest.mark.parametrize(
    ("number", "name"), [(0, "atomic number 0"), (7, "N"), (118, "Og"), (119, "atomic number 119")]
)
def test_an_unknown_element_is_named_after_a_change_in_place(
    number: int, name: str, calculator: MLPotCalculator
) -> None:
    atoms = with_calculator(ethanol(), calculator)
    atoms.get_forces()
    atoms.numbers[:] = number
    with pytest.raises(UnknownElementError, match=f"{name} is unknown"):
        atoms.get_forces()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(value: float, calculator: MLPotCalculator) -> None:
    atoms = with_calculator(ethanol(), calculator)
    atoms.positions[3, 1] = value
    with pytest.raises(ValueError, match=r"atoms \[3\] are not finite"):
        atoms.get_forces()


def test_atoms_in_one_place_are_refused(calculator: MLPotCalculator) -> None:
    atoms = with_calculator(ethanol(), calculator)
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(ValueError, match="Atoms 0 and 1"):
        atoms.get_forces()


@pytest.mark.parametrize("make", [ethanol, quartz, slab])
def test_the_list_is_rebuilt_only_when_needed_and_never_shows(make: Callable[[], Atoms]) -> None:
    """A walk of small steps, as in molecular dynamics: equal to the bit with a list of any age."""
    calculator = MLPotCalculator(new_potential("schnet"), skin=0.4)
    atoms = with_calculator(make(), calculator)
    rng = np.random.default_rng(0)
    step = rng.normal(scale=0.01, size=atoms.positions.shape)
    for _ in range(25):
        atoms.positions += step + rng.normal(scale=0.005, size=step.shape)
        assert_as_fresh(atoms)
    assert 1 < calculator.neighbors.n_builds < 10


def test_the_list_is_rebuilt_at_half_the_skin_and_for_a_new_cell() -> None:
    calculator = MLPotCalculator(new_potential("schnet"), skin=0.4)
    atoms = with_calculator(copper(), calculator)
    builds = []
    for change in (
        lambda: None,
        lambda: atoms.positions.__iadd__([0.11, 0.11, 0.11]),  # |moved| = 0.19 Å
        lambda: atoms.positions.__setitem__((0, 0), atoms.positions[0, 0] + 0.02),  # 0.202 Å
        lambda: atoms.set_cell(1.001 * atoms.cell.array),
        lambda: atoms.set_pbc((True, True, False)),
        lambda: None,
    ):
        change()
        atoms.get_forces()
        builds.append(calculator.neighbors.n_builds)
    assert builds == [1, 1, 2, 3, 4, 4]


def test_a_path_and_a_potential_are_the_same(tmp_path: Path) -> None:
    potential = new_potential("schnet")
    save_potential(potential, tmp_path / "model.safetensors")
    energies = [
        with_calculator(quartz(), MLPotCalculator(p)).get_potential_energy()
        for p in (potential, tmp_path / "model.safetensors", str(tmp_path / "model.safetensors"))
    ]
    assert energies[0] == energies[1] == energies[2]


def test_float32_is_close_to_float64() -> None:
    potential = new_potential("schnet", dtype=torch.float32)
    single = MLPotCalculator(potential)
    double = MLPotCalculator(new_potential("schnet", dtype=torch.float32), dtype=torch.float64)
    assert (single.potential.dtype, double.potential.dtype) == (torch.float32, torch.float64)
    a, b = with_calculator(quartz(), single), with_calculator(quartz(), double)
    assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=2e-6 * len(a))
    np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=2e-5)
    assert a.get_forces().dtype == np.float64


def test_results_given_out_are_not_changed_later(calculator: MLPotCalculator) -> None:
    atoms = with_calculator(quartz(), calculator)
    forces, stress = calculator.get_property("forces", atoms), calculator.results["stress"]
    kept = forces.copy(), stress.copy()
    atoms.rattle(0.1, seed=3)
    atoms.get_forces()
    np.testing.assert_array_equal(forces, kept[0])
    np.testing.assert_array_equal(stress, kept[1])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_else_is_touched(fails: bool) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            random.getstate(),
            repr(np.random.get_state()),  # noqa: NPY002  (what other packages draw from)
            torch.get_rng_state().tolist(),
        )

    atoms = ethanol()
    atoms.info["note"], atoms.arrays["tag_of_mine"] = "kept", np.arange(9)
    info, arrays = dict(atoms.info), {k: v.copy() for k, v in atoms.arrays.items()}
    potential = new_potential("schnet")
    before = state()
    atoms.calc = MLPotCalculator(potential)
    if fails:
        atoms.numbers[0] = 7
        with pytest.raises(UnknownElementError):
            atoms.get_forces()
        arrays["numbers"][0] = 7
    else:
        atoms.get_forces()
    assert state() == before
    assert atoms.info == info
    assert atoms.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(atoms.arrays[name], array)


@pytest.mark.parametrize("wrong", [{"skin": -0.3}, {"skin": np.nan}, {"extrapolation_grade": np.nan}])
def test_a_setting_that_would_lose_pairs_or_a_warning_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
        MLPotCalculator(new_potential("schnet"), **wrong)


def test_a_calculator_is_not_changed_by_parameters_that_nothing_would_read(calculator: MLPotCalculator) -> None:
    assert calculator.set() == {}
    with pytest.raises(ValueError, match="dtype cannot be changed in a calculator"):
        calculator.set(dtype="float32")


def test_what_is_no_potential_is_refused_in_words() -> None:
    for given in (torch.nn.Identity(), None):
        with pytest.raises(TypeError, match="A potential or the path of its file is needed"):
            MLPotCalculator(given)  # type: ignore[arg-type]  # as a user may give


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a.info.update(charge=-1), "a total charge of -1"),
        (lambda a: a.info.update(charge=0, spin=3.0), "a spin of 3"),
        (lambda a: a.set_initial_charges([1.0] + [0.0] * (len(a) - 1)), "a total charge of 1"),
        (lambda a: a.set_initial_charges([0.4, -0.4] + [0.0] * (len(a) - 2)), ""),
        (lambda a: a.info.update(charge="neutral", spin=1, name="ethanol"), ""),
        (lambda a: a.info.update(charge=np.array([2.0])), "a total charge of 2"),
        (lambda a: a.info.update(charge=torch.tensor(-1)), "a total charge of -1"),
        (lambda a: a.info.update(charge="+1"), "a total charge of 1"),
        (lambda a: a.info.update(total_charge=1, multiplicity=2), "a total charge of 1 and a spin of 2"),
        (lambda a: a.info.update(charge=1e-9, spin=float("nan"), total_charge=[1, 2]), ""),
    ],
)
def test_a_charge_that_no_potential_sees_is_told_once(
    change: Callable[[Atoms], None], told: str, calculator: MLPotCalculator, recwarn: pytest.WarningsRecorder
) -> None:
    atoms = with_calculator(ethanol(), calculator)
    change(atoms)
    for _ in range(2):
        atoms.rattle(0.01)
        atoms.get_potential_energy()
    assert [told in str(w.message) for w in recwarn] == ([True] if told else [])
