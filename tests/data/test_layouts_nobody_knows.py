"""Is what is proposed for a layout that nobody knows right, and is nothing in it dropped without a word?"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.db
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write as ase_write
from frames import account, converted
from typer.testing import CliRunner

from mlpot.cli.main import app
from mlpot.data.errors import DataError, KeysError, UnitsError
from mlpot.data.h5md import Reader
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.data.unit_names import factor
from mlpot.units import HARTREE, KCAL_MOL, KJ_MOL

N, Z = 4, np.array([8, 1, 1])
rng = np.random.default_rng(3)
R = molecule("H2O").positions + rng.normal(scale=0.05, size=(N, 3, 3))
E, F = rng.normal(size=N), rng.normal(size=(N, 3, 3))
EACH = np.tile(Z, (N, 1))
KNOWN = {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom"}


def hdf5(path: Path, groups: Mapping[str, Mapping[str, Any]], **units: str) -> Path:
    """An HDF5 file of arrays by group and name, with the units of some."""
    with h5py.File(path, "w") as file:
        for name, arrays in groups.items():
            for key, array in arrays.items():
                dataset = file.create_dataset(f"{name}/{key}", data=array)
                if key in units:
                    dataset.attrs["units"] = units[key]
    return path


def proposed(path: Path, *more: str) -> list[Atoms]:
    """What the command writes that the message about a file proposes, and those about what is left open then."""
    said: list[str] = [*more]
    for _ in range(2):
        result = CliRunner().invoke(app, ["data", "convert", str(path), str(path) + ".out.h5", *said])
        if result.exit_code == 0:
            with Reader(str(path) + ".out.h5") as reader:
                return list(reader.frames())
        assert isinstance(result.exception, DataError), result.exception
        said = shlex.split(str(result.exception).splitlines()[-1])[5:]
    raise AssertionError(result.exception)


@pytest.mark.parametrize(
    "arrays",
    [
        {"Z": EACH, "R": R, "E": E, "F": F, "N": np.full(N, 3), "D": np.zeros((N, 3))},  # PhysNet
        {"species": EACH, "coordinates": R, "energies": E, "forces": F},  # ANI-2x
        {
            "atomic_numbers": Z,
            "positions": R,
            "wB97x_6-31G(d).energy": E,
            "wB97x_6-31G(d).forces": F,
        },  # Transition1x
        {"symbols": np.array([b"O", b"H", b"H"]), "xyz": R, "ener": E, "grad": -F},
        {"atomic_numbers": Z, "positions": R, "energy": E, "forces": F},  # MACE's names, and no file of MACE
    ],
)
def test_the_command_that_is_proposed_for_unknown_names_reads_the_file(
    tmp_path: Path, arrays: dict[str, Any]
) -> None:
    path = hdf5(tmp_path / "set.h5", {"data/one": arrays, "data/two": arrays})
    with pytest.raises(KeysError, match="in no layout that is known"):
        list(Source(path).frames())
    frames = proposed(path)
    assert len(frames) == 2 * N
    for k, atoms in enumerate(frames):
        assert atoms.numbers.tolist() == Z.tolist()
        np.testing.assert_array_equal(atoms.positions, R[k % N])
        assert atoms.get_potential_energy() == E[k % N]
        np.testing.assert_array_equal(atoms.get_forces(), F[k % N])


@pytest.mark.parametrize("angles", [90.0, 60.0])
def test_trajectories_of_openmm_come_with_their_units_and_cells(tmp_path: Path, angles: float) -> None:
    """As mdtraj's reporter writes them; elements are in its topology alone."""
    arrays = {
        "coordinates": (R / 10).astype("f4"), "potentialEnergy": E, "cell_lengths": np.full((N, 3), 1.1),
        "cell_angles": np.full((N, 3), angles), "time": np.arange(N),
    }  # fmt: skip
    units = {"coordinates": "nanometers", "cell_lengths": "nanometers", "potentialEnergy": "kilojoules_per_mole"}
    path = hdf5(tmp_path / "run.h5", {"": arrays}, **units)
    ase_write(tmp_path / "water.xyz", Atoms(Z, R[0]))
    with pytest.raises(KeysError, match=r"--elements-from structure\.xyz"):
        list(Source(path).frames())
    frames = proposed(
        path, "--elements", "OH2", "--key", "positions=coordinates", "--key", "energy=potentialEnergy"
    )
    np.testing.assert_allclose(frames[1].positions, R[1], atol=1e-5)
    np.testing.assert_allclose(frames[1].cell.cellpar(), [11, 11, 11, angles, angles, angles])
    assert frames[1].get_potential_energy() == pytest.approx(E[1] * KJ_MOL)


