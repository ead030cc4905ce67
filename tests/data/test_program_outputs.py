"""Is what cannot be read named by the program that wrote it, with a way out, and never by Python's own words?"""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write as write_with_ase
from frames import converted
from outputs import orca, outcar, steps_of, vasprun

from mlpot.data.h5md import DataError, FormatError, LabelError
from mlpot.data.sources.convert import convert
from mlpot.data.sources.read import Source
from mlpot.data.sources.reading import Reading
from mlpot.units import BOHR, HARTREE


def refusal(path: Path, **said) -> str:
    with pytest.raises(DataError) as caught:
        list(Source(path, Reading(**said)).frames())
    text = str(caught.value)
    assert str(path) in text
    assert "Error(" not in text, "Python's own words"
    return text


WRITTEN = {
    "log.lammps": (
        "LAMMPS (2 Aug 2023)\nunits metal\nLoop time of 1.2 on 1 procs\n",
        "from LAMMPS (its log): give the dump",
    ),
    "job.out": ("                  Welcome to Q-Chem\n     A Quantum Leap Into The Future\n", "from Q-Chem"),
    "molpro.out": ("  ***  PROGRAM SYSTEM MOLPRO  ***\n", "from Molpro"),
    "scf.log": (" Entering Gaussian System, Link 0=g16\n # pbe\n", "from Gaussian: give the whole output"),
    "run.log": ("  x T B  \n xtb version 6.6\n", "from xTB"),
    "openmx.out": (" Welcome to OpenMX   Ver. 3.9 \n", "from OpenMX"),
    "job.engrad": ("#\n# The current gradient in Eh/bohr\n#\n 0.1\n", "give the output of the run, which has"),
    "siesta.out": ("Siesta Version  : v4.1.5\n         *  WELCOME TO SIESTA  *\n", "from SIESTA: --format dpdata"),
    "ams.log": (" *  Amsterdam Modeling Suite  *\n AMS 2023.104\n", "from AMS: write extxyz of its ams.rkf"),
    "empty.log": ("\n" * 3, "If it is in another format"),
    "notes.abc": ("some words\n", "shows no format that ASE knows"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_program_is_named_and_what_to_give_instead(tmp_path, name):
    text, expected = WRITTEN[name]
    (tmp_path / name).write_text(text)
    assert expected in refusal(tmp_path / name)


def test_what_is_packed_is_to_be_unpacked(tmp_path):
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo("set.xyz")
        member.size = 3
        file.addfile(member, io.BytesIO(b"1\n\n"))
    assert "unpack it first (tar xzf set.tar.gz)" in refusal(archive)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("set.xyz", "1\n")
    assert "unzip set.zip" in refusal(tmp_path / "set.zip")
    (tmp_path / "set.xyz.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    assert "zstd -d set.xyz.zst" in refusal(tmp_path / "set.xyz.zst")
    (tmp_path / "set.pkl").write_bytes(b"\x80\x04" + bytes(20))
    assert "pickle, which may run code" in refusal(tmp_path / "set.pkl")
    np.save(tmp_path / "coord.npy", np.zeros((2, 9)))
    assert "of DeePMD-kit, give the folder that has type.raw" in refusal(tmp_path / "coord.npy")
    (tmp_path / "data.lmdb").write_bytes(bytes(16) + b"\xde\xc0\xef\xbe" + bytes(100))
    assert "LMDB" in refusal(tmp_path / "data.lmdb")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").touch()
    assert "is a folder with a.txt" in refusal(tmp_path / "folder")


def test_a_file_that_a_reader_stumbles_over_says_why_and_what_else_can_be_read(tmp_path):
    path = tmp_path / "OUTCAR"
    text = outcar(steps_of(-4.0, (True, True)))
    path.write_text(text.replace("TOTEN  =", "TOTEN  = =", 1))
    told = refusal(path)
    assert "frame 0 of" in told
    assert "another version, an option of the program, or damage" in told
    assert "vasprun.xml of the same run can be read: give that, or try --format dpdata:vasp/outcar" in told
    (tmp_path / "vasprun.xml").touch()
    assert "vasprun.xml is beside it" in refusal(path)
    path.write_text(text[: text.rfind("POSITION") + 150])
    assert len(list(Source(path).frames())) == 1, "whole steps of a run that was cut off"
    path = tmp_path / "orca.out"
    path.write_text(orca([(-1.0, True)]).split("ORCA SCF GRADIENT")[0])
    assert "--format dpdata:orca/spout" in refusal(path)


def test_types_in_place_of_symbols_are_named(tmp_path):
    (tmp_path / "dump.xyz").write_text("2\nAtoms. Timestep: 0\n1 0 0 0\n2 0 0 1\n")
    assert "'1' is no chemical symbol" in refusal(tmp_path / "dump.xyz")
    assert "dump_modify ... element" in refusal(tmp_path / "dump.xyz")


# --- dpdata ---


def cp2k_output(*, converged: bool = True, times: int = 1) -> str:
    lines = [
        " DBCSR| Multiplication driver                                               BLAS",
        " CP2K| version string: CP2K 2023.1",
    ]
    for k, row in enumerate(("a", "b", "c")):
        vector = ["0.000"] * 3
        vector[k] = f"{9 + k}.000"
        lines += [f" CELL| Vector {row} [angstrom]:     {'   '.join(vector)}   |{row}| =    9.0"]
    lines += ["  1. Atomic kind: O                                     Number of atoms:       1"]
    lines += ["  2. Atomic kind: H                                     Number of atoms:       1"]
    lines += [
        " MODULE QUICKSTEP: ATOMIC COORDINATES IN ANGSTROM",
        "  Atom  Kind  Element       X           Y           Z",
        "",
    ]
    lines += ["       1     1 O  8    1.000000    0.000000    0.000000    6.0    15.9994"]
    lines += ["       2     2 H  1    1.960000    0.000000    0.000000    1.0     1.0079", ""]
    for _ in range(times):
        lines += [
            "  *** SCF run converged in    12 steps ***"
            if converged
            else " *** WARNING: SCF run NOT converged ***"
        ]
        lines += [" ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):              -17.164344758312"]
    lines += [" ATOMIC FORCES in [a.u.]", "", " # Atom   Kind   Element          X              Y              Z"]
    lines += ["      1      1      O           0.01000000     0.00000000     0.00000000"]
    lines += [
        "      2      2      H          -0.01000000     0.00000000     0.00000000",
        " SUM OF ATOMIC FORCES  0 0 0 0",
        "",
    ]
    return "\n".join(lines)


def test_a_single_point_of_cp2k_is_read_by_dpdata(tmp_path):
    pytest.importorskip("dpdata", reason="an optional door: pip install mlpot[dpdata]")
    path = tmp_path / "cp2k.log"
    path.write_text(cp2k_output())
    (atoms,) = converted(path)
    assert atoms.get_chemical_symbols() == ["O", "H"]
    assert atoms.get_potential_energy() == pytest.approx(-17.164344758312 * HARTREE, rel=1e-7)
    np.testing.assert_allclose(atoms.get_forces()[:, 0], np.array([0.01, -0.01]) * HARTREE / BOHR, rtol=1e-6)
    assert atoms.pbc.all()
    for place, said, pbc in (("POISSON", "NONE", [0, 0, 0]), ("CELL", "XY", [1, 1, 0])):
        path.write_text(cp2k_output().replace("  1. Atomic", f" {place}| Periodicity {said:>60}\n  1. Atomic"))
        assert converted(path)[0].pbc.astype(int).tolist() == pbc
    np.testing.assert_allclose(atoms.cell.lengths(), [9, 10, 11])
    assert atoms.pbc.all()
    path.write_text(cp2k_output(times=3))
    assert "log of 3 energies of CP2K" in refusal(path)
    path.write_text(cp2k_output(converged=False))
    with pytest.raises(LabelError, match="self-consistency of CP2K did not converge"):
        convert(path, tmp_path / "set.h5")


def test_an_outcar_is_read_by_dpdata_where_asked_for(tmp_path):
    pytest.importorskip("dpdata", reason="an optional door: pip install mlpot[dpdata]")
    path = tmp_path / "OUTCAR"
    path.write_text("no OUTCAR at all\n")
    assert "cannot be read by dpdata as vasp/outcar" in refusal(path, format="dpdata:vasp/outcar")


def test_a_good_file_is_not_taken_for_a_program_s(tmp_path):
    """A comment that names a program changes nothing."""
    water = Atoms("OH2", np.eye(3), info={"made_with": "CP2K| version string: VASP"})
    write_with_ase(tmp_path / "set.xyz", water, format="extxyz")
    assert len(list(Source(tmp_path / "set.xyz", Reading(labels=False)).frames())) == 1
    with pytest.raises(FormatError, match="There is no format 'dpdata:nothing'"):
        list(Source(tmp_path / "set.xyz", Reading(format="dpdata:nothing")).frames())


@pytest.mark.parametrize("kind", ["OUTCAR", "vasprun.xml"])
def test_steps_of_the_force_field_that_vasp_learns_are_no_calculations(tmp_path, kind):
    """OUTCAR names energies of the model in words of their own, vasprun.xml has no electronic steps of them."""
    steps = steps_of(-4.0, (True, False, True))
    if kind == "OUTCAR":
        lines = [
            "  ML FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  " + "-" * 51,
            "  free  energy ML TOTEN  =       -9.00000000 eV", "",
            "  ML energy  without entropy=      -9.00000000  ML energy(sigma->0) =      -9.00000000", "",
        ]  # fmt: skip
        table = " POSITION                                       TOTAL-FORCE (eV/Angst) (ML)\n " + "-" * 83 + "\n"
        model = table + "      4.0  4.0  4.0    9.0  9.0  9.0\n" + " " + "-" * 83 + "\n" + "\n".join(lines)
        text = " INCAR:\n   ML_LMLFF = .TRUE.\n" + outcar(steps).replace(
            "--------------------------------------- Iteration      2(   1)",
            model + "\n---- Iteration      2(   1)",
        )
        text = text.replace("---- Iteration      2(   1)", model * 2 + "\n---- Iteration      2(   1)") + model
        n = 3  # of four results one is of a step that is calculated too
    else:
        text = vasprun(steps)
        whole = text[text.index("<calculation>") : text.index("</calculation>") + 14]
        model = "\n".join(line for line in whole.splitlines() if "scstep" not in line) + "\n"
        text = text.replace("<calculation>", model + "<calculation>").replace("</modeling>", model + "</modeling>")
        text = text.replace(
            "<parameters>", '<incar><i type="logical" name="ML_LMLFF"> T  </i></incar>\n<parameters>'
        )
        n = 4
    path = tmp_path / kind
    path.write_text(text)
    source = Source(path)
    frames = list(source.numbered())
    assert [k for k, _ in frames] == [0, 2]
    assert [atoms.get_potential_energy() for _, atoms in frames] == [energy for energy, good in steps if good]
    np.testing.assert_allclose(frames[1][1].get_forces(), [[0.1, -0.2, 0.3]])
    told = "\n".join(source.report.lines())
    assert f"labels no calculation gave; before frame ({n} frames" in told
    assert "1 frame: 1" in told


@pytest.mark.parametrize(
    ("name", "text", "program"),
    [
        ("train.cfg", "BEGIN_CFG\n Size\n 2\n Feature EFS_by VASP\nEND_CFG\n", "MLIP"),
        ("ML_AB", " 1.0 Version\n**************************\n     The number of configurations\n", "ML_AB"),
    ],
)
def test_training_sets_of_other_programs_are_named(tmp_path, name, text, program):
    (tmp_path / name).write_text(text)
    assert f"It seems to come from {program}" in refusal(tmp_path / name).replace(
        "VASP's on-the-fly training (", ""
    )
