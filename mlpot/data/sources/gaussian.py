"""Logs of Gaussian: each structure with the energy whose derivative its forces are.

Gaussian prints several energies of a structure, under a name for each method, and forces in the axes of the input
while it may print atoms in others. ASE's reader takes the last energy that it knows, and ends with the first job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from mlpot.data.errors import FormatError
from mlpot.data.sources.steps import ENDED, NOT_REACHED, Lines, Step, whole_steps
from mlpot.units import BOHR, HARTREE

VALUE = r"=\s*(?P<value>-?\d*\.\d+(?:[DEde][+-]?\d+)?)"
ORIENTATION = re.compile(r"^\s*(Input|Standard|Z-Matrix) orientation:")
FORCES = re.compile(r"^\s*Center\s+Atomic\s+Forces \(Hartrees/Bohr\)")
FIRST = (
    re.compile(rf"^\s*SCF Done:\s+E\((?P<name>\S+)\)\s*{VALUE}"),
    re.compile(rf"^\s*(?P<name>Energy){VALUE}\s+NIter="),
)
"""The energy of a self-consistency; of a semiempirical method, a force field or an external program."""
FURTHER = (
    re.compile(rf"^\s*(?:E[2345]\S*|DEMP5)\s*=.*?(?P<name>\S+)\s*{VALUE}"),
    re.compile(rf"^\s*Wavefunction amplitudes converged\. (?P<name>E\(Corr\))\s*{VALUE}"),
    re.compile(rf"^\s*(?P<name>(?:CCSD|QCISD|BD)\(TQ?\))\s*{VALUE}"),
)
"""Energies that go on from it, of which the last is that of the method."""
EXCITED = re.compile(rf"^\s*Total Energy, (?P<name>E\(\S+\))\s*{VALUE}")
LAYERS = re.compile(rf"^\s*(?P<name>ONIOM): extrapolated energy\s*{VALUE}")
BASIS = re.compile(r"^\s*(?:Standard basis: (\S+)|(General basis) read from cards)")
CHARGE = re.compile(r"^\s*Charge\s*=\s*(-?\d+)\s+Multiplicity\s*=\s*(\d+)")
SURROUNDINGS = re.compile(r"\b(?:em|empiricaldispersion|scrf)\b(?:=?\([^)]*\)|=[^\s(]+)?")
"""What of a route is of the method besides functional and basis: dispersion and solvent."""
CONTINUED = "genchk"  # in a route that Gaussian wrote itself, for the second part of a job
END = re.compile(r"^\s*(?:Normal|Error) termination")
DIED = re.compile(r"Error termination (?!.*(?:l|link )9999)")  # 9999: more steps were needed than are allowed
RULE = "-----"

OTHER_AXES = (
    "forces left out, as Gaussian prints them in the axes of the input, and these atoms in its standard "
    "orientation alone; nosymm, or #p, in the route has both in one"
)
OF_EXCITED = "energy and forces are those of an excited state, {}"
OF_GROUND = "the energy is that of the ground state, as there are no forces of the excited one, {}"
VECTOR = -2  # the atomic number that Gaussian gives a vector of the cell
SPINS = re.compile(r"^(?:EU|RO(?=[A-Z])|R|U)")
"""What of a method's name says whether spins are restricted: RB3LYP, UB3LYP, EUMP2, UMP4(SDQ)."""


@dataclass
class _Log:
    """What was read so far: steps, and the parts of the present one."""

    steps: list[Step] = field(default_factory=list)
    step: Step | None = None
    axes: list[str] = field(default_factory=list)  # in which the present structure was printed
    energy: tuple[str, float] | None = None
    excited: tuple[str, float] | None = None
    in_layer: bool = False  # of ONIOM, whose parts are no structures
    next_fails: bool = False
    basis: str = ""
    surroundings: str = ""
    state: dict[str, int] = field(default_factory=dict)
    has_ended: bool = False

    def begin(self, axes: str, step: Step) -> None:
        """Take a structure: the present one if that was only printed in other axes so far, otherwise a new one."""
        is_new = self.energy is not None or self.step is None or self.step.forces is not None
        if self.in_layer or not (is_new or axes in self.axes):
            self.axes.append(axes)
            return
        self.finish()
        self.step, self.axes, self.has_ended = step, [axes], False
        step.info = dict(self.state)

    def take_forces(self, rows: list[list[float]]) -> None:
        """Take forces, hartree/bohr, if they are whole."""
        if self.step is not None and not self.in_layer and len(rows) >= len(self.step.numbers):
            self.step.forces = np.array(rows)[: len(self.step.numbers), -3:] * (HARTREE / BOHR)

    def take_energy(self, line: str) -> None:
        """Take the energy that a line tells, if it does."""
        if found := LAYERS.match(line):
            self.energy, self.in_layer = _named(found), False
        if self.in_layer or self.step is None:
            return
        if found := EXCITED.match(line):
            self.excited = _named(found)
        for words in FIRST:
            if found := words.match(line):
                self.energy, self.excited = _named(found), None
                self.step.fault, self.next_fails = NOT_REACHED if self.next_fails else None, False
        for words in FURTHER:
            if found := words.match(line):
                self.energy = _named(found)

    def take_failure(self, line: str) -> None:
        """Note that the next self-consistency, the present one, or the run failed."""
        self.next_fails = self.next_fails or "Convergence criterion not met" in line
        if self.step is not None and self.energy is not None:
            if "Convergence failure" in line:
                self.step.fault = NOT_REACHED
            if DIED.search(line):
                self.step.fault = self.step.fault or ENDED

    def take_route(self, route: str) -> None:
        """Take what a route says of the method."""
        if CONTINUED not in route:
            self.surroundings = " ".join(sorted(SURROUNDINGS.findall(route)))
            self.state = {}

    def finish(self) -> None:
        """Put the present step to the others."""
        step, energy, excited = self.step, self.energy, self.excited
        if step is not None:
            if excited is not None and energy is not None and step.forces is not None:
                energy = f"{energy[0]} {excited[0]}", excited[1]
                step.notes.append(OF_EXCITED.format(excited[0]))
            elif excited is not None:
                step.notes.append(OF_GROUND.format(excited[0]))
            if step.forces is not None and self.axes[0] == "Standard":
                step.forces = None
                step.notes.append(OTHER_AXES)
            if energy is not None:
                basis = "" if energy[0] == "ONIOM" else self.basis  # each layer has its own
                step.energy = energy[1]
                step.method = "/".join(part for part in (energy[0], basis, self.surroundings) if part)
            self.steps.append(step)
        self.step, self.axes, self.energy, self.excited = None, [], None, None
        self.in_layer = self.next_fails = False


