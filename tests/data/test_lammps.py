"""Are LAMMPS' types taken for what they are, its units for those that they are in, and energies not made up?"""

from __future__ import annotations

from pathlib import Path

import ase.units
import numpy as np
import pytest
from frames import converted

from mlpot.data.elements import Elements
from mlpot.data.h5md import FormatError, KeysError, UnitsError
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import KCAL_MOL

ROWS = {
    "id": [2, 1], "type": [3, 1], "element": ["O", "Si"], "mass": [15.9994, 28.0855], "q": [-1.0, 1.0],
    "x": [2.5, 1.0], "y": [1.0, 1.0], "z": [1.0, 1.0], "vx": [0.5, 0.0], "vy": [0.0, 0.0], "vz": [0.0, 0.0],
    "fx": [-2.0, 2.0], "fy": [0.0, 0.0], "fz": [0.0, 0.0],
}  # fmt: skip


def dump(path: Path, columns: str, *, head: str = "", frames: int = 2, **rows) -> Path:
    lines = []
    for k in range(frames):
        lines += [head] if head else []
        lines += ["ITEM: TIMESTEP", str(10 * k), "ITEM: NUMBER OF ATOMS", "2", "ITEM: BOX BOUNDS pp pp pp"]
        lines += ["0.0 8.0"] * 3 + [f"ITEM: ATOMS {columns}"]
        for atom in range(2):
            lines += [" ".join(str({**ROWS, **rows}[name][atom]) for name in columns.split())]
    path.write_text("\n".join([*lines, ""]))
    return path


def structures(path: Path, **said):
    return list(Source(path, Reading(**said)).frames())


XYZ, F, V = "x y z", "fx fy fz", "vx vy vz"


@pytest.mark.parametrize("labels", [False, True])
def test_types_are_no_elements(tmp_path, labels):
    path = dump(tmp_path / "a.lammpstrj", f"id type {XYZ}")
    with pytest.raises(KeysError, match=r"types \(1, 3\), which are not elements.*--elements Si,O"):
        structures(path, labels=labels)
    atoms, _ = structures(path, labels=labels, elements=Elements("1=Si,3=O"))
    assert atoms.get_chemical_symbols() == ["Si", "O"], "sorted by id"
    np.testing.assert_array_equal(atoms.positions[1], [2.5, 1.0, 1.0])
    assert structures(path, labels=labels, elements=Elements("Si,H,O"))[0].numbers.tolist() == [14, 8]
    with pytest.raises(KeysError, match=r"type \[3\], which --elements Si,O does not name"):
        structures(path, labels=labels, elements=Elements("Si,O"))


def test_names_and_masses_tell_elements(tmp_path):
    for columns in (f"id element {XYZ}", f"id type element {XYZ}", f"id type mass {XYZ}"):
        path = dump(tmp_path / "a.dump", columns)
        assert structures(path, format="lammps-dump-text", labels=False)[1].numbers.tolist() == [14, 8]
    for masses in ([1.0, 1.0], [72.0, 45.0]):  # units lj, beads of MARTINI
        path = dump(tmp_path / "a.dump", f"id type mass {XYZ}", mass=masses)
        with pytest.raises(KeysError, match="are not clearly those of elements"):
            structures(path, format="lammps-dump-text", labels=False)


def test_forces_come_in_units_that_are_said_and_without_an_energy(tmp_path):
    path = dump(tmp_path / "a.lammpstrj", f"id element {XYZ} {F}")
    with pytest.raises(UnitsError, match=r"has forces, and the unit is not said.*--unit lammps=real"):
        converted(path)
    for said, expected in (
        ({"lammps": "real"}, KCAL_MOL), ({"lammps": "metal"}, 1.0), ({"forces": "kcal/mol/Angstrom"}, KCAL_MOL)
    ):  # fmt: skip
        first, _ = converted(path, units=said)
        assert set(first.calc.results) == {"forces"}
        np.testing.assert_allclose(first.get_forces()[0], [2.0 * expected, 0, 0], rtol=1e-6)
    told = dump(tmp_path / "b.lammpstrj", f"id element {XYZ} {F}", head="ITEM: UNITS\nreal")
    np.testing.assert_allclose(converted(told)[0].get_forces()[0, 0], 2.0 * KCAL_MOL, rtol=1e-6)
    with pytest.raises(UnitsError, match="is in units real, as it says itself, not metal"):
        converted(told, units={"lammps": "metal"})
    with pytest.raises(UnitsError, match="'lj' is no style of units"):
        converted(path, units={"lammps": "lj"})


def test_lengths_and_velocities_follow_the_style(tmp_path):
    path = dump(tmp_path / "a.lammpstrj", f"id element {XYZ} {V}")
    source = Source(path, Reading(labels=False))
    assert not next(source.frames()).has("momenta")
    assert "velocities left out" in source.report.lines()[1]
    for style, length, velocity in (("real", 1.0, 1 / ase.units.fs), ("metal", 1.0, 1e-3 / ase.units.fs)):
        atoms = structures(path, labels=False, units={"lammps": style})[0]
        np.testing.assert_allclose(atoms.positions[1], np.array([2.5, 1.0, 1.0]) * length)
        np.testing.assert_allclose(atoms.get_velocities()[1, 0], 0.5 * velocity, rtol=1e-6)
    atoms = structures(path, labels=False, units={"lammps": "electron"})[0]
    np.testing.assert_allclose(atoms.cell.lengths(), 8.0 * ase.units.Bohr, rtol=1e-6)


