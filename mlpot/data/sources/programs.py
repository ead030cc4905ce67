"""Which program wrote a file that is not read, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 2**17  # bytes in which a program names itself
PACKED = {
    b"\x1f\x8b": ("packed by gzip, under a name that does not end so", "name it {path}.gz"),
    b"BZh": ("packed by bzip2, under a name that does not end so", "name it {path}.bz2"),
    b"\xfd7zXZ": ("packed by xz, under a name that does not end so", "name it {path}.xz"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it first: zstd -d {path}"),
    b"PK\x03\x04": ("a zip archive", "unpack it first: unzip {path}; then give the file in it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it first: 7z x {path}; then give the file in it"),
    b"PAR1": ("a Parquet table", "read it with pandas or ColabFit's tools, and write extxyz"),
    b"\x80\x02": ("a Python pickle, which may run code and is never read", "write extxyz where you trust it"),
    b"\x80\x03": ("a Python pickle, which may run code and is never read", "write extxyz where you trust it"),
    b"\x80\x04": ("a Python pickle, which may run code and is never read", "write extxyz where you trust it"),
    b"\x80\x05": ("a Python pickle, which may run code and is never read", "write extxyz where you trust it"),
    b"\x93NUMPY": (
        "one array of numpy",
        "of DeePMD-kit, give the folder that has type.raw; else put all arrays into one npz with numpy.savez",
    ),
    b"CDF": ("netCDF, as of AMBER", "write extxyz of it with MDAnalysis or cpptraj"),
}
"""First bytes, what they are of, and the way out."""
PROGRAMS = {
    r"\A\s*BEGIN_CFG": ("MLIP (moment tensor potentials)", "write extxyz of it: types as elements, energies in "
                      "eV, forces in eV/Å and PlusStress (the virial, in eV) as virial"),
    r"\A\s*1\.0 Version\s+\*\*\*": ("VASP's on-the-fly training (ML_AB)", "give OUTCAR or vasprun.xml of the run, "
                                   "whose steps by DFT are read"),
    r'"EnergyStyle"|"AtomTypeStyle"': ("FitSNAP", "write extxyz of its JSON files, with ASE"),
    r"CP2K\|": ("CP2K", "PROJECT-pos-1.xyz is read, with PROJECT-frc-1.xyz and PROJECT-1.cell beside it, and "
                "single points by --format dpdata:cp2k/output"),
    r"Psi4: An Open-Source": ("Psi4", "--format dpdata:psi4/out reads energies with gradients"),
    r"Welcome to Q-Chem|Q-Chem, Inc": ("Q-Chem", "write energies and forces as extxyz, with cclib or ASE"),
    r"Welcome to OpenMX|OpenMX Ver": ("OpenMX", "write extxyz of its .md file with dpdata (openmx/md)"),
    r"DFTB\+": ("DFTB+", "results.tag with geo_end.gen holds all; write extxyz of them, with ASE"),
    r"x T B|xtb version": ("xTB", "run it through ASE (tblite), or write extxyz of xtb.trj with its gradients"),
    r"PROGRAM SYSTEM MOLPRO": ("Molpro", "write energies and forces as extxyz, with cclib"),
    r"OpenMolcas|MOLCAS": ("OpenMolcas", "write energies and forces as extxyz, with cclib"),
    r"\bABINIT\b": ("ABINIT", "write extxyz of its netCDF output, with abipy or ASE"),
    r"(?i:welcome to siesta|^siesta version)|SIESTA \d": (
        "SIESTA", "--format dpdata:siesta/output reads energies, forces and stress"),
    r"CASTEP version|\| +CASTEP +\|": ("CASTEP", "the .md or .geom file of the run is read; give that"),
    r"\bABACUS\b": ("ABACUS", "write extxyz of its folder with dpdata (abacus/scf or abacus/md)"),
    r"Amsterdam Modeling Suite|\bAMS 20\d\d": ("AMS", "write extxyz of its ams.rkf with PLAMS, in eV and eV/Å"),
    r"MOPAC": ("MOPAC", "write energies and gradients as extxyz, with ASE"),
    r"TURBOMOLE": ("Turbomole", "the files gradient and coord of the run are read; give gradient"),
    r"^LAMMPS \(|Loop time of": ("LAMMPS (its log)", "give the dump with positions and forces: dump custom "
                                 "id element x y z fx fy fz, with dump_modify element and units yes"),
    r"NWChem": ("NWChem", "give the whole output, with gradients printed"),
    r"Entering Gaussian System": ("Gaussian", "give the whole output, with the geometry printed"),
    r"^# The current gradient in Eh/bohr": ("ORCA (the gradient of one step)", "give the output of the run, which "
                                           "has the structure, energy and gradient of every step"),
    r"\* O   R   C   A \*": ("ORCA", "give the whole output of a run that ended normally"),
    r"Program PWSCF": ("Quantum ESPRESSO", "give the whole output of pw.x, with tprnfor = .true."),
    r"vasp\.\d|VASP": ("VASP", "give vasprun.xml or OUTCAR of the run"),
    r"Invoking FHI-aims": ("FHI-aims", "give the whole output"),
    r"GAMESS VERSION": ("GAMESS", "give the whole output"),
}  # fmt: skip
"""How a program names itself in its output, its name, and what to give instead."""


def origin(path: Path) -> str:
    """A sentence on what a file seems to be and what to do; empty where nothing is known."""
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir())[:10]
        if "coord.npy" in inside:
            return f"It is a set of DeePMD-kit. Give the folder around it, which has type.raw: {path.parent}."
        return f"It is a folder with {', '.join(inside) or 'nothing in it'}. Give the file with the frames."
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"\x1f\x8b") and path.name.endswith((".tar.gz", ".tgz")):
        return f"It is an archive: unpack it first (tar xzf {path.name}), then give the file in it."
    if packed := packing(path, head):
        return packed
    if head[16:20] == b"\xde\xc0\xef\xbe":
        return "It is an LMDB database, as of OC20 and OC22: write extxyz of it with fairchem."
    if head[257:262] == b"ustar":
        return f"It is an archive: unpack it first (tar xf {path.name}), then give the file in it."
    program = program_of(head)
    if program is None:
        return ""
    return f"It seems to come from {program[0]}: {program[1].rstrip('.')}."


def packing(path: Path, head: bytes) -> str:
    """A sentence on a file by its first bytes, where they are of no text; empty if nothing is known."""
    found = (
        f"It is {what}: {cure.format(path=path.name)}."
        for first, (what, cure) in PACKED.items()
        if head.startswith(first)
    )
    return next(found, "")


def program_of(head: bytes) -> tuple[str, str] | None:
    """Name of the program that wrote a text, by its beginning, and what to give instead."""
    text = head.decode("utf-8", errors="replace")
    found = ((re.search(words, text, re.MULTILINE), told) for words, told in PROGRAMS.items())
    first = min(((match.start(), told) for match, told in found if match), default=None)
    return None if first is None else first[1]


KINDS = {
    "Gaussian": "gaussian-out", "ORCA": "orca-output", "Quantum ESPRESSO": "espresso-out",
    "FHI-aims": "aims-output", "VASP": "vasp-out", "NWChem": "nwchem-out", "GAMESS": "gamess-us-out",
}  # fmt: skip
"""ASE's format of the outputs of programs, whatever the name of the file."""


