"""VASP's XDATCAR: cells and fractional positions, step after step, of runs that may have been cut off."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.sources.steps import CUT_OFF, Step

STEP = re.compile(r"^\s*Direct configuration", re.IGNORECASE)
SYMBOL = re.compile(r"^([A-Z][a-z]?)(?:_\w*)?(?:/\w+)?$")  # Na, or a name of a POTCAR, as Na_pv/6a2f546d


def steps_of_xdatcar(name: str, lines: Iterable[str]) -> Iterator[Step]:
    """The structures, streamed, the last of which is marked if the file ends within it.

    Raises:
        FormatError: the elements are not named, or a line is not as VASP writes it.
    """
    stream = iter(lines)
    elements: list[tuple[int, int]] = []  # and how many atoms there are of each
    cell: NDArray[np.float64] = np.zeros((0, 3))
    n_atoms = n_steps = 0
    for line in stream:
        where = f"{name}, frame {n_steps}"
        if not STEP.match(line):
            if not line.strip() and elements:
                continue  # between steps
            if (head := _head(where, stream)) is None:
                break
            cell, elements = head
            n_atoms = sum(n for _, n in elements)
            if not STEP.match(next(stream, "")):
                break
        rows = _rows(where, stream, n_atoms)
        if len(rows) < n_atoms:
            if n_steps == 0:
                break
            yield Step([], np.zeros((0, 3)), left_out=CUT_OFF)
            return
        numbers = [number for number, n in elements for _ in range(n)]
        yield Step(numbers, np.array(rows) @ cell, cell, [True] * 3)
        n_steps += 1
    if n_steps == 0:
        raise FormatError(f"{name} ends before its first step does. Restore it.")


def _head(where: str, stream: Iterator[str]) -> tuple[NDArray[np.float64], list[tuple[int, int]]] | None:
    """The cell in Å, and the elements, of the lines behind a title; None if the file ends within."""
    lines = [line for _, line in zip(range(6), stream, strict=False)]
    if len(lines) < 6:
        return None
    symbols, counts = lines[4].split(), lines[5].split()
    try:
        cell = float(lines[0]) * np.array([line.split() for line in lines[1:4]], dtype=float).reshape(3, 3)
        if all(word.isdecimal() for word in symbols):
            raise FormatError(
                f"{where}: it names no elements, as XDATCAR of VASP 4. Write their symbols in a line of its own "
                "above that of their numbers."
            )
        found = [SYMBOL.match(symbol) for symbol in symbols]
        elements = [atomic_numbers.get(match[1], 0) if match else 0 for match in found]
        if 0 in elements:
            raise FormatError(f"{where}: {' '.join(symbols)} are not symbols of elements. Correct the file.")
        return cell, [(z, int(n)) for z, n in zip(elements, counts, strict=True)]
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{where}: the cell or the numbers of atoms are not as VASP writes them. Restore it."
        ) from error


def _rows(where: str, stream: Iterator[str], n_atoms: int) -> list[list[float]]:
    """As many fractional positions as are there."""
    rows: list[list[float]] = []
    for _, line in zip(range(n_atoms), stream, strict=False):
        words = line.split()[:3]
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise FormatError(
                f"{where}: {line.strip()[:40]!r} is no position, where {n_atoms - len(rows)} more belong. Restore "
                "the file."
            ) from error
        if len(row) < 3 or not line.endswith("\n"):
            return rows  # the number may be cut off
        rows.append(row)
    return rows
