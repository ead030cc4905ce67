"""Do files pass between this package, MDAnalysis and ZnH5MD, whatever their units?"""

from __future__ import annotations

import shlex

import h5py
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from frames import account, assert_same, edit, labeled, mixed

from mlpot.data.elements import Elements
from mlpot.data.errors import FormatError
from mlpot.data.h5md import KeysError, Reader, UnitsError, write
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.data.unit_names import factor
from mlpot.units import HARTREE, KCAL_MOL

CARD = {"level": "PBE/def2-SVP", "licence": "MIT"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.h5"


def test_unit_names_of_h5md_ase_and_papers():
    assert factor("forces", "eV Angstrom-1") == factor("forces", "eV/Angstrom") == factor("forces", "eV/Å") == 1.0
    assert factor("energy", "kcal mol-1") == factor("energy", "kcal/mol") == KCAL_MOL
    assert factor("forces", "kJ/(mol*nm)") == factor("forces", "kJ mol-1 nm-1")
    assert factor("positions", "nm") == 10.0
    assert factor("energy", "Hartree") == factor("energy", "Ha") == HARTREE
    assert factor("velocities", "nm ps-1") == 10.0 / 1000.0
    assert factor("stress", "eV/Angstrom**3") == factor("stress", "eV Angstrom-3") == 1.0
    for quantity, name in (("energy", "kcal"), ("energy", "eV/Angstrom"), ("forces", "eV"), ("stress", "MPa/")):
        with pytest.raises(UnitsError):
            factor(quantity, name)


def test_ours_opens_in_mdanalysis_and_theirs_in_ours(path, tmp_path):
    mda = pytest.importorskip("MDAnalysis")
    frames = [labeled(molecule("CH3CH2OH"), k, step=10 * k, time=2.5 * k) for k in range(20)]
    for k, atoms in enumerate(frames):
        atoms.set_cell([11.0 + k, 12.0, 13.0])
        atoms.set_pbc(True)
        atoms.set_velocities(np.random.default_rng(k).normal(size=(9, 3)))
    write(path, frames, card=CARD)
    universe = mda.Universe.empty(9, trajectory=True)
    universe.load_new(str(path), format="H5MD")
    copy = tmp_path / "copy.h5md"
    with mda.Writer(str(copy), 9, velocities=True, forces=False) as writer:
        for step, atoms in zip(universe.trajectory, frames, strict=True):
            np.testing.assert_array_equal(step.positions, atoms.positions.astype("f4"))
            np.testing.assert_allclose(step.dimensions, atoms.cell.cellpar(), rtol=1e-7)
            np.testing.assert_allclose(
                step.velocities, atoms.get_velocities() * units.fs * 1e3, rtol=1e-5, atol=1e-6
            )
            assert step.time == pytest.approx(atoms.info["time"] * 1e-3)  # ps
            assert step.data["atoms_9_ppp/energy"] == atoms.calc.results["energy"]
            writer.write(universe)
    universe.trajectory.close()
    with pytest.raises(KeysError, match="--elements-from"):
        Reader(copy)
    with pytest.raises(UnitsError, match="no unit for energy"):
        Reader(copy, numbers=frames[0].numbers)
    with Reader(copy, numbers=frames[0].numbers, units={"energy": "eV", "stress": "eV/Angstrom^3"}) as reader:
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            np.testing.assert_array_equal(theirs.positions, ours.positions.astype("f4"))
            np.testing.assert_allclose(theirs.cell.array, ours.cell.array, rtol=1e-6)
            np.testing.assert_allclose(theirs.get_velocities(), ours.get_velocities(), rtol=1e-5, atol=1e-6)
            assert theirs.info["time"] == pytest.approx(ours.info["time"])
            assert theirs.get_potential_energy() == ours.calc.results["energy"]


def test_mdanalysis_sees_a_molecule_without_a_box(path):
    mda = pytest.importorskip("MDAnalysis")
    write(path, [labeled(molecule("H2O"), k) for k in range(3)], card=CARD)
    universe = mda.Universe.empty(3, trajectory=True)
    universe.load_new(str(path), format="H5MD")
    assert universe.trajectory.n_frames == 3
    assert universe.dimensions is None
    universe.trajectory.close()


def test_units_in_a_file_are_converted_at_the_door(path):
    frames = [labeled(molecule("H2O"), k) for k in range(3)]
    write(path, frames, card=CARD)

    def rescale(file):
        del file["parameters"]  # nothing says any more that the file is ours, whose units are known
        for name, unit, divisor in (
            ("particles/atoms_3/position", "nm", 10.0),
            ("observables/atoms_3/energy", "kcal mol-1", KCAL_MOL),
            ("particles/atoms_3/forces", "kJ mol-1 nm-1", factor("forces", "kJ mol-1 nm-1")),
        ):
            file[f"{name}/value"][:] = file[f"{name}/value"][:] / divisor
            file[f"{name}/value"].attrs["unit"] = unit

    edit(path, rescale)
    with Reader(path) as reader:
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            np.testing.assert_allclose(theirs.positions, ours.positions, rtol=1e-14)
            np.testing.assert_allclose(theirs.get_forces(), ours.get_forces(), rtol=1e-14)
            assert theirs.get_potential_energy() == pytest.approx(ours.get_potential_energy(), rel=1e-14)
    with pytest.raises(UnitsError, match="not in 'eV'"):
        Reader(path, units={"energy": "eV"})


def test_ours_opens_in_znh5md_one_group_at_a_time(path):
    znh5md = pytest.importorskip("znh5md")
    frames = mixed()
    write(path, frames, card=CARD)
    with h5py.File(path) as file:
        groups = list(file["particles"])
    assert groups == ["atoms_1", "atoms_2_ppn", "atoms_3", "atoms_8_ppp", "atoms_9"]
    for n, group in ((9, "atoms_9"), (3, "atoms_3"), (8, "atoms_8_ppp"), (2, "atoms_2_ppn")):
        theirs = znh5md.IO(path, particles_group=group)[:]
        ours = [atoms for atoms in frames if len(atoms) == n]
        for a, b in zip(ours, theirs, strict=True):
            b.set_momenta(a.get_momenta())  # it takes Å/fs for ASE's unit of velocity
            assert_same(a, b)


@pytest.mark.parametrize("options", [{}, {"store": "time", "chunk_size": None}, {"compression": None}])
def test_files_of_znh5md_open_in_ours(path, options):
    znh5md = pytest.importorskip("znh5md")
    frames = mixed()
    for atoms in frames:
        atoms.info.clear()
        atoms.arrays.pop("force_mask", None)
    znh5md.IO(path, **options).extend(frames[:10])
    znh5md.IO(path, **options).extend(frames[10:])
    with Reader(path) as reader:
        assert reader.n_atoms.tolist() == [len(atoms) for atoms in frames]
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            assert_same(ours, theirs)
        assert_same(frames[17], reader[17])


def test_a_file_of_znh5md_without_units_is_refused_until_they_are_given(path):
    znh5md = pytest.importorskip("znh5md")
    frames = [labeled(molecule("H2O"), k) for k in range(4)]
    znh5md.IO(path, save_units=False).extend(frames)
    with pytest.raises(UnitsError, match="no unit for positions"):
        Reader(path)
    given = {"positions": "Angstrom", "cell": "Angstrom", "energy": "eV", "forces": "eV/Angstrom"}
    with Reader(path, units=given) as reader:
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            assert_same(ours, theirs)


def test_ours_through_theirs_and_back(path, tmp_path):
    znh5md = pytest.importorskip("znh5md")
    frames = [labeled(bulk("Si", cubic=True), k) for k in range(6)]
    write(path, frames, card=CARD)
    znh5md.IO(tmp_path / "theirs.h5").extend(znh5md.IO(path)[:])
    with Reader(tmp_path / "theirs.h5") as reader:
        for ours, theirs in zip(frames, reader.frames(), strict=True):
            assert_same(ours, theirs)


def foreign(path, **elements):
    """H5MD of an unknown program: water in a box, four frames, and further elements by path: (value, unit)."""
    rng = np.random.default_rng(4)
    positions, forces = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 3, 3))
    usual = {"particles/all/position": (positions, "Angstrom"), "particles/all/force": (forces, "eV/Angstrom")}
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = [1, 1]
        for name, (value, unit) in {**usual, **elements}.items():
            element = file.create_group(name)
            element["value"], element["step"], element["time"] = value, np.arange(4), np.arange(4.0)
            element["time"].attrs["unit"] = "fs"
            if unit:
                element["value"].attrs["unit"] = unit
        for group in file["particles"].values():
            group["species"] = np.array([8, 1, 1])
            box = group.create_group("box")
            box.attrs["dimension"], box.attrs["boundary"] = 3, [b"periodic"] * 3
            box["edges"] = np.full(3, 9.0)
            box["edges"].attrs["unit"] = "Angstrom"
    return positions


