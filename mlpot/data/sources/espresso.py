"""Outputs of pw.x: each structure with the energy of its functional, and with what is held.

ASE's reader takes the first energy of a hybrid functional, which is without exact exchange, does not look at which
atoms are held, whose forces are printed as zero, and fails where bands or dipoles are printed in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from ase import Atoms
from ase.io.espresso import (
    convert_constraint_flags,
    get_atomic_positions,
    get_cell_parameters,
    label_to_symbol,
    parse_pwo_start,
)
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.sources.steps import CUT_OFF, ENDED, NOT_REACHED, Step
from mlpot.units import BOHR, RYDBERG

START, POSITIONS, CELL = "Program PWSCF", "ATOMIC_POSITIONS", "CELL_PARAMETERS"
SCF, BANDS = "End of self-consistent calculation", "End of band structure calculation"
ENERGY, EXCHANGE = "!    total energy", "!!   total energy"
FORCES, STRESS = "Forces acting on atoms", "total   stress"
RESULTS = (SCF, BANDS, ENERGY, EXCHANGE, FORCES, STRESS)
"""A structure without any of these before the next one is only printed, as the last of a relaxation again."""
EXACT = re.compile(r"EXX-fraction|EXX: now go back|^!!   total energy")
VALUE = re.compile(r"total energy\s*=\s*(-?[\d.]+)")
THRESHOLD = re.compile(r"(?:convergence threshold\s*=|new conv_thr\s*=)\s*([\d.EeDd+-]+)")
FUNCTIONAL = re.compile(r"Exchange-correlation\s*=\s*([^(]+)")
ACCURACY = re.compile(r"estimated scf accuracy\s*<\s*([\d.EeDd+-]+)")
FORCE = re.compile(r"^\s*atom\s.*force =\s*(-?\d+\.\d{8})\s*(-?\d+\.\d{8})\s*(-?\d+\.\d{8})\s*\n")
END = "JOB DONE"
ROUNDING = 1e-8  # Ry, of an accuracy that is printed with eight digits
NOT_AS_ASKED = "its self-consistency stopped above conv_thr (scf_must_converge = .false.)"
NO_EXCHANGE = "its exact exchange did not converge"
HELD_IS_UNKNOWN = (
    "which atoms were held is unknown, as pw.x tells it with a second structure alone, and some forces are "
    "exactly zero, as it prints those of held atoms; if any were held: --hold 0,1 with their numbers"
)


@dataclass
class _Frame:
    """The lines of a structure, and what is true of its run."""

    lines: list[str]
    start: Atoms
    alat: float  # Å
    cell: NDArray[np.float64]  # Å
    threshold: float | None  # Ry, of the self-consistency
    is_exact: bool
    """Whether the functional is a hybrid."""
    method: str

    def step(self) -> Step | None:
        """What was calculated, None if nothing was."""
        if not any(words in line for line in self.lines for words in RESULTS):
            return None
        atoms, constraints = self._structure()
        value = next((VALUE.search(line) for line in self.lines if self._marker in line), None)
        forces = self._forces(len(atoms))
        step = Step(
            atoms.numbers.tolist(),
            atoms.positions,
            self.cell,
            [True] * 3,
            None if value is None else float(value[1]) * RYDBERG,
            None if forces is None else forces * (RYDBERG / BOHR),
            stress=self._stress(),
            method=self.method,
            constraints=constraints,
        )
        step.fault = self._fault(step.energy is not None)
        if forces is not None and len(forces) < len(atoms):
            step.left_out = CUT_OFF
        return step

    @property
    def _marker(self) -> str:
        return EXCHANGE if self.is_exact else ENERGY

    def _structure(self) -> tuple[Atoms, list[object]]:
        if START in self.lines[0]:
            return self.start, []
        n_atoms = len(self.start)
        rows = get_atomic_positions(self.lines[: n_atoms + 1], n_atoms=n_atoms, cell=self.cell, alat=self.alat)
        symbols = [label_to_symbol(symbol) for symbol, _, _ in rows]
        constraints = convert_constraint_flags([flags for _, _, flags in rows])
        return Atoms(symbols, [place for _, place, _ in rows]), constraints

    def _forces(self, n_atoms: int) -> NDArray[np.float64] | None:
        """(n_atoms, 3) Ry/bohr of the first table, fewer if it ends before."""
        at = next((k for k, line in enumerate(self.lines) if FORCES in line), None)
        if at is None:
            return None
        rows = [found.groups() for line in self.lines[at:] if (found := FORCE.match(line))]
        return np.array(rows[:n_atoms], dtype=float).reshape(-1, 3)

    def _stress(self) -> NDArray[np.float64] | None:
        """(6,) eV/Å³, of which pw.x prints the negative; None if it is not there as a whole."""
        at = next((k for k, line in enumerate(self.lines) if STRESS in line), len(self.lines))
        rows = [line.split() for line in self.lines[at + 1 : at + 4]]
        if len(rows) < 3 or any(len(row) < 6 for row in rows):
            return None
        tensor = -np.array([row[:3] for row in rows], dtype=float) * (RYDBERG / BOHR**3)
        return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    def _fault(self, has_energy: bool) -> str | None:
        """Why it did not converge."""
        if any("convergence NOT achieved" in line for line in self.lines):
            return NO_EXCHANGE if self.is_exact and has_energy else NOT_REACHED
        if not has_energy and not any(BANDS in line for line in self.lines):
            return NO_EXCHANGE if self.is_exact else ENDED
        found = [match for line in self.lines if (match := ACCURACY.search(line))]
        if self.is_exact or self.threshold is None or not found:
            return None  # thresholds of hybrid functionals may change within a frame
        return NOT_AS_ASKED if _number(found[-1][1]) > 2 * self.threshold + ROUNDING else None


def steps_of_espresso(name: str, lines: Iterable[str]) -> list[Step]:
    """The structures of one output, or of several behind each other.

    Raises:
        FormatError: it is damaged, or ended before its first step was whole.
    """
    text = list(lines)
    begins = [k for k, line in enumerate(text) if START in line or POSITIONS in line]
    steps: list[Step] = []
    run: list[Step] = []
    frame: _Frame | None = None
    for begin, end in pairwise([*begins, len(text)]):
        try:
            frame = _next_frame(frame, text, begin, end)
            step = frame.step()
        except (KeyError, ValueError, TypeError, IndexError, AssertionError, StopIteration) as error:
            raise FormatError(
                f"{name}, line {begin + 1}: what follows is not as pw.x writes it, or ends before its structure "
                "does. Give the whole output of pw.x, from its first line."
            ) from error
        if START in text[begin]:
            _hold_first(run)
            run = []
        if step is not None:
            run.append(step)
            steps.append(step)
    _hold_first(run)
    lacks_forces = len(run) > 1 and run[-1].forces is None and run[-2].forces is not None
    if lacks_forces and not any(END in line for line in text[begins[-1] :]):
        run[-1].left_out = CUT_OFF
    if len(steps) == 1 and steps[0].left_out:
        raise FormatError(
            f"{name} is of a run of pw.x that ended in its first step, so it has no whole frame. Run it again."
        )
    return steps


def _next_frame(before: _Frame | None, text: list[str], begin: int, end: int) -> _Frame:
    """The frame of some lines, with the cell and the threshold that are in force."""
    lines = text[begin:end]
    if START in lines[0]:
        info = parse_pwo_start(lines)
        threshold = next((_number(found[1]) for line in lines if (found := THRESHOLD.search(line))), None)
        method = next((found[1].strip() for line in lines if (found := FUNCTIONAL.search(line))), "")
        of_run = islice(text, begin + 1, next((k for k in range(begin + 1, len(text)) if START in text[k]), None))
        is_exact = any(EXACT.search(line) for line in of_run)
        return _Frame(lines, info["atoms"], info["alat"], info["cell"], threshold, is_exact, method)
    if before is None:
        raise KeyError(START)
    cell, threshold = before.cell, before.threshold
    above = text[max(0, begin - 5) : begin]
    if CELL in above[0]:
        cell = np.asarray(get_cell_parameters(above)[0])
    for line in before.lines:
        if "new conv_thr" in line and (found := THRESHOLD.search(line)):
            threshold = _number(found[1])
    return _Frame(lines, before.start, before.alat, cell, threshold, before.is_exact, before.method)


def _hold_first(run: Sequence[Step]) -> None:
    """Give the first structure of a run, which pw.x prints without them, the constraints of the next.

    Without a next one, say that they are unknown where forces are as those of held atoms, and not zero for all by
    symmetry along that axis.
    """
    if len(run) > 1:
        run[0].constraints = run[1].constraints
    elif run and run[0].forces is not None:
        zero = run[0].forces == 0
        if (zero.any(axis=0) & ~zero.all(axis=0)).any():
            run[0].notes.append(HELD_IS_UNKNOWN)


def _number(text: str) -> float:
    return float(text.replace("D", "E").replace("d", "e"))