LAMMPS_DUMP = re.compile(rb"(?:\xef\xbb\xbf)?ITEM: (?:UNITS|TIME|TIMESTEP)\r?\n")
"""The beginning of a dump of LAMMPS, of which ASE knows those with its own ends of lines alone."""


LAMMPS_DATA = (rb"^\s*\d+\s+atoms\b", rb"\bxlo\s+xhi\b", rb"^\s*Atoms\b")
"""Lines of the beginning of a data file of LAMMPS, whose names are data.something, something.data or .lmp."""


EXTXYZ = re.compile(rb"\s*\d+[ \t]*\r?\n[^\n]*\b(?:Properties|Lattice)\s*=")
"""The beginning of a frame, whatever the file is called."""


XYZ = re.compile(rb"\s*\d+[ \t]*\r?\n[^\n]*\n\s*[A-Z][a-z]?(?:\s+-?\d+\.?\d*(?:[eE][+-]?\d+)?){3}")
"""The same without keys, as of trajectories of xTB (xtb.trj, xtbopt.log)."""


def kind_by_content(path: Path) -> str:
    """The format of ASE of a program's output under a name that does not show it; empty if it is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if b"<modeling>" in head:
        return "vasp-xml"
    if EXTXYZ.match(head) or XYZ.match(head):
        return "extxyz"
    if LAMMPS_DUMP.match(head):
        return "lammps-dump-text"
    if all(re.search(line, head, re.MULTILINE) for line in LAMMPS_DATA):
        return "lammps-data"
    program = program_of(head)
    return KINDS.get(program[0], "") if program else ""


def cause(path: Path, kind: str, error: Exception) -> str:
    """Why a reader of ASE failed, likely, and what else can be read; without Python's words."""
    says = str(error).split("\n")[0].strip()
    ended = isinstance(error, EOFError | StopIteration | IndexError | AssertionError) or "ended" in says
    why = "a number or a word is not where the format has it: another version, an option of the program, or damage"
    if ended:
        why = "it ends within the frame, as of a run that was cut off, or lacks a part that the reader needs"
    if isinstance(error, KeyError) and kind in ("xyz", "extxyz"):
        return (
            f"{says} is no chemical symbol. Write symbols alone in that column: Si, not 14 or Si1. In dumps of "
            "LAMMPS `dump_modify ... element Si O` does."
        )
    if isinstance(error, KeyError):
        why = (
            f"{says} is no chemical symbol, or a name that the reader does not know. Types of LAMMPS become "
            "elements by its `dump_modify ... element Si O`, or by --elements of a dump with types"
        )
    if isinstance(error, UnicodeDecodeError):
        why = "it is not text, or is damaged"
    if isinstance(error, ImportError):
        why = f"a package is missing ({says})"
    return f"{why} (the reader says: {says or type(error).__name__}). {_otherwise(path, kind)}".strip()


def _otherwise(path: Path, kind: str) -> str:
    """What else of the same run can be read."""
    if kind in ("vasp-out", "vasp-xml"):
        other = path.with_name("vasprun.xml" if kind == "vasp-out" else "OUTCAR")
        there = "is beside it: give that" if other.is_file() else "of the same run can be read: give that"
        fmt = "vasp/outcar" if kind == "vasp-out" else "vasp/xml"
        return f"{other.name} {there}, or try --format dpdata:{fmt}."
    known = {
        "gaussian-out": "Try --format dpdata:gaussian/log.",
        "orca-output": "Try --format dpdata:orca/spout.",
        "aims-output": "Try --format dpdata:fhi_aims/output.",
        "espresso-out": "Give the whole output of pw.x, from its first line.",
        "lammps-data": "Say the atom style behind the section's name, as in: Atoms # full.",
        "lammps-dump-text": "Write the dump with columns id type element x y z.",
    }
    if kind in ("xyz", "extxyz"):
        return "Correct the frame: each line has the columns that Properties names."
    found = origin(path)
    return known.get(kind, "") or found or "Name its true format with --format, or correct the file."
