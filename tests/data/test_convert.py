"""Do structures of every source arrive with the right numbers, or with an error that says what is missing?"""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength
from frames import assert_labels, converted, mixed
from places import SHARED

from mlpot.data.h5md import FormatError, KeysError, LabelError, Reader, UnitsError, write
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import BOHR, HARTREE

DATA = SHARED / "data"


def labeled(atoms: Atoms, seed: int = 0, **labels) -> Atoms:
    generator = np.random.default_rng(seed)
    labels = {"energy": float(generator.normal()), "forces": generator.normal(size=(len(atoms), 3)), **labels}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in labels.items() if v is not None})
    return atoms


def test_extxyz_with_the_names_of_ase(tmp_path):
    frames = [labeled(molecule("CH3CH2OH"), k) for k in range(4)]
    crystal = labeled(bulk("Si", cubic=True), 5, stress=np.arange(6.0))
    crystal.info["config_type"] = "bulk"
    atom = Atoms("H")
    atom.calc = SinglePointCalculator(atom, energy=-13.5)
    ase.io.write(tmp_path / "set.xyz", [*frames, crystal, atom], format="extxyz")
    out = converted(tmp_path / "set.xyz")
    assert_labels(
        out[:5],
        [np.round(a.positions, 8) for a in (*frames, crystal)],
        [a.get_potential_energy() for a in (*frames, crystal)],
        [np.round(a.get_forces(), 8) for a in (*frames, crystal)],
    )
    np.testing.assert_array_equal(out[4].get_stress(), np.arange(6.0))
    assert out[4].info["group"] == "bulk"
    assert out[5].calc.results == {"energy": -13.5}


def xyz(path: Path, comment: str, properties: str = "", columns: str = "") -> Path:
    lines = [f"H 0.0 0.0 {z} {columns}" for z in (0.0, 0.74)]
    path.write_text("\n".join(["2", f"Properties=species:S:1:pos:R:3{properties} {comment}", *lines, ""]))
    return path


def test_other_names_are_not_guessed(tmp_path):
    forces, columns = ":REF_forces:R:3", "0.0 0.0 0.5"
    path = xyz(tmp_path / "ref.xyz", "REF_energy=-31.0 dft_energy=-30.0 pbc=FFF", forces, columns)
    with pytest.raises(KeysError, match=r"'REF_energy' or 'dft_energy'.*--key energy=REF_energy"):
        converted(path)
    keys = {"energy": "REF_energy", "forces": "-REF_forces"}
    with pytest.raises(UnitsError, match=r"unit is 'REF_energy'.*not one of ASE's names"):
        converted(path, keys=keys)
    (atoms,) = converted(path, keys=keys, units={"energy": "hartree", "forces": "eV/Angstrom"})
    assert atoms.get_potential_energy() == -31.0 * HARTREE
    assert atoms.get_forces()[0, 2] == -0.5
    with pytest.raises(KeysError, match=r"nothing named \['E0'\].*dft_energy"):
        converted(path, keys={**keys, "energy": "E0"}, units={"energy": "eV", "forces": "eV/Angstrom"})


def test_a_rival_beside_the_name_of_ase_is_not_overlooked(tmp_path):
    path = xyz(tmp_path / "two.xyz", "energy=-1.0 REF_energy=-31.0 pbc=FFF")
    with pytest.raises(KeysError, match="'energy' or 'REF_energy'"):
        converted(path)
    assert converted(path, keys={"energy": "energy"})[0].get_potential_energy() == -1.0


def test_a_virial_becomes_a_stress(tmp_path):
    virial = np.diag([3.0, 2.0, 1.0])
    text = " ".join(str(x) for x in virial.ravel())
    path = xyz(tmp_path / "virial.xyz", f'energy=-1.0 virial="{text}" Lattice="2 0 0 0 2 0 0 0 2" pbc=TTT')
    np.testing.assert_allclose(converted(path)[0].get_stress(voigt=False), -virial / 8, rtol=1e-14)


