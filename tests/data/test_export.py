"""Do sets and trajectories leave H5MD whole, into files that other programs read?"""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian, FixCom, Hookean
from frames import labeled

from mlpot.data import h5md
from mlpot.data.constraints import held_coordinates, holds_center, other_constraints
from mlpot.data.errors import FormatError
from mlpot.data.sources.convert import convert
from mlpot.data.sources.export import export, writable
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.data.sources.report import Report
from mlpot.model_file import save_potential
from mlpot.potential import Potential
from mlpot.predictions import predict_file


@pytest.fixture
def frames() -> list[Atoms]:
    kinds = [molecule("CH3CH2OH"), bulk("Si", cubic=True), molecule("H2O")]
    return [labeled(kinds[k % 3], k, group=f"family{k % 3}") for k in range(6)]


@pytest.fixture
def path(frames: list[Atoms], tmp_path: Path) -> Path:
    frames[1].set_constraint(FixAtoms([2]))
    frames[3].set_velocities(np.full((9, 3), 0.1))
    h5md.write(tmp_path / "set.h5", frames, card={})
    return tmp_path / "set.h5"


@pytest.mark.parametrize("name", ["out.xyz", "out.extxyz", "out.traj", "out.db", "out.json", "out.xyz.gz"])
def test_frames_and_labels_come_back(frames, path, tmp_path, name):
    assert export(path, tmp_path / name) == 6
    assert convert(tmp_path / name, tmp_path / "back.h5") == 6
    with h5md.Reader(path) as a, h5md.Reader(tmp_path / "back.h5") as b:
        for ours, theirs in zip(b.columns(range(6)), a.columns(range(6)), strict=True):
            for key in ("numbers", "positions", "cell", "pbc", "energy", "stress"):
                np.testing.assert_allclose(getattr(ours, key), getattr(theirs, key), atol=1e-8)
            known = np.isfinite(ours.forces)
            np.testing.assert_allclose(ours.forces[known], theirs.forces[known], atol=1e-8)
            assert ours.group == theirs.group
        np.testing.assert_allclose(b[3].get_velocities(), frames[3].get_velocities(), atol=1e-8)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["set.h5", name, "back.h5"])


def states() -> dict[str, Atoms]:
    """A frame of each that a format could lose."""
    water = molecule("H2O")
    found = {f"group {name}": labeled(water, 0, group=name) for name in ("2", "True", 'x "y", z=3')}
    found["charge"] = labeled(water, 1, charge=-1.0, spin=2.0)
    found["weight"] = labeled(water, 2, config_weight=0.25)
    constraints = {"fixed": FixAtoms([0]), "partly": FixCartesian([1], (True, False, False)), "center": FixCom()}
    for name, constraint in {**constraints, "free": None}.items():
        found[f"{name}, all forces known"] = atoms = labeled(water, 3)
        atoms.set_constraint(constraint)
        found[f"{name}, masked"] = atoms = atoms.copy()
        atoms.calc = found[f"{name}, all forces known"].calc
        atoms.set_array("force_mask", np.array([True, False, True]))
    return found


@pytest.mark.parametrize("ending", ["xyz", "traj", "db", "json"])
def test_states_and_masks_come_back_from_every_format_with_labels(ending: str, tmp_path: Path) -> None:
    """ASE makes charges of databases zero, refuses names that look like numbers, and keeps no array of a mask."""
    frames = states()
    h5md.write(tmp_path / "set.h5", frames.values(), card={})
    export(tmp_path / "set.h5", tmp_path / f"out.{ending}")
    convert(tmp_path / f"out.{ending}", tmp_path / "back.h5")
    with h5md.Reader(tmp_path / "set.h5") as a, h5md.Reader(tmp_path / "back.h5") as b:
        for name, ours, theirs in zip(frames, b.frames(), a.frames(), strict=True):
            assert ours.info == theirs.info, name
            masks = [atoms.arrays.get("force_mask", np.ones(3, dtype=bool)) for atoms in (ours, theirs)]
            np.testing.assert_array_equal(*masks, err_msg=name)
            np.testing.assert_array_equal(held_coordinates(ours), held_coordinates(theirs), err_msg=name)


def test_the_charge_of_a_row_of_a_database_is_what_was_written(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "ions.db") as database:
        database.write(labeled(molecule("H2O"), 0), charge=-1.0)
    (atoms,) = Source(tmp_path / "ions.db").frames()
    assert atoms.info["charge"] == -1.0


@pytest.mark.parametrize("name", ["POSCAR", "out.vasp", "out.gen", "out.cube"])
def test_a_format_for_one_structure_takes_one(path, tmp_path, name):
    with pytest.raises(FormatError, match=r"can hold one structure.*--index"):
        export(path, tmp_path / name)
    assert not (tmp_path / name).exists()
    assert export(Source(path, Reading(index="1")), tmp_path / name) == 1
    assert ase.io.read(tmp_path / name).get_chemical_formula() == "Si8"


