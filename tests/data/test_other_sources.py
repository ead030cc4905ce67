"""Do folders of DeePMD-kit, trajectories of CP2K and databases of SchNetPack arrive with the right numbers?"""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from frames import converted

from mlpot.data.elements import Elements
from mlpot.data.h5md import FormatError, KeysError, LabelError, UnitsError
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import BOHR, HARTREE, KCAL_MOL

N, Z = 4, np.array([8, 1, 1])
rng = np.random.default_rng(11)
R, F, E = rng.normal(size=(N, 3, 3)), rng.normal(size=(N, 3, 3)), rng.normal(size=N)
CELL = np.array([[9.0, 0, 0], [1.0, 8.0, 0], [0, 0, 7.0]])
V = rng.normal(size=(N, 3, 3)) + 0.0
V = V + V.transpose(0, 2, 1)


def frames_of(path: Path, **said) -> list[Atoms]:
    return list(Source(path, Reading(**said)).frames())


# --- DeePMD-kit ---


def deepmd(folder: Path, *, sets: int = 2, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    arrays = {
        "coord": R.reshape(N, -1), "force": F.reshape(N, -1), "energy": E, "virial": V.reshape(N, -1),
        "box": np.tile(CELL.ravel(), (N, 1)), **more,
    }  # fmt: skip
    for k, part in enumerate(np.array_split(np.arange(N), sets)):
        (folder / f"set.{k:03d}").mkdir()
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"set.{k:03d}" / f"{name}.npy", array[part])
    return folder


def test_a_system_of_deepmd(tmp_path):
    for kind in ("f4", "f8"):
        folder = deepmd(tmp_path / kind / "water", coord=R.reshape(N, -1).astype(kind), energy=E[:, None])
        frames = converted(folder)
        assert [a.numbers.tolist() for a in frames] == [Z.tolist()] * N
        np.testing.assert_array_equal([a.positions for a in frames], R.astype(kind))
        np.testing.assert_array_equal([a.get_potential_energy() for a in frames], E)
        np.testing.assert_array_equal([a.get_forces() for a in frames], F)
        np.testing.assert_allclose(frames[1].get_stress(voigt=False), -V[1] / np.linalg.det(CELL))
        np.testing.assert_array_equal(frames[0].cell.array, CELL)
        assert all(a.pbc.all() for a in frames)


def test_what_deepmd_has_besides_is_told(tmp_path):
    source = Source(deepmd(tmp_path / "water", fparam=np.zeros((N, 1))))
    list(source.frames())
    assert "Not kept: fparam (4 frames)." in source.report.lines()


def test_systems_in_a_folder_are_families_and_molecules_have_no_box(tmp_path):
    deepmd(tmp_path / "a" / "x", box=None, virial=None)
    deepmd(tmp_path / "b", sets=1)
    (tmp_path / "a" / "x" / "nopbc").touch()
    frames = frames_of(tmp_path)
    assert [a.info["group"] for a in frames] == ["a/x"] * N + ["b"] * N
    assert not any(a.pbc.any() for a in frames[:N])
    assert all(a.pbc.all() for a in frames[N:])


def test_mixed_types_and_their_padding(tmp_path):
    types = np.array([[0, 1, 1], [1, 0, 1], [1, 1, -1], [0, 1, 1]])
    folder = deepmd(tmp_path / "mixed", real_atom_types=types)
    (folder / "type.raw").write_text("0\n0\n0\n")
    frames = frames_of(folder)
    assert [a.get_chemical_formula(mode="reduce") for a in frames] == ["OH2", "HOH", "H2", "OH2"]
    np.testing.assert_array_equal(frames[2].get_forces(), F[2, :2])


def test_deepmd_without_a_type_map_asks(tmp_path):
    folder = deepmd(tmp_path / "water")
    (folder / "type_map.raw").unlink()
    with pytest.raises(KeysError, match=r"types \(0, 1\).*no type_map\.raw.*--elements 0=Na,1=Cl"):
        converted(folder)
    assert frames_of(folder, elements=Elements("0=O,1=H"))[0].numbers.tolist() == Z.tolist()


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"coord": R[:, :2].reshape(N, -1)}, r"coord\.npy has shape \(2, 6\).*expected \(frames, 9\)"),
        ({"energy": np.array([1, None, 2, 3], dtype=object)}, "energy.npy is damaged"),
        ({"coord": None}, "has no coord.npy"),
        ({"force": F.reshape(N, -1).astype("f2")}, "of half precision"),
    ],
)
def test_a_spoilt_system_of_deepmd_is_refused(tmp_path, spoilt, message):
    folder = deepmd(tmp_path / "spoilt", **spoilt)
    with pytest.raises(FormatError, match=message):
        convert(folder, tmp_path / "set.h5")
    assert not (tmp_path / "set.h5").exists()


