"""A file that contradicts itself, or has no positions, is refused with its frame; nothing is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from frames import converted
from typer.testing import CliRunner

from mlpot.cli.main import app
from mlpot.data.errors import DataError, FormatError, KeysError, LabelError
from mlpot.data.frame import columns_of
from mlpot.data.h5md.write import write
from mlpot.data.sources.read import Source, read_structure
from mlpot.data.sources.reading import Reading

CELL = 'Lattice="4 0 0 0 5 0 0 0 2" pbc="T T T"'  # 40 Å³
SPECIES = "species:S:1:pos:R:3"
ROWS = "Si 0 0 0\nSi 2 2 1\n"


def xyz(path: Path, *comments: str, properties: str = SPECIES, rows: str = ROWS) -> Path:
    """Frames of two atoms with these comments."""
    path.write_text("".join(f"2\nProperties={properties} {comment}\n{rows}" for comment in comments))
    return path


def account(path: Path) -> str:
    """What a pass over a file tells."""
    source = Source(path)
    list(source.numbered())
    return "\n".join(source.report.lines())


@pytest.mark.parametrize("name", ["scaled_positions", "frac", "forces"])
def test_a_frame_without_positions_is_refused(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", f"energy=-1 {CELL}", properties=f"species:S:1:{name}:R:3")
    with pytest.raises(FormatError, match=r"set.xyz, frame 0 .*no positions \(pos\)"):
        converted(path)
    with pytest.raises(FormatError, match="no positions"):
        read_structure(path)


@pytest.mark.parametrize("ending", ["xyz", "traj", "json"])
def test_atoms_all_in_one_place_are_refused(tmp_path, ending):
    path = tmp_path / f"set.{ending}"
    Atoms("H3", [[1, 1, 1]] * 3).write(path)
    with pytest.raises(FormatError, match="frame 0: all 3 atoms have the same position"):
        read_structure(path)


def test_a_set_of_ours_whose_atoms_are_in_one_place_is_refused(tmp_path):
    atoms = Atoms("H3", [[1, 1, 1]] * 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    write(tmp_path / "old.h5", [atoms], card={})
    for frames in (Source(tmp_path / "old.h5").records, Source(tmp_path / "old.h5").numbered):
        with pytest.raises(FormatError, match=r"old.h5, frame 0: all 3 atoms"):
            list(frames())


@pytest.mark.parametrize("name", ["config_energy_weight", "energy_weight", "REF_energy_weight"])
def test_a_label_of_weight_zero_is_not_there(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", f"energy=0.0 {name}=0 free_energy=0.0 stress='1 0 0 0 1 0 0 0 1' {CELL}")
    (atoms,) = converted(path)
    assert set(atoms.calc.results) == {"stress"}
    assert f"energy left out, as {name} is 0" in account(path)


@pytest.mark.parametrize(
    ("label", "weight"),
    [("forces", "config_forces_weight"), ("stress", "config_stress_weight"), ("virial", "config_virials_weight")],
)
def test_each_label_has_its_own_weight(tmp_path, label, weight):
    columns, rows = (SPECIES + ":forces:R:3", "Si 0 0 0 0 0 0\nSi 2 2 1 0 0 0\n")
    tensor = "" if label == "forces" else f"{label}='1 0 0 0 1 0 0 0 1'"
    path = xyz(tmp_path / "set.xyz", f"energy=-1 {tensor} {weight}=0.0 {CELL}", properties=columns, rows=rows)
    (atoms,) = converted(path)
    assert set(atoms.calc.results) == {"energy", "forces"} - {label}
    assert f"{label} left out, as {weight} is 0" in account(path)


def test_another_weight_of_a_label_is_told_and_a_wrong_one_refused(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"energy=-1 config_energy_weight=5 {CELL}")
    assert "config_energy_weight not used" in account(path)
    path = xyz(tmp_path / "bad.xyz", f"energy=-1 {CELL}", f"energy=-1 config_energy_weight=-1 {CELL}")
    with pytest.raises(LabelError, match=r"bad.xyz, frame 1: config_energy_weight"):
        converted(path)


def test_config_weight_is_the_weight_of_the_frame(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"energy=-1 config_weight=3 {CELL}", f"energy=-1 config_weight=0 {CELL}")
    assert [atoms.info["config_weight"] for atoms in converted(path)] == [3.0, 0.0]
    assert "config_weight taken as the weight of the frame" in account(path)
    assert "config_weight" not in converted(path, keys={"weight": "none"})[0].info


@pytest.mark.parametrize("weight", ["nan", "-1", "inf", '"1 2"'])
def test_a_weight_that_is_none_is_refused(tmp_path, weight):
    path = xyz(tmp_path / "set.xyz", f"energy=-1 {CELL}", f"energy=-1 config_weight={weight} {CELL}")
    with pytest.raises(LabelError, match=r"set.xyz, frame 1: the weight config_weight.*--key weight=none"):
        converted(path)


@pytest.mark.parametrize(("scale", "agrees"), [(-40, True), (40, False), (1, False)])
def test_stress_and_virial_of_a_frame_agree(tmp_path, scale, agrees):
    stress, virial = ("0.02 0.01 0 0.01 0.03 0 0 0 0.04", np.diag([0.02, 0.03, 0.04]) * scale)
    virial[0, 1] = virial[1, 0] = 0.01 * scale
    said = " ".join(f"{x:.6f}" for x in virial.ravel())
    path = xyz(tmp_path / "set.xyz", f'energy=-1 stress="{stress}" virial="{said}" {CELL}')
    if not agrees:
        with pytest.raises(KeysError, match=r"set.xyz, frame 0: stress and virial contradict"):
            converted(path)
    (atoms,) = converted(path, keys={} if agrees else {"virial": "none"})
    np.testing.assert_allclose(atoms.get_stress(), [0.02, 0.03, 0.04, 0, 0, 0.01])


def test_stress_and_virial_of_a_data_set_agree(tmp_path):
    values = {"numbers": [14, 14], "positions": [[[0, 0, 0.0], [2, 2, 1]]], "energy": [-1.0]}
    values |= {"cell": np.diag([4.0, 5, 2])[None], "stress": np.eye(3)[None] * 0.02, "virial": np.eye(3)[None]}
    names = {name: name for name in values}
    lengths = {"positions": "Angstrom", "cell": "Angstrom"}
    units = lengths | {"energy": "eV", "stress": "eV/Angstrom^3", "virial": "eV"}
    for factor, agrees in ((-0.8, True), (0.8, False)):
        np.savez(tmp_path / "a.npz", **values | {"virial": values["virial"] * factor})
        source = Source(tmp_path / "a.npz", Reading(keys=names, units=units, pbc="TTT"))
        if agrees:
            (atoms,) = source.frames()
            np.testing.assert_allclose(np.diag(atoms.calc.results["stress"]), 0.02)
        else:
            with pytest.raises(KeysError, match=r"a.npz.*frame 0: stress and virial contradict"):
                list(source.frames())


@pytest.mark.parametrize("name", ["stress", "virial"])
def test_a_stress_that_is_not_symmetric_is_refused(tmp_path, name):
    path = xyz(tmp_path / "set.xyz", f'energy=-1 {name}="1 0.5 0 0 1 0 0 0 1" {CELL}')
    with pytest.raises(LabelError, match=r"set.xyz, frame 0: the stress is not symmetric: element xy is"):
        converted(path)


def test_a_period_without_a_cell_is_refused(tmp_path):
    path = xyz(tmp_path / "set.xyz", 'energy=-1 pbc="T T T"')
    with pytest.raises(LabelError, match=r"set.xyz, frame 0: it is periodic .*--pbc FFF"):
        converted(path)


@pytest.mark.parametrize(
    ("said", "pbc"),
    [("FFF", [0, 0, 0]), ("TTF", [1, 1, 0]), ("ppf", [1, 1, 0]), ("110", [1, 1, 0]), ('"010"', [0, 1, 0])],
)
def test_a_boundary_in_one_word_is_what_it_says(tmp_path, said, pbc):
    path = xyz(tmp_path / "set.xyz", f'energy=-1 Lattice="4 0 0 0 5 0 0 0 9" pbc={said}')
    assert converted(path)[0].pbc.astype(int).tolist() == pbc


def test_deuterium_and_tritium_are_hydrogen_with_their_masses(tmp_path):
    rows = "D 0 0 0\nT 0 0 0.74\n"
    path = xyz(tmp_path / "set.xyz", "energy=-1", rows=rows)
    (atoms,) = converted(path)
    assert atoms.numbers.tolist() == [1, 1]
    np.testing.assert_allclose(atoms.get_masses(), [2.014, 3.016])
    assert "D and T are hydrogen" in account(path)


def test_messages_name_file_frame_and_only_what_is_wrong(tmp_path):
    with pytest.raises(LabelError, match=r"set.xyz: Frame 0 has atomic numbers outside 1-118: \[0\]"):
        converted(xyz(tmp_path / "set.xyz", "energy=-1", rows="X 0 0 0\nSi 2 2 1\n"))
    with pytest.raises(DataError, match=r"two.xyz, frame 0: energy is an array of shape \(2,\), and"):
        converted(xyz(tmp_path / "two.xyz", 'energy="-10 3"'))
    forces, rows = f"{SPECIES}:forces:R:3", "Si 0 0 0 0 nan 0\nSi 2 2 1 0 0 0\n"
    with pytest.raises(LabelError, match=r"nan.xyz: Frame 0: forces is not finite"):
        converted(xyz(tmp_path / "nan.xyz", "energy=-1", properties=forces, rows=rows))


def test_commands_say_what_they_wrote_and_what_stands_in_the_way(tmp_path):
    path = xyz(tmp_path / "set.xyz", f"energy=-1 charge=0 hardness=1 {CELL}", f"energy=-1 {CELL}")
    run = CliRunner().invoke
    done = run(app, ["data", "export", str(path), str(tmp_path / "x.data")])
    assert "as runnerdata" in done.output
    assert "Not kept: hardness" in done.output
    (tmp_path / "set.h5").touch()
    told = run(app, ["data", "convert", str(path), str(tmp_path / "set.h5")])
    assert "--overwrite" in str(told.exception or told.output)
    told = run(app, ["data", "split", str(path), "-o", str(path)])
    assert "is a file" in str(told.exception or told.output)


def test_two_charges_of_a_frame_are_a_question(tmp_path):
    path = xyz(tmp_path / "set.xyz", "energy=-1 charge=-1 total_charge=0")
    with pytest.raises(KeysError, match="--key charge=charge, otherwise --key charge=total_charge"):
        list(Source(path).frames())
    assert converted(path, keys={"charge": "total_charge"})[0].info["charge"] == 0.0
    path = xyz(tmp_path / "set.xyz", "energy=-1 charge=-1 total_charge=-1 spin=0 multiplicity=1")
    assert converted(path)[0].info["charge"] == -1.0


def test_a_charge_in_words_is_refused_at_every_door(tmp_path):
    path = xyz(tmp_path / "set.xyz", "energy=-1 charge=neutral")
    for labels in (True, False):
        with pytest.raises(LabelError, match=r"charge is 'neutral', expected a number.*--key charge=none"):
            list(Source(path, Reading(labels=labels)).frames())
    assert "charge" not in converted(path, keys={"charge": "none"})[0].info


@pytest.mark.parametrize("name", ["mulliken_charge", "hirshfeld_charges", "esp_charge", "partial_charge"])
def test_the_charge_of_an_atom_is_not_that_of_the_frame(tmp_path, name):
    assert f"Not kept: {name}" in account(xyz(tmp_path / "set.xyz", f"energy=-1 {name}=-0.3"))


def test_energies_of_cp2k_are_in_hartree_whatever_the_file_is_called(tmp_path):
    path = tmp_path / "mine.xyz"
    path.write_text("1\n i =        0, time =        0.000, E =       -17.164\nO 0 0 0\n")
    with pytest.raises(KeysError, match="--key energy=E --unit energy=hartree"):
        list(Source(path).frames())


def test_a_wrong_weight_does_not_matter_where_nothing_is_learned(tmp_path):
    path = xyz(tmp_path / "set.xyz", "energy=-1 config_weight=much")
    source = Source(path, Reading(labels=False))
    (atoms,) = source.frames()
    assert "config_weight" not in atoms.info
    assert "config_weight left out" in source.report.lines()[1]


def test_a_time_of_no_unit_is_not_taken_for_one_in_fs(tmp_path):
    """Of structures to predict, whose output would be H5MD with a time in fs and a step of a run."""
    path = xyz(tmp_path / "set.xyz", "time=0.5 step=last")
    (atoms,) = Source(path, Reading(labels=False)).frames()
    assert (atoms.info["input_time"], atoms.info["input_step"]) == (0.5, "last")
    assert not {"time", "step"} & columns_of(atoms, 0).keys()
