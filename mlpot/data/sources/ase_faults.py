"""What ASE's readers give in other units than ASE's, or take for what it is not: put right, left out, refused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import ase.io.dlp4
import ase.io.sdf
import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from ase.io.formats import open_with_compression

from mlpot.data.errors import FormatError
from mlpot.units import BOHR, GPA, HARTREE

PS = 1000 * units.fs
QBOX_STRESS = "stress of Qbox left out, of which its output does not say the sign"
AENET = "energy and forces taken in eV and eV/Å, as aenet writes where a comment says total energy"
XSF = "forces taken in hartree/Å, as XCrySDen writes"
AENET_ENERGY = re.compile(
    r"^#\s*total energy\s*=\s*(-?[\d.]+(?:[EeDd][+-]?\d+)?)\s*eV", re.IGNORECASE | re.MULTILINE
)
HEAD = 2**12  # characters of the beginning
CODES = ("1", "2", "3", "5", "6", "7")  # of charges +3, +2, +1, -1, -2, -3 in files of molecules
PLACEHOLDER = 1.5  # Å: of a shorter cell no structure of a PDB file has images
NO_CELL = "the cell of 1 Å, by which PDB files say that there is none, left out"
SYMMETRY = "atoms taken as they stand in the file, without the images of its symmetry {}"
NAMED = "elements taken from the names of atoms, as no others are in the file: {}"
NO_VELOCITIES = "velocities of the restart are not read"
CUBE = "taken as periodic in the box of its grid; if it is a molecule: --pbc FFF, or extxyz without a cell"
ENTHALPY = "energy left out, as that of a .res file is the enthalpy at the pressure of its title, E + PV"
OF_RESIDUES = {"Cl", "Br", "Se", "Si", "Li", "Mg", "Zn", "Fe", "Al"}
"""Elements of two letters that no name of an atom of a residue begins with, unless it is of them."""
IONS = {"SOD": "Na", "POT": "K", "CES": "Cs", "CAL": "Ca", "LIT": "Li", "RUB": "Rb"}
"""Of CHARMM."""
OF_ONE = "CHONPSFIBK"
"""Elements that a name of an atom begins with, whatever letters follow."""


def mended(path: Path, kind: str, atoms: Atoms) -> str:
    """Put a structure right, in place, as ASE read it in a format; what was done in words, if a user must know.

    Raises:
        FormatError: it is no structure.
    """
    mend = MEND.get(kind)
    return "" if mend is None else mend(path, atoms)


def _dl_poly(path: Path, atoms: Atoms) -> str:
    """Velocities in Å/ps and forces in u Å/ps², of which ASE makes atomic units."""
    if atoms.has("momenta"):
        atoms.set_momenta(atoms.get_momenta() / (PS * ase.io.dlp4.DLP_V_ASE))
    if atoms.calc is not None:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] / (PS**2 * ase.io.dlp4.DLP_F_ASE)
    return ""


def _qbox(path: Path, atoms: Atoms) -> str:
    """Atomic units, which ASE takes as they are."""
    velocities = atoms.get_velocities()
    atoms.set_cell(atoms.cell.array * BOHR, scale_atoms=True)
    atoms.set_velocities(velocities * (BOHR / units.AUT))
    results = atoms.calc.results
    results["energy"] *= HARTREE
    results["forces"] = np.asarray(results["forces"]) * (HARTREE / BOHR)
    return QBOX_STRESS if results.pop("stress", None) is not None else ""


def _gpaw(path: Path, atoms: Atoms) -> str:
    """The free energy, whose derivative the forces are, beside the energy without smearing that ASE takes."""
    parts = getattr(atoms.calc, "energy_contributions", {})
    results = {} if atoms.calc is None else atoms.calc.results
    if "free energy" in parts and results.get("energy") is not None:
        plain = atoms.calc.parameters.get("uncorrected_energy", results["energy"])
        results["free_energy"] = parts["free energy"] + results["energy"] - plain
    return ""


def _xsf(path: Path, atoms: Atoms) -> str:
    """The energy of aenet's files, and forces in its units."""
    if atoms.calc is None:
        return ""
    with open_with_compression(str(path), "rt") as file:
        found = AENET_ENERGY.search(file.read(HEAD))
    if found is None:
        return XSF
    atoms.calc.results["energy"] = float(re.sub("[Dd]", "e", found[1]))
    atoms.calc.results["forces"] = atoms.calc.results["forces"] / units.Hartree
    return AENET


def _res(path: Path, atoms: Atoms) -> str:
    pressure = atoms.info.get("pressure") or 0.0
    if atoms.calc is None or abs(pressure) * GPA * atoms.get_volume() < 1e-3 * len(atoms):
        return ""
    atoms.calc = None
    atoms.info.pop("energy", None)
    return ENTHALPY


def molecules(text: str) -> Iterator[Atoms]:
    """All molecules of an SDF or MOL file, of which ASE reads the first, with the charges that it leaves out.

    Charges of atoms stand in lines of properties, or else as codes behind the positions.
    """
    for record in re.split(r"^\$\$\$\$.*\n?", text, flags=re.MULTILINE):
        if not record.strip():
            continue
        atoms = ase.io.sdf.read_sdf(io.StringIO(record))
        lines = record.partition("M  END")[0].splitlines()
        said = [line.split()[3:] for line in lines if line.startswith("M  CHG")]
        charges = [int(charge) for words in said for charge in words[1::2]]
        if not said:
            charges = [4 - int(line[36:39]) for line in lines[4 : 4 + len(atoms)] if line[36:39].strip() in CODES]
        if charges:
            atoms.info["charge"] = float(sum(charges))
        yield atoms


