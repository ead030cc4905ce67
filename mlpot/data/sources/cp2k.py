"""Trajectories of CP2K: positions and energies in one file, forces and cells in others beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.elements import numbers_of_text
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.h5md.safe_hdf5 import naming_damage
from mlpot.data.sources.reading import Reading, boundary_of
from mlpot.data.sources.report import Report
from mlpot.data.sources.steps import CUT_OFF
from mlpot.data.sources.xyz_numbers import ends_within
from mlpot.units import BOHR, HARTREE

NAME = re.compile(r"(?P<project>.+)-(?P<what>pos|frc|vel)-(?P<number>\d+)\.xyz$")
STEP = re.compile(r"\bi\s*=\s*(\d+)")
ENERGY = re.compile(r"\bE\s*=\s*(-?\d+\.?\d*(?:[EeDd][+-]?\d+)?)")
STRESSES = (
    "stresses of {} are not read: in molecular dynamics CP2K adds the pressure of the moving atoms to them, "
    "which is no derivative of the energy"
)
AGAIN = "as of a run that went on from an earlier step,"
NO_CELL = "left out, as {} ends before its step"
NO_FORCES = "no forces, as the file of forces has none of this step"


@dataclass(frozen=True)
class _Frame:
    step: int
    energy: float | None  # hartree
    symbols: list[str]
    values: NDArray[np.float64]  # (n_atoms, 3) in the unit of the file


def is_cp2k(path: Path) -> bool:
    """Whether a file is a trajectory of CP2K, by its name and its first comment."""
    if not NAME.match(path.name) or not path.is_file():
        return False
    with path.open(errors="replace") as lines:
        return bool(STEP.search(next(lines, "") and next(lines, "")[:200]))


def read_cp2k(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """The frames of PROJECT-pos-1.xyz, with the forces of PROJECT-frc-1.xyz and the cells of PROJECT-1.cell.

    Lengths are in Å (of forces in bohr) and energies in hartree, as CP2K writes unless told otherwise.

    Raises:
        KeysError: it is another file of the three, or nothing says whether it is periodic.
        FormatError: damaged, or the files are of different atoms.
    """
    name = NAME.match(path.name)
    if name is None or name["what"] != "pos":
        raise KeysError(
            f"{path} is not CP2K's file of positions. Give PROJECT-pos-1.xyz, the others are found beside it."
        )
    if reading.keys or reading.units:
        raise KeysError(
            f"{path} is of CP2K, which writes Å, hartree and hartree/bohr. Leave out --key and --unit."
        )
    beside = path.with_name(f"{name['project']}-frc-{name['number']}.xyz")
    cells = _Cells(path.with_name(f"{name['project']}-{name['number']}.cell"), reading)
    first = report.wanted.start  # what is true of the whole is told of the first frame
    if not beside.is_file():
        report.note(f"no forces, as there is no {beside.name} beside it", first)
    _note_besides(path.parent, name["project"], name["number"], report)
    forces = _frames(beside) if beside.is_file() else iter(())
    pending = next(forces, None)
    for k, frame in enumerate(_frames(path, report.note)):
        pending = _at_least(frame.step, pending, forces, f"{beside}, sought from {path}, frame {k}")
        if cells.end_before(frame.step):
            report.note(NO_CELL.format(cells.name), k)
            continue
        own, atoms = None, _atoms(f"{path}, frame {k}", frame, cells)
        if pending is not None and pending.step == frame.step:
            own, pending = pending, next(forces, None)
            if own.symbols != frame.symbols:
                raise FormatError(
                    f"{beside} has other atoms at step {frame.step} than {path}. They are of two runs."
                )
        elif beside.is_file():
            report.note(NO_FORCES, k)
        labels: dict[str, Any] = {} if frame.energy is None else {"energy": frame.energy * HARTREE}
        if own is not None:
            labels["forces"] = own.values * (HARTREE / BOHR)
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        yield k, atoms


def _note_besides(folder: Path, project: str, number: str, report: Report) -> None:
    """Tell of files of the run that are not read."""
    first = report.wanted.start
    if (velocities := folder / f"{project}-vel-{number}.xyz").is_file():
        report.note(f"velocities of {velocities.name} are not read", first)
    if (stresses := folder / f"{project}-{number}.stress").is_file():
        report.note(STRESSES.format(stresses.name), first)


def _at_least(step: int, pending: _Frame | None, forces: Iterator[_Frame], where: str) -> _Frame | None:
    """The first frame of forces from `pending` on that is not before a step of the positions."""
    while pending is not None and pending.step < step:
        before, pending = pending.step, next(forces, None)
        if pending is not None and pending.step <= before:
            raise FormatError(
                f"{where}: step {pending.step} stands behind step {before}, {AGAIN} whose positions are others. "
                "Cut both files where it went on, and convert each part."
            )
    return pending


def _atoms(where: str, frame: _Frame, cells: _Cells) -> Atoms:
    numbers = numbers_of_text(where, np.array(frame.symbols))
    return Atoms(numbers, frame.values, cell=cells.at(where, frame.step), pbc=cells.pbc)


class _Cells:
    """The cell at every step, and which directions are periodic."""

    def __init__(self, path: Path, reading: Reading):
        self._path, self._given, self.name = path, reading.lattice, path.name
        self._at: dict[int, NDArray[np.float64]] = {}
        self._several: set[int] = set()  # steps with more than one cell
        if self._given is None and path.is_file():
            with naming_damage(str(path)):
                rows = np.loadtxt(_whole_lines(path), ndmin=2)
            if rows.shape[1] < 11:
                raise FormatError(f"{path} has {rows.shape[1]} columns, expected step, time and nine of the cell.")
            for row in rows:
                cell = row[2:11].reshape(3, 3)
                if not np.array_equal(self._at.setdefault(int(row[0]), cell), cell):
                    self._several.add(int(row[0]))
        elif self._given is None and (reading.pbc is None or boundary_of(reading.pbc).any()):
            raise KeysError(
                f"There is no {path.name} beside the positions, so nothing says what the cell is. Give it in Å: "
                "--cell 10,10,10 (or nine numbers); of a molecule without one: --pbc FFF."
            )
        self._first = next(iter(self._at.values()), np.zeros((3, 3)))
        self._constant = all(np.array_equal(cell, self._first) for cell in self._at.values())
        whole = bool(self._at) or self._given is not None
        self.pbc = boundary_of(reading.pbc) if reading.pbc else np.full(3, whole)

    def end_before(self, step: int) -> bool:
        """Whether the cell changes, and its file ends before a step, as of a run that was killed."""
        return not self._constant and bool(self._at) and step > max(self._at)

    def at(self, where: str, step: int) -> NDArray[np.float64]:
        if self._given is not None:
            return self._given
        if step in self._several:
            raise FormatError(
                f"{where}: {self._path.name} has several cells of step {step}, {AGAIN} and nothing says which is "
                "of these positions. Cut both files where it went on, and convert each part."
            )
        if step in self._at or self._constant:
            return self._at.get(step, self._first)
        raise FormatError(
            f"{where}: {self._path.name} has no cell of step {step}, and the cell changes. Restore it."
        )


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file but for a last one that was cut off: with fewer words, or within a number."""
    with path.open(errors="replace") as file:
        lines = file.readlines()
    return lines[:-1] if len(lines) > 2 and ends_within(["", "", *lines[-2:]]) else lines


