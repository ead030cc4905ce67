"""Outputs of NWChem: each structure with its own energy and gradient.

ASE's reader cuts an output where a calculation begins, and takes the last structure of a part: that of the next
calculation, where no gradient is printed. It takes coordinates in bohr for those in Å.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.sources.collected import Collected
from mlpot.data.sources.steps import Lines, Step, whole_steps
from mlpot.units import BOHR, HARTREE

NUMBER = r"(-?\d*\.\d+(?:[DEde][+-]?\d+)?)"
GEOMETRY = re.compile(r'^\s*Geometry ".*" -> ')
SCALE = re.compile(r"\(scale by\s+([\d.]+)\s+to convert to a\.u\.\)")
ENERGY = re.compile(rf"^\s*Total (SCF|DFT|MP2|CCSD|CCSD\(T\)) energy\s*[=:]?\s*{NUMBER}\s*$")
FURTHER = re.compile(rf"^\s*(\S+) total energy / hartree\s*=\s*{NUMBER}")
EXCITED = re.compile(rf"^\s*Excited state energy\s*=\s*{NUMBER}")
GRADIENT = re.compile(r"^\s*(\S+) ENERGY GRADIENTS\s*$")
CHARGE = re.compile(r"^\s*charge\s*[:=]\s*(-?\d+(?:\.\d+)?)\s*$", re.IGNORECASE)
MULTIPLICITY = re.compile(r"^\s*Spin multiplicity\s*:\s*(\d+)")
FAILED, PLANE_WAVES, END = "Calculation failed to converge", "NWPW", "Total times  cpu:"


def steps_of_nwchem(name: str, lines: Iterable[str]) -> list[Step]:
    """The structures of an output, of all its tasks.

    Raises:
        FormatError: it is of plane waves, or has atoms that are none.
    """
    found, stream, has_ended, excited = Collected(), Lines(lines), False, None
    for line in stream:
        if GEOMETRY.match(line):
            if (structure := _structure(name, stream)) is not None:
                found.take_structure(*structure)
                excited = None
        elif match := ENERGY.match(line) or FURTHER.match(line):
            found.take_energy(match[1], _number(match[2]) * HARTREE)
        elif match := EXCITED.match(line):
            excited = _number(match[1]) * HARTREE
        elif match := GRADIENT.match(line):
            if match[1] == "TDDFT" and excited is not None:
                found.take_energy("TDDFT", excited)
            numbers, table = _rows(stream, 8)
            if len(table):
                found.take_forces(-table[:, 3:] * (HARTREE / BOHR), numbers, table[:, :3] * BOHR)
        elif match := CHARGE.match(line):
            found.state["charge"] = float(match[1])
        elif match := MULTIPLICITY.match(line):
            found.state["multiplicity"] = int(match[1])
        elif FAILED in line:
            found.fails = True
        elif PLANE_WAVES in line and "Calculation" in line:
            raise FormatError(
                f"{name} is of plane waves (NWPW), of which NWChem prints each structure apart from its energy. "
                "Write structures, energies and forces as extxyz."
            )
        has_ended = has_ended or END in line
    return whole_steps(found.finish(), has_ended) if found.finish() else []


def _structure(name: str, stream: Lines) -> tuple[list[int], NDArray[np.float64]] | None:
    """Numbers and places (Å) of a geometry; None if the file ends within it."""
    scale = None
    for line in stream:
        if match := SCALE.search(line):
            scale = float(match[1])
        elif line.split()[:2] == ["No.", "Tag"]:
            break
    next(stream, "")
    numbers, table = _rows(stream, 6)
    if scale is None or not numbers:
        return None
    if 0 in numbers:
        raise FormatError(f"{name} has ghost atoms, and what is computed with them is no structure. Leave it out.")
    return numbers, table[:, 1:] * (scale * BOHR)


def _rows(stream: Lines, n_words: int) -> tuple[list[int], NDArray[np.float64]]:
    """The elements and the numbers behind number and tag of each row; none if the file ends within the rows."""
    numbers: list[int] = []
    rows: list[list[float]] = []
    for line in stream:
        words = line.split()
        if len(words) == n_words and words[0].isdecimal():
            rows.append([_number(word) for word in words[2:]])
            numbers.append(_element(words[1]))
        elif rows:
            return numbers, np.array(rows)
    return [], np.empty((0, n_words - 2))


def _element(tag: str) -> int:
    """The atomic number of a tag such as C, c1 or Fe_up; 0 of a ghost atom (bq), or of none."""
    letters = re.match(r"[A-Za-z]*", tag)
    symbol = letters[0].capitalize() if letters else ""
    return 0 if symbol.startswith("Bq") else atomic_numbers.get(symbol[:2], atomic_numbers.get(symbol[:1], 0))


def _number(text: str) -> float:
    return float(re.sub("[Dd]", "e", text))
