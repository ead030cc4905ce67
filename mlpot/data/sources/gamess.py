"""Outputs of GAMESS: each structure with its own energy and gradient.

ASE's reader joins the first structure of an optimization with its last energy and gradient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.sources.collected import Collected
from mlpot.data.sources.steps import Lines, Step, whole_steps
from mlpot.units import BOHR, HARTREE

FIRST = re.compile(r"^\s*ATOM\s+ATOMIC\s+COORDINATES \((BOHR|ANGS)\)")
LATER = "COORDINATES OF ALL ATOMS ARE (ANGS)"
PLACE = re.compile(r"^\s*\S+\s+(-?\d+\.\d+)((?:\s+-?\d+\.\d+){3})\s*$")
ENERGY = re.compile(r"^\s*FINAL (.+) ENERGY IS\s+(-?\d+\.\d+) AFTER")
MP2 = re.compile(r"^\s*E\((MP2)\)=\s*(-?\d+\.\d+)")
HIGHEST = "THE FOLLOWING METHOD AND ENERGY"
GRADIENTS = re.compile(r"^\s*UNITS ARE HARTREE/BOHR|^\s*ATOM\s+ZNUC\s+DE/DX")
ROW = re.compile(r"^\s*\d+\s+\S+(?:\s+\d+\.\d)?((?:\s+-?\d+\.\d{4,}){3})\s*$")
FAILED = re.compile("SCF IS UNCONVERGED|SCF DID NOT CONVERGE")
CHARGE = re.compile(r"^\s*CHARGE OF MOLECULE\s*=\s*(-?\d+)")
MULTIPLICITY = re.compile(r"^\s*SPIN MULTIPLICITY\s*=\s*(\d+)")
END = "EXECUTION OF GAMESS TERMINATED"


def steps_of_gamess(name: str, lines: Iterable[str]) -> list[Step]:
    """The structures of an output.

    Raises:
        FormatError: an atom has a charge of the nucleus that no element has.
    """
    found, stream, has_ended = Collected(), Lines(lines), False
    for line in stream:
        if (first := FIRST.match(line)) or LATER in line:
            unit = BOHR if first and first[1] == "BOHR" else 1.0
            table = np.array(_table(stream, PLACE))
            if len(table):
                found.take_structure(_elements(name, table[:, 0]), table[:, 1:] * unit)
        elif match := ENERGY.match(line) or MP2.match(line):
            found.take_energy(match[1], float(match[2]) * HARTREE)
        elif HIGHEST in line:
            words = next(stream, "").split()
            if words:
                found.take_energy(" ".join(words[:-1]), float(words[-1]) * HARTREE)
        elif GRADIENTS.match(line):
            rows = _table(stream, ROW)
            if rows:
                found.take_forces(-np.array(rows) * (HARTREE / BOHR))
        elif match := CHARGE.match(line):
            found.state["charge"] = float(match[1])
        elif match := MULTIPLICITY.match(line):
            found.state["multiplicity"] = int(match[1])
        elif FAILED.search(line):
            found.fails = True
        has_ended = has_ended or END in line
    return whole_steps(found.finish(), has_ended) if found.finish() else []


def _table(stream: Lines, row: re.Pattern[str]) -> list[list[float]]:
    """The numbers of the rows of a table, which begins within two lines; none if the file ends within the rows."""
    rows: list[list[float]] = []
    for k, line in enumerate(stream):
        if match := row.match(line):
            rows.append([float(word) for group in match.groups() for word in group.split()])
        elif "***" in line:
            raise ValueError(line)  # of the table: without it, energies would be of the structure before
        elif rows or k > 1:
            stream.give_back(line)
            return rows
    return []


def _elements(name: str, charges: NDArray[np.float64]) -> list[int]:
    numbers = np.round(charges).astype(int)
    if (np.abs(numbers - charges) > 0.01).any() or numbers.min() < 1:
        raise FormatError(
            f"{name} has ghost atoms or charges that are no nuclei, so it is no structure. Leave it out."
        )
    return [int(number) for number in numbers]
