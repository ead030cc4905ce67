"""Do structures of every source arrive with the right numbers, or with an error that says what is missing?"""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength

from mlpot.data.convert import convert
from mlpot.data.h5md import FormatError, KeysError, LabelError, Reader, UnitsError
from mlpot.units import BOHR, HARTREE, KCAL_MOL

DATA = Path(__file__).parents[1].parent / "shared" / "data"
N, Z = 5, np.array([8, 1, 1])
rng = np.random.default_rng(1)
R, E, F = rng.normal(size=(N, 3, 3)), rng.normal(size=N), rng.normal(size=(N, 3, 3))


def converted(source: Path, **options) -> list[Atoms]:
    destination = source.with_name("converted.h5")
    count = convert(source, destination, overwrite=True, **options)
    with Reader(destination) as reader:
        assert len(reader) == count
        assert reader.card["source"] == source.name
        return list(reader.frames())


def assert_labels(frames: list[Atoms], positions, energies, forces) -> None:
    assert len(frames) == len(energies)
    for k, atoms in enumerate(frames):
        np.testing.assert_array_equal(atoms.positions, positions[k])
        assert atoms.get_potential_energy() == energies[k]
        np.testing.assert_array_equal(atoms.get_forces(), forces[k])


def labelled(atoms: Atoms, seed: int = 0, **labels) -> Atoms:
    generator = np.random.default_rng(seed)
    labels = {"energy": float(generator.normal()), "forces": generator.normal(size=(len(atoms), 3)), **labels}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in labels.items() if v is not None})
    return atoms


# --- Layouts of public data sets, in their own units ---


def rmd17(path: Path, **more) -> Path:
    np.savez(
        path,
        **{"nuclear_charges": Z, "coords": R, "energies": E, "forces": F, "old_indices": np.arange(N), **more},
    )
    return path


def test_rmd17(tmp_path):
    frames = converted(rmd17(tmp_path / "rmd17_water.npz"))
    assert_labels(frames, R, E * KCAL_MOL, F * KCAL_MOL)
    assert frames[0].numbers.tolist() == Z.tolist()
    assert not frames[0].pbc.any()