@pytest.mark.parametrize("shape", [(N, 3), (3,), (N, 6), (6,)])
def test_cells_of_lengths_and_angles(tmp_path: Path, shape: tuple[int, ...]) -> None:
    box = np.broadcast_to([4.0, 5.0, 6.0, 90.0, 90.0, 120.0][: shape[-1]], shape)
    np.savez(tmp_path / "a.npz", numbers=EACH, coord=R, energy=E, forces=F, box=box)
    (first, *_) = proposed(tmp_path / "a.npz")
    assert first.pbc.all()
    np.testing.assert_allclose(first.cell.cellpar()[: shape[-1]], box.reshape(-1, shape[-1])[0])


def test_a_group_with_other_names_is_told(tmp_path: Path) -> None:
    usual = {"atomic_numbers": Z, "positions": R, "energy": E}
    other = {"atomic_numbers": Z, "coordinates": R, "energy": E}
    path = hdf5(tmp_path / "set.h5", {"a": usual, "b": other, "c": usual, "statistics": {"mean": E}})
    keys = {"numbers": "atomic_numbers", "positions": "positions", "energy": "energy"}
    told = account(Source(path, Reading(keys=keys, units=KNOWN)))
    assert "Read 8 frames" in told
    assert "NOT READ, as other names are: group /b, which has no positions (it has atomic_numbers, coord" in told
    assert "statistics" not in told
    told = account(Source(path, Reading(keys={**keys, "positions": "coordinates"}, units=KNOWN)))
    assert "group /a, which has no coordinates" in told
    assert "/c" in told


@pytest.mark.parametrize("name", ["atom_types", "type"])
def test_integers_that_are_types_by_their_name_are_no_elements(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", **{name: [1, 2, 2], "positions": R, "energy": E})
    said = {"keys": {"numbers": name, "positions": "positions", "energy": "energy"}, "units": KNOWN}
    with pytest.raises(KeysError, match=r"types \(1, 2\), which are not elements.*--elements"):
        converted(tmp_path / "a.npz", **said)
    result = proposed(tmp_path / "a.npz", "--elements", "O,H")
    assert result[0].numbers.tolist() == Z.tolist()


def test_a_unit_that_nobody_knows_can_be_said(tmp_path: Path) -> None:
    path = hdf5(
        tmp_path / "set.h5",
        {"a": {"atomic_numbers": Z, "positions": R, "energy": E}},
        energy="u.a.",
        positions="1",
    )
    keys = {"numbers": "atomic_numbers", "positions": "positions", "energy": "energy"}
    with pytest.raises(UnitsError, match=r"'1'.*--unit positions="):
        converted(path, keys=keys)
    frames = converted(path, keys=keys, units={"positions": "nm", "energy": "hartree"})
    assert frames[0].get_potential_energy() == E[0] * HARTREE
    np.testing.assert_array_equal(frames[0].positions, R[0] * 10)


@pytest.mark.parametrize(
    ("quantity", "name", "same"),
    [
        ("positions", "nanometers", "nm"), ("energy", "kilojoules_per_mole", "kJ/mol"),
        ("time", "picoseconds", "ps"), ("energy", "Hartrees", "hartree"),
        ("forces", "kilojoules/mole/nanometer", "kJ/(mol nm)"), ("forces", "kcal/mole/Angstroms", "kcal/mol/Ang"),
        ("forces", "kilojoules_per_mole_per_nanometer", "kJ/mol/nm"), ("stress", "kB", "kbar"),
        ("energy", "kcal mol⁻¹", "kcal/mol"), ("stress", "eV/Å³", "eV/angstrom^3"),
    ],
)  # fmt: skip
def test_units_in_the_words_of_other_programs(quantity: str, name: str, same: str) -> None:
    assert factor(quantity, name) == factor(quantity, same)


def test_labels_of_a_database_stand_in_its_columns_and_its_data(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "set.db") as database:
        for k in range(N):
            data = {"forces": F[k], "dipole": np.zeros(3), "total_charge": np.array([k - 1.0])}
            database.write(Atoms(Z, R[k]), total_energy=E[k], data=data)
    with pytest.raises(UnitsError, match="--unit positions=Angstrom --unit energy=eV --unit forces=eV/Angstrom"):
        converted(tmp_path / "set.db")
    source = Source(tmp_path / "set.db", Reading(units={**KNOWN, "energy": "kcal/mol"}))
    assert "Not kept: dipole (4 frames)" in account(source)
    frames = list(source.frames())
    assert [a.get_potential_energy() for a in frames] == pytest.approx(E * KCAL_MOL)
    assert [a.info["charge"] for a in frames] == [-1, 0, 1, 2]
