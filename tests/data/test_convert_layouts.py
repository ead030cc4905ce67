"""Do public data sets arrive from the layouts of their authors with the right numbers and units?"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from frames import assert_labels, converted

from mlpot.data.h5md import FormatError, KeysError, LabelError, UnitsError
from mlpot.units import BOHR, HARTREE, KCAL_MOL

N, Z = 5, np.array([8, 1, 1])
rng = np.random.default_rng(1)
R, E, F = rng.normal(size=(N, 3, 3)), rng.normal(size=N), rng.normal(size=(N, 3, 3))


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
    np.savez(path, z=Z, R=R, E=E, F=F, r_unit=np.array(b"Ang"), e_unit=np.array(b"kcal/mol"))
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
        ({"nuclear_charges": np.array([8, 1, 0])}, LabelError, "number 0, so the numbers are types"),
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


def test_numbers_as_text_are_not_left_out_without_a_word(tmp_path):
    energies = np.array(["-1.5", "-2.5"])
    np.savez(tmp_path / "set.npz", z=[1, 1], R=np.arange(12.0).reshape(2, 2, 3), E=energies, F=np.zeros((2, 2, 3)))
    said = {"numbers": "z", "positions": "R", "energy": "E", "forces": "F"}
    units = {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"}
    with pytest.raises(FormatError, match=r"E has shape .* of <U4, expected .* of float64"):
        converted(tmp_path / "set.npz", keys=said, units=units)