def data_file(path: Path, sections: str = "") -> Path:
    path.write_text(
        "LAMMPS data file\n\n2 atoms\n2 atom types\n\n0 8 xlo xhi\n0 8 ylo yhi\n0 8 zlo zhi\n\n"
        f"{sections}Atoms # atomic\n\n1 1 1.0 1.0 1.0\n2 2 2.5 1.0 1.0\n"
    )
    return path


def test_a_data_file_tells_elements_by_masses_or_labels(tmp_path):
    for sections in (
        "Masses\n\n1 28.0855\n2 15.999  # O\n\n",
        "Masses\n\n1 28.1\n2 16.0\n\n",
        "Atom Type Labels\n\n1 Si\n2 O\n\n",
    ):
        path = data_file(tmp_path / "a.data", sections)
        assert structures(path, format="lammps-data", labels=False)[0].numbers.tolist() == [14, 8]
    for sections in ("", "Masses\n\n1 1.0\n2 1.0\n\n", "Atom Type Labels\n\n1 A\n2 B\n\n"):
        path = data_file(tmp_path / "a.data", sections)
        with pytest.raises(KeysError, match=r"types \(1, 2\), which are not elements.*--elements"):
            structures(path, format="lammps-data", labels=False)
        atoms = structures(path, format="lammps-data", labels=False, elements=Elements("Si,O"))[0]
        assert atoms.numbers.tolist() == [14, 8]


def test_charges_of_atoms_are_told_and_reduced_units_refused(tmp_path):
    path = tmp_path / "set.dump"
    head = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
    path.write_text(f"{head}ITEM: ATOMS id element q x y z fx fy fz\n1 O -0.8 1 1 1 0 0 0\n")
    source = Source(path, Reading(units={"lammps": "metal"}))
    list(source.frames())
    assert "Not kept: initial_charges (1 frame)" in source.report.lines()[-1]
    with pytest.raises(UnitsError, match="units lj have none"):
        list(Source(path, Reading(units={"lammps": "lj"})).frames())


def test_a_set_of_deepmd_names_the_folder_around_it(tmp_path):
    (tmp_path / "system" / "set.000").mkdir(parents=True)
    np.save(tmp_path / "system" / "set.000" / "coord.npy", np.zeros((1, 3)))
    with pytest.raises(FormatError, match=r"Give the folder around it, which has type.raw: .*system\."):
        list(Source(tmp_path / "system" / "set.000").frames())


@pytest.mark.parametrize("tilts", ["", " xy xz yz"])
def test_a_dump_that_does_not_say_its_boundary_is_no_molecule(tilts: str, tmp_path: Path) -> None:
    box = "0 9 0\n" * 3 if tilts else "0 9\n" * 3
    head = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS"
    text = f"{head}{tilts}\n{box}ITEM: ATOMS id element x y z\n"
    (tmp_path / "old.dump").write_text(text + "1 Si 0 0 0\n")
    with pytest.raises(FormatError, match=rf"which directions are periodic.*BOX BOUNDS{tilts}': pp pp pp"):
        list(Source(tmp_path / "old.dump", Reading(labels=False)).frames())
    if tilts:
        (atoms,) = Source(tmp_path / "old.dump", Reading(pbc="TTF", labels=False)).frames()
        assert atoms.pbc.tolist() == [True, True, False]
    (tmp_path / "old.dump").write_text(text.replace("BOUNDS" + tilts, f"BOUNDS{tilts} pp ff pp") + "1 Si 0 0 0\n")
    (atoms,) = Source(tmp_path / "old.dump", Reading(labels=False)).frames()
    assert atoms.pbc.tolist() == [True, False, True]


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_dump_that_was_cut_off_gives_its_whole_frames(tmp_path: Path, left: int) -> None:
    frame = (
        "ITEM: TIMESTEP\n{}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 8\n0 8\n0 8\n"
        "ITEM: ATOMS id element x y z\n1 O 2.0 0.0 {}.25\n2 H 1.0 0.0 {}.25\n"
    )
    text = "".join(frame.format(k, k, k) for k in range(3))
    (tmp_path / "a.lammpstrj").write_text(text[:-left])
    source = Source(tmp_path / "a.lammpstrj", Reading(labels=False))
    assert [a.positions[:, 2].tolist() for a in source.frames()] == [[0.25, 0.25], [1.25, 1.25]]
    assert "the run was cut off, so its last step is left out (1 frame: 2)." in source.report.lines()


@pytest.mark.parametrize(
    ("columns", "lacking"),
    [
        (f"{XYZ} fx fy", "columns fx, fy without fz"),
        (f"{XYZ} fz", "columns fz without fx, fy"),
        (f"{XYZ} vx vy {F}", "columns vx, vy without vz"),
        ("x y", "columns x, y without z"),
        (f"xs ys {F}", "columns xs, ys without zs"),
        (f"{XYZ} xu", "columns xu without yu, zu"),
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_a_vector_without_a_component_is_refused_by_name(tmp_path, columns, lacking, labels):
    rows = {name: [0.1, 0.2] for name in ("xs", "ys", "xu")}
    path = dump(tmp_path / "a.lammpstrj", f"id element {columns}", head="ITEM: UNITS\nmetal", **rows)
    with pytest.raises(FormatError, match=f"{lacking}. Let LAMMPS dump all of"):
        structures(path, labels=labels)
