"""Outputs of ORCA: each structure with its own energy and gradient, of all jobs, scans and steps.

ASE's reader cuts an output where a geometry is relaxed, so that of several jobs, of a scan or of dynamics it takes
the last energy with the first gradient; numerical gradients it reads shifted by an atom, those of MP2 not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from ase.data import atomic_numbers

from mlpot.data.errors import FormatError
from mlpot.data.sources.steps import NOT_REACHED, Lines, Step, whole_steps
from mlpot.units import BOHR, HARTREE

COORDINATES = "CARTESIAN COORDINATES (ANGSTROEM)"
ENERGY = re.compile(r"FINAL SINGLE POINT ENERGY.*?\s(-?\d+\.\d+)")
NOT_CONVERGED = re.compile(r"SCF NOT CONVERGED AFTER|not fully converged!")
GRADIENTS = ("CARTESIAN GRADIENT", "CARTESIAN GRADIENT (NUMERICAL)", "The final MP2 gradient")
"""Titles of gradients, hartree/bohr; of one structure a later title is that of the whole gradient."""
ROW = re.compile(r"^\s*\d+\s*(?:[A-Za-z]+\s*)?:\s*(\S+)\s+(\S+)\s+(\S+)\s*$")
DISPLACED = re.compile(r"on displaced geometry", re.IGNORECASE)
NOT_DISPLACED = ("VIBRATIONAL FREQUENCIES", "GEOMETRY OPTIMIZATION CYCLE", "GEOMETRY RELAXATION STEP")
JOB, BANNER = "JOB NUMBER", "* O   R   C   A *"
INPUT = re.compile(r"^\|\s*\d+>\s*(.*)")  # a line of the input, which ORCA repeats
STATE = re.compile(r"^\s*(?:Total (Charge)|(Multiplicity))\s+(?:Charge|Mult)\s+\.+\s+(-?\d+)")
END = "ORCA TERMINATED NORMALLY"
TASKS = re.compile(
    r"^((very)?(tight|loose|normal)?c?opt(ts)?|engrad|sp|energy|(num|an)?freq|numgrad|md|pal\d+|\w*print|nopop"
    r"|(very|extreme)?(tight|loose|normal|strong|sloppy)scf|(very)?slowconv|moread|noiter|no?autotrah|autotrah|k?diis"
    r"|(no)?soscf|keepdens|xyzfile|usesym|nousesym|autostart|noautostart)$"
)
"""Keywords that say what is done with a method and how well, and are not of the method."""

ONLY_REFERENCE = "energies of geometries displaced for a numerical derivative left out, of this structure"
NO_STRUCTURE = "an energy of which no coordinates are printed left out, behind this frame (MiniPrint prints none)"
NOT_ENDED = "the run did not end normally, so its last step is left out"


@dataclass
class _Output:
    """What was read so far: steps, and the parts of the present one."""

    steps: list[Step] = field(default_factory=list)
    step: Step | None = None
    title: int = -1  # of the gradient that was taken, among `GRADIENTS`
    is_displaced: bool = False
    fails: bool = False
    methods: list[set[str]] = field(default_factory=lambda: [set()])
    """Of each job, in lower case."""
    job: int = 0
    state: dict[str, int] = field(default_factory=dict)
    n_lost: int = 0
    has_ended: bool = False

    def begin(self, step: Step | None) -> None:
        """Take a structure; one that is printed before the present one was computed replaces it."""
        if self.is_displaced:
            return
        if self.step is not None and self.step.is_labeled:
            self.finish()
        self.step = step

    def take_energy(self, value: float, line: str) -> None:
        """Take an energy, hartree; a second one of a structure without a gradient replaces the first."""
        if self.is_displaced:
            return
        if self.step is not None and self.step.energy is not None and self.step.forces is not None:
            self.finish()  # the next energy is of coordinates that are not printed
        if self.step is None:
            self.n_lost += 1
            if self.steps:
                self.steps[-1].notes.append(NO_STRUCTURE)
            return
        self.step.energy = value * HARTREE
        self.step.fault = NOT_REACHED if self.fails or NOT_CONVERGED.search(line) else None
        self.fails = False

    def take_gradient(self, title: str, rows: list[list[float]]) -> None:
        """Take a gradient, if it is whole and of the present structure."""
        rank = GRADIENTS.index(title)
        if self.is_displaced and "NUMERICAL" not in title:
            return
        if self.step is not None and len(rows) == len(self.step.numbers) and rank > self.title:
            self.step.forces, self.title = -np.array(rows) * (HARTREE / BOHR), rank
        self.is_displaced = False

    def take_input(self, text: str) -> None:
        """Take the keywords of a line of the input."""
        if text.lower().startswith("$new_job"):
            self.methods.append(set())
        elif text.startswith("!"):
            words = text[1:].split("#")[0].lower().split()
            self.methods[-1].update(word for word in words if not TASKS.match(word))

    def start_derivative(self) -> None:
        """Leave out what follows until the derivative is there."""
        if self.step is not None and not self.is_displaced:
            self.step.notes.append(ONLY_REFERENCE)
        self.is_displaced = True

    def finish(self) -> None:
        """Put the present step to the others."""
        if self.step is not None:
            self.step.info = dict(self.state)
            self.step.method = " ".join(sorted(self.methods[min(self.job, len(self.methods) - 1)]))
            self.steps.append(self.step)
        self.step, self.title, self.is_displaced, self.fails = None, -1, False, False


def steps_of_orca(name: str, lines: Iterable[str]) -> list[Step]:
    """The structures of an output, of all its jobs.

    Raises:
        FormatError: it has none, or ended before the first was whole.
    """
    output, stream = _Output(), Lines(lines)
    for line in stream:
        if COORDINATES in line:
            output.begin(_structure(stream))
        elif line.strip() in GRADIENTS:
            output.take_gradient(line.strip(), _gradient(stream))
        elif found := ENERGY.search(line):
            output.take_energy(float(found[1]), line)
        elif DISPLACED.search(line):
            output.start_derivative()
        elif found := INPUT.match(line):
            output.take_input(found[1].strip())
        elif found := STATE.match(line):
            output.state["charge" if found[1] else "multiplicity"] = int(found[3])
        elif BANNER in line and (output.steps or output.step is not None):  # another output behind the first
            output.finish()
            output.methods.append(set())
            output.job, output.has_ended = len(output.methods) - 1, False
        elif JOB in line and "$$$" in line:
            output.finish()
            output.job += 1 if output.steps else 0
        elif any(words in line for words in NOT_DISPLACED):
            output.is_displaced = False
        elif NOT_CONVERGED.search(line):
            output.fails = True
        output.has_ended = output.has_ended or END in line
    output.finish()
    return _whole(name, output)


def _whole(name: str, output: _Output) -> list[Step]:
    """The steps of a run that ended, or all but the last of one that did not."""
    if not output.steps and output.n_lost:
        raise FormatError(
            f"{name} prints energies and no coordinates with them, as ORCA does with MiniPrint. Run it without."
        )
    steps = whole_steps(output.steps, True) if output.steps else []
    if output.has_ended or not steps:
        return steps
    if len(steps) == 1:
        raise FormatError(
            f"{name} is of a run of ORCA that ended in its first step, so it has no whole frame. Run it again, or "
            "try --format dpdata:orca/spout."
        )
    steps[-1].left_out = NOT_ENDED
    return steps


def _structure(stream: Lines) -> Step | None:
    """The structure of a table of symbols and places in Å; None if the file ends within it."""
    symbols: list[str] = []
    places: list[list[float]] = []
    for line in stream:
        words = line.split()
        if "---" in line and not symbols:
            continue
        if len(words) != 4:
            stream.give_back(line)
            found = [atomic_numbers.get(symbol.capitalize(), 0) for symbol in symbols]
            return Step(found, np.array(places).reshape(-1, 3), pbc=[False] * 3)
        symbols.append(words[0])
        places.append([float(word) for word in words[1:]])
    return None


def _gradient(stream: Lines) -> list[list[float]]:
    """The rows of a gradient."""
    rows: list[list[float]] = []
    for line in stream:
        if found := ROW.match(line):
            rows.append([float(word) for word in found.groups()])
        elif rows or (line.strip() and "---" not in line):
            stream.give_back(line)
            break
    return rows