def test_what_a_format_cannot_hold_is_told(path, tmp_path):
    source = Source(path, Reading(index="1::3"))
    assert export(source, tmp_path / "out.cif") == 2
    assert "labels left out, which cif cannot hold (2 frames: 1, 4)." in source.report.lines()
    assert [len(a) for a in ase.io.read(tmp_path / "out.cif", ":")] == [8, 8]


@pytest.mark.parametrize("name", ["look.xyz", "look.traj", "look.extxyz", "look.cif", "look"])
def test_convert_writes_h5md_alone_and_export_all_else(path, tmp_path, name):
    with pytest.raises(FormatError, match=r"does not end in \.h5.*mlpot data export"):
        convert(path, tmp_path / name)
    with pytest.raises(FormatError, match="mlpot data convert"):
        export(path, tmp_path / "again.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["set.h5"]


@pytest.mark.parametrize("name", ["out.nothing", "out.png", "out.log"])
def test_a_format_that_is_not_written_is_refused_before_anything_is_read(tmp_path, name):
    (tmp_path / "set.xyz").write_text("this is no xyz\n")
    with pytest.raises(FormatError, match="is in no format that is written"):
        export(tmp_path / "set.xyz", tmp_path / name)


def test_what_is_there_stays_until_all_is_written(path, tmp_path):
    (tmp_path / "out.xyz").write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite"):
        export(path, tmp_path / "out.xyz")
    whole = path.read_bytes()
    bad = bytearray(whole)
    place = len(whole) // 2
    bad[place : place + 4000] = bytes(4000)
    (tmp_path / "bad.h5").write_bytes(bytes(bad))
    with pytest.raises(FormatError):
        export(tmp_path / "bad.h5", tmp_path / "out.xyz", overwrite=True)
    assert (tmp_path / "out.xyz").read_text() == "precious"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]
    assert export(path, tmp_path / "out.xyz", overwrite=True) == 6


@pytest.mark.parametrize("name", ["out.xyz.gz", "out.cif.xz"])
def test_an_ending_of_packed_files_is_a_packed_file(path, tmp_path, name):
    export(path, tmp_path / name)
    assert (tmp_path / name).read_bytes()[:2] in (b"\x1f\x8b", b"\xfd7")
    assert len(ase.io.read(tmp_path / name, ":")) == 6


@pytest.mark.parametrize("name", ["out.traj.gz", "out.db.bz2", "out.json.gz"])
def test_what_cannot_be_packed_is_not_named_so(path, tmp_path, name):
    with pytest.raises(FormatError, match="Leave out the ending"):
        export(path, tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("a.xyz", "FixCom, Hookean"),
        ("a.traj", ""),
        ("a.json", ""),
        ("POSCAR", "FixCartesian, FixCom, Hookean"),
        ("a.cif", "FixAtoms, FixCartesian, FixCom, Hookean"),
    ],
)
def test_constraints_that_a_format_cannot_hold_are_told(name: str, lost: str, tmp_path: Path) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.set_constraint(
        [FixAtoms([0]), FixCartesian([1], (True, False, False)), FixCom(), Hookean(2, 3, 1.0, 2.0)]
    )
    report = Report("a")
    report.note_constraints(atoms, writable(tmp_path / name), 0)
    assert [note.partition("(")[2].partition(")")[0] for note in report.notes] == [lost] * bool(lost)
    kind = writable(tmp_path / name)
    ase.io.write(tmp_path / name, atoms, format=kind)  # and the others do come back
    back = ase.io.read(tmp_path / name, format=kind)
    atoms.set_constraint([c for c in atoms.constraints if type(c).__name__ not in lost])
    np.testing.assert_array_equal(held_coordinates(back), held_coordinates(atoms))
    assert holds_center(back) == holds_center(atoms)
    assert other_constraints(back) == other_constraints(atoms)


def test_a_held_center_of_mass_is_not_lost_without_a_word(tmp_path: Path) -> None:
    atoms = labeled(molecule("H2O"), 0)
    atoms.set_constraint(FixCom())
    h5md.write(tmp_path / "a.h5", [atoms], card={})
    source = Source(tmp_path / "a.h5")
    export(source, tmp_path / "a.xyz")
    assert "constraints left out (FixCom), which extxyz cannot hold" in source.report.notes
    save_potential(
        Potential("schnet", {"n_features": 4, "n_radial": 4}, reference_energies={1: 0.0, 8: 0.0}), tmp_path / "m"
    )
    for name, told in (("b.xyz", True), ("b.traj", False), ("b.h5", False)):
        source = Source(tmp_path / "a.h5", Reading(labels=False))
        predict_file(tmp_path / "m", source, tmp_path / name)
        assert any("FixCom" in note for note in source.report.notes) == told