def test_units_given_apply_to_the_names_of_ase(tmp_path):
    path = xyz(tmp_path / "bohr.xyz", "energy=-1.0 pbc=FFF", ":forces:R:3", "0.0 0.0 1.0")
    units = {"positions": "bohr", "energy": "hartree", "forces": "hartree/bohr"}
    (atoms,) = converted(path, units=units)
    assert atoms.positions[1, 2] == 0.74 * BOHR
    assert atoms.get_potential_energy() == -HARTREE
    assert atoms.get_forces()[0, 2] == HARTREE / BOHR
    with pytest.raises(UnitsError, match="not a unit of energy"):
        converted(path, units={"energy": "GPa"})


def test_held_atoms_get_no_force_label(tmp_path):
    slab = labeled(bulk("Si", cubic=True))
    slab.set_constraint(FixAtoms([0, 3]))
    ase.io.write(tmp_path / "slab.traj", slab)
    (atoms,) = converted(tmp_path / "slab.traj")
    assert np.flatnonzero(~atoms.arrays["force_mask"]).tolist() == [0, 3]
    slab.set_constraint(FixBondLength(0, 1))
    ase.io.write(tmp_path / "slab.traj", slab)
    with pytest.raises(LabelError, match="frame 0: forces under the constraint FixBondLength"):
        converted(tmp_path / "slab.traj")


@pytest.mark.parametrize(("mask", "held"), [("F T T", [1]), ("F F F", [1]), ("T T T", [])])
def test_a_mask_of_coordinates_holds_the_atoms_of_which_one_is_false(tmp_path, mask, held):
    rows = f"Si 0 0 0 0.1 0.2 0.3 T T T\nSi 2 2 1 -0.1 -0.2 -0.3 {mask}\n"
    comment = 'Properties=species:S:1:pos:R:3:forces:R:3:move_mask:L:3 energy=-1 pbc="F F F"'
    (tmp_path / "set.xyz").write_text(f"2\n{comment}\n{rows}")
    (atoms,) = converted(tmp_path / "set.xyz")
    known = atoms.arrays.get("force_mask", np.ones(2, dtype=bool))
    assert np.flatnonzero(~known).tolist() == held


def test_ase_database_and_trajectory(tmp_path):
    frames = [labeled(molecule("H2O"), k) for k in range(4)]
    with ase.db.connect(tmp_path / "set.db") as database:
        for atoms in frames:
            database.write(atoms)
    expected = (
        [a.positions for a in frames],
        [a.get_potential_energy() for a in frames],
        [a.get_forces() for a in frames],
    )
    assert_labels(converted(tmp_path / "set.db"), *expected)
    ase.io.write(tmp_path / "set.traj", frames)
    assert_labels(converted(tmp_path / "set.traj"), *expected)
    assert len(converted(tmp_path / "set.traj", index="1:3")) == 2


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp </i><i name="version" type="string">6.3.0 </i></generator>
 <incar><i type="string" name="PREC">accurate</i></incar>
 <kpoints><varray name="kpointlist"><v>0.0 0.0 0.0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
 <parameters></parameters>
 <atominfo><atoms>2</atoms><types>1</types>
  <array name="atoms"><set><rc><c>Si</c><c>1</c></rc><rc><c>Si</c><c>1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>0.0 2.7 2.7</v><v>2.7 0.0 2.7</v><v>2.7 2.7 0.0</v></varray></crystal>
  <varray name="positions"><v>0.0 0.0 0.0</v><v>0.25 0.25 0.25</v></varray>
 </structure>
 <calculation>
  <scstep>
   <energy><i name="e_fr_energy">-10.84</i><i name="e_wo_entrp">-10.83</i><i name="e_0_energy">-10.835</i></energy>
  </scstep>
  <structure>
   <crystal><varray name="basis"><v>0.0 2.7 2.7</v><v>2.7 0.0 2.7</v><v>2.7 2.7 0.0</v></varray></crystal>
   <varray name="positions"><v>0.0 0.0 0.0</v><v>0.25 0.25 0.25</v></varray>
  </structure>
  <varray name="forces"><v>0.1 0.2 0.3</v><v>-0.1 -0.2 -0.3</v></varray>
  <varray name="stress"><v>10.0 0.0 0.0</v><v>0.0 20.0 0.0</v><v>0.0 0.0 30.0</v></varray>
  <energy><i name="e_fr_energy">-10.84</i><i name="e_wo_entrp">-10.83</i><i name="e_0_energy">-10.835</i></energy>
 </calculation>