def test_sgdml_tells_its_units_itself(tmp_path):
    path = tmp_path / "water.npz"
    np.savez(path, z=Z, R=R, E=E[:, None], F=F, r_unit="Ang", e_unit="kcal/mol")
    assert_labels(converted(path), R, E * KCAL_MOL, F * KCAL_MOL)
    np.savez(path, z=Z, R=R, E=E, F=F)
    with pytest.raises(UnitsError, match="no unit of positions"):
        converted(path)
    units = {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom"}
    assert_labels(converted(path, units=units), R, E, F)


def test_ani1x_and_what_it_left_uncalculated(tmp_path):
    path = tmp_path / "ani1x-release.h5"
    energies = E.copy()
    energies[2] = np.nan
    with h5py.File(path, "w") as file:
        for formula, numbers in (("H2O1", Z), ("H1O2", np.array([8, 8, 1]))):
            group = file.create_group(formula)
            group["atomic_numbers"] = numbers.astype("u1")
            group["coordinates"] = R.astype("f4")
            group["wb97x_dz.energy"] = energies
            group["wb97x_dz.forces"] = F.astype("f4")
            group["wb97x_tz.energy"] = E
    frames = converted(path)
    assert len(frames) == 2 * N
    first = [atoms for atoms in frames if atoms.info["group"] == "H1O2"]
    assert [len(set(atoms.numbers)) for atoms in first] == [2] * N
    assert "energy" not in first[2].calc.results
    np.testing.assert_array_equal(first[2].get_forces(), F[2].astype("f4").astype("f8") * HARTREE)
    assert first[3].get_potential_energy() == E[3] * HARTREE
    np.testing.assert_array_equal(first[3].positions, R[3].astype("f4").astype("f8"))


def test_spice_gradients_become_forces(tmp_path):
    path = tmp_path / "SPICE.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("water", "heavy water"):
            group = file.create_group(name)
            group["subset"] = [b"SPICE Solvated"]
            group["smiles"] = [b"O"]
            group["atomic_numbers"] = Z
            group["conformations"] = R
            group["formation_energy"] = E + 1
            group["dft_total_energy"] = E
            group["dft_total_gradient"] = F
            for key, unit in (
                ("conformations", "bohr"),
                ("dft_total_energy", "hartree"),
                ("dft_total_gradient", "hartree/bohr"),
            ):
                group[key].attrs["units"] = unit
    frames = converted(path)
    assert_labels(frames, [*R * BOHR] * 2, [*E * HARTREE] * 2, [*-F * (HARTREE / BOHR)] * 2)
    assert frames[0].info["group"] == "SPICE Solvated"
    with pytest.raises(UnitsError, match="not in 'nm'"):
        converted(path, units={"positions": "nm"})
    formation = converted(path, keys={"energy": "formation_energy"}, units={"energy": "hartree"})
    assert formation[0].get_potential_energy() == (E[0] + 1) * HARTREE


@pytest.mark.parametrize("newer", [False, True])
def test_mace(tmp_path, newer):
    path = tmp_path / "train.h5"
    cell, stress = np.diag([5.0, 6.0, 7.0]), np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    with h5py.File(path, "w") as file:
        for k in range(N):
            group = file.create_group(f"config_batch_{k % 2}/config_{k}")
            group["atomic_numbers"], group["positions"] = Z, R[k]
            group["cell"], group["pbc"], group["weight"] = cell, [True] * 3, 1.0
            group["config_type"] = "liquid"
            labels = group.create_group("properties") if newer else group
            labels["energy"], labels["forces"] = E[k], F[k]
            labels["stress"], labels["virials"] = ("None", -stress * 210.0) if k == 0 else (stress, "None")
            weights = group.create_group("property_weights") if newer else group
            weights["energy" if newer else "energy_weight"] = 0.0 if k == 1 else 1.0
    frames = sorted(converted(path), key=lambda atoms: np.abs(R - atoms.positions).sum(axis=(1, 2)).argmin())
    for k, atoms in enumerate(frames):
        np.testing.assert_array_equal(atoms.get_forces(), F[k])
        np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=1e-14)
        assert atoms.pbc.all()
        assert atoms.info["group"] == "liquid"
        assert ("energy" in atoms.calc.results) == (k != 1), "a label of weight zero is missing"


