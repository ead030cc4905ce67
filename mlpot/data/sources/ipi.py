"""Trajectories of i-PI: xyz files with any quantity in the columns of positions, in atomic units or others."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import cellpar_to_cell
from ase.io.formats import open_with_compression
from numpy.typing import NDArray

from mlpot.data.elements import numbers_of_text
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.h5md.safe_hdf5 import naming_damage
from mlpot.data.sources.ase_files import texts_of_xyz
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report
from mlpot.data.unit_names import factor

CELL = re.compile(r"\bCELL[(\[{](abcABC|H|GENH)[)\]}]:")
QUANTITY = re.compile(r"\b([A-Za-z]\w*)[(\[{](\w*)[)\]}](?!:)")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
POSITIONS = ("positions", "x_centroid")
UNITS = {"atomic_unit": "bohr", "bohr": "bohr", "angstrom": "angstrom", "nanometer": "nm"}
PERIODIC = "taken as periodic, as every cell of i-PI is; --pbc FFF says otherwise"
ALONE = "energies and forces of i-PI stand in other files, and are not read"
Floats = NDArray[np.float64]


def is_ipi(path: Path) -> bool:
    """Whether a text is a trajectory of i-PI, by its first comment."""
    if not path.is_file():
        return False
    try:
        with open_with_compression(str(path), "rb") as lines:
            count, comment = lines.readline(100), lines.readline(500)
    except (EOFError, OSError, zlib.error):  # damaged: whoever reads it says how
        return False
    return count.removeprefix(codecs.BOM_UTF8).strip().isdigit() and bool(CELL.search(comment.decode("latin-1")))


def read_ipi(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """Positions and cells; a file of any other quantity is refused.

    Raises:
        KeysError: it holds forces, velocities, ..., or nothing says in which unit it is.
        FormatError: damaged.
    """
    if reading.keys or reading.units.keys() - {"positions"}:
        raise KeysError(
            f"{path} is of i-PI, with positions and a cell alone. Leave out --key and --unit of others."
        )
    pbc = boundary_of(reading.pbc) if reading.pbc else np.full(3, True)
    for k, (line, text) in enumerate(texts_of_xyz(path, report.note)):
        where = f"{path}, frame {k} (line {line})"
        _, comment, *rows = text.splitlines()
        units = dict(QUANTITY.findall(comment))
        names = units.keys() - {"CELL", "cell"}
        if names and not names & set(POSITIONS):
            raise KeysError(
                f"{where} has {', '.join(sorted(names))} of i-PI in place of positions. Give the file of "
                "positions: in i-PI's input <trajectory> positions{angstrom} </trajectory>."
            )
        length = _length(where, next((units[name] for name in POSITIONS if name in units), ""), reading)
        words = [row.split() for row in rows]
        if any(len(row) < 4 for row in words):
            raise FormatError(f"{where}: expected a symbol and three numbers of each atom. Restore the file.")
        with naming_damage(where):
            positions = np.array([row[1:4] for row in words], dtype=float).reshape(-1, 3)
        of_cell = UNITS.get(units.get("cell", ""))
        cell = _cell(where, comment) * (length if of_cell is None else factor("positions", of_cell))
        numbers = numbers_of_text(where, np.array([row[0] for row in words]))
        if reading.pbc is None:
            report.note(PERIODIC, k)
        if reading.labels:
            report.note(ALONE, k)
        yield k, Atoms(numbers, positions * length, cell=cell, pbc=pbc)


def _length(where: str, unit: str, reading: Reading) -> float:
    """Å in one unit of length."""
    given = reading.units.get("positions")
    if given is None and unit not in UNITS:
        raise KeysError(
            f"{where}: in which unit are i-PI's positions{f' ({unit})' if unit else ''}? Where the comment says "
            "nothing, i-PI takes bohr: --unit positions=bohr or --unit positions=angstrom."
        )
    return factor("positions", given or UNITS[unit])


def _cell(where: str, comment: str) -> Floats:
    """(3, 3) in the unit of the file, rows are cell vectors."""
    match = CELL.search(comment)
    if match is None:
        raise FormatError(f"{where}: the comment has no CELL. Restore the file.")
    size = 6 if match[1] == "abcABC" else 9
    found = list(takewhile(NUMBER.fullmatch, comment[match.end() :].split()))
    numbers = np.array(found[:size], dtype=float)
    if numbers.size != size:
        raise FormatError(f"{where}: CELL has {numbers.size} numbers, not {size}. Restore the file.")
    # The nine are a matrix whose columns are the vectors.
    return np.asarray(cellpar_to_cell(numbers)) if size == 6 else numbers.reshape(3, 3).T