def _frames(path: Path, note: Callable[[str, int], None] = lambda what, frame: None) -> Iterator[_Frame]:
    """The frames of one xyz file of CP2K but for a last one that was cut off, of which `note` is told.

    Raises:
        FormatError: it is damaged elsewhere, or its first frame was cut off.
    """
    with path.open(errors="replace") as lines:
        for k, line in enumerate(iter(lines.readline, "")):
            where = f"{path}, frame {k}"
            comment = lines.readline()
            step, energy = STEP.search(comment), ENERGY.search(comment)
            if k and not comment.endswith("\n"):
                note(CUT_OFF, k)
                return
            if not line.strip().isdecimal() or step is None:
                raise FormatError(
                    f"{where}: expected a number of atoms, then a comment with i = and E =, found "
                    f"{line.strip()[:40]!r} and {comment.strip()[:40]!r}. Restore the file."
                )
            text = list(islice(lines, int(line)))
            rows = [row.split() for row in text]
            is_cut = len(rows) < int(line) or ends_within(["", "", *text])
            if is_cut and k:
                note(CUT_OFF, k)
                return
            if is_cut or min(map(len, rows), default=0) < 4:
                raise FormatError(
                    f"{where} ends before its last atom, as where a run was cut off. Remove the rest."
                )
            with naming_damage(where):
                values = np.array([row[1:4] for row in rows], dtype=float)
            number = None if energy is None else float(re.sub("[Dd]", "e", energy[1]))
            yield _Frame(int(step[1]), number, [row[0] for row in rows], values)
