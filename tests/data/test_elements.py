"""Are elements read from numbers, symbols and types as what they are, and asked for where nothing says?"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from frames import converted

from mlpot.data.elements import Elements, numbers_of_text
from mlpot.data.h5md import FormatError, KeysError, LabelError, Reader
from mlpot.data.sources.convert import convert
from mlpot.data.sources.datasets import read_datasets
from mlpot.data.sources.reading import Reading
from mlpot.data.sources.report import Report
from mlpot.units import HARTREE

rng = np.random.default_rng(3)
R, E = rng.normal(size=(2, 3, 3)), np.array([-76.4, -76.3])
KEYS = {"numbers": "species", "positions": "coordinates", "energy": "energies"}
UNITS = {"positions": "Angstrom", "energy": "hartree"}


def read_foreign(path, *, format, keys, units, elements=None, note=None):
    """The frames of a data set alone."""
    report = Report(str(path))
    if note is not None:
        report.note = note
    reading = Reading(keys=keys, units=units, elements=elements)
    return (atoms for _, atoms in read_datasets(path, format or "hdf5", reading, report))


def group_of(path: Path, species, **more) -> Path:
    """A file in the manner of ANI-1."""
    with h5py.File(path, "w") as file:
        group = file.create_group("gdb11_s01/gdb11_s01-0")
        values = {"coordinates": R, "energies": E, "species": species, "smiles": np.bytes_("O"), **more}
        for name, value in values.items():
            group[name] = value
    return path


@pytest.mark.parametrize(
    "species",
    [
        np.array([b"O", b"H", b"H"]),
        np.array(["O", "H ", " H"], dtype=h5py.string_dtype()),
        np.array([[b"O", b"H", b"H"]] * 2),
        np.array([8, 1, 1], dtype="u1"),
        np.array([8.0, 1.0, 1.0]),
    ],
    ids=["bytes", "text", "by conformation", "numbers", "whole floats"],
)
def test_elements_are_read_from_symbols_and_from_numbers(tmp_path, species):
    frames = converted(group_of(tmp_path / "set.h5", species), keys=KEYS, units=UNITS)
    assert [atoms.get_chemical_formula() for atoms in frames] == ["H2O", "H2O"]
    assert frames[0].numbers.tolist() == [8, 1, 1]
    assert frames[1].get_potential_energy() == E[1] * HARTREE


def test_a_text_of_an_npz_names_elements(tmp_path):
    np.savez(tmp_path / "set.npz", species=np.array(["O", "H", "D"]), coordinates=R, energies=E)
    with pytest.raises(LabelError, match=r"names \['D'\], which are no chemical symbols"):
        converted(tmp_path / "set.npz", keys=KEYS, units=UNITS)
    assert numbers_of_text("", np.array(["Cl", "", b"C"], dtype=object)).tolist() == [17, 0, 6]


def test_padding_is_no_atoms_and_is_counted(tmp_path):
    forces = np.arange(18.0).reshape(2, 3, 3)
    positions = np.where(np.arange(3)[None, :, None] < np.array([3, 2])[:, None, None], R, 0.0)
    forces[1, 2] = np.nan
    for fill in (0, -1):
        path = tmp_path / f"padded{fill}.npz"
        numbers = np.array([[8, 1, 1], [8, 1, fill]])
        np.savez(path, species=numbers, coordinates=positions, energies=E, F=forces)
        keys, units = {**KEYS, "forces": "F"}, {**UNITS, "forces": "eV/Angstrom"}
        notes: dict[str, int] = {}
        frames = list(read_foreign(path, format=None, keys=keys, units=units, note=notes.__setitem__))
        assert [atoms.numbers.tolist() for atoms in frames] == [[8, 1, 1], [8, 1]]
        np.testing.assert_array_equal(frames[1].get_forces(), forces[1, :2])
        assert notes == {"1 entries of number 0 or -1 are padding and no atoms": 1}
        assert [len(atoms) for atoms in converted(path, keys=keys, units=units)] == [3, 2]


@pytest.mark.parametrize("numbers", [[[0, 1, 1], [0, 1, 1]], [[1, 1, 0], [1, 1, 0]]])
def test_types_are_no_padding(tmp_path, numbers):
    path = tmp_path / "types.npz"
    np.savez(path, species=np.array(numbers), coordinates=R, energies=E)
    with pytest.raises(LabelError, match="number 0, so the numbers are types or damaged"):
        converted(path, keys=KEYS, units=UNITS)
    frames = list(read_foreign(path, format=None, keys=KEYS, units=UNITS, elements=Elements("0=O,1=H")))
    assert set(frames[0].get_chemical_symbols()) == {"O", "H"}


def test_what_is_not_damaged_is_not_called_damaged(tmp_path):
    path = group_of(tmp_path / "set.h5", np.array([b"O", b"H"]))
    with pytest.raises(FormatError, match=r"gdb11_s01-0/species has shape \(2,\).*integers or symbols"):
        converted(path, keys=KEYS, units=UNITS)
    with pytest.raises(KeysError, match=r"nothing named \['charges'\]\. It holds \['coordinates'"):
        converted(path, keys={**KEYS, "numbers": "charges"}, units=UNITS)


def test_one_molecule_without_numbers_takes_named_elements(tmp_path):
    path = tmp_path / "md.npz"
    np.savez(path, R=R, E=E)
    keys = {"positions": "R", "energy": "E"}
    with pytest.raises(KeysError, match=r"(?s)no layout.*--elements-from"):
        convert(path, tmp_path / "new.h5", keys=keys, units=UNITS)
    for elements in (Elements("OH2"), Elements(numbers=[8, 1, 1])):
        frames = list(read_foreign(path, format=None, keys=keys, units=UNITS, elements=elements))
        assert frames[1].numbers.tolist() == [8, 1, 1]
    with pytest.raises(KeysError, match="has 3 atoms, but 2 elements"):
        list(read_foreign(path, format=None, keys=keys, units=UNITS, elements=Elements("OH")))


def test_names_of_types():
    types = np.array([[1, 2, 2], [2, 1, 1]])
    assert Elements("Si,O").of_types("", types).tolist() == [[14, 8, 8], [8, 14, 14]]
    assert Elements("1=Si,2=O").of_types("", types).tolist() == [[14, 8, 8], [8, 14, 14]]
    assert Elements("Z").of_types("", types).tolist() == types.tolist()
    assert Elements(numbers=[14, 8, 8]).of_types("", types[0]).tolist() == [14, 8, 8]
    assert Elements("Si").of_atoms("", 3).tolist() == [14, 14, 14]
    assert Elements("Si,O,O").of_atoms("", 3).tolist() == Elements("SiO2").of_atoms("", 3).tolist() == [14, 8, 8]
    with pytest.raises(KeysError, match=r"type \[2\], which --elements Si does not name"):
        Elements("Si").of_types("a.dump", types)
    with pytest.raises(KeysError, match="type 1 would be O and Si"):
        Elements(numbers=[14, 8, 8]).of_types("a.dump", types)
    for names in ("Si,Xx", "1=Si,O", "Si,2=O", "Xx1O2", "silicon", "="):
        with pytest.raises(KeysError, match=r"does not name elements|not a formula|not elements"):
            Elements(names).of_atoms("", 3)


def test_qm7x_and_datasets_beside_the_groups(tmp_path):
    path = tmp_path / "1000.hdf5"
    with h5py.File(path, "w") as file:
        file["version"] = 1
        for name in ("Geom-m1-i1-c1-opt", "Geom-m1-i1-c1-1"):
            group = file.create_group(f"1/{name}")
            group["atNUM"], group["atXYZ"], group["totFOR"] = [8, 1, 1], R[0], R[1]
            group["ePBE0+MBD"] = [-2080.5]
            group["sRMSD"] = [0.0]
    frames = converted(path)
    assert len(frames) == 2
    assert frames[0].get_potential_energy() == -2080.5
    np.testing.assert_array_equal(frames[0].get_forces(), R[1])


def h5md_of(path: Path, creator: str, species=None, *, fixed: bool = False, ids=None) -> Path:
    """A trajectory of two frames of three atoms as another program writes it."""
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = (1, 0)
        file.create_group("h5md/creator").attrs["name"] = creator
        box = file.create_group("particles/all/box")
        box.attrs["dimension"], box.attrs["boundary"] = 3, ["none"] * 3
        columns = {"position": R, "force": R}
        columns |= {} if species is None or fixed else {"species": species}
        columns |= {} if ids is None else {"id": ids}
        for name, values in columns.items():
            group = file.create_group(f"particles/all/{name}")
            group["value"], group["step"], group["time"] = values, [0, 1], [0.0, 1.0]
        if fixed:
            file["particles/all/species"] = species
    return path


OWN_UNITS = {"positions": "Angstrom", "forces": "eV/Angstrom", "time": "ps"}


def numbers_in(path: Path, elements: Elements | None = None) -> list[list[int]]:
    with Reader(path, units=OWN_UNITS, elements=elements) as reader:
        assert len(reader.columns([0, 1])) == 2
        return [atoms.numbers.tolist() for atoms in reader.frames()]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("creator", "first"), [("lammps", 1), ("ESPResSo", 0), ("", 6)])
def test_species_of_other_programs_are_no_atomic_numbers_unasked(tmp_path, creator, first, fixed):
    types = np.array([[first, first + 1, first + 1]] * 2)
    path = h5md_of(tmp_path / "other.h5", creator, types[0] if fixed else types, fixed=fixed)
    with pytest.raises(KeysError, match=rf"types \({first}, {first + 1}\).*--elements Si,O.*--elements-from"):
        numbers_in(path)
    assert numbers_in(path, Elements(f"{first}=O,{first + 1}=H")) == [[8, 1, 1]] * 2
    assert numbers_in(path, Elements(numbers=[8, 1, 1])) == [[8, 1, 1]] * 2
    with pytest.raises(KeysError, match=f"type {first + 1} would be H and C"):
        numbers_in(path, Elements(numbers=[8, 1, 6]))
    if first:
        assert numbers_in(path, Elements("Z")) == types.tolist()
        with pytest.raises(KeysError, match="which --elements O,H,H does not name" if first > 3 else "would be"):
            numbers_in(path, Elements("O,H,H") if first > 3 else Elements(numbers=[8, 1, 6]))


def test_species_that_name_elements_are_read(tmp_path):
    symbols = np.array([[b"O", b"H", b"H"]] * 2)
    enum = h5py.enum_dtype({"O": 0, "H": 5}, basetype="i")
    for k, species in enumerate((symbols, np.array([[0, 5, 5]] * 2, dtype=enum))):
        assert numbers_in(h5md_of(tmp_path / f"{k}.h5", "other", species)) == [[8, 1, 1]] * 2
        path = h5md_of(tmp_path / f"fixed{k}.h5", "other", species[0], fixed=True)
        assert numbers_in(path) == [[8, 1, 1]] * 2
    path = h5md_of(tmp_path / "own.h5", "mlpot", np.array([[8, 1, 1]] * 2))
    assert numbers_in(path) == [[8, 1, 1]] * 2


def test_a_trajectory_without_species_asks_for_elements(tmp_path):
    path = h5md_of(tmp_path / "mda.h5", "MDAnalysis")
    with pytest.raises(KeysError, match=r"does not say which elements.*--elements Si8O16.*--elements-from"):
        numbers_in(path)
    for elements in (Elements("OH2"), Elements("O,H,H"), Elements(numbers=[8, 1, 1])):
        assert numbers_in(path, elements) == [[8, 1, 1]] * 2
    with pytest.raises(KeysError, match="has 3 atoms, but 4 elements are given"):
        numbers_in(path, Elements("OH3"))
    path = h5md_of(tmp_path / "sorted.h5", "lammps", ids=np.array([[1, 2, 3], [2, 1, 3]]))
    with pytest.raises(KeysError, match="change their order from frame to frame"):
        numbers_in(path, Elements("OH2"))


def spice_of(path: Path, n_groups: int) -> Path:
    """A set in the layout of SPICE, every group with all its 15 datasets."""
    with h5py.File(path, "w", libver="latest") as file:
        for k in range(n_groups):
            group = file.create_group(f"m{k:06d}")
            group["subset"], group["atomic_numbers"] = [b"SPICE"], [8, 1, 1]
            group["conformations"], group["dft_total_gradient"] = R, R
            group["dft_total_energy"] = E
            for name in range(10):
                group[f"property {name}"] = E
    return path


def test_groups_are_read_as_they_come(tmp_path):
    path = spice_of(tmp_path / "spice.h5", 50)
    with h5py.File(path, "r+") as file:
        file["zzz/dft_total_energy"] = h5py.ExternalLink("/dev/zero", "/")
    frames = read_foreign(path, format="spice", keys={}, units={})
    assert next(frames).info["group"] == "SPICE"
    with pytest.raises(FormatError, match="zzz/dft_total_energy is a link"):
        list(frames)
    with pytest.raises(FormatError, match="is a link"):
        convert(path, tmp_path / "new.h5", format="spice")
    assert [p.name for p in tmp_path.iterdir()] == ["spice.h5"]


@pytest.mark.slow
def test_more_than_a_million_datasets_are_read_in_little_memory(tmp_path):
    from resource import RUSAGE_SELF, getrusage

    path = spice_of(tmp_path / "spice.h5", 70_000)
    before = getrusage(RUSAGE_SELF).ru_maxrss
    assert convert(path, tmp_path / "set.h5", format="spice") == 140_000
    assert (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024 < 500, "MB"
