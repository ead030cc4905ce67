"""Is a unit that is said twice, by a file or by --unit and by --correct, counted once, or refused?"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from frames import CELL, converted, edit, xyz

from mlpot.data.errors import KeysError, UnitsError
from mlpot.data.h5md import write
from mlpot.data.sources.correct import corrected
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import HARTREE, KCAL_MOL

RYDBERG = HARTREE / 2


def energies(path, units, **corrections) -> list[float]:
    return [a.get_potential_energy() for a in converted(path, units=units, corrections=corrections)]


@pytest.mark.parametrize("name", ["energy_per_atom_Ry", "e_per_atom_Ry", "E_per_atom_ry"])
def test_an_energy_per_atom_in_rydberg_is_that_of_the_frame_as_it_is_proposed(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", f"{name}=-1.5 {CELL}")
    with pytest.raises(KeysError, match=rf"energy={name} --unit energy=Ry --correct 'energy=Ry\*n_atoms'"):
        converted(path)
    n = len(converted(path, keys={"energy": name}, units={"energy": "Ry"})[0])
    for unit in ("Ry*n_atoms", "eV*n_atoms"):
        (atoms,) = converted(path, keys={"energy": name}, units={"energy": "Ry"}, corrections={"energy": unit})
        assert atoms.get_potential_energy() == pytest.approx(-1.5 * n * RYDBERG, rel=1e-6)


def test_the_sign_of_a_stress_is_turned_in_its_own_unit_or_in_ours(tmp_path):
    path = xyz(tmp_path / "set.xyz", f'energy=-1.0 sigma_dft="1 0 0 0 2 0 0 0 3" {CELL}')
    said = {"keys": {"stress": "sigma_dft"}, "units": {"stress": "GPa"}}
    expected = -np.array([1, 2, 3, 0, 0, 0]) / 160.21766208
    for unit in ("-GPa", "-eV/Angstrom^3"):
        (atoms,) = converted(path, **said, corrections={"stress": unit})
        np.testing.assert_allclose(atoms.get_stress(), expected, rtol=1e-6)


@pytest.mark.parametrize("unit", ["kcal/mol", "eV", "-kJ/mol", "meV*n_atoms"])
def test_two_units_by_a_user_are_refused(tmp_path, unit):
    path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {CELL}")
    with pytest.raises(UnitsError, match=r"say two units of the energy\. Leave out the one"):
        energies(path, {"energy": "hartree"}, energy=unit)
    assert energies(path, {"energy": "eV"}, energy="kcal/mol") == [pytest.approx(-KCAL_MOL)]
    assert energies(path, {"energy": "hartree"}, energy="-eV") == [pytest.approx(HARTREE)]


@pytest.mark.parametrize(("unit", "value"), [("kcal/mol", -KCAL_MOL), ("eV", -1.0), ("-eV", HARTREE)])
def test_a_correction_takes_the_place_of_the_unit_that_a_file_says(tmp_path, unit, value):
    path = xyz(tmp_path / "set.xyz", f"energy=-1.0 energy_unit=Hartree {CELL}")
    assert energies(path, {}, energy=unit) == [pytest.approx(value, rel=1e-6)]


def test_so_it_does_in_h5md_and_npz_of_others(tmp_path):
    atoms = bulk("Si")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    write(tmp_path / "set.h5", [atoms], card={})
    foreign = tmp_path / "foreign.h5"
    (tmp_path / "set.h5").rename(foreign)

    def others(file: h5py.File) -> None:
        del file["parameters/mlpot"]
        (group,) = file["observables"]
        file[f"observables/{group}/energy/value"].attrs["unit"] = "kJ mol-1"

    edit(foreign, others)
    assert energies(foreign, {}) == [pytest.approx(-KCAL_MOL / 4.184)]
    assert energies(foreign, {}, energy="kcal/mol") == [pytest.approx(-KCAL_MOL)]
    np.savez(
        tmp_path / "set.npz", Z=np.array([1, 1]), R=np.zeros((2, 2, 3)) + [[0, 0, 0], [0, 0, 0.7]], E=-np.ones(2)
    )
    said = {"keys": {"numbers": "Z", "positions": "R", "energy": "E"}}
    units = {"positions": "Angstrom", "energy": "kcal/mol"}
    found = converted(tmp_path / "set.npz", **said, units=units, corrections={"energy": "-kcal/mol"})
    assert found[1].get_potential_energy() == pytest.approx(KCAL_MOL)


def test_what_is_corrected_without_another_unit_is_what_it_was(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {CELL}")
    source = Source(path, Reading())
    (atoms,) = corrected(source, source.frames(), {"energy": "hartree", "positions": "nm"})
    assert atoms.get_potential_energy() == pytest.approx(-HARTREE)
