"""Do the answers that a message proposes give right numbers, all at once?"""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from frames import xyz
from typer.testing import CliRunner

from mlpot.cli.main import app
from mlpot.data.errors import FormatError, KeysError, UnitsError
from mlpot.data.h5md import Reader
from mlpot.data.sources.names import MEASURED_IN, example_unit, looks_like
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.data.unit_names import factor


def answered(path: Path, error: Exception) -> Path:
    """The set that the proposed command writes."""
    words = shlex.split(str(error).splitlines()[-1])
    target = path.with_suffix(".h5")
    assert words[:3] == ["mlpot", "data", "convert"]
    result = CliRunner().invoke(app, [*words[1:4], str(target), *words[5:]])
    assert result.exit_code == 0, result.output
    return target


@pytest.mark.parametrize("name", ["energy_per_atom", "dft_energy_per_atom", "EnergyPerAtom"])
def test_an_energy_per_atom_is_multiplied_by_the_atoms(tmp_path: Path, name: str) -> None:
    path = xyz(tmp_path / "set.xyz", f"{name}=-4.5")
    with pytest.raises(KeysError, match=r"n_atoms") as error:
        list(Source(path).frames())
    with Reader(answered(path, error.value)) as reader:
        assert reader[0].get_potential_energy() == pytest.approx(-9.0)


def test_all_units_that_a_set_lacks_are_asked_for_at_once(tmp_path: Path) -> None:
    water, rng = molecule("H2O"), np.random.default_rng(0)
    arrays = {
        "z": water.numbers,
        "R": rng.normal(size=(3, 3, 3)),
        "E": rng.normal(size=3),
        "F": np.zeros((3, 3, 3)),
    }
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UnitsError, match="no unit of positions, energy, forces") as error:
        list(Source(tmp_path / "set.npz").frames())
    options = shlex.split(str(error.value).split("as in: ")[1].removesuffix("."))
    result = CliRunner().invoke(
        app, ["data", "convert", *map(str, (tmp_path / "set.npz", tmp_path / "a.h5")), *options]
    )
    assert result.exit_code == 0, result.output


def test_text_that_is_not_utf8_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = xyz(tmp_path / "set.xyz", "energy=-1.0 note=Koeln")
    path.write_bytes(path.read_bytes().replace(b"oe", b"\xf6"))
    with pytest.raises(FormatError, match=r"byte 0xf6.*iconv -f LATIN1"):
        list(Source(path).frames())


@pytest.mark.parametrize("symbol", ["14", "Si1", "O_w"])
def test_what_is_no_symbol_is_named_with_what_to_write(tmp_path: Path, symbol: str) -> None:
    path = xyz(tmp_path / "set.xyz", "energy=-1.0")
    path.write_text(path.read_text().replace("Si 0", f"{symbol} 0"))
    with pytest.raises(FormatError, match=f"'{symbol}' is no chemical symbol. Write symbols alone"):
        list(Source(path).frames())


@pytest.mark.parametrize("name", ["train.dat", "set.exyz", "frames"])
def test_extxyz_is_known_by_its_beginning_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (frame,) = Source(xyz(tmp_path / name, "energy=-1.0")).frames()
    assert frame.get_potential_energy() == -1.0


def test_what_nothing_reads_is_answered_with_formats_to_try(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("of no program\n")
    for format in (None, "blub"):
        with pytest.raises(FormatError, match=r"extxyz.*vasp-out"):
            list(Source(tmp_path / "notes.txt", Reading(format=format)).frames())
    with pytest.raises(FormatError, match="Nearest: extxyz"):
        list(Source(tmp_path / "notes.txt", Reading(format="ext-xyz")).frames())


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("energy_kcal_mol", "kcal/mol"), ("E_hartree", "hartree"), ("energy_Ha", "hartree"),
        ("Etot_au", "hartree"), ("energy_kJ_per_mol", "kJ/mol"),
        ("total_energy_Ry", "Ry"), ("energy_meV", "meV"), ("REF_energy", "eV"),
        ("forces_kcal_mol_A", "kcal/mol/Angstrom"), ("forces_hartree_bohr", "hartree/bohr"), ("F", "eV/Angstrom"),
        ("dft_forces_eV_A", "eV/Angstrom"), ("stress_kbar", "kbar"), ("stress_GPa", "GPa"),
        ("total_stress(kB)", "kbar"), ("stress [GPa]", "GPa"), ("pressure_tensor_GPa", "GPa"),
        ("press_bar", "bar"),
        ("f_Ry_bohr", "Ry/bohr"), ("F_eV_A", "eV/Angstrom"), ("e_per_atom_Ry", "Ry"), ("en_dft", "eV"),
        ("REF_stress", "eV/Angstrom^3"), ("virial_kcal", "kcal/mol"), ("cell_bohr", "bohr"), ("cell_nm", "nm"),
    ],
)  # fmt: skip
def test_a_unit_that_a_name_spells_is_proposed(name: str, unit: str) -> None:
    (quantity,) = [q for q in ("virial", "stress", "forces", "cell", "energy") if looks_like(q, name)][:1]
    assert example_unit(quantity, name) == unit
    assert factor(MEASURED_IN.get(quantity, quantity), unit)


def test_units_in_the_names_of_a_data_set_are_in_the_command_that_is_proposed(tmp_path: Path) -> None:
    water = molecule("H2O")
    arrays = {"atomic_numbers": water.numbers, "coords_bohr": np.zeros((3, 3, 3)), "energy_kcal_mol": np.zeros(3)}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(KeysError, match=r"--unit positions=bohr .*--unit energy=kcal/mol"):
        list(Source(tmp_path / "set.npz").frames())


@pytest.mark.parametrize("name", ["charge_total", "E_a", "EPS", "E_form", "f_max", "mean_pressure_step"])
def test_what_is_no_label_by_its_name_is_not_asked_about(name: str) -> None:
    assert not any(looks_like(quantity, name) for quantity in ("energy", "forces", "stress", "virial"))


def test_a_pressure_tensor_is_asked_about_with_its_sign(tmp_path: Path) -> None:
    cell = 'Lattice="4 0 0 0 5 0 0 0 2" pbc="T T T"'
    path = xyz(tmp_path / "set.xyz", f'energy=-1 pressure_GPa="1 0 0 0 2 0 0 0 3" {cell}')
    with pytest.raises(KeysError, match=r"--key stress=-pressure_GPa --unit stress=GPa, otherwise"):
        list(Source(path).frames())
    said = Reading(keys={"stress": "-pressure_GPa"}, units={"stress": "GPa"})
    (atoms,) = Source(path, said).frames()
    np.testing.assert_allclose(atoms.get_stress()[:3], -np.array([1, 2, 3]) / 160.21766208, rtol=1e-6)
    scalar = xyz(tmp_path / "scalar.xyz", f"energy=-1 pressure_GPa=3.5 {cell}")
    assert len(list(Source(scalar).frames())) == 1, "one number is no stress"