def _cp2k_restart(path: Path, atoms: Atoms) -> str:
    """The boundary that the section of the cell says; ASE takes what has a vector for periodic."""
    with open_with_compression(str(path), "rt") as file:
        text = file.read()
    cell = re.search(r"&CELL\b(.*?)&END", text, re.DOTALL | re.IGNORECASE)
    said = cell and re.search(r"^\s*PERIODIC\s+(NONE|[XYZ]+)", cell[1], re.MULTILINE | re.IGNORECASE)
    if said:
        atoms.pbc = [direction in said[1].upper() for direction in "XYZ"]
    return NO_VELOCITIES if re.search(r"^\s*&VELOCITY\b", text, re.MULTILINE) else ""


def _cube(path: Path, atoms: Atoms) -> str:
    return CUBE if atoms.pbc.any() else ""


def _siesta(path: Path, atoms: Atoms) -> str:
    """Velocities (bohr/fs), which ASE leaves out."""
    with open_with_compression(str(path), "rt") as lines:
        rows = [line.split() for line in lines][4 : 4 + len(atoms)]
    velocities = np.array([row[5:8] for row in rows], dtype=float) * (BOHR / units.fs)
    if velocities.shape == (len(atoms), 3) and velocities.any():
        atoms.set_velocities(velocities)
    return ""


def _cif(path: Path, atoms: Atoms) -> str:
    sites = atoms.info.get("occupancy") or {}
    partly = [site for site in sites.values() if len(site) > 1 or min(site.values()) < 0.99]
    if partly:
        told = ", ".join(f"{symbol} {part:g}" for symbol, part in partly[0].items())
        raise FormatError(
            f"{path} has sites that are partly occupied ({told}), of which a structure would hold the first "
            "element alone. Make an ordered structure of it (a supercell), and give that."
        )
    return ""


def _pdb(path: Path, atoms: Atoms) -> str:
    """Without a cell that stands for none; elements by names of atoms where the columns of elements are blank."""
    cells, twice, lacks_elements = _facts_of_pdb(str(path), path.stat().st_mtime_ns)
    told = []
    if twice:
        raise FormatError(
            f"{path} has alternate locations (column 17, as of {twice}), and all would be atoms. Leave one of "
            "each, and its column blank."
        )
    if len(cells) == 1 and atoms.cell.rank == 0:  # said once, before the first of several models
        atoms.cell, atoms.pbc = [float(cells[0][a:b]) for a, b in pairwise((6, 15, 24, 33, 40, 47, 54))], True
    if atoms.pbc.any() and atoms.cell.lengths().max() < PLACEHOLDER:
        atoms.cell, atoms.pbc = np.zeros((3, 3)), False
        told.append(NO_CELL)
    if lacks_elements:
        told.append(_by_names(path, atoms))
    symmetry = cells[0][55:66].strip() if cells else ""
    if symmetry not in ("", "P 1", "P1", "1") and atoms.pbc.any():
        told.append(SYMMETRY.format(symmetry))
    return "; ".join(told)


@lru_cache(maxsize=1)
def _facts_of_pdb(path: str, time: int) -> tuple[list[str], str, bool]:
    """Lines of cells, an atom with alternate locations, and whether elements lack, as the file was at a time."""
    with open_with_compression(path, "rt") as file:
        text = file.readlines()
    lines = [line for line in text if line.startswith(("ATOM", "HETATM"))]
    twice = next((line[12:26].strip() for line in lines if line[16:17].strip()), "")
    return (
        [line for line in text if line.startswith("CRYST1")],
        twice,
        any(not line[76:78].strip() for line in lines),
    )


def _by_names(path: Path, atoms: Atoms) -> str:
    """Elements by the names of atoms and residues, as ASE takes CA of a protein for calcium."""
    names, residues = (atoms.arrays[key].tolist() for key in ("atomtypes", "residuenames"))
    found: dict[str, str] = {}
    numbers: list[int] = []
    for name, residue in zip(names, residues, strict=True):
        symbol = element_of_name(name, residue)
        if not symbol:
            raise FormatError(
                f"{path} has an atom {name!r} in {residue!r}, and no element of it: a virtual site is no atom, "
                "and of others write the element (columns 77 and 78 of PDB, or extxyz)."
            )
        found.setdefault(symbol, name)
        numbers.append(atomic_numbers[symbol])
    velocities = atoms.get_velocities() if atoms.has("momenta") else None
    atoms.numbers = numbers
    if velocities is not None:
        atoms.set_velocities(velocities)
    return NAMED.format(", ".join(f"{name} is {symbol}" for symbol, name in sorted(found.items())))


def element_of_name(name: str, residue: str) -> str:
    """The element of an atom by its name in a force field, as CA of a protein or NA of an ion; empty if none."""
    letters = (re.findall("[A-Za-z]+", name) or [""])[0]
    two, one = letters[:2].capitalize(), letters[:1].upper()
    alone = letters.upper() == (re.findall("[A-Za-z]+", residue) or [""])[0].upper()
    if alone and letters.upper() in IONS:
        return IONS[letters.upper()]
    if two in atomic_numbers and len(two) == 2 and (alone or two in OF_RESIDUES or one not in OF_ONE):
        return two
    return one if one and one in OF_ONE else ""


def _gromacs(path: Path, atoms: Atoms) -> str:
    return _by_names(path, atoms)


MEND: dict[str, Callable[[Path, Atoms], str]] = {
    "dlp4": _dl_poly,
    "dlp-history": _dl_poly,
    "qbox": _qbox,
    "gpaw-out": _gpaw,
    "xsf": _xsf,
    "res": _res,
    "cp2k-restart": _cp2k_restart,
    "cube": _cube,
    "siesta-xv": _siesta,
    "cif": _cif,
    "proteindatabank": _pdb,
    "gromacs": _gromacs,
}
"""By format of ASE."""