WATER = Elements(numbers=[8, 1, 1])


def test_what_another_program_wrote_besides_is_told(path):
    images = np.zeros((4, 3, 3), dtype=int)
    foreign(path, **{"particles/all/image": (images, ""), "observables/temperature": (np.ones(4), "K")})
    told = account(Source(path, Reading(elements=WATER)))
    assert "Not kept: particles/all/image (4 frames), observables/temperature (4 frames)" in told


@pytest.mark.parametrize("unit", ["kcal/mol", ""])
def test_an_energy_under_another_name_is_a_question(path, unit):
    foreign(path, **{"observables/pe": (np.arange(4.0), unit)})
    with pytest.raises(KeysError, match="--key energy=observables/pe") as error:
        list(Source(path, Reading(elements=WATER)).frames())
    assert ("--unit energy" in str(error.value)) == (not unit)
    reading = Reading(elements=WATER, keys={"energy": "-pe"}, units={} if unit else {"energy": "kcal/mol"})
    frames = list(Source(path, reading).frames())
    assert [a.get_potential_energy() for a in frames] == pytest.approx(-KCAL_MOL * np.arange(4.0))
    none = list(Source(path, Reading(elements=WATER, keys={"energy": "none"})).frames())
    assert "energy" not in none[0].calc.results
    with Reader(path, elements=WATER, labels=False) as reader:
        assert len(reader) == 4


