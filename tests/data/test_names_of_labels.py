"""Is each name of a file taken for what it is: a label, another quantity, or nothing that matters?"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCom, Hookean
from frames import CELL, account, converted, xyz
from scipy.spatial.transform import Rotation

from mlpot.data.check.check import check
from mlpot.data.errors import DataError, FormatError, KeysError, LabelError, UnitsError
from mlpot.data.frame import frame_of
from mlpot.data.h5md import Reader
from mlpot.data.h5md.write import write
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.stress_labels import learnable
from mlpot.error_table import in_periodic_axes
from mlpot.units import HARTREE


@pytest.mark.parametrize(
    "name", ["virial", "virials", "REF_virials", "dft_virial", "VIRIAL", "mace_virials", "Virial_Tensor"]
)
def test_a_virial_by_any_name_is_divided_by_the_volume(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", f'energy=-1.0 {name}="0.8 0.2 0 0.2 0.8 0 0 0 0.8" {CELL}')
    if name != "virial":
        with pytest.raises(KeysError, match=f"Is the virial '{name}'") as asked:
            converted(path)
        assert "stress" not in str(asked.value).replace(str(path), "")
        with pytest.raises(KeysError, match="is a virial by its name"):
            converted(path, keys={"stress": name}, units={"stress": "eV/Angstrom^3"})
    (atoms,) = converted(path, keys={"virial": name}, units={"energy": "eV"})
    np.testing.assert_allclose(atoms.get_stress(), [-0.02, -0.02, -0.02, 0, 0, -0.005], atol=1e-12)
    (kcal,) = converted(path, keys={"virial": name}, units={"virial": "kcal/mol"})
    np.testing.assert_allclose(kcal.get_stress()[0], -0.02 * 0.0433641042, rtol=1e-8)
    assert kcal.get_potential_energy() == -1.0


@pytest.mark.parametrize("label", ['virial="1 0 0 0 1 0 0 0 1"', 'stress="1 0 0 0 1 0 0 0 1"'])
def test_a_stress_of_what_has_no_volume_is_left_out_and_counted(tmp_path, label):
    no = f'energy=-1.0 {label} pbc="F F F"'
    cell = f'energy=-2.0 {label} Lattice="4 0 0 0 5 0 0 0 2" pbc="F F F"'
    flat = f'energy=-2.0 {label} Lattice="4 0 0 0 5 0 0 0 0" pbc="T T F"'
    path = xyz(tmp_path / "set.xyz", f"energy=-3.0 {label} {CELL}", cell, no, flat)
    assert ["stress" in a.calc.results for a in converted(path)] == [True] + [False] * 3
    told = account(Source(path))
    assert "1 stress.\nstress left out, as the structure has no volume" in told
    assert "3 frames: 1" in told
    assert "--pbc TTT" in told
    whole = list(Source(path, Reading(pbc="TTT", index=":2")).frames())
    assert ["stress" in a.calc.results for a in whole] == [True, True]


@pytest.mark.parametrize(("boundary", "n"), [("T T F", 4), ("F T T", 4), ("F T F", 1)])
@pytest.mark.parametrize("label", ['virial="80 8 0 8 40 0 0 0 4"', 'stress="-2 -0.2 0 -0.2 -1 0 0 0 -0.1"'])
def test_of_slabs_and_wires_the_stress_along_what_is_periodic_is_taken(tmp_path, boundary, n, label):
    path = xyz(tmp_path / "set.xyz", f'energy=-2.0 {label} Lattice="4 0 0 0 5 0 0 0 2" pbc="{boundary}"')
    (atoms,) = converted(path)
    stress = frame_of(atoms).stress
    own = in_periodic_axes(*(torch.tensor(np.array(x)[None]) for x in (stress, atoms.cell.array, atoms.pbc)))
    assert own.isfinite().sum() == n
    assert stress[1, 1] == pytest.approx(-1.0)
    assert "along the periodic directions taken" in account(Source(path))


def test_the_stress_of_a_turned_slab_is_the_turned_stress():
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    values = np.diag([0.1, 0.3, 7.0]) + 0.02 * (1 - np.eye(3))
    turn = Rotation.from_rotvec([0.4, -1.0, 0.7]).as_matrix()
    flat = learnable(values, slab.pbc, slab.cell.array)
    turned = learnable(turn @ values @ turn.T, slab.pbc, slab.cell.array @ turn.T)
    np.testing.assert_allclose(turned, turn @ flat @ turn.T, atol=1e-12)


def test_a_stress_that_a_file_keeps_for_a_slab_is_read_along_its_plane(tmp_path):
    slab = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    slab.info = {}
    slab.calc = SinglePointCalculator(slab, energy=-1.0, forces=np.zeros((3, 3)), stress=np.ones(6))
    write(tmp_path / "set.h5", [slab], card={})
    source = Source(tmp_path / "set.h5")
    with Reader(tmp_path / "set.h5") as reader:
        for frame in (reader.columns([0])[0], next(source.records())[1]):
            assert np.isfinite(frame.stress[:2, :2]).all()
            assert not frame.stress[2].any()
    list(source.records())
    assert any("along the periodic directions taken" in line for line in source.report.lines())


NO_RIVALS = [
    "energy_weight=10.0", "config_energy_weight=0.5", "config_stress_weight=2", "energy_sigma=0.001",
    "energy_tol=1e-6", "scf_energy_tolerance=1e-6", "energy_unit=eV", "energy-unit=ev", "energy_units=1.0",
    'cut_off_energy="650 eV"', "cutoff_energy=500.0", "energy_cutoff=400", "ecut_energy=500.0",
    "energy_source=DFT",    
    "has_energy=T", "energy_std=0.02", "energy_uncertainty=0.1", "fermi_energy=3.2", "kinetic_energy=0.1",
    "energy_mae=0.2", "REF_energy=-31.0", "energy_id=7",
]  # fmt: skip


@pytest.mark.parametrize("comment", NO_RIVALS)
def test_names_that_only_hold_the_word_are_no_rivals(tmp_path, comment):
    path = xyz(tmp_path / "set.xyz", f"energy=-31.0 {comment} {CELL}")  # REF_energy is the same number
    assert converted(path)[0].get_potential_energy() == -31.0
    assert f"Not kept: {comment.partition('=')[0]} (1 frame)" in account(Source(path))


def test_columns_of_one_atom_are_no_rivals(tmp_path):
    text = "1\nProperties=species:S:1:pos:R:3:local_energy:R:1:stress_xx:R:6 energy=-13.6 pbc=FFF\n"
    (tmp_path / "atom.xyz").write_text(text + "H 0 0 0 -13.6 1 2 3 4 5 6\n")
    assert converted(tmp_path / "atom.xyz")[0].get_potential_energy() == -13.6


def test_all_questions_come_in_one_message_with_their_answers(tmp_path):
    columns, values = ":dft_forces:R:3:f_ml:R:3", "0.1 0 0 0.2 0 0"
    first = f'energy=-1 box="4 5 2" periodic="T T F" net_charge_e=1 {CELL}'
    later = f'dft_energy=-2 dft_stress="1 1 1 0 0 0" {CELL}'
    path = xyz(
        tmp_path / "set.xyz", first.replace("5 0 0 0 2", "6 0 0 0 2"), later, columns=columns, values=values
    )
    with pytest.raises(KeysError) as asked:
        converted(path)
    told = str(asked.value)
    for option in (
        "--key energy=dft_energy --unit energy=eV", "--key forces=dft_forces --unit forces=eV/Angstrom",
        "--key stress=dft_stress", "--key cell=box --unit cell=Angstrom", "--key pbc=periodic",
        "--key charge=net_charge_e",
        "--key forces=none",
    ):  # fmt: skip
        assert option in told, told
    command = told.splitlines()[-1].split()
    pairs = {
        kind: dict(value.split("=", 1) for word, value in pairwise(command) if word == kind)
        for kind in ("--key", "--unit")
    }
    keys, units = pairs["--key"], pairs["--unit"]
    out = converted(path, keys=keys, units=units)
    assert out[1].get_potential_energy() == -2.0
    np.testing.assert_array_equal(out[0].cell.lengths(), [4, 5, 2])
    assert out[0].pbc.tolist() == [True, True, False]


def test_the_name_that_exists_is_proposed_first_and_each_can_be_chosen(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"REF_energy=-31.0 energy=-1.0 dft_energy=-2.0 {CELL}")
    with pytest.raises(KeysError, match="Is the energy 'energy' or 'REF_energy' or 'dft_energy'"):
        converted(path)
    assert converted(path, keys={"energy": "energy"})[0].get_potential_energy() == -1.0
    chosen = converted(path, keys={"energy": "dft_energy"}, units={"energy": "hartree"})
    assert chosen[0].get_potential_energy() == -2.0 * HARTREE
    with pytest.raises(UnitsError, match="In which unit is 'REF_energy'"):
        converted(path, keys={"energy": "REF_energy"})
    with pytest.raises(KeysError, match="no energies, forces or stresses"):
        converted(path, keys={"energy": "none"})


@pytest.mark.parametrize(
    ("said", "expected"),
    [("T T F", "110"), ("ppp", "111"), ("p p f", "110"), ("periodic", "111"), ("none", "000"), ("TFT", "101"),
     ([True, False, True], "101"), (np.array([1, 1, 0]), "110"), (True, "111"), ("true false true", "101")],
)  # fmt: skip
def test_boundaries_are_read_in_every_spelling(said, expected):
    assert "".join(str(int(p)) for p in boundary_of(said)) == expected


def test_names_in_a_database_of_ase_are_seen(tmp_path):
    with ase.db.connect(tmp_path / "set.db") as database:
        database.write(molecule("H2O"), total_charge=1, dft_energy=-3.0, config_type="gas")
    with pytest.raises(KeysError, match="'dft_energy'"):
        converted(tmp_path / "set.db")
    (atoms,) = converted(tmp_path / "set.db", keys={"energy": "dft_energy"}, units={"energy": "eV"})
    assert (atoms.info["charge"], atoms.info["group"]) == (1.0, "gas")


def gaussian(path: Path) -> Path:
    path.write_text(
        " Entering Gaussian System, Link 0=g16\n"
        " #p hf/sto-3g force\n\n"
        "                         Standard orientation:\n"
        " ---------------------------------------------------------------------\n"
        " Center     Atomic      Atomic             Coordinates (Angstroms)\n"
        " Number     Number       Type             X           Y           Z\n"
        " ---------------------------------------------------------------------\n"
        "      1          1           0        0.000000    0.000000    0.370000\n"
        "      2          1           0        0.000000    0.000000   -0.370000\n"
        " ---------------------------------------------------------------------\n"
        " SCF Done:  E(RHF) =  -1.11675930751     A.U. after    1 cycles\n"
        " Normal termination of Gaussian 16\n"
    )
    return path


def test_outputs_of_codes_take_no_unit(tmp_path):
    path = gaussian(tmp_path / "h2.log")
    (atoms,) = converted(path)
    assert atoms.get_potential_energy() == pytest.approx(-1.11675930751 * HARTREE, rel=1e-6)
    with pytest.raises(DataError, match="format gaussian-out, whose numbers ASE turns into eV"):
        converted(path, units={"energy": "hartree"})


@pytest.mark.parametrize("ending", ["traj", "xyz", "json"])
def test_the_energy_is_the_one_whose_derivative_the_forces_are(tmp_path, ending):
    frames = []
    for k in range(3):
        atoms = bulk("Al", cubic=True)
        labels = {"energy": -14.0 - k, "free_energy": -14.02 - k, "forces": np.zeros((4, 3))}
        if k == 2:
            del labels["forces"]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path / f"set.{ending}"
    ase.io.write(path, frames)
    assert [a.get_potential_energy() for a in converted(path)] == pytest.approx([-14.02, -15.02, -16.0])
    assert "from 'free_energy', whose derivative the forces are" in account(Source(path))
    for name, shift in (("energy", 0.0), ("free_energy", 0.02)):
        out = converted(path, keys={"energy": name})
        assert [a.get_potential_energy() for a in out] == pytest.approx([-14 - shift, -15 - shift, -16 - shift])


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
def test_nan_throughout_is_a_missing_label_if_the_user_says_so(tmp_path, key):
    frames = []
    for k in range(4):
        atoms = bulk("Si", cubic=True)
        labels = {"energy": -1.0, "forces": np.ones((8, 3)), "stress": np.ones(6)}
        if k == 2:
            labels[key] = labels[key] * np.nan
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path / "set.traj"
    ase.io.write(path, frames)
    for index in (":", "1:"):
        with pytest.raises(LabelError, match=rf"Frame 2: {key} is not finite.*--nan-is-missing"):
            converted(path, index=index)
    source = Source(path, Reading(nan_is_missing=True))
    assert [key in a.calc.results for a in source.frames()] == [True, True, False, True]
    assert f"{key} left out, as it is NaN throughout (1 frame: 2)" in "\n".join(source.report.lines())
    if key != "energy":
        frames[3].calc.results[key].flat[0] = np.nan
        ase.io.write(path, frames)
        with pytest.raises(LabelError, match=f"Frame 3: {key} is not finite"):
            list(Source(path, Reading(nan_is_missing=True)).frames())


def test_nan_throughout_in_arrays(tmp_path):
    energies = np.array([-1.0, np.nan, -3.0])
    np.savez(tmp_path / "set.npz", numbers=[1, 1], coord=np.arange(18.0).reshape(3, 2, 3), energy=energies)
    with pytest.raises(LabelError, match=r"Frame 1: energy is not finite.*--nan-is-missing"):
        converted(tmp_path / "set.npz")
    frames = list(Source(tmp_path / "set.npz", Reading(nan_is_missing=True)).frames())
    assert [a.calc is not None for a in frames] == [True, False, True]


@pytest.mark.parametrize("constraint", [FixCom(), FixBondLengths([(0, 1)]), Hookean(0, 1, 2.0, 1.0)])
@pytest.mark.parametrize("ending", ["traj", "json"])
def test_forces_under_constraints_are_taken_if_the_user_says_they_are_raw(tmp_path, constraint, ending):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.arange(9.0).reshape(3, 3))
    atoms.set_constraint([constraint, FixAtoms([2])])
    ase.io.write(tmp_path / f"set.{ending}", atoms)
    with pytest.raises(
        LabelError, match=rf"frame 0: forces under the constraint {type(constraint).__name__}.*--raw"
    ):
        converted(tmp_path / f"set.{ending}")
    source = Source(tmp_path / f"set.{ending}", Reading(raw_forces=True))
    convert(source, tmp_path / "set.h5")
    left_out = "constraints left out" in "".join(source.report.lines())
    assert left_out != isinstance(constraint, FixCom), "the only one of these that H5MD keeps"
    with Reader(tmp_path / "set.h5") as reader:
        np.testing.assert_array_equal(reader.columns([0])[0].forces, np.arange(9.0).reshape(3, 3))


def charged(n: int = 30) -> list[Atoms]:
    frames = []
    for k in range(n):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=k // 2)  # each geometry in two charges
        rng = np.random.default_rng(k)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - 5 * (k % 2), forces=rng.normal(size=(6, 3)))
        atoms.info = {"total_charge": k % 2, "total_spin": 1 + k % 2}
        frames.append(atoms)
    return frames


def test_charges_are_told_kept_and_no_duplicates(tmp_path):
    ase.io.write(tmp_path / "set.xyz", charged())
    told = account(Source(tmp_path / "set.xyz"))
    assert "Charge 0 in 15 frames, 1 in 15 frames, which potentials of mlpot cannot see" in told
    assert "Spin 1 in 15 frames, 2 in 15 frames" in told
    out = converted(tmp_path / "set.xyz")
    assert [(a.info["charge"], a.info["spin"]) for a in out[:2]] == [(0.0, 1.0), (1.0, 2.0)]
    report = check(tmp_path / "converted.h5")
    (found,) = [f for f in report.findings if f.check == "charge and spin"]
    assert "0 and 1 in 15 frames, 1 and 2 in 15 frames" in found.message
    assert not any("duplicates" in f.check for f in report.findings)
    assert convert(tmp_path / "converted.h5", tmp_path / "rest.h5", drop="duplicates") == 30


def test_masses_that_are_not_standard_are_kept_and_told(tmp_path):
    heavy = molecule("H2O")
    heavy.set_masses([16.0, 2.014, 2.014])
    heavy.calc = SinglePointCalculator(heavy, energy=-1.0)
    ase.io.write(tmp_path / "set.traj", heavy)
    assert converted(tmp_path / "set.traj")[0].get_masses()[1] == 2.014
    assert "masses other than the standard ones kept (1 frame: 0)" in account(Source(tmp_path / "set.traj"))


def test_a_cell_without_a_boundary_and_a_gradient_are_asked_for_what_they_are(tmp_path):
    path = xyz(tmp_path / "set.xyz", 'energy=-1 box="4 5 6 90 90 90"', columns=":gradient:R:3", values="0.1 0 0")
    with pytest.raises(KeysError) as asked:
        converted(path, index=":1")
    command = str(asked.value).splitlines()[-1]
    for option in (
        "--index :1", "--key cell=box --unit cell=Angstrom", "--key forces=-gradient --unit forces=eV/Angstrom",
        "--pbc TTT",
    ):  # fmt: skip
        assert option in command, command
    keys, units = {"cell": "box", "forces": "-gradient"}, {"cell": "Angstrom", "forces": "eV/Angstrom"}
    with pytest.raises(KeysError, match=r"(?s)frame 0 periodic.*--key cell=box --key forces=-gradient.*--pbc TTT"):
        converted(path, keys=keys, units=units)
    (atoms,) = Source(path, Reading(keys=keys, units=units, pbc="TTF")).frames()
    assert (atoms.cell.lengths().tolist(), atoms.pbc.tolist()) == ([4, 5, 6], [True, True, False])
    assert atoms.get_forces()[0, 0] == -0.1


def test_structures_alone_are_asked_of_their_cell_and_not_of_their_labels(tmp_path):
    path = xyz(tmp_path / "set.xyz", "REF_energy=-1 unit_cell=4")
    assert len(list(Source(path, Reading(labels=False)).frames())) == 1
    path = xyz(tmp_path / "set.xyz", 'REF_energy=-1 unit_cell="4 5 6"')
    with pytest.raises(KeysError) as asked:
        list(Source(path, Reading(labels=False)).frames())
    assert f"mlpot data export {path} structures.xyz --key cell=unit_cell --unit cell=Angstrom --pbc TTT" in str(
        asked.value
    )
    assert "REF_energy" not in str(asked.value)


def test_energies_an_atom_are_no_rivals_and_a_free_energy_alone_is_taken(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"energy=-4 energy_per_atom=-2.1 {CELL}", f"free_energy=-5 {CELL}")
    assert [a.get_potential_energy() for a in converted(path)] == [-4.0, -5.0]
    assert "from 'free_energy', as there is no 'energy' (1 frame: 1)" in account(Source(path))


def test_a_file_without_labels_says_what_it_has(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"dipole=1.0 remark=good {CELL}")
    with pytest.raises(KeysError, match=r"no energies, forces or stresses.*It has dipole, remark\."):
        converted(path)


@pytest.mark.parametrize("second", ["energy", '"energy"', "'energy'"])
def test_a_key_that_stands_twice_is_refused(tmp_path, second):
    path = xyz(tmp_path / "set.xyz", f"energy=-1.0 {second}=-2.0 pbc=FFF")
    with pytest.raises(FormatError, match=r"frame 0: energy is -1.0 and -2.0 in one comment"):
        converted(path)
    same = xyz(tmp_path / "same.xyz", 'energy=-1.0 note="energy=-2.0 here" energy=-1.0 pbc=FFF')
    assert converted(same)[0].get_potential_energy() == -1.0


@pytest.mark.parametrize(
    ("name", "unit"),
    [("stress_kbar", "stress=kbar"), ("dft_stress_GPa", "stress=GPa"), ("dft_stress", "stress=eV/Angstrom^3")],
)
def test_the_unit_that_a_name_tells_is_proposed(tmp_path, name, unit):
    path = xyz(tmp_path / "set.xyz", f'energy=-1.0 {name}="1 2 3 4 5 6" {CELL}')
    with pytest.raises(KeysError, match=f"--key stress={name} --unit {re.escape(unit)}"):
        converted(path)
