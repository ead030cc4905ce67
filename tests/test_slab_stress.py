"""Is the stress of slabs, layers and wires the derivative of the energy by strain of what is periodic?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, mx2
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_stress
from potentials import new_potential
from scipy.spatial.transform import Rotation
from structures import ethanol, shaken
from structures import slab as flat_slab

from mlpot.calculator import MLPotCalculator
from mlpot.data.h5md import Reader
from mlpot.potential import Potential
from mlpot.predictions import labeled, predict_structures


def slab() -> Atoms:
    atoms = fcc111("Cu", size=(2, 2, 2), a=3.61, vacuum=5.0)
    return shaken(atoms)


def tilted() -> Atoms:
    """A slab whose third vector leans, turned away from the axes."""
    atoms = slab()
    cell = atoms.cell.array
    cell[2] += (1.3, -0.7, 0.4)
    turn = Rotation.from_rotvec([0.4, -1.0, 0.7]).as_matrix().T
    return Atoms(atoms.symbols, atoms.positions @ turn, cell=cell @ turn, pbc=(True, True, False))


def other_axes() -> Atoms:
    atoms = slab()
    return Atoms(
        atoms.symbols, atoms.positions[:, [2, 0, 1]], cell=atoms.cell.array[[2, 0, 1]][:, [2, 0, 1]],
        pbc=(False, True, True),
    )  # fmt: skip


def wire() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.61) * (1, 1, 2)
    atoms.set_cell(atoms.cell.array + np.diag([10.0, 12.0, 0.0]))
    atoms.pbc = (False, False, True)
    return shaken(atoms)


def turned_wire() -> Atoms:
    atoms = wire()
    turn = Rotation.from_rotvec([1.0, 0.3, -0.2]).as_matrix().T
    return Atoms(atoms.symbols, atoms.positions @ turn, cell=atoms.cell.array @ turn, pbc=(False, False, True))


def layer() -> Atoms:
    atoms = mx2("SiO2", kind="2H", a=3.0, thickness=2.4, size=(2, 2, 1), vacuum=4.0)
    atoms.pbc = (True, True, False)
    return shaken(atoms)


SHAPES = {make.__name__: make for make in (slab, tilted, other_axes, wire, turned_wire, layer)}


def directions(atoms: Atoms) -> np.ndarray:
    vectors = atoms.cell.array[atoms.pbc]
    return np.linalg.pinv(vectors) @ vectors


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    out = atoms.copy()
    out.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    out.positions = atoms.positions @ (np.eye(3) + strain)
    out.calc = atoms.calc
    return out


@pytest.fixture(scope="module", params=["modules", "native"])
def calculator(request: pytest.FixtureRequest) -> MLPotCalculator:
    sizes = {"n_features": 8, "n_radial": 8, "n_interactions": 1}
    n_knots = 32 if request.param == "native" else None
    return MLPotCalculator(new_potential("schnet", repulsion=True, n_knots=n_knots, **sizes))


@pytest.mark.parametrize("shape", SHAPES)
def test_stress_is_the_derivative_by_strain_in_the_periodic_directions(
    shape: str, calculator: MLPotCalculator
) -> None:
    atoms = SHAPES[shape]()
    atoms.calc = calculator
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    onto, h = directions(atoms), 1e-5
    found = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            unit = np.zeros((3, 3))
            unit[a, b] = h
            strain = onto @ (unit + unit.T) / 2 @ onto
            plus, minus = (strained(atoms, s * strain).get_potential_energy() for s in (1, -1))
            found[a, b] = (plus - minus) / (2 * h) / atoms.get_volume()
    assert np.abs(stress).max() > 1e-4
    np.testing.assert_allclose(stress, found, atol=2e-8 + 1e-5 * np.abs(stress).max())
    np.testing.assert_allclose(stress, onto @ stress @ onto, atol=1e-16)


def test_nothing_is_out_of_plane_to_the_bit_along_axes(calculator: MLPotCalculator) -> None:
    atoms = slab()
    atoms.calc = calculator
    assert atoms.get_stress()[2:5].tolist() == [0, 0, 0]
    with_vacuum = atoms.copy()
    with_vacuum.pbc = True
    with_vacuum.calc = calculator
    np.testing.assert_allclose(atoms.get_stress()[[0, 1, 5]], with_vacuum.get_stress()[[0, 1, 5]], rtol=1e-9)
    thin = wire()
    thin.calc = calculator
    assert np.flatnonzero(thin.get_stress()).tolist() == [2]


def test_every_door_gives_the_same_stress(calculator: MLPotCalculator) -> None:
    structures = [make() for make in SHAPES.values()] + [ethanol(), flat_slab(), bulk("Cu", a=3.7)]
    for atoms, out in predict_structures(calculator.potential, structures):
        there = labeled(atoms, out).calc.results.get("stress")
        atoms.calc = calculator
        if there is None:
            assert out.stress.isnan().all()
            with pytest.raises(PropertyNotImplementedError):
                atoms.get_stress()
        else:
            np.testing.assert_allclose(there, atoms.get_stress(), atol=1e-12)
            np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), there, atol=1e-12)


@pytest.mark.parametrize(
    ("atoms", "told"),
    [
        (ethanol(), "pbc FFF.: a molecule has no volume"),
        (flat_slab(), r"pbc TTF. there is none. Add vacuum: atoms.center.vacuum=10, axis=.2,"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], cell=[0, 0, 4.6], pbc=(False, False, True)), r"axis=.0, 1."),
    ],
    ids=["molecule", "layer without vacuum", "wire without vacuum"],
)
def test_where_there_is_no_volume_the_message_says_what_to_do(
    atoms: Atoms, told: str, calculator: MLPotCalculator
) -> None:
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    for ask in (atoms.get_stress, atoms.get_stresses):
        with pytest.raises(PropertyNotImplementedError, match=told):
            ask()
    assert atoms.get_potential_energy() == energy


def test_the_advice_is_good(calculator: MLPotCalculator) -> None:
    atoms = flat_slab()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    atoms.center(vacuum=10, axis=(2,))
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert np.abs(atoms.get_stress()[:2]).min() > 0


def test_the_cell_of_a_slab_relaxes_in_its_plane(small_potential: type[Potential]) -> None:
    atoms = fcc111("Cu", size=(1, 1, 3), a=3.8, vacuum=6.0)
    atoms.calc = MLPotCalculator(small_potential("schnet", trained=True))
    atoms.set_constraint(FixAtoms([0]))
    height, before = atoms.cell[2].copy(), np.abs(atoms.get_stress()).max()
    BFGS(FrechetCellFilter(atoms, mask=[1, 1, 0, 0, 0, 1]), logfile=None).run(fmax=0.02, steps=60)
    assert np.abs(atoms.get_stress()).max() < 0.1 * before
    np.testing.assert_array_equal(atoms.cell[2], height)


def test_a_trajectory_of_a_slab_keeps_its_stress(tmp_path: Path, calculator: MLPotCalculator) -> None:
    from mlpot.data.h5md.trajectory import TrajectoryWriter

    atoms = slab()
    atoms.calc = calculator
    atoms.get_forces()
    with TrajectoryWriter(tmp_path / "t.h5", card={}) as writer:
        writer.add(atoms, step=0, time=0.0)
    with Reader(tmp_path / "t.h5") as reader:
        np.testing.assert_array_equal(reader[0].calc.results["stress"], atoms.get_stress())