def test_text_of_deepmd(tmp_path):
    for name, array in (
        ("type", [0, 1, 1]),
        ("coord", R.reshape(N, -1)),
        ("energy", E),
        ("box", [CELL.ravel()] * N),
    ):
        np.savetxt(tmp_path / f"{name}.raw", array, fmt="%d" if name == "type" else "%.17g")
    (tmp_path / "type_map.raw").write_text("O H\n")
    frames = frames_of(tmp_path)
    np.testing.assert_array_equal([a.positions for a in frames], R)
    assert [a.get_potential_energy() for a in frames] == list(E)


# --- CP2K ---


def cp2k(folder: Path, *, steps=range(N), forces=range(N), cells: bool = True, strength: float = 1.0) -> Path:
    symbols = ["O", "H", "H"]
    for what, values, taken in (("pos", R, steps), ("frc", strength * F, forces)):
        lines = []
        for k in taken:
            lines += [f"{3:8d}", f" i = {5 * k:8d}, time = {2.5 * k:12.3f}, E = {E[k]:20.10f}"]
            lines += [
                f" {s:2s} " + " ".join(f"{x:20.10f}" for x in row)
                for s, row in zip(symbols, values[k], strict=True)
            ]
        if lines:
            (folder / f"water-{what}-1.xyz").write_text("\n".join([*lines, ""]))
    if cells:
        rows = [
            f"{5 * k} {2.5 * k} " + " ".join(map(str, (CELL * (1 + 0.01 * k)).ravel())) + " 504.0"
            for k in range(N)
        ]
        (folder / "water-1.cell").write_text(
            "\n".join(["#   Step   Time [fs]       Ax [Angstrom] ...", *rows, ""])
        )
    return folder / "water-pos-1.xyz"


def test_a_trajectory_of_cp2k_with_its_forces_and_cells(tmp_path):
    frames = converted(cp2k(tmp_path))
    np.testing.assert_allclose([a.positions for a in frames], R, atol=1e-10)
    np.testing.assert_allclose([a.get_potential_energy() for a in frames], E * HARTREE, atol=1e-8)
    np.testing.assert_allclose([a.get_forces() for a in frames], F * HARTREE / BOHR, atol=1e-7)
    np.testing.assert_allclose(frames[2].cell.array, CELL * 1.02)
    assert all(a.pbc.all() for a in frames)


def test_forces_of_cp2k_belong_to_their_step(tmp_path):
    source = Source(cp2k(tmp_path, forces=(1, 3)))
    (tmp_path / "water-vel-1.xyz").touch()
    frames = list(source.frames())
    assert ["forces" in a.calc.results for a in frames] == [False, True, False, True]
    np.testing.assert_allclose(frames[3].get_forces(), F[3] * HARTREE / BOHR, atol=1e-7)
    assert "no forces, as the file of forces has none of this step (2 frames: 0, 2)." in source.report.lines()
    assert "velocities of water-vel-1.xyz are not read (1 frame: 0)." in source.report.lines()


def test_nothing_of_cp2k_is_guessed(tmp_path):
    path = cp2k(tmp_path, cells=False)
    with pytest.raises(KeysError, match=r"no water-1\.cell beside.*--cell 10,10,10.*--pbc FFF"):
        converted(path)
    assert not frames_of(path, pbc="FFF")[0].pbc.any()
    np.testing.assert_array_equal(frames_of(path, cell="9 8 7")[0].cell.lengths(), [9, 8, 7])
    with pytest.raises(KeysError, match="'9 8' is no cell"):
        frames_of(path, cell="9 8")
    with pytest.raises(KeysError, match=r"Give PROJECT-pos-1\.xyz"):
        converted(tmp_path / "water-frc-1.xyz")
    path.write_text(path.read_text()[:60])
    with pytest.raises(FormatError, match="frame 0 ends before its last atom"):
        frames_of(path, pbc="FFF")
    (tmp_path / "water-frc-1.xyz").unlink()
    cp2k(tmp_path, forces=())
    source = Source(path)
    assert "forces" not in next(source.frames()).calc.results
    assert "no forces, as there is no water-frc-1.xyz beside it" in source.report.lines()[1]