ABSENT = np.nan


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (2, [0.0, ABSENT, 1.0, ABSENT]),  # an increment
        ([0, 2], [0.0, ABSENT, 1.0, ABSENT]),
        (np.arange(9), [0.0, 1.0, 2.0, 3.0]),
        (np.arange(1, 5), [ABSENT, 0.0, 1.0, 2.0]),
        ([3, 2, 1, 0], [3.0, 2.0, 1.0, 0.0]),
        ([10, 20, 30, 40], "of which none is the same"),
        ([0, 1, 1, 2], "some of them twice"),
    ],
)
def test_an_energy_belongs_to_the_structure_of_its_own_step(path, steps, expected):
    n = len(steps) if np.ndim(steps) else 2
    foreign(path, **{"observables/energy": (np.arange(4.0), "eV")})

    def at_other_steps(file):
        del file["observables/energy"]
        file["observables/energy/value"], file["observables/energy/step"] = np.arange(float(n)), steps
        file["observables/energy/value"].attrs["unit"] = "eV"

    edit(path, at_other_steps)
    if isinstance(expected, str):
        with pytest.raises(FormatError, match=expected):
            Reader(path, elements=WATER)
        return
    with Reader(path, elements=WATER) as reader:
        np.testing.assert_array_equal([frame.energy for frame in reader.columns(range(4))], expected)
        np.testing.assert_array_equal(
            [frame.energy for frame in reader.columns([3, 1])], np.take(expected, [3, 1])
        )


def test_several_groups_of_particles_are_parts_of_one_system_or_structures_of_their_own(path):
    ions = (np.random.default_rng(5).normal(size=(4, 3, 3)), "Angstrom")
    positions = foreign(path, **{"particles/ions/position": ions})
    with pytest.raises(KeysError, match=r"parts of one system.*--key particles=all\..*--key particles=all,ions"):
        Reader(path, elements=WATER)
    for said, n in (("all", 4), ("all,ions", 8)):
        frames = list(Source(path, Reading(elements=WATER, keys={"particles": said})).frames())
        assert len(frames) == n
        np.testing.assert_array_equal(frames[0].positions, positions[0])
    with pytest.raises(KeysError, match=r"no particles \['water'\]"):
        Reader(path, elements=WATER, keys={"particles": "water"})


def test_a_number_is_no_name_of_elements(path):
    foreign(path)
    with pytest.raises(KeysError, match="--elements: Si8 in the order of the atoms, or H,O of types"):
        list(Source(path, Reading(keys={"numbers": "14"})).frames())


def test_all_units_that_h5md_lacks_are_asked_for_at_once(path):
    foreign(path, **{"observables/potential_energy": (np.arange(4.0), "")})
    edit(path, lambda file: file["particles/all/position/value"].attrs.pop("unit"))
    with pytest.raises(UnitsError, match="--unit positions='Angstrom' --unit energy='eV'") as error:
        Reader(path, elements=WATER)
    options = shlex.split(str(error.value).split("differ): ")[1].removesuffix("."))
    given = dict(option.split("=", 1) for option in options[1::2])
    with Reader(path, elements=WATER, units=given) as reader:
        assert reader[3].get_potential_energy() == 3.0
