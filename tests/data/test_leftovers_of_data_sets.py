"""Is nothing of an npz or HDF5 data set dropped without a word: cells, charges, labels of other names?"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from frames import converted

from mlpot.data.errors import KeysError
from mlpot.data.sources.leftovers import charge_of_smiles
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import KCAL_MOL

N, Z = 4, np.array([8, 1, 1])
rng = np.random.default_rng(2)
R, E, F = rng.normal(size=(N, 3, 3)), rng.normal(size=N), rng.normal(size=(N, 3, 3))
AIMNET = {"numbers": np.tile(Z, (N, 1)), "coord": R, "energy": E, "forces": F}


def account(source: Source) -> str:
    list(source.numbered())
    return "\n".join(source.report.lines())


def test_charges_of_aimnet_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", **AIMNET, charge=np.array([0, 1, 0, -1]), charges=np.zeros((N, 3)))
    assert [a.info["charge"] for a in converted(tmp_path / "a.npz")] == [0.0, 1.0, 0.0, -1.0]
    told = account(Source(tmp_path / "a.npz"))
    assert "Charge -1 in 1 frame, 0 in 2 frames, 1 in 1 frame" in told
    assert "Not kept: charges (4 frames)" in told


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [("CCO", 0), ("[NH4+:1]", 1), ("CC(=O)[O-]", -1), ("[Fe+2].[Cl-].[Cl-]", 0), ("[Mg++]", 2), ("[13CH4]", 0),
     ("[C@@H](N)([O-:3])C[NH3+:12]", 0), ("[Ca+2:7]", 2)],
)  # fmt: skip
def test_the_charge_of_a_molecule_of_spice_is_in_its_smiles(tmp_path, smiles, charge):
    assert charge_of_smiles(smiles) == charge
    with h5py.File(tmp_path / "spice.hdf5", "w") as file:
        group = file.create_group("molecule")
        group["subset"], group["smiles"] = [b"SPICE Ions"], [smiles.encode()]
        group["atomic_numbers"], group["conformations"] = Z, R
        group["dft_total_energy"], group["dft_total_gradient"] = E, F
    assert converted(tmp_path / "spice.hdf5")[0].info["charge"] == charge


def test_the_lattice_of_sgdml_has_vectors_in_columns(tmp_path):
    lattice = np.array([[4.0, 1.0, 0.5], [0.0, 5.0, 0.3], [0.0, 0.0, 6.0]])
    np.savez(tmp_path / "a.npz", z=Z, R=R, E=E, F=F, lattice=lattice, r_unit="Ang", e_unit="kcal/mol")
    (first, *_) = converted(tmp_path / "a.npz")
    np.testing.assert_allclose(first.cell.array, lattice.T)
    assert first.pbc.all()
    assert first.get_potential_energy() == E[0] * KCAL_MOL


@pytest.mark.parametrize("name", ["cell", "lattice_vectors", "box"])
def test_a_cell_that_a_layout_does_not_know_is_a_question(tmp_path, name):
    cells = np.tile(np.diag([4.0, 5.0, 6.0]), (N, 1, 1))
    np.savez(tmp_path / "a.npz", **AIMNET, **{name: cells})
    with pytest.raises(KeysError, match=f"--key cell={name} --unit cell=Angstrom"):
        converted(tmp_path / "a.npz")
    reading = {"keys": {"cell": name}, "units": {"positions": "Angstrom"}}
    with pytest.raises(KeysError, match="--pbc TTT"):
        list(Source(tmp_path / "a.npz", Reading(**reading)).frames())
    frames = list(Source(tmp_path / "a.npz", Reading(**reading, pbc="TTF")).frames())
    np.testing.assert_array_equal(frames[2].cell.lengths(), [4, 5, 6])
    assert frames[0].pbc.tolist() == [True, True, False]
    none = Source(tmp_path / "a.npz", Reading(keys={"cell": "none"}))
    assert not any(a.cell.array.any() for a in none.frames())


def test_labels_that_a_layout_does_not_know_are_questions_in_one_message(tmp_path):
    more = {"dft_stress": np.ones((N, 3, 3)), "periodic": [True, True, True], "energy_std": E, "total_charge_q": E}
    np.savez(tmp_path / "a.npz", **AIMNET, **more)
    with pytest.raises(KeysError) as asked:
        converted(tmp_path / "a.npz")
    for option in ("--key stress=dft_stress", "--key pbc=periodic", "--key charge=total_charge_q", "stress=none"):
        assert option in str(asked.value)
    assert "energy_std" not in str(asked.value)


def test_a_virial_of_molecules_is_left_out_and_counted(tmp_path):
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for k in range(N):
            group = file.create_group(f"config_batch_0/config_{k}")
            group["atomic_numbers"], group["positions"], group["energy"], group["forces"] = Z, R[k], E[k], F[k]
            group["cell"], group["pbc"], group["virials"] = np.eye(3) * 9 * (k > 1), [k > 1] * 3, np.eye(3)
            group["head"] = "default"
    frames = converted(tmp_path / "train.h5")
    assert sorted("stress" in a.calc.results for a in frames) == [False, False, True, True]
    told = account(Source(tmp_path / "train.h5"))
    assert "stress left out" in told
    assert "Not kept: head (4 frames)" in told


def test_one_frame_of_deepmd_may_lack_the_axis_of_frames_and_a_virial_its_box(tmp_path):
    (tmp_path / "set.000").mkdir()
    (tmp_path / "type.raw").write_text("0 1 1")
    (tmp_path / "type_map.raw").write_text("O H")
    arrays = {"coord": R[0].ravel(), "energy": E[0], "force": R[1].ravel(), "virial": np.eye(3).ravel()}
    for name, array in arrays.items():
        np.save(tmp_path / "set.000" / f"{name}.npy", array)
    source = Source(tmp_path)
    (atoms,) = source.frames()
    assert atoms.get_potential_energy() == E[0]
    np.testing.assert_array_equal(atoms.get_forces(), R[1])
    assert "stress left out, as the structure has no volume" in "\n".join(source.report.lines())
