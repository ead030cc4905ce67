"""Is what a file says of its units, held atoms and cell under odd names taken as said, or asked about?"""

from __future__ import annotations

import numpy as np
import pytest
from frames import CELL, account, converted, xyz

from mlpot.data.errors import DataError, KeysError, LabelError
from mlpot.data.frame import frame_of
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import HARTREE

UNITS_SAID = [
    ("energy_unit=Hartree", HARTREE, 1.0, 1.0),
    ("energy-units=kcal/mol forces_unit=kcal/mol/Ang", 0.0433641, 0.0433641, 1.0),
    ('energy_unit=eV forces_unit="Ha/bohr" length_unit=bohr', 1.0, 51.42207, 0.529177),
    ("forces_units=eV/Ang pos_unit=Angstrom", 1.0, 1.0, 1.0),
    ('units="energy: Hartree, forces: Hartree/Bohr"', HARTREE, 51.42207, 1.0),
    ('units="energy=kcal/mol forces=kcal/mol/Ang length=bohr"', 0.0433641, 0.0433641, 0.529177),
    ("unit_energy=kcal/mol unit_forces=eV/Angstrom", 0.0433641, 1.0, 1.0),
    ("e_unit=kcal/mol f_unit=kcal/mol/Ang coordinate_unit=bohr", 0.0433641, 0.0433641, 0.529177),
    ('units="eV, eV/A" unit_cell=cubic', 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("comment", "energy", "force", "length"), UNITS_SAID)
def test_a_unit_that_the_file_says_is_read_and_told(tmp_path, comment, energy, force, length):
    if "energy_unit=Hartree" in comment:  # of forces it says nothing, so they are asked about
        path = xyz(tmp_path / "both.xyz", f"energy=-1.0 {comment} {CELL}", columns=":forces:R:3", values="1 0 0")
        with pytest.raises(DataError, match="--unit forces=Hartree/bohr, otherwise"):
            converted(path)
        path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {comment} {CELL}")
    else:
        path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {comment} {CELL}", columns=":forces:R:3", values="1 0 0")
        assert converted(path)[0].get_forces()[0, 0] == pytest.approx(force, rel=1e-5)
    assert converted(path)[0].get_potential_energy() == pytest.approx(-energy, rel=1e-5)
    assert converted(path)[0].positions[1, 0] == pytest.approx(2 * length, rel=1e-5)
    said = account(Source(path))
    assert ("energy taken in" in said) == (energy != 1.0)
    assert ("positions taken in" in said) == (length != 1.0)
    as_it_stands = {"energy": "eV", "forces": "eV/Angstrom", "positions": "Angstrom"}
    assert converted(path, units=as_it_stands)[0].get_potential_energy() == -1.0


@pytest.mark.parametrize(
    ("comment", "question"),
    [
        ("units=real", "--unit energy=kcal/mol, otherwise --unit energy=eV"),
        ("units=kcal/mol", "--unit energy=kcal/mol, otherwise --unit energy=eV"),
        ("unit=Hartree", "Is 'energy' in hartree|Is 'energy' in Hartree"),
        ("units=a.u.", "--unit positions=bohr, otherwise --unit positions=Angstrom"),
        ('units="hartree, bohr"', "Is 'energy' in hartree"),
        ('units="kcal/mol Angstrom"', "--unit energy=kcal/mol, otherwise"),
        ('units="eV; bohr"', "--unit positions=bohr, otherwise --unit positions=Angstrom"),
        ("energy_unit=eV/atom", "Is 'energy' in eV/atom, as the file says?"),
    ],
)
def test_a_unit_that_is_said_of_no_label_or_is_none_is_a_question(tmp_path, comment, question):
    path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {comment} {CELL}")
    with pytest.raises(DataError, match=question):
        converted(path)
    assert converted(path, units={"energy": "eV", "positions": "Angstrom"})[0].get_potential_energy() == -1.0


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("fixed", "TF", "fixed"),
        ("is_frozen", "10", "is_frozen"),
        ("mobile", "FT", "-mobile"),
        ("move", "01", "-move"),
    ],
)
def test_a_column_of_held_atoms_is_a_question_and_masks_their_forces(tmp_path, name, values, key):
    kind, path = "L" if values.isalpha() else "I", tmp_path / "set.xyz"
    rows = f"Si 0 0 0 0 0 0 {values[0]}\nSi 2 2 1 0.5 0 0 {values[1]}\n"
    columns = f"Properties=species:S:1:pos:R:3:forces:R:3:{name}:{kind}:1"
    path.write_text(f"2\n{columns} energy=-1.0 {CELL}\n{rows}")
    with pytest.raises(KeysError, match=f"Does '{name}' say which atoms are held.*--key fixed={key}, otherwise"):
        converted(path)
    frame = frame_of(converted(path, keys={"fixed": key})[0])
    assert np.isnan(frame.forces[0]).all()
    assert frame.forces[1, 0] == 0.5
    assert converted(path, keys={"fixed": key})[0].constraints[0].index.tolist() == [0]
    assert np.isfinite(frame_of(converted(path, keys={"fixed": "none"})[0]).forces).all()
    with pytest.raises(LabelError, match="whether it is held"):
        converted(path, keys={"fixed": "forces"})


@pytest.mark.parametrize("name", ["cellpar", "cell_lengths", "box_size", "Lattice_Const", "periodic_box", "abc"])
def test_a_cell_under_another_name_is_a_question(tmp_path, name):
    path = tmp_path / "set.xyz"
    path.write_text(f'1\nProperties=species:S:1:pos:R:3 energy=-1.0 {name}="4 5 2"\nSi 0 0 0\n')
    with pytest.raises(KeysError, match=f"Is the cell '{name}'"):
        converted(path)
    told = {"keys": {"cell": name}, "units": {"cell": "Angstrom"}}
    (atoms,) = list(Source(path, Reading(pbc="TTT", **told)).frames())
    np.testing.assert_allclose(atoms.cell.array, np.diag([4.0, 5.0, 2.0]))
