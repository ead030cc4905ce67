"""Does every ensemble keep its temperature, its conserved quantity and what is held, whatever is held?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedPlane, Hookean
from ase.optimize import FIRE
from springs import EqualSprings

from mlpot.data.constraints import constraints_of, held_coordinates, holds_center
from mlpot.dynamics.ensembles import build_ensemble, check_plan
from mlpot.dynamics.log import drift, mean_and_error, observe
from mlpot.dynamics.recipe import NPT, MDRecipe
from mlpot.dynamics.start import (
    StartError,
    check_constraints,
    check_masses,
    check_vectors,
    degrees_of_freedom,
    draw_velocities,
)

HELD: dict[str, Callable[[], list[Any]]] = {
    "none": list,
    "atoms": lambda: [FixAtoms([1, 4, 5])],
    "center": lambda: [FixCom()],
    "coordinates": lambda: [FixCartesian([0, 1, 2, 3], (False, False, True)), FixAtoms([7])],
}
NVT = ("nve", "langevin", "bussi", "nose-hoover")
EXPECTED = {  # of 8 atoms without a cell: with the momentum of the whole, and where that is kept
    "none": (24, 18),
    "atoms": (15, 15),
    "center": (21, 18),
    "coordinates": (17, 16),  # the axis along z through the one that is held altogether is free
}


def tangle(held: str, rng: np.random.Generator, temperature_K: float = 300.0) -> Atoms:
    atoms = Atoms(["Ar"] * 8, rng.normal(scale=1.5, size=(8, 3)))
    atoms.set_masses([40.0, 20.0, 40.0, 60.0, 40.0, 30.0, 40.0, 40.0])
    atoms.calc = EqualSprings(3.0)
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=200)  # or the strain of the beginning is 10,000 K of motion
    atoms.set_constraint(HELD[held]())
    draw_velocities(atoms, temperature_K, rng)
    return atoms


def recipe(ensemble: str, **settings: Any) -> MDRecipe:
    defaults = {"timestep_fs": 2.0, "temperature_K": 300.0}
    return MDRecipe(model=Path("none"), structure=Path("x"), ensemble=ensemble, **defaults | settings)


def walk(atoms: Atoms, settings: MDRecipe, n_steps: int, rng: np.random.Generator, every: int = 1) -> np.ndarray:
    """(n, 3): time in ps, temperature, conserved quantity."""
    ensemble = build_ensemble(atoms, settings, rng)
    rows = []
    for step in range(1, n_steps + 1):
        ensemble.dynamics.step()
        if step % every == 0:
            seen = observe(atoms, ensemble)
            rows.append((step * settings.timestep_fs / 1e3, seen["temperature_K"], seen["conserved_eV"]))
    return np.array(rows)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("ensemble", NVT)
def test_what_is_held_stays_to_the_bit_and_the_rest_moves(ensemble: str, held: str) -> None:
    rng = np.random.default_rng(0)
    atoms = tangle(held, rng)
    mask, before, center = held_coordinates(atoms), atoms.positions.copy(), atoms.get_center_of_mass()
    n = degrees_of_freedom(atoms, keeps_momentum=ensemble != "langevin")
    assert n == EXPECTED[held][ensemble != "langevin"]
    walk(atoms, recipe(ensemble), 200, rng)
    np.testing.assert_array_equal(atoms.positions[mask], before[mask])
    assert (np.abs(atoms.positions - before).min(axis=1)[~mask.any(axis=1)] > 0).all()
    assert not atoms.get_momenta()[mask].any()
    if holds_center(atoms):
        np.testing.assert_allclose(atoms.get_center_of_mass(), center, atol=1e-12)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("ensemble", ["nve", "bussi", "nose-hoover"])
def test_the_error_of_the_conserved_quantity_falls_fourfold_with_the_step(ensemble: str, held: str) -> None:
    errors = []
    for halvings in range(2):
        rng = np.random.default_rng(2)
        atoms = tangle(held, rng)
        settings = recipe(ensemble, timestep_fs=2.0 / 2**halvings, thermostat_fs=100.0)
        conserved = walk(atoms, settings, 100 * 2**halvings, rng)[:, 2]
        errors.append(float(np.ptp(conserved)))
    assert errors[1] < 0.4 * errors[0]


def test_a_chain_keeps_its_temperature_beside_fixed_atoms() -> None:
    rng = np.random.default_rng(0)
    temperature, error = mean_and_error(walk(tangle("atoms", rng), recipe("nose-hoover"), 3000, rng)[500:, 1])
    assert error is not None
    assert abs(temperature - 300) < 4 * error  # the errors of short runs are rough
    assert error < 30


def crystal(rng: np.random.Generator, held: str, temperature_K: float = 300.0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    atoms.rattle(0.02, rng=rng)
    atoms.set_constraint(HELD[held]())
    draw_velocities(atoms, temperature_K, rng)
    return atoms


@pytest.mark.parametrize("ensemble", NPT)
def test_a_barostat_holds_the_center_and_refuses_fixed_atoms(ensemble: str) -> None:
    rng = np.random.default_rng(0)
    atoms = crystal(rng, "center")
    center, volume = atoms.get_center_of_mass(), atoms.get_volume()
    found = walk(atoms, recipe(ensemble, thermostat_fs=50.0, barostat_fs=300.0, pressure_GPa=1.0), 12, rng)
    assert degrees_of_freedom(atoms, keeps_momentum=True) == 3 * 32 - 3
    np.testing.assert_allclose(atoms.get_center_of_mass(), center, atol=1e-10)
    assert abs(atoms.get_volume() - volume) > 1e-3
    assert np.ptp(found[:, 2]) < 0.01
    for held in ("atoms", "coordinates"):
        with pytest.raises(StartError, match="held in place: the pressure"):
            walk(crystal(rng, held), recipe(ensemble), 1, rng)


def test_the_center_held_changes_nothing_where_momentum_is_kept() -> None:
    ends = []
    for held in ("none", "center"):
        rng = np.random.default_rng(1)
        atoms = tangle(held, rng)
        walk(atoms, recipe("nose-hoover"), 50, rng)
        ends.append(atoms.positions)
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_constraints_pass_through_their_mask() -> None:
    atoms = Atoms("Ar5", np.arange(15.0).reshape(5, 3))
    given = [FixAtoms([0]), FixCartesian([1, 3], (True, False, False)), FixCartesian([1], (False, True, False))]
    atoms.set_constraint(given)
    mask = held_coordinates(atoms)
    assert mask.astype(int).tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    atoms.set_constraint(constraints_of(mask))
    np.testing.assert_array_equal(held_coordinates(atoms), mask)
    assert not holds_center(atoms)
    assert constraints_of(np.zeros((5, 3), bool)) == []


def test_all_atoms_fixed_is_no_motion() -> None:
    rng = np.random.default_rng(0)
    atoms = tangle("none", rng)
    atoms.set_constraint(FixAtoms(range(8)))
    atoms.set_momenta(atoms.get_momenta())
    with pytest.raises(StartError, match="all of its coordinates are held"):
        build_ensemble(atoms, recipe("nve"), rng)


@pytest.mark.parametrize("ensemble", ["nose-hoover", *NPT])
def test_an_atom_alone_has_no_temperature_of_a_bath_without_noise(ensemble: str) -> None:
    atoms = Atoms("Ar", cell=[9.0] * 3, pbc=True)
    atoms.set_momenta([[1.0, 2.0, 3.0]])
    plan = [recipe("langevin"), recipe(ensemble)]
    with pytest.raises(StartError, match="one atom, on which no force acts"):
        build_ensemble(atoms, plan[1], np.random.default_rng(0))
    with pytest.raises(StartError, match=r"Choose langevin\."):
        check_plan(atoms, plan)


SLOW_STEPS, REST = 60_000, 5_000


@pytest.mark.slow
@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("ensemble", NVT)
def test_the_temperature_is_that_asked_for_within_three_standard_errors(ensemble: str, held: str) -> None:
    rng = np.random.default_rng(7)
    atoms = tangle(held, rng)
    found = walk(atoms, recipe(ensemble), SLOW_STEPS, rng, every=5)[REST // 5 :]
    temperature, error = mean_and_error(found[:, 1])
    assert error is not None
    slope = drift(found[:, 0], found[:, 2], 8)
    told = "none" if slope is None else f"{slope.slope:.3g} ± {slope.slope_error:.2g} meV/atom/ns"
    print(f"{ensemble}, {held}: {temperature:.1f} ± {error:.1f} K, drift {told}")
    if ensemble != "nve":
        assert abs(temperature - 300) < 3 * error
        assert error < 9
    if slope is not None:
        assert abs(slope.slope) < 3 * slope.slope_error + 5.0


def inertia(atoms: Atoms) -> np.ndarray:
    """Tensor of inertia about the center of mass, u Å²."""
    arms = atoms.positions - atoms.get_center_of_mass()
    return np.einsum(
        "i,iab->ab",
        atoms.get_masses(),
        np.einsum("ic,ic,ab->iab", arms, arms, np.eye(3)) - np.einsum("ia,ib->iab", arms, arms),
    )


def about_z(atoms: Atoms, center: int) -> np.ndarray:
    """(1, 1) moment of inertia about the axis along z through an atom, u Å²."""
    arms = atoms.positions[:, :2] - atoms.positions[center, :2]
    return np.array([[atoms.get_masses() @ (arms**2).sum(axis=1)]])


def by_motion_and_by_place(atoms: Atoms, n_degrees: int) -> tuple[float, float]:
    """Two estimates of 1/kT, 1/eV, with the same mean at constant energy: (n − 2)/2K, and ∇·B + B·∇ ln g.

    H. H. Rugh, Phys. Rev. Lett. 78, 772 (1997), with B = ∇U/|∇U|² of the coordinates that are free. Where the
    angular momentum is zero, momenta leave the positions a weight g = 1/√(det I).
    """
    free = ~held_coordinates(atoms).ravel()
    vectors = atoms.positions[:, None] - atoms.positions
    d = np.sqrt(np.einsum("ija,ija->ij", vectors, vectors)) + np.eye(len(atoms))
    slope, u = (d - 3.0) / d * (1 - np.eye(len(atoms))), vectors / d[..., None]
    pair = np.einsum("ij,ija,ijb->ijab", 1 - slope, u, u) + slope[..., None, None] * np.eye(3)
    curvature = -pair
    curvature[np.diag_indices(len(atoms))] += pair.sum(axis=1)
    hessian = curvature.swapaxes(1, 2).reshape(3 * len(atoms), -1)[np.ix_(free, free)]
    gradient = -atoms.get_forces(apply_constraint=False).ravel()[free]
    square = gradient @ gradient
    by_place = hessian.trace() / square - 2 * gradient @ hessian @ gradient / square**2
    if free.all() or not free[:12].all():
        ends = []
        for sign in (-1e-4, 1e-4):
            moved = atoms.copy()
            moved.positions.reshape(-1)[free] += sign * gradient / square
            ends.append(np.linalg.slogdet(inertia(moved) if free.all() else about_z(moved, 7))[1])
        by_place -= (ends[1] - ends[0]) / 2e-4 / 2
    return (n_degrees - 2) / 2 / atoms.get_kinetic_energy(), by_place


@pytest.mark.slow
@pytest.mark.parametrize("held", HELD)
def test_at_constant_energy_the_motion_has_the_temperature_of_the_places(held: str) -> None:
    rng = np.random.default_rng(7)
    atoms = tangle(held, rng)
    ensemble = build_ensemble(atoms, recipe("nve"), rng)
    found = []
    for step in range(SLOW_STEPS):
        ensemble.dynamics.step()
        if step >= REST and step % 10 == 0:
            found.append(by_motion_and_by_place(atoms, ensemble.n_degrees))
    motion, place = np.array(found).T
    apart, error = mean_and_error((motion - place) / place.mean())
    assert error is not None
    print(f"nve, {held}: 1/kT of motion and of places are apart by {100 * apart:.1f} ± {100 * error:.1f} %")
    assert abs(apart) < 3 * error
    assert error < 0.06  # a molecule whose momenta are all counted is apart by 0.33


@pytest.mark.slow
@pytest.mark.parametrize("held", ["none", "center"])
@pytest.mark.parametrize("ensemble", NPT)
def test_barostats_keep_temperature_and_energy(ensemble: str, held: str) -> None:
    rng = np.random.default_rng(3)
    settings = recipe(ensemble, thermostat_fs=100.0, barostat_fs=500.0)
    found = walk(crystal(rng, held), settings, 12_000, rng, every=4)[500:]
    temperature, error = mean_and_error(found[:, 1])
    slope = drift(found[:, 0], found[:, 2], 32)
    assert error is not None
    assert slope is not None
    print(f"{ensemble}, {held}: {temperature:.1f} ± {error:.1f} K, drift {slope.slope:.3g} meV/atom/ns")
    assert abs(temperature - 300) < 3 * error
    assert abs(slope.slope) < 3 * slope.slope_error + 5.0


@pytest.mark.parametrize("constraint", [FixedPlane(0, (1, 0, 1)), Hookean(0, 1, 5.0, 1.0)])
def test_other_constraints_are_refused_by_name(constraint: Any) -> None:
    atoms = tangle("none", np.random.default_rng(0))
    atoms.set_constraint(constraint)
    with pytest.raises(StartError, match=f"constraints {type(constraint).__name__}, which"):
        check_constraints(atoms, "x")
    atoms.set_constraint([FixAtoms([0]), FixCom()])
    with pytest.raises(StartError, match="and the center of mass at once"):
        check_constraints(atoms, "x")


@pytest.mark.parametrize("mass", [0.0, -1.0, float("nan")])
def test_masses_that_are_not_positive_are_refused(mass):
    atoms = molecule("H2O")
    check_masses(atoms, "a.xyz")
    atoms.arrays["masses"] = np.array([16.0, mass, 1.0])
    with pytest.raises(StartError, match="mass"):
        check_masses(atoms, "a.xyz")


def test_copies_along_a_vector_that_is_missing_are_refused():
    recipe = MDRecipe(model=Path("none"), structure=Path("x"), repeat=(2, 1, 1))
    with pytest.raises(StartError, match="repeat"):
        check_vectors(molecule("H2O"), recipe)
    atoms = molecule("H2O")
    atoms.cell[0, 0] = 5.0
    check_vectors(atoms, recipe)