</modeling>
"""


def test_vasp(tmp_path):
    (tmp_path / "vasprun.xml").write_text(VASPRUN)
    (atoms,) = converted(tmp_path / "vasprun.xml")
    np.testing.assert_array_equal(atoms.get_forces()[0], [0.1, 0.2, 0.3])
    assert atoms.get_stress()[0] == pytest.approx(-10.0 * 6.241509074460763e-4)  # kbar, and VASP's sign


ORCA = """
                                 * O   R   C   A *
Number of atoms                             ...      2
---------------------------------
CARTESIAN COORDINATES (ANGSTROEM)
---------------------------------
  H      0.000000    0.000000    0.000000
  H      0.000000    0.000000    0.740000

FINAL SINGLE POINT ENERGY        -1.166000000000
------------------
CARTESIAN GRADIENT
------------------

   1   H   :    0.000000000    0.000000000   -0.010000000
   2   H   :    0.000000000    0.000000000    0.010000000

                             ****ORCA TERMINATED NORMALLY****
"""


def test_orca(tmp_path):
    (tmp_path / "orca.out").write_text(ORCA)
    (atoms,) = converted(tmp_path / "orca.out", format="orca-output")
    assert atoms.get_potential_energy() == pytest.approx(-1.166 * HARTREE, rel=1e-7)
    assert atoms.get_forces()[0, 2] == pytest.approx(0.01 * HARTREE / BOHR, rel=1e-7)


@pytest.mark.parametrize(
    ("comment", "error", "message"),
    [
        ("energy=nan", LabelError, "Frame 0: energy is not finite"),
        ("energy=low", LabelError, "energy is 'low'"),
        ("dipole=1.0", KeysError, "no energies, forces or stresses"),
    ],
)
def test_bad_labels_in_extxyz_are_refused(tmp_path, comment, error, message):
    path = xyz(tmp_path / "bad.xyz", f"{comment} pbc=FFF")
    with pytest.raises(error, match=message):
        converted(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_data_file_is_refused(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader")
    with pytest.raises(FormatError, match="no format that ASE knows"):
        converted(path)
    with pytest.raises(FormatError, match="Nearest: extxyz"):
        converted(path, format="extxzy")
    with pytest.raises(FormatError, match="line 1: a frame begins with its number of atoms"):
        converted(path, format="extxyz")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        converted(tmp_path / "absent.xyz")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(FormatError, match=r"half\.npz is damaged"):
        converted(tmp_path / "half.npz")


def test_h5md_of_others_becomes_ours(tmp_path):
    znh5md = pytest.importorskip("znh5md")
    frames = [labeled(molecule(name), k) for k, name in enumerate(["H2O", "CH4", "H2O"])]
    znh5md.IO(tmp_path / "zn.h5").extend(frames)
    out = converted(tmp_path / "zn.h5", index="1:")
    assert [len(atoms) for atoms in out] == [5, 3]
    np.testing.assert_array_equal(out[0].get_forces(), frames[1].get_forces())
    with pytest.raises(KeysError, match=r"has no .E. that is written for each frame"):
        converted(tmp_path / "zn.h5", keys={"energy": "E"})


def test_an_existing_file_is_not_overwritten_unasked(tmp_path):
    source = xyz(tmp_path / "set.xyz", "energy=-1.0 pbc=FFF")
    convert(source, tmp_path / "set.h5")
    with pytest.raises(FileExistsError, match="overwrite"):
        convert(source, tmp_path / "set.h5")
    assert convert(source, tmp_path / "set.h5", overwrite=True, card={"level": "PBE"}) == 1


@pytest.mark.skipif(not DATA.exists(), reason="the public benchmark sets are not beside this checkout")
@pytest.mark.parametrize("name", ["ethanol/isolated_atoms.xyz", "silicon/test.xyz"])
def test_public_sets_come_through_whole(tmp_path, name):
    frames = ase.io.read(DATA / name, ":")
    convert(DATA / name, tmp_path / "set.h5")
    with Reader(tmp_path / "set.h5") as reader:
        for ours, theirs in zip(reader.frames(), frames, strict=True):
            np.testing.assert_array_equal(ours.positions, theirs.positions)
            assert ours.calc.results.keys() == theirs.calc.results.keys()
            for key, value in ours.calc.results.items():
                np.testing.assert_array_equal(value, theirs.calc.results[key])


@pytest.mark.parametrize(("drop", "index"), [("1,99", ":"), ("0", "1:"), ("7", "::2")])
def test_a_frame_to_leave_out_must_be_there(tmp_path, drop, index):
    path = tmp_path / "set.h5"
    write(path, mixed(), card={})
    with pytest.raises(KeysError, match=r"has no frame .* among those that are read"):
        convert(path, tmp_path / "new.h5", drop=drop, index=index)
    assert not (tmp_path / "new.h5").exists()


@pytest.mark.parametrize("name", ["set.xyz", "set.h5", "OUTCAR", "set.npz"])
def test_an_empty_file_is_said_to_be_empty(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FormatError, match=f"{name} is empty"):
        convert(tmp_path / name, tmp_path / "new.h5")


@pytest.mark.parametrize("hold", [[99], [0, 3], [-1]])
def test_an_atom_to_hold_must_be_there(tmp_path, hold):
    path = tmp_path / "set.xyz"
    ase.io.write(path, [labeled(molecule("H2O"), k) for k in range(3)])
    with pytest.raises(KeysError, match=r"Correct --hold"):
        convert(path, tmp_path / "new.h5", hold=hold)
    assert not (tmp_path / "new.h5").exists()
    assert convert(path, tmp_path / "new.h5", hold=[0, 2]) == 3


def test_what_a_user_says_of_a_file_is_used_or_refused(tmp_path):
    crystal = labeled(bulk("Si", cubic=True), 1)
    write(tmp_path / "set.h5", [crystal], card={})
    (atoms,) = Source(tmp_path / "set.h5", Reading(pbc="TTF")).frames()
    assert atoms.pbc.tolist() == [True, True, False]
    with pytest.raises(KeysError, match="There is no quantity 'enthalpy' that has a unit"):
        Reading(units={"enthalpy": "eV"})
    with pytest.raises(KeysError, match="--cell is for trajectories of CP2K"):
        list(Source(tmp_path / "set.h5", Reading(cell="5,5,5")).frames())
    with pytest.raises(KeysError, match="'XYZ' does not say which directions"):
        list(Source(tmp_path / "set.h5", Reading(pbc="XYZ")).frames())


def test_a_python_without_asserts_reads_no_extxyz(tmp_path, monkeypatch):
    """ASE reads the line with the number of atoms in an assert, so that it takes the comment for an atom."""
    path = tmp_path / "a.xyz"
    ase.io.write(path, molecule("H2O"), format="extxyz")
    monkeypatch.setattr("mlpot.data.sources.ase_files.ASSERTS", False)
    with pytest.raises(FormatError, match="PYTHONOPTIMIZE"):
        list(Source(path, Reading(labels=False)).frames())
