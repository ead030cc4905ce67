"""Does the survey of a data set count right, and does it notice wrong units and signs?"""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data.check.info import DataInfo, info
from mlpot.data.h5md import DataError, write
from mlpot.figures.data import plot_data_info


def survey(tmp_path, frames: list[Atoms], **options) -> DataInfo:
    write(tmp_path / "set.h5", frames, card={"level": "toy"}, overwrite=True)
    return info(tmp_path / "set.h5", **options)


def labeled(atoms: Atoms, energy: float | None, forces=None, stress=None) -> Atoms:
    labels = {"energy": energy, "forces": forces, "stress": stress}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in labels.items() if v is not None})
    return atoms


def small_set() -> list[Atoms]:
    water = molecule("H2O")
    water.info["group"] = "water"
    masked = water.copy()
    masked.set_array("force_mask", np.array([True, True, False]))
    crystal = bulk("Si", cubic=True)
    return [
        labeled(water, -6.0, np.full((3, 3), 1.0)),
        labeled(masked, -9.0, np.array([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [9.0, 9.0, 9.0]])),
        labeled(crystal, -40.0, np.zeros((8, 3)), np.array([0.3, 0.6, 0.9, 0.0, 0.0, 0.0])),
        labeled(bulk("Si", cubic=True), None, np.zeros((8, 3))),
        labeled(Atoms("O"), -2.5),
    ]


def test_counts_and_ranges(tmp_path):
    found = survey(tmp_path, small_set(), cutoff=3.0)
    assert (found.n_frames, found.n_periodic, found.n_masked) == (5, 2, 1)
    assert found.card == {"level": "toy"}
    assert found.elements == {"H": 4, "O": 3, "Si": 16}
    assert found.groups == {"water": 2}
    assert found.missing == {"energy": 1, "forces": 0, "stress": 1}
    assert found.isolated == {"O": -2.5}
    assert (found.energy.n, found.energy.min, found.energy.max) == (3, -5.0, -2.0)
    assert found.energy.mean == pytest.approx(np.mean([-2.0, -3.0, -5.0]))
    assert found.energy.std == pytest.approx(np.std([-2.0, -3.0, -5.0]))
    sizes = np.array([3**0.5] * 3 + [2.0, 4.0] + [0.0] * 16)
    assert found.force.n == 21
    assert found.force.max == 4.0
    assert found.largest_force == (4.0, 1)
    assert found.force_rms == pytest.approx(np.sqrt((sizes**2).mean()))
    assert found.force_percentiles[90.0] == pytest.approx(3**0.5, rel=0.03)
    assert found.stress.n == 6
    assert found.stress.max == 0.9
    np.testing.assert_allclose(found.pressures, [-0.6])
    assert found.nearest["Si", "Si"][0] == pytest.approx(5.43 * 3**0.5 / 4)
    assert found.nearest["H", "O"] == (pytest.approx(molecule("H2O").get_distance(0, 1)), 0)
    assert found.n_neighbors.n == 22, "isolated atoms have no neighbors to count"
    assert (found.n_neighbors.min, found.n_neighbors.max) == (2.0, 4.0)
    assert found.neighbor_counts.tolist() == [0, 0, 6, 0, 16]


def test_moments_do_not_depend_on_the_order_or_size_of_blocks(tmp_path):
    rng = np.random.default_rng(0)
    energies = 1e4 + rng.normal(size=600)
    found = survey(tmp_path, [labeled(molecule("H2"), 2.0 * e) for e in energies])
    assert found.energy.mean == pytest.approx(energies.mean(), rel=1e-14)
    assert found.energy.std == pytest.approx(energies.std(), rel=1e-9)


def trajectory(n: int = 30) -> list[Atoms]:
    """Small steps of a cluster under Lennard-Jones forces."""
    rng = np.random.default_rng(0)
    atoms = Atoms("Ar4", 2.75 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]))
    frames = []
    for _ in range(n):
        atoms = atoms.copy()
        atoms.positions += rng.normal(scale=0.03, size=(4, 3))
        atoms.calc = LennardJones(sigma=2.5, epsilon=0.01, rc=20.0)
        frames.append(labeled(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces()))
    return frames


@pytest.mark.parametrize("factor", [-1.0, 23.06, 1 / 23.06, 1 / 0.529177, 27.2114])
def test_forces_that_are_not_the_slope_of_the_energy_are_noticed(tmp_path, factor):
    frames = trajectory()
    assert survey(tmp_path, frames).warnings == []
    for atoms in frames:
        atoms.calc.results["forces"] *= factor
    (warning,) = survey(tmp_path, frames).warnings
    assert "times the work of the forces" in warning


@pytest.mark.parametrize(("factor", "message"), [(0.529, "comes down to"), (1.89, "come closer than")])
def test_a_wrong_unit_of_length_is_noticed(tmp_path, factor, message):
    frames = [labeled(molecule("CH3CH2OH"), -1.0)]
    frames[0].positions *= factor
    assert message in survey(tmp_path, frames).warnings[0]


def test_forces_too_large_or_all_zero_are_noticed(tmp_path):
    frames = small_set()
    frames[1].calc.results["forces"][0, 0] = 1e6
    assert "in frame 1" in survey(tmp_path, frames).warnings[0]
    frames = [labeled(molecule("H2"), -1.0, np.zeros((2, 3)))]
    assert "All forces are zero" in survey(tmp_path, frames).warnings[0]


def test_two_atoms_in_one_place_are_named(tmp_path):
    frames = [labeled(molecule("H2O"), -1.0), labeled(Atoms("H2", np.zeros((2, 3))), -1.0)]
    with pytest.raises(DataError, match=r"Frame 1: .*the same atom twice"):
        survey(tmp_path, frames)


def test_any_file_of_ase_can_be_surveyed(tmp_path):
    frames = small_set()[:3]
    for atoms in frames:
        atoms.arrays.pop("force_mask", None)
    ase.io.write(tmp_path / "set.xyz", frames)
    assert info(tmp_path / "set.xyz").elements == {"H": 4, "O": 2, "Si": 8}


@pytest.mark.parametrize("frames", [small_set(), small_set()[4:], small_set()[:2], trajectory(3)])
def test_the_picture_shows_what_there_is(tmp_path, frames):
    plot_data_info(survey(tmp_path, frames), tmp_path / "set.png")
    assert (tmp_path / "set.png").stat().st_size > 10_000
