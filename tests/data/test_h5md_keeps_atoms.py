"""Do H5MD files keep what dynamics needs: masses, charges, what is held; in ours, in others', in old files?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom
from md_runs import md_recipe, prepare

from mlpot.data.constraints import held_coordinates, holds_center
from mlpot.data.errors import FormatError, LeftOutWarning, UnitsError
from mlpot.data.h5md import Reader, write
from mlpot.data.h5md.recover import recover
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.data.sources.export import export
from mlpot.data.sources.read import Source, read_structure
from mlpot.data.sources.reading import Reading
from mlpot.dynamics.log import read_log
from mlpot.dynamics.run import run_md
from mlpot.dynamics.start import StartError, check_constraints
from mlpot.predictions import predict_file

CARD = {"made with": "a test"}


def heavy_water(**also: Any) -> Atoms:
    atoms = molecule("H2O")
    atoms.set_masses([17.999, 2.014, 2.014])
    atoms.set_velocities(np.random.default_rng(0).normal(size=(3, 3)))
    for name, value in also.items():
        atoms.set_array(name, np.array(value))
    return atoms


def same(one: Atoms, other: Atoms) -> None:
    np.testing.assert_array_equal(one.get_masses(), other.get_masses())
    np.testing.assert_array_equal(one.get_initial_charges(), other.get_initial_charges())
    np.testing.assert_allclose(one.get_momenta(), other.get_momenta(), rtol=1e-14)
    np.testing.assert_array_equal(held_coordinates(one), held_coordinates(other))
    assert holds_center(one) == holds_center(other)


def test_each_frame_keeps_its_own(tmp_path: Path) -> None:
    plain, fixed, center = molecule("H2O"), heavy_water(), heavy_water(initial_charges=[-0.8, 0.4, 0.4])
    fixed.set_constraint([FixAtoms([0]), FixCartesian([2], (False, True, False))])
    fixed.arrays["momenta"][held_coordinates(fixed)] = 0
    center.set_constraint(FixCom())
    frames = [plain, fixed, center, molecule("CH4"), plain]
    write(tmp_path / "a.h5", frames, card=CARD)
    with Reader(tmp_path / "a.h5") as reader:
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            same(ours, theirs)
        assert not reader[0].has("masses")
        assert not reader[0].constraints
        assert reader[0].get_kinetic_energy() == 0
    assert recover(tmp_path / "a.h5", tmp_path / "b.h5").n_frames == 5
    with Reader(tmp_path / "b.h5") as reader:
        same(next(iter(reader.frames(2))), center)


def test_masses_are_where_h5md_has_them(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", [heavy_water()], card=CARD)
    with h5py.File(tmp_path / "a.h5") as file:
        mass = file["particles/atoms_3/mass"]
        assert mass["value"][0].tolist() == [17.999, 2.014, 2.014]
        assert mass["value"].attrs["unit"] == "u"
        assert {"step", "time", "value"} == set(mass)


@pytest.mark.parametrize("unit", [None, "u", "g mol-1", "me"])
def test_masses_that_others_wrote_once_are_read(unit: str | None, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", [molecule("H2O")] * 2, card=CARD)
    factor = 5.48579909065e-4 if unit == "me" else 1.0
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["parameters"]
        once = file["particles/atoms_3"].create_dataset("mass", data=np.array([16.0, 2.0, 3.0]) / factor)
        file["particles/atoms_3"].create_dataset("charge", data=np.array([-0.8, 0.4, 0.4], "f4"))
        if unit:
            once.attrs["unit"] = unit
    with Reader(tmp_path / "a.h5") as reader:
        np.testing.assert_allclose(reader[1].get_masses(), [16, 2, 3])
        np.testing.assert_allclose(reader[1].get_initial_charges(), [-0.8, 0.4, 0.4], rtol=1e-6)


def test_masses_in_an_unknown_unit_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", [heavy_water()], card=CARD)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["parameters"]
        file["particles/atoms_3/mass/value"].attrs["unit"] = "stone"
    with pytest.raises(UnitsError, match="'stone' is not a known unit of masses: u, amu"):
        Reader(tmp_path / "a.h5")


def test_a_trajectory_of_before_goes_on(tmp_path: Path) -> None:
    """One without masses and fixed atoms, as files of earlier versions: they begin where they begin."""
    path, atoms = tmp_path / "t.h5", heavy_water()
    with TrajectoryWriter(path, card=CARD) as writer:
        writer.add(atoms, step=0, time=0.0)
    with h5py.File(path, "r+") as file:
        del file["particles/atoms_3/mass"]
    atoms.set_constraint(FixAtoms([1]))
    with TrajectoryWriter(path, card=CARD, keep=1) as writer:
        writer.add(atoms, step=1, time=1.0)
    with Reader(path) as reader:
        assert not reader[0].has("masses")
        assert not reader[0].constraints
        assert reader[1].get_masses()[1] == 2.014
        assert held_coordinates(reader[1])[1].all()


def test_other_constraints_are_told(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.set_constraint([FixBondLength(0, 1), FixAtoms([2])])
    with pytest.warns(LeftOutWarning, match="FixBondLengths are not kept in H5MD, from frame 1 on"):
        write(tmp_path / "a.h5", [molecule("H2O"), atoms, atoms], card=CARD)
    with Reader(tmp_path / "a.h5") as reader:
        assert held_coordinates(reader[2]).any(axis=1).tolist() == [False, False, True]


def test_labels_of_fixed_atoms_are_what_was_computed(tmp_path: Path) -> None:
    atoms = heavy_water()
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((3, 3)))
    write(tmp_path / "a.h5", [atoms], card=CARD)
    with Reader(tmp_path / "a.h5") as reader:
        assert (reader.columns([0])[0].forces == 1).all()
        assert reader[0].calc.results["forces"].min() == 1


def test_a_run_from_the_last_frame_goes_on_as_it_was(tmp_path: Path) -> None:
    prepare(tmp_path)
    atoms = molecule("CH3CH2OH")
    atoms.set_masses(np.where(atoms.numbers == 1, 3.016, atoms.get_masses()))
    atoms.set_constraint(FixAtoms([0, 4]))
    atoms.write(tmp_path / "start.traj")
    common: dict[str, Any] = {"timestep_fs": 0.5, "max_start_force": 1e6, "guards": {"temperature": None}}
    first = md_recipe(
        tmp_path, structure=tmp_path / "start.traj", ensemble="bussi", steps=9, log_every=1, **common
    )
    begun = run_md(first)
    again = md_recipe(
        tmp_path, structure=first.output / "trajectory.h5", frame=-1, velocities="file", ensemble="nose-hoover",
        steps=6, log_every=1, output=tmp_path / "again", temperature_K=900, **common,
    )  # fmt: skip
    ended = run_md(again)
    # Of 27 coordinates the two atoms hold 6, and nothing turns about the line through them.
    assert (begun.n_degrees, begun.n_fixed) == (ended.n_degrees, ended.n_fixed) == (20, 2)
    before, after = (read_log(run.output / "log.csv") for run in (first, again))
    assert after["kinetic_eV"][0] == pytest.approx(before["kinetic_eV"][-1], rel=1e-12)
    assert after["temperature_K"][0] == pytest.approx(before["temperature_K"][-1], rel=1e-12)
    with Reader(again.output / "trajectory.h5") as reader:
        np.testing.assert_array_equal(reader[-1].positions[[0, 4]], atoms.positions[[0, 4]])
        assert (reader[-1].get_masses()[3:] > 3).all()
    predict_file(first.model, first.output / "trajectory.h5", tmp_path / "p.h5")
    with Reader(first.output / "trajectory.h5") as old, Reader(tmp_path / "p.h5") as new:
        same(old[-1], new[-1])


@pytest.mark.parametrize("ensemble", ["bussi", "nose-hoover", "nve"])
def test_a_free_molecule_keeps_its_degrees_of_freedom(ensemble: str, tmp_path: Path) -> None:
    """Single precision turns a molecule a little, and files round: neither is a motion of the whole."""
    prepare(tmp_path)
    common: dict[str, Any] = {"timestep_fs": 0.5, "max_start_force": 1e6, "guards": {"temperature": None}}
    first = md_recipe(tmp_path, structure=tmp_path / "ethanol.xyz", ensemble=ensemble, dtype="float32", **common)
    assert run_md(first).n_degrees == 21
    with Reader(first.output / "trajectory.h5") as reader:
        reader[-1].write(tmp_path / "last.xyz")
    for structure in (first.output / "trajectory.h5", tmp_path / "last.xyz"):
        again = {"structure": structure, "frame": -1, "velocities": "file", "output": tmp_path / "again"}
        run = md_recipe(tmp_path, ensemble=ensemble, steps=2, overwrite=True, **common | again)
        assert run_md(run).n_degrees == 21


def foreign(path: Path, name: str, values: Any, *, once: bool) -> None:
    """As another program could write which atoms are held, in three frames of water."""
    write(path, [heavy_water() for _ in range(3)], card=CARD)
    with h5py.File(path, "r+") as file:
        del file["parameters"]
        file[f"particles/atoms_3/{name}" if once else f"particles/atoms_3/{name}/value"] = np.array(values)


ATOM_0, COORDINATE = [[True] * 3, [False] * 3, [False] * 3], [[True, False, False], [False] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("name", "values", "once", "held"),
    [
        ("fixed", [1, 0, 0], True, ATOM_0),
        ("frozen", [True, False, False], True, ATOM_0),
        ("mobile", [0, 1, 1], True, ATOM_0),
        ("fixed", COORDINATE, True, COORDINATE),
        ("fixed_atoms", [[0, 0, 0], [1, 0, 0], [0, 0, 0]], False, ATOM_0),
        (
            "move_mask",
            np.array([[[1] * 3] * 3, np.logical_not(COORDINATE), [[1] * 3] * 3], float),
            False,
            COORDINATE,
        ),
    ],
)
def test_atoms_that_another_program_holds_are_held(
    name: str, values: Any, once: bool, held: Any, tmp_path: Path
) -> None:
    foreign(tmp_path / "a.h5", name, values, once=once)
    atoms = read_structure(tmp_path / "a.h5", 1)
    np.testing.assert_array_equal(held_coordinates(atoms), held)
    assert once or not read_structure(tmp_path / "a.h5", 2).constraints
    check_constraints(atoms, "a.h5")


@pytest.mark.parametrize("values", [[0, 2], [0, 1, 2], [1.0, 0.5, 0.0], [b"yes", b"no", b"no"]])
def test_what_may_hold_atoms_and_is_not_understood_is_refused(values: Any, tmp_path: Path) -> None:
    foreign(tmp_path / "a.h5", "frozen", values, once=True)
    with pytest.raises(FormatError, match="frozen seems to say which atoms are held"):
        read_structure(tmp_path / "a.h5")
    with Reader(tmp_path / "a.h5") as reader:  # a training does not need it
        assert len(reader.columns([0, 1])) == 2


def test_a_structure_that_may_hold_atoms_by_a_column_does_not_start(tmp_path: Path) -> None:
    for name, key in (("fixed", "fixed"), ("is_mobile", "-is_mobile")):
        heavy_water(**{name: [1, 0, 0]}).write(tmp_path / "a.xyz")
        with pytest.raises(StartError, match=f"--key fixed={key} writes"):
            check_constraints(read_structure(tmp_path / "a.xyz"), "a.xyz")
        export(Source(tmp_path / "a.xyz", Reading(keys={"fixed": key})), tmp_path / "b.traj", overwrite=True)
        atoms = read_structure(tmp_path / "b.traj")
        check_constraints(atoms, "b.traj")
        assert held_coordinates(atoms).any(axis=1).tolist() == [name == "fixed", *[name != "fixed"] * 2]
