"""Do formats whose readers in ASE give other units, elements or energies arrive with the right ones?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from outputs import gamess, nwchem
from scipy import constants

from mlpot.data.errors import FormatError
from mlpot.data.frame import ASE_VELOCITY
from mlpot.data.sources.ase_faults import element_of_name
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import BOHR, HARTREE


def read(path: Path, text: str, *, labels: bool = True) -> tuple[list[Atoms], str]:
    path.write_text(text)
    source = Source(path, Reading(labels=labels))
    return list(source.frames()), "\n".join(source.report.lines())


@pytest.mark.parametrize("more", ["", f"{1:>21d}{12:>21d}"], ids=["classic", "4"])
def test_velocities_and_forces_of_dl_poly_are_in_its_units(tmp_path: Path, more: str) -> None:
    """Å/ps and u Å/ps² (DL_POLY_4's manual, units), with a mass of 2 u."""
    head = f"{'argon':<72}\n{2:>10d}{1:>10d}{1:>10d}{more}\n"
    step = f"timestep {1:>9d}{1:>10d}{2:>10d}{1:>10d}{0.001:>12.6f}{0.001:>12.6f}\n"
    cell = "".join(f"{x:>20.10f}{y:>20.10f}{z:>20.10f}\n" for x, y, z in np.diag([9.0, 9.0, 9.0]))
    atom = f"{'H':<8}{1:>10d}{2.0:>12.6f}{0.0:>12.6f}\n" + "".join(
        "".join(f"{x:>20.8f}" for x in row) + "\n" for row in ([1, 2, 3], [1.5, 0, -3], [1000, -2000, 0])
    )
    text = "".join(f"{line:<72}\n" for line in (head + step + cell + atom).splitlines())
    (frame,), _ = read(tmp_path / "HISTORY", text)
    force = constants.atomic_mass * 1e-10 / 1e-24 / (constants.e / 1e-10)  # eV/Å in one u Å/ps²
    np.testing.assert_allclose(frame.get_velocities() * ASE_VELOCITY, [[1.5e-3, 0, -3e-3]], rtol=1e-6)
    np.testing.assert_allclose(frame.get_forces(), np.array([[1000, -2000, 0]]) * force, rtol=1e-6)
    assert frame.get_masses() == pytest.approx(2.0)


def test_a_restart_of_siesta_has_velocities(tmp_path: Path) -> None:
    cell = "".join(f" {x} {y} {z} 0 0 0\n" for x, y, z in np.diag([10.0, 10.0, 10.0]))
    (frame,), _ = read(
        tmp_path / "si.XV", f"{cell} 2\n 1 14 0 0 0 0.001 0 0\n 1 14 2 2 2 0 -0.002 0\n", labels=False
    )
    expected = np.array([[0.001, 0, 0], [0, -0.002, 0]]) * BOHR
    np.testing.assert_allclose(frame.get_velocities() * ASE_VELOCITY, expected, rtol=1e-6)


def test_qbox_writes_atomic_units(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?>\n<fpmd:simulation xmlns:fpmd="x">\n<release> 1.70.0 </release>\n'
        '<species name="h">\n<symbol>H</symbol>\n<atomic_number>1</atomic_number>\n<mass>1.0</mass>\n</species>\n'
        '<cmd>run 1</cmd>\n<iteration count="1">\n<etotal>  -1.10 </etotal>\n'
        '<atomset>\n<unit_cell a="16 0 0" b="0 16 0" c="0 0 16" />\n<atom name="H1" species="h">\n'
        "<position> 1 2 3 </position>\n<velocity> 0.001 0 0 </velocity>\n<force> 0.1 0 -0.2 </force>\n</atom>\n"
        "</atomset>\n<stress_tensor><sigma_xx>1</sigma_xx><sigma_yy>1</sigma_yy><sigma_zz>1</sigma_zz>"
        "<sigma_xy>0</sigma_xy><sigma_yz>0</sigma_yz><sigma_xz>0</sigma_xz></stress_tensor>\n</iteration>\n"
    )
    (tmp_path / "h.xml").write_text(text)
    source = Source(tmp_path / "h.xml", Reading(format="qbox"))
    (frame,) = source.frames()
    np.testing.assert_allclose(frame.positions, [[BOHR, 2 * BOHR, 3 * BOHR]])
    np.testing.assert_allclose(frame.cell.lengths(), 16 * BOHR)
    assert frame.get_potential_energy() == pytest.approx(-1.1 * HARTREE)
    np.testing.assert_allclose(frame.get_forces(), np.array([[0.1, 0, -0.2]]) * HARTREE / BOHR)
    time = constants.physical_constants["atomic unit of time"][0] * 1e15  # fs
    np.testing.assert_allclose(frame.get_velocities()[0, 0] * ASE_VELOCITY, 0.001 * BOHR / time, rtol=1e-6)
    assert "stress" not in frame.calc.results
    assert "stress of Qbox left out" in "\n".join(source.report.lines())


XSF = (
    "CRYSTAL\nPRIMVEC\n 5 0 0\n 0 5 0\n 0 0 5\nPRIMCOORD\n 2 1\n"
    "Si 0 0 0  0.1 0.2 0.3\nSi 1.3 1.3 1.3  -0.1 -0.2 -0.3\n"
)


@pytest.mark.parametrize(
    ("head", "unit", "told"),
    [("", HARTREE, "taken in hartree/Å"), ("# total energy = -0.235E+02 eV\n\n", 1.0, "as aenet writes")],
)
def test_forces_of_xsf_are_in_the_units_of_their_program(
    tmp_path: Path, head: str, unit: float, told: str
) -> None:
    (frame,), report = read(tmp_path / "structure.xsf", head + XSF)
    np.testing.assert_allclose(frame.get_forces()[0], np.array([0.1, 0.2, 0.3]) * unit, rtol=1e-6)
    assert frame.calc.results.get("energy") == (-23.5 if head else None)
    assert told in report


@pytest.mark.parametrize(
    ("name", "residue", "symbol"),
    [
        ("CA", "ALA", "C"), ("CA", "CA", "Ca"), ("NA", "NA", "Na"), ("NA", "HEM", "N"), ("CL", "CL-", "Cl"),
        ("SOD", "SOD", "Na"),
        ("HW1", "SOL", "H"), ("OW", "SOL", "O"), ("HG", "CYS", "H"), ("1HB", "ALA", "H"), ("CL1", "LIG", "Cl"),
        ("SE", "MSE", "Se"), ("MW", "SOL", ""), ("AU", "SUR", "Au"), ("K", "K", "K"),
    ],
)  # fmt: skip
def test_names_of_force_fields_are_no_symbols(name: str, residue: str, symbol: str) -> None:
    assert element_of_name(name, residue) == symbol


GRO = "water and salt\n    4\n{}   1.00000   1.00000   1.00000\n"


def test_a_file_of_gromacs_has_the_elements_of_its_names(tmp_path: Path) -> None:
    rows = [
        f"{k:>5d}{residue:<5}{name:>5}{k:>5d}{0.1 * k:8.3f}{0.0:8.3f}{0.0:8.3f}{0.5:8.4f}{0.0:8.4f}{0.0:8.4f}\n"
        for k, (residue, name) in enumerate([("SOL", "OW"), ("SOL", "HW1"), ("NA", "NA"), ("CL", "CL")])
    ]
    (frame,), report = read(tmp_path / "conf.gro", GRO.format("".join(rows)), labels=False)
    assert frame.get_chemical_symbols() == ["O", "H", "Na", "Cl"]
    np.testing.assert_allclose(frame.get_velocities()[:, 0] * ASE_VELOCITY, 5e-3)  # 0.5 nm/ps
    assert "elements taken from the names of atoms" in report
    assert "NA is Na" in report
    with pytest.raises(FormatError, match="an atom 'MW' in 'SOL', and no element of it: a virtual site"):
        read(tmp_path / "tip4p.gro", GRO.format("".join(rows).replace(" HW1", "  MW")), labels=False)


ATOM = "ATOM  {:>5d} {:<4} {:<3} A{:>4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          {:>2}\n"


def test_a_cell_of_one_angstrom_in_a_pdb_file_is_none(tmp_path: Path) -> None:
    cell = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    atoms = ATOM.format(1, "CA", "ALA", 1, 0, 0, 0, "") + ATOM.format(2, "CA", "CA", 2, 5, 0, 0, "")
    (frame,), report = read(tmp_path / "nmr.pdb", cell + atoms, labels=False)
    assert not frame.pbc.any()
    assert frame.cell.rank == 0
    assert frame.get_chemical_symbols() == ["C", "Ca"], "the columns of elements are blank"
    assert "the cell of 1 Å, by which PDB files say that there is none" in report
    (frame,), report = read(
        tmp_path / "crystal.pdb",
        cell.replace("1.000 ", "9.000 ") + ATOM.format(1, "X1", "LIG", 1, 0, 0, 0, "C"),
        labels=False,
    )
    assert frame.pbc.all()
    assert "elements taken" not in report


def test_the_cell_of_a_pdb_trajectory_stands_once_and_is_that_of_all_models(tmp_path: Path) -> None:
    cell = "CRYST1    9.000    8.000    7.000  90.00  90.00  90.00 P 1           1\n"
    model = "MODEL        1\n" + ATOM.format(1, "C1", "LIG", 1, 0, 0, 0, "C") + "ENDMDL\n"
    frames, _ = read(tmp_path / "md.pdb", cell + 3 * model, labels=False)
    assert len(frames) == 3
    for frame in frames:
        assert frame.cell.lengths().tolist() == [9, 8, 7]
        assert frame.pbc.all()
    twice = ATOM.format(1, "C1", "LIG", 1, 0, 0, 0, "C").replace(" LIG", "ALIG")
    with pytest.raises(FormatError, match=r"alternate locations \(column 17, as of C1"):
        read(tmp_path / "xray.pdb", twice, labels=False)


CIF = "\n".join(
    [
        "data_x",
        *(f"_cell_length_{x} 5.64" for x in "abc"),
        *(f"_cell_angle_{x} 90" for x in ("alpha", "beta", "gamma")),
    ]
    + ["_symmetry_space_group_name_H-M 'P 1'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    + [f"_atom_site_{name}" for name in ("fract_x", "fract_y", "fract_z", "occupancy")]
    + ["{}Cl1 Cl 0.5 0.5 0.5 1.0", ""]
)


@pytest.mark.parametrize("sites", ["Na1 Na 0 0 0 0.5\nK1 K 0 0 0 0.5\n", "Na1 Na 0 0 0 0.8\n"])
def test_sites_that_are_partly_occupied_are_no_structure(tmp_path: Path, sites: str) -> None:
    with pytest.raises(FormatError, match=r"sites that are partly occupied .*Make an ordered structure"):
        read(tmp_path / "disorder.cif", CIF.format(sites), labels=False)
    (frame,), _ = read(tmp_path / "order.cif", CIF.format("Na1 Na 0 0 0 1.0\n"), labels=False)
    assert frame.get_chemical_symbols() == ["Na", "Cl"]


def test_the_energy_of_a_res_file_is_an_enthalpy_under_pressure(tmp_path: Path) -> None:
    text = (
        "TITL Si-1 {} 40.0 -216.5 0 0 2 (P1) n - 1\nCELL 1.54180 3.8 3.8 3.8 60 60 60\nLATT -1\nSFAC Si\n"
        "Si 1 0.0 0.0 0.0 1.0\nSi 1 0.25 0.25 0.25 1.0\nEND\n"
    )
    (frame,), report = read(tmp_path / "a.res", text.format("0.0"))
    assert frame.get_potential_energy() == -216.5
    (frame,), report = read(tmp_path / "b.res", text.format("10.0"))
    assert frame.calc is None
    assert "is the enthalpy at the pressure of its title" in report


@pytest.mark.parametrize(
    ("code", "line", "charge"), [(0, "M  CHG  1   1   1\n", 1.0), (5, "", -1.0), (0, "", None)]
)
def test_a_file_of_a_molecule_keeps_its_charge(tmp_path: Path, code: int, line: str, charge: float | None) -> None:
    atom = "{:10.4f}{:10.4f}{:10.4f} {:<3} 0{:3d}  0  0  0\n"
    rows = atom.format(0, 0, 0, "N", code) + atom.format(1, 0, 0, "H", 0)
    text = f"ion\n  x\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n{rows}  1  2  1  0\n{line}M  END\n$$$$\n"
    frames, _ = read(tmp_path / "ions.sdf", 3 * text, labels=False)
    assert [frame.info.get("charge") for frame in frames] == [charge] * 3


@pytest.mark.parametrize(("said", "pbc"), [("NONE", [0, 0, 0]), ("XY", [1, 1, 0]), ("XYZ", [1, 1, 1])])
def test_a_restart_of_cp2k_has_the_boundary_of_its_cell(tmp_path: Path, said: str, pbc: list[int]) -> None:
    cell = f"&CELL\n A 9.0 0 0\n B 0 9.0 0\n C 0 0 9.0\n PERIODIC  {said}\n &END CELL\n"
    atoms = "&COORD\n H 0 0 0\n H 0 0 0.75\n &END COORD\n &VELOCITY\n 0 0 0\n 0 0 0\n &END VELOCITY\n"
    text = f"&GLOBAL\n &END GLOBAL\n &FORCE_EVAL\n &SUBSYS\n {cell} {atoms} &END SUBSYS\n &END FORCE_EVAL\n"
    (tmp_path / "x-1.restart").write_text(text)
    source = Source(tmp_path / "x-1.restart", Reading(format="cp2k-restart", labels=False))
    (frame,) = source.frames()
    assert frame.pbc.astype(int).tolist() == pbc
    assert "velocities of the restart are not read" in "\n".join(source.report.lines())


@pytest.mark.parametrize("name", ["xtb.trj", "xtbopt.log", "md.out", "md.txt"])
def test_a_trajectory_of_xtb_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    frame = "2\n energy: -1.07 gnorm: 0.1 xtb: 6.6.1\nH 0.0 0.0 0.0\nH 0.0 0.0 0.75\n"
    frames, _ = read(tmp_path / name, 3 * frame, labels=False)
    assert [a.get_distance(0, 1) for a in frames] == [0.75] * 3


STEPS = [(-1.1, True), (-1.2, True), (-1.3, True)]


@pytest.mark.parametrize("forces", [True, False])
def test_energies_of_nwchem_are_of_the_structure_before_them(tmp_path: Path, forces: bool) -> None:
    frames, _ = read(tmp_path / "scan.out", nwchem(STEPS, forces=forces))
    assert [a.get_potential_energy() for a in frames] == pytest.approx([e * HARTREE for e, _ in STEPS])
    np.testing.assert_allclose([a.get_distance(0, 1) for a in frames], [0.75, 0.76, 0.77], atol=1e-6)
    assert all(("forces" in a.calc.results) == forces for a in frames)
    if forces:
        np.testing.assert_allclose(frames[1].get_forces()[:, 2], np.array([0.01, -0.01]) * HARTREE / BOHR)


def test_a_step_along_a_line_of_nwchem_has_no_structure_and_is_told(tmp_path: Path) -> None:
    trial = "                                 NWChem DFT Module\n         Total DFT energy =     -9.900000000000\n"
    again = '                             Geometry "geometry" -> ""'
    first, _, rest = nwchem(STEPS).partition(again)
    one, _, two = rest.partition(again)
    frames, report = read(tmp_path / "opt.out", first + again + one + trial + again + two)
    assert [a.get_potential_energy() for a in frames] == pytest.approx([e * HARTREE for e, _ in STEPS])
    assert "an energy of which no coordinates are printed left out" in report


def test_lengths_of_nwchem_may_be_in_bohr_and_plane_waves_are_refused(tmp_path: Path) -> None:
    text = nwchem(STEPS[:1], forces=False)
    in_bohr = text.replace("angstroms (scale by  1.889725989", "a.u. (scale by  1.000000000")
    (frame,), _ = read(tmp_path / "bohr.out", in_bohr)
    assert frame.get_distance(0, 1) == pytest.approx(0.75 * BOHR)
    with pytest.raises(FormatError, match="plane waves"):
        read(tmp_path / "pw.out", text + "          *               NWPW PSPW Calculation              *\n")


def test_an_optimization_of_gamess_has_all_its_structures(tmp_path: Path) -> None:
    frames, _ = read(tmp_path / "opt.out", gamess(STEPS))
    assert [a.get_potential_energy() for a in frames] == pytest.approx([e * HARTREE for e, _ in STEPS])
    np.testing.assert_allclose([a.get_distance(0, 1) for a in frames], [0.75, 0.76, 0.77], atol=1e-6)
    np.testing.assert_allclose(frames[2].get_forces()[:, 2], np.array([0.01, -0.01]) * HARTREE / BOHR)
    assert frames[0].info["charge"] == 0