def test_a_run_of_cp2k_that_went_on_from_an_earlier_step_does_not_mix_its_parts(tmp_path):
    path = cp2k(tmp_path, steps=(0, 1, 2, 1, 2, 3), forces=(0, 1, 2, 1, 2, 3))
    frames = frames_of(path)
    np.testing.assert_allclose([a.get_forces() for a in frames], F[[0, 1, 2, 1, 2, 3]] * HARTREE / BOHR, atol=1e-7)
    cells = tmp_path / "water-1.cell"
    again = [line for line in cells.read_text().splitlines() if not line.startswith("#")][1]
    cells.write_text(cells.read_text() + again + "\n")  # the same cell twice is one
    assert len(frames_of(path)) == 6
    words = again.split()
    cells.write_text(cells.read_text() + " ".join([*words[:2], "9.9", *words[3:]]) + "\n")
    with pytest.raises(FormatError, match=r"frame 1: water-1\.cell has several cells of step 5, as of a run that"):
        frames_of(path)
    path = cp2k(tmp_path, steps=(0, 2), forces=(0, 1, 0, 1, 2))  # no forces of step 2 before it went back
    with pytest.raises(FormatError, match=r"pos-1.xyz, frame 1: step 0 stands behind step 5"):
        frames_of(path)


def test_stresses_beside_positions_of_cp2k_are_told(tmp_path):
    source = Source(cp2k(tmp_path))
    assert len(list(source.frames())) == N
    assert not any("stress" in line and "not read" in line for line in source.report.lines())
    (tmp_path / "water-1.stress").write_text("#   Step   Time [fs]            xx [bar] ...\n")
    assert "stress" not in next(source.frames()).calc.results
    assert any(
        line.startswith("stresses of water-1.stress are not read: in mol") for line in source.report.lines()
    )


@pytest.mark.parametrize("name", ["forces.xyz", "water-frc.xyz", "w.extxyz"])
@pytest.mark.parametrize("labels", [True, False])
def test_forces_of_cp2k_under_another_name_are_no_positions(tmp_path, name, labels):
    cp2k(tmp_path, strength=0.05)
    path = (tmp_path / "water-frc-1.xyz").rename(tmp_path / name)
    with pytest.raises(FormatError, match=r"frame 0: .*perhaps forces or .*PROJECT-pos-1\.xyz"):
        frames_of(path, labels=labels)
    path = (tmp_path / "water-pos-1.xyz").rename(tmp_path / name)
    said = {"keys": {"energy": "E"}, "units": {"energy": "hartree"}, "pbc": "FFF"} if labels else {}
    np.testing.assert_allclose([a.positions for a in frames_of(path, labels=labels, **said)], R, atol=1e-9)


# --- i-PI ---


def ipi(path: Path, what: str, values, cell: str = "CELL(abcABC): 10 11 12 90 90 60", more: str = "") -> Path:
    rows = "\n".join(f"{s} {x} {y} {z}" for s, (x, y, z) in zip("OHH", values, strict=True))
    path.write_text(f"3\n# {cell} Step: 0 Bead: 0 {what} {more}\n{rows}\n" * 2)
    return path


@pytest.mark.parametrize(("unit", "length"), [("atomic_unit", BOHR), ("angstrom", 1.0), ("nanometer", 10.0)])
def test_positions_of_ipi_are_in_their_own_unit_and_cell(tmp_path, unit, length):
    path = ipi(tmp_path / "run.pos_0.xyz", f"positions{{{unit}}}", R[0], more="cell{atomic_unit}")
    source = Source(path)
    frames = list(source.frames())
    np.testing.assert_allclose([a.positions for a in frames], [R[0] * length] * 2, atol=1e-12)
    np.testing.assert_allclose(frames[0].cell.cellpar(), [10 * BOHR, 11 * BOHR, 12 * BOHR, 90, 90, 60])
    assert frames[0].pbc.all()
    assert any("taken as periodic" in line for line in source.report.lines())
    assert not frames_of(path, pbc="FFF")[0].pbc.any()


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", "byte order mark"])
def test_a_packed_trajectory_of_ipi_is_one_too(tmp_path, ending):
    path = ipi(tmp_path / "run.xyz", "positions{atomic_unit}", R[0], more="cell{angstrom}")
    if ending.startswith("."):
        packed = path.with_name(f"run.xyz{ending}")
        with ase.io.formats.open_with_compression(str(packed), "wb") as file:
            file.write(path.read_bytes())
        path = packed
    elif ending:
        path.write_text(path.read_text(), encoding="utf-8-sig")
    source = Source(path, Reading(labels=False, index="-1"))
    (atoms,) = source.frames()
    np.testing.assert_allclose(atoms.positions, R[0] * BOHR)
    assert any("periodic" in line and line.endswith("(1 frame: 1).") for line in source.report.lines())