def steps_of_gaussian(name: str, lines: Iterable[str]) -> list[Step]:
    """The structures of all jobs of a log.

    Raises:
        FormatError: it has a correction by ghost atoms, or is damaged.
    """
    log, stream, before = _Log(), Lines(lines), ""
    for line in stream:
        if found := ORIENTATION.match(line):
            step = _structure(name, stream)
            if step is None:
                break
            log.begin(found[1], step)
        elif FORCES.match(line):
            log.take_forces(_table(stream, 1)[0])
        elif line.lstrip().startswith(("Counterpoise:", "Counterpoise corrected energy")):
            raise FormatError(
                f"{name} is of a counterpoise correction, whose parts have ghost atoms and are no structures. "
                "Write corrected energies and forces as extxyz."
            )
        elif RULE in before and line.lstrip().startswith("#"):
            log.take_route(_route(line, stream))
        elif found := BASIS.match(line):
            log.basis = found[1] or found[2]
        elif (found := CHARGE.match(line)) and not log.state:  # the first is of the whole, if there are layers
            log.state = {"charge": int(found[1]), "multiplicity": int(found[2])}
        else:
            log.in_layer = log.in_layer or "ONIOM: generating point" in line
            log.take_energy(line)
            log.take_failure(line)
        if END.match(line):
            log.finish()
            log.has_ended = True
        before = line
    log.finish()
    return whole_steps(log.steps, log.has_ended)


def _route(line: str, stream: Lines) -> str:
    """The route, whose lines to the next rule may be broken anywhere."""
    route = line.strip()
    for more in stream:
        if RULE in more:
            break
        route += more.strip("\n")[1:]
    return route.lower()


def _structure(name: str, stream: Lines) -> Step | None:
    """The structure of a table: number, element, perhaps type, place in Å of each atom; None if it is cut off."""
    rows, odd = _table(stream, 2)
    if odd is not None:
        raise FormatError(f"{name}: a table of coordinates has the line {odd.strip()[:60]!r}. Restore the file.")
    if not rows:
        return None
    numbers = [int(row[1]) for row in rows]
    places = np.array([row[-3:] for row in rows])
    cell = places[[number == VECTOR for number in numbers]]
    is_atom = [number != VECTOR for number in numbers]
    return Step(
        [max(0, number) for number in numbers if number != VECTOR],
        places[is_atom],
        np.vstack([cell, np.zeros((3 - len(cell), 3))]) if len(cell) else None,
        [k < len(cell) for k in range(3)],
    )


def _table(stream: Lines, n_rules: int) -> tuple[list[list[float]], str | None]:
    """The rows of numbers behind so many rules, none if the file ends within them; and a line that is no row."""
    rows: list[list[float]] = []
    for line in stream:
        if RULE in line:
            n_rules -= 1
            if n_rules < 0:
                return rows, None
        elif n_rules == 0:
            try:
                row = [float(word) for word in line.split()]
            except ValueError:
                row = []
            if len(row) < 5:
                stream.give_back(line)
                return rows, line
            rows.append(row)
    return [], None


def _named(found: re.Match[str]) -> tuple[str, float]:
    """The name of a method and its energy, eV."""
    value = float(re.sub("[Dd]", "e", found["value"])) * HARTREE
    name = found["name"]
    if name.startswith("E(") and name.endswith(")") and "/" not in name:
        name = name[2:-1]  # E(B2PLYP)
    return SPINS.sub("", name), value