def test_aimnet2(tmp_path):
    path = tmp_path / "aimnet2.h5"
    with h5py.File(path, "w") as file:
        for n in (3, 12):
            group = file.create_group(f"{n:03d}")
            group["coord"] = (
                np.tile(R, (1, n // 3, 1)).astype("f4") + 10 * np.repeat(np.arange(n // 3), 3)[:, None]
            )
            group["numbers"] = np.tile(Z, (N, n // 3))
            group["charge"], group["energy"] = np.zeros(N), E
            group["forces"] = np.tile(F, (1, n // 3, 1))
    frames = converted(path)
    assert [len(atoms) for atoms in frames] == [3] * N + [12] * N
    assert_labels(frames[:N], R.astype("f4"), E, F)


def test_any_npz_whose_names_and_units_are_given(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, Z=np.tile(Z, (N, 1)), X=R, U=E, G=F, box=np.eye(3) * 9, periodic=[True] * 3)
    keys = {"numbers": "Z", "positions": "X", "energy": "U", "forces": "-G", "cell": "box", "pbc": "periodic"}
    units = {"positions": "nm", "energy": "kJ/mol", "forces": "kJ/mol/nm"}
    with pytest.raises(KeysError, match=r"no layout that is known.*'U', 'X', 'Z'"):
        converted(path)
    with pytest.raises(UnitsError, match="no unit of energy"):
        converted(path, keys=keys, units={"positions": "nm"})
    frames = converted(path, keys=keys, units=units, index="1::2")
    assert len(frames) == 2
    np.testing.assert_array_equal(frames[0].positions, R[1] * 10)
    np.testing.assert_array_equal(frames[0].cell.array, np.eye(3) * 90)
    np.testing.assert_allclose(frames[0].get_forces(), -F[1] * 0.010364269656262175 / 10, rtol=1e-15)
    with pytest.raises(KeysError, match="nothing named"):
        converted(path, keys={**keys, "stress": "S"}, units={**units, "stress": "GPa"})


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        ({"coords": R[:, :2]}, FormatError, r"nuclear_charges has shape \(3,\).*expected \(2,\)"),
        ({"energies": E[:4]}, FormatError, r"energies has shape \(4,\).*expected \(5,\)"),
        ({"forces": F.astype("f2")}, FormatError, "forces.*float16"),
        ({"energies": np.where(np.arange(N) == 3, np.nan, E)}, LabelError, "Frame 3: energy is not finite"),
        ({"nuclear_charges": np.array([8, 1, 0])}, LabelError, "Frame 0 has atomic numbers"),
        ({"coords": R[:0], "energies": E[:0], "forces": F[:0]}, LabelError, "No frames"),
    ],
)
def test_a_spoilt_npz_is_refused(tmp_path, spoil, error, message):
    path = rmd17(tmp_path / "spoilt.npz", **spoil)
    with pytest.raises(error, match=message):
        converted(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_hdf5_file_that_reaches_outside_itself_is_refused(tmp_path):
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["train"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(FormatError, match="is a link"):
        converted(tmp_path / "evil.h5")


# --- What ASE reads ---


def test_extxyz_with_the_names_of_ase(tmp_path):
    frames = [labelled(molecule("CH3CH2OH"), k) for k in range(4)]
    crystal = labelled(bulk("Si", cubic=True), 5, stress=np.arange(6.0))
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
    with pytest.raises(KeysError, match=r"'REF_energy' or 'dft_energy'.*keys="):
        converted(path)
    keys = {"energy": "REF_energy", "forces": "-REF_forces"}
    with pytest.raises(UnitsError, match="'REF_energy' is not one of ASE's names"):
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
    slab = labelled(bulk("Si", cubic=True))
    slab.set_constraint(FixAtoms([0, 3]))
    ase.io.write(tmp_path / "slab.traj", slab)
    (atoms,) = converted(tmp_path / "slab.traj")
    assert np.flatnonzero(~atoms.arrays["force_mask"]).tolist() == [0, 3]
    slab.set_constraint(FixBondLength(0, 1))
    ase.io.write(tmp_path / "slab.traj", slab)
    with pytest.raises(LabelError, match="frame 0: forces under the constraint FixBondLength"):
        converted(tmp_path / "slab.traj")


def test_ase_database_and_trajectory(tmp_path):
    frames = [labelled(molecule("H2O"), k) for k in range(4)]
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
    with pytest.raises(FormatError, match="could not read frame 0"):
        converted(path, format="extxyz")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        converted(tmp_path / "absent.xyz")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(FormatError, match=r"half\.npz is damaged"):
        converted(tmp_path / "half.npz")


def test_h5md_of_others_becomes_ours(tmp_path):
    znh5md = pytest.importorskip("znh5md")
    frames = [labelled(molecule(name), k) for k, name in enumerate(["H2O", "CH4", "H2O"])]
    znh5md.IO(tmp_path / "zn.h5").extend(frames)
    out = converted(tmp_path / "zn.h5", index="1:")
    assert [len(atoms) for atoms in out] == [5, 3]
    np.testing.assert_array_equal(out[0].get_forces(), frames[1].get_forces())
    with pytest.raises(KeysError, match="names its quantities itself"):
        converted(tmp_path / "zn.h5", keys={"energy": "E"})


def test_an_existing_file_is_not_overwritten_unasked(tmp_path):
    source = rmd17(tmp_path / "rmd17.npz")
    convert(source, tmp_path / "set.h5")
    with pytest.raises(FileExistsError, match="overwrite"):
        convert(source, tmp_path / "set.h5")
    assert convert(source, tmp_path / "set.h5", overwrite=True, card={"level": "PBE"}) == N


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