def test_the_nine_numbers_of_a_cell_of_ipi_are_columns(tmp_path):
    columns = "CELL{H}: 9 1 0 0 8 0 0 0 7"
    path = ipi(tmp_path / "centroids.xyz", "x_centroid{angstrom}", R[0], columns, "cell{angstrom}")
    np.testing.assert_allclose(frames_of(path, labels=False)[1].cell.array, CELL)


def test_what_a_file_of_ipi_does_not_say_is_asked(tmp_path):
    path = ipi(tmp_path / "start.xyz", "", R[0])
    with pytest.raises(KeysError, match=r"in which unit are i-PI's positions.*--unit positions=bohr"):
        frames_of(path)
    frame = frames_of(path, units={"positions": "bohr"})[0]
    np.testing.assert_allclose(frame.positions, R[0] * BOHR)
    np.testing.assert_allclose(frame.cell.lengths(), np.array([10, 11, 12]) * BOHR)
    for quantity in ("forces{atomic_unit}", "velocities{atomic_unit}", "momenta{atomic_unit}", "kinetic_od{}"):
        with pytest.raises(KeysError, match="of i-PI in place of positions"):
            frames_of(ipi(tmp_path / "run.frc.xyz", quantity, 0.01 * F[0]), labels=False)
    path = ipi(tmp_path / "cut.xyz", "positions{angstrom}", R[0], "CELL{H}: 9 0 0 0 9")
    with pytest.raises(FormatError, match="CELL has 5 numbers, not 9"):
        frames_of(path)


@pytest.mark.parametrize("labels", [True, False])
def test_velocities_under_the_name_of_an_xyz_file_are_no_positions(tmp_path, labels):
    rows = "\n".join(f"H {x} {y} {z}" for x, y, z in 0.003 * V[0])
    (tmp_path / "md.vel.xyz").write_text(f"3\nvelocities, frame 0\n{rows}\n")
    with pytest.raises(FormatError, match="Å apart, so these are no positions in Å"):
        frames_of(tmp_path / "md.vel.xyz", labels=labels)
    said = {"labels": labels, "units": {"positions": "nm"}}
    (tmp_path / "water.xyz").write_text("3\nin nm\nO 0 0 0\nH 0.096 0 0\nH 0 0.096 0\n")
    assert frames_of(tmp_path / "water.xyz", **said)[0].get_distance(0, 1) == pytest.approx(0.96)


@pytest.mark.parametrize("distance", [0.1, np.inf, np.nan])
def test_a_scan_of_two_atoms_and_what_is_not_finite_are_left_to_others(tmp_path, distance):
    path = tmp_path / "scan.xyz"
    path.write_text(f"2\nscan\nH 0 0 0\nH 0 0 {distance}\n3\nscan\nH 0 0 0\nH 0 0 {distance}\nH 0 0 8.2\n")
    source = Source(path, Reading(labels=False))
    if np.isfinite(distance):
        assert next(source.frames()).get_distance(0, 1) == distance
    else:
        assert len(list(source.frames())) == 2


# --- RuNNer and n2p2 ---


def test_units_that_a_set_of_n2p2_does_not_say_are_told(tmp_path):
    atoms = "atom 0 0 0 O 0 0 0.01 0 0\natom 1.8 0 0 H 0 0 -0.01 0 0\n"
    (tmp_path / "input.data").write_text(f"begin\ncomment no unit\n{atoms}energy -75.0\ncharge 0.0\nend\n" * 2)
    source = Source(tmp_path / "input.data")
    (frame, _) = source.frames()
    assert frame.get_distance(0, 1) == pytest.approx(1.8 * BOHR)
    assert frame.get_potential_energy() == pytest.approx(-75 * HARTREE)
    assert any(
        line.startswith("taken in bohr, hartree and hartree/bohr, as RuN") for line in source.report.lines()
    )


# --- SchNetPack ---


