"""Outputs that dpdata reads and ASE does not, or not always: an optional door (`pip install mlpot[dpdata]`)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.elements import numbers_of_text
from mlpot.data.errors import FormatError, KeysError, LabelError
from mlpot.data.sources.programs import HEAD, program_of
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report

PREFIX = "dpdata:"
READS = (
    "vasp/outcar", "vasp/xml", "cp2k/output", "psi4/out", "orca/spout", "siesta/output", "gaussian/log",
    "fhi_aims/output", "pwmat/movement", "sqm/out",
)  # fmt: skip
"""Formats whose readers look at one file alone; dpdata's others follow names, or take folders."""
KINDS = tuple(f"{PREFIX}{name}" for name in READS)
INSTALL = "pip install 'mlpot[dpdata]'"
PERIODICITY = re.compile(r"^\s*(CELL|POISSON)\|\s+Periodicity\s+(NONE|X?Y?Z?)\s*$")
"""Of a log of CP2K, whose boundary dpdata does not read."""
KEPT = "dpdata leaves out what it finds not converged, so numbers of frames are those of what it keeps"


def by_dpdata(path: Path) -> str:
    """The format in which dpdata reads the output of a program that ASE does not; empty for all others."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        program = program_of(file.read(HEAD))
    return {"CP2K": f"{PREFIX}cp2k/output", "Psi4": f"{PREFIX}psi4/out"}.get(program[0] if program else "", "")


def read_dpdata(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """The labeled frames that dpdata finds in an output, in eV and Å; cells are turned to be lower triangular.

    Raises:
        FormatError: dpdata is not installed, or cannot read the file.
    """
    if reading.keys or reading.units:
        raise KeysError(f"{path} is read by dpdata, which knows its names and units. Leave out --key and --unit.")
    if kind == f"{PREFIX}cp2k/output":
        _refuse_several_steps(path)
    system = _system(path, kind)
    numbers = numbers_of_text(str(path), np.array(system["atom_names"]))[system["atom_types"]]
    pbc = boundary_of(reading.pbc) if reading.pbc else np.full(3, not system.get("nopbc", False))
    if kind == f"{PREFIX}cp2k/output" and not reading.pbc:
        pbc = _boundary_of_cp2k(path)
    for k in range(len(system["coords"])):
        if kind.startswith(f"{PREFIX}vasp"):
            report.note(KEPT, k)
        cell = system["cells"][k] if pbc.any() else None
        atoms = Atoms(numbers, system["coords"][k], cell=cell, pbc=pbc)
        labels: dict[str, Any] = {"energy": float(system["energies"][k])}
        if "forces" in system:
            labels["forces"] = system["forces"][k]
        if "virials" in system and pbc.all():
            stress = -np.asarray(system["virials"][k]) / atoms.get_volume()
            labels["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        yield k, atoms


def _boundary_of_cp2k(path: Path) -> NDArray[np.bool_]:
    """(3,) which directions are periodic: of the cell, or else of the Poisson solver; all if neither says."""
    said: dict[str, str] = {}
    with path.open(errors="replace") as lines:
        for line in lines:
            if found := PERIODICITY.match(line):
                said[found[1]] = found[2]
    directions = said.get("CELL", said.get("POISSON", "XYZ"))
    return np.array([direction in directions for direction in "XYZ"])


def _refuse_several_steps(path: Path) -> None:
    """Stop at a log of CP2K with more than one energy, whose coordinates and forces dpdata would mix."""
    with path.open(errors="replace") as lines:
        told = [line for line in lines if "ENERGY| Total FORCE_EVAL" in line or "SCF run NOT converged" in line]
    n_steps = sum("ENERGY|" in line for line in told)
    if n_steps > 1:
        raise FormatError(
            f"{path} is the log of {n_steps} energies of CP2K, of which it does not show all structures. Give "
            "PROJECT-pos-1.xyz of the run; PROJECT-frc-1.xyz and PROJECT-1.cell are found beside it."
        )
    if len(told) > n_steps:
        raise LabelError(
            f"{path}: the self-consistency of CP2K did not converge, so it is not read. Run it again."
        )


def _system(path: Path, kind: str) -> dict[str, Any]:
    try:
        import dpdata
    except ImportError:
        raise FormatError(f"{path} needs dpdata to be read ({kind}), which is not installed: {INSTALL}.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data: dict[str, Any] = dpdata.LabeledSystem(str(path), fmt=kind.removeprefix(PREFIX)).data
    except Exception as error:  # as ASE's, each of its readers fails in its own way
        raise FormatError(
            f"{path} cannot be read by dpdata as {kind.removeprefix(PREFIX)}: it was cut off, or is of another "
            f"version or program (the reader says: {str(error) or type(error).__name__})."
        ) from error
    if not len(data["coords"]):
        raise FormatError(f"{path} has no frame that dpdata finds as {kind.removeprefix(PREFIX)}.")
    return data