def schnetpack(path: Path, units: dict[str, str], names=("energy", "forces"), **metadata) -> Path:
    with ase.db.connect(path, type="db") as database:
        for k in range(N):
            values = dict(zip(names, (E[k : k + 1], F[k]), strict=True))
            database.write(Atoms(Z, R[k]), data={**values, "charges": np.zeros(3)})
        database.metadata = {"_property_unit_dict": units, "_distance_unit": "Ang", **metadata}
    return path


def test_a_database_of_schnetpack_tells_its_units(tmp_path):
    path = schnetpack(tmp_path / "md17.db", {"energy": "kcal/mol", "forces": "kcal/mol/Ang"})
    frames = converted(path)
    np.testing.assert_allclose([a.positions for a in frames], R)
    np.testing.assert_allclose([a.get_potential_energy() for a in frames], E * KCAL_MOL)
    np.testing.assert_allclose([a.get_forces() for a in frames], F * KCAL_MOL)
    path = schnetpack(tmp_path / "bohr.db", {"energy": "Hartree", "forces": "Hartree/Bohr"}, _distance_unit="Bohr")
    frames = converted(path)
    np.testing.assert_allclose(frames[1].positions, R[1] * BOHR)
    np.testing.assert_allclose(frames[1].get_forces(), F[1] * HARTREE / BOHR)


def test_a_database_with_results_of_a_calculator_is_none_of_schnetpack(tmp_path):
    """Its units are ASE's, whatever its rows keep besides."""
    with ase.db.connect(tmp_path / "set.db", type="db") as database:
        database.write(Atoms(Z, R[0], momenta=R[1]), data={"forces_dft": F[0]})
        for k in range(N):
            atoms = Atoms(Z, R[k])
            atoms.calc = SinglePointCalculator(atoms, energy=E[k], forces=F[k])
            database.write(atoms, key_value_pairs={"dft_energy": E[k] + 1}, data={"forces_dft": F[k]})
    with pytest.raises(KeysError, match="--key energy=energy, otherwise --key energy=dft_energy --unit energy=eV"):
        converted(tmp_path / "set.db")
    frames = converted(tmp_path / "set.db", keys={"energy": "energy", "forces": "forces"})
    assert frames[0].calc is None
    np.testing.assert_allclose(frames[0].get_momenta(), R[1], rtol=1e-14)
    np.testing.assert_array_equal([a.get_potential_energy() for a in frames[1:]], E)


def test_names_and_units_of_schnetpack_are_asked_for(tmp_path):
    path = schnetpack(
        tmp_path / "qm9.db", {"energy_U0": "Hartree", "energy_U": "Hartree"}, ("energy_U0", "energy_U")
    )
    with pytest.raises(KeysError, match="--key energy=energy_U0 or --key energy=energy_U or --key energy=none"):
        converted(path)
    assert converted(path, keys={"energy": "energy_U0"})[2].get_potential_energy() == E[2] * HARTREE
    with pytest.raises(KeysError, match="nothing named E0"):
        converted(path, keys={"energy": "E0"})
    path = schnetpack(tmp_path / "bare.db", {"energy": "", "forces": "eV/Ang"})
    with pytest.raises(UnitsError, match=r"in which unit 'energy' is.*--unit energy=eV"):
        converted(path)
    assert converted(path, units={"energy": "eV"})[0].get_potential_energy() == E[0]
    with pytest.raises(LabelError, match=r"energy has shape \(3,\)"):
        converted(path, keys={"energy": "charges"}, units={"energy": "eV"})


@pytest.mark.parametrize("index", ["-1", "2:"])
def test_what_an_index_leaves_out_is_told_nothing_of(tmp_path, index):
    """Readers of whole sets go over the frames before too."""
    path = tmp_path / "set.npz"
    numbers = np.array([[8, 1, 0], [8, 1, -1], [8, 1, 1]])
    positions = np.where(numbers[..., None] > 0, np.random.default_rng(0).normal(size=(3, 3, 3)), 0.0)
    np.savez(path, Z=numbers, R=positions, E=np.arange(3.0), remark=np.arange(3))
    said = {"keys": {"numbers": "Z", "positions": "R", "energy": "E"}}
    source = Source(path, Reading(**said, units={"positions": "Angstrom", "energy": "eV"}, index=index))
    assert [k for k, _ in source.numbered()] == [2]
    assert not any("padding" in line for line in source.report.lines())
    assert "Not kept: remark (1 frame)." in source.report.lines()
