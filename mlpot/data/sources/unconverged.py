"""Frames of programs' outputs whose self-consistency failed: their energies and forces are those of nothing.

ASE hands such frames on like others. Programs say so in their output, some beside the frame, some by how many
steps it took; VASP may print that "EDIFF is reached" in the last step that it allows, whether or not that is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression

from mlpot.data.errors import LabelError
from mlpot.data.sources.force_field_steps import calculated, learns
from mlpot.data.sources.steps import NOT_REACHED

NELM = 60  # VASP's default
STEPS = "its electronic steps reached NELM = {}"


@dataclass(frozen=True)
class _Marks:
    """How a program tells, line by line."""

    energy: str  # the first energy of a frame, as its group
    unit: float  # eV
    before: str = "(?!)"  # says, before the energy, that it is not converged
    after: str = "(?!)"  # says so behind it
    more: str = "(?!)"  # energies that go on from the first


NUMBER = r"(-?\d+\.\d+(?:[DEde][+-]\d+)?)"
MARKS = {
    "aims-output": _Marks(
        "Begin self-consistency loop()",
        1.0,
        after=r"SCF cycle not converged|SELF-CONSISTENCY CYCLE DID NOT CONVERGE",
        more=rf"(?:Total energy (?:un)?corrected|Electronic free energy)\s*:\s*{NUMBER} eV",
    ),
    "gpaw-out": _Marks(
        rf"^Free energy:\s+{NUMBER}",
        1.0,
        before="Did not converge!",
        more=rf"^(?:Extrapolated|Zero.*):\s+{NUMBER}",
    ),
}
COVERED = ("vasp-xml", "vasp-out", *MARKS)
"""Formats whose files are looked through for unconverged frames before ASE reads them."""


@dataclass
class Unconverged:
    """What a file says of its unconverged frames: by number, or by the energy that it prints of them."""

    frames: dict[int, str] = field(default_factory=dict)
    energies: list[tuple[float, str]] = field(default_factory=list)

    def reason(self, frame: int, atoms: Atoms) -> str | None:
        """Why this frame is one of them, None if it is not."""
        if not self.frames and not self.energies:
            return None
        energy = None if atoms.calc is None else atoms.calc.results.get("energy")
        if frame in self.frames:
            return self.frames[frame]
        if energy is None or not np.isfinite(energy):
            bare = atoms.calc is not None and atoms.calc.results.get("forces") is not None
            return NOT_REACHED if bare and self.energies else None
        close = [why for value, why in self.energies if abs(value - energy) < 1e-6 + 1e-8 * abs(energy)]
        return close[0] if close else None


def converged(
    path: Path,
    kind: str,
    frames: Iterable[tuple[int, Atoms]],
    note: Callable[[str, int], None],
    faults: dict[int, str],
) -> Iterator[tuple[int, Atoms]]:
    """The frames of a file in a format of ASE whose self-consistency converged.

    Args:
        path, kind, frames: the file, its format, and its frames with their numbers.
        note: it is given the frames that are left out, and why.
        faults: as of `read_with_ase`, which fills it.

    Raises:
        LabelError: none of them did.
    """
    said, n_kept, why = unconverged(path, kind, faults), 0, None
    for k, atoms in frames:
        if (why := said.reason(k, atoms)) is None:
            n_kept += 1
            yield k, atoms
        else:
            note(f"left out, as {why}; --keep-unconverged takes such frames", k)
    if why is not None and not n_kept:
        raise LabelError(
            f"{path} has no frame that converged: of frame {k}, {why}. Run it again with more or easier steps of "
            "self-consistency; --keep-unconverged takes such frames all the same."
        )


def unconverged(path: Path, kind: str, faults: dict[int, str]) -> Unconverged:
    """What a file in a format of ASE says of its unconverged frames; else the faults that come with the frames."""
    if kind not in COVERED:
        return Unconverged(faults)
    with open_with_compression(str(path), "rt") as file:
        lines = calculated(file, kind) if learns(path, kind) else iter(file)
        if kind == "vasp-xml":
            return Unconverged(frames=dict(_vasprun(lines)))
        if kind == "vasp-out":
            return Unconverged(frames=dict(_outcar(lines)))
        return Unconverged(energies=list(_marked(lines, MARKS[kind])))


def _vasprun(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Ionic steps of vasprun.xml with as many electronic steps as are allowed."""
    frame, n_steps, most = -1, 0, NELM
    for line in lines:
        for tag, nelm in re.findall(r'(<calculation>|<scstep>|name="NELM">\s*(\d+))', line):
            if nelm:
                most = int(nelm)
            elif tag == "<scstep>":
                n_steps += 1
                if n_steps == most:
                    yield frame, STEPS.format(most)
            else:
                frame, n_steps = frame + 1, 0


def _outcar(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Ionic steps of OUTCAR with as many electronic steps as are allowed."""
    frame, n_steps, most = 0, 0, NELM
    for line in lines:
        if "NELM " in line and (found := re.search(r"^\s*NELM\s*=\s*(\d+)", line)):
            most = int(found[1])
        elif " Iteration " in line and (found := re.search(r"Iteration\s+\d+\(\s*(\d+)\)", line)):
            n_steps = int(found[1])
        elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            if n_steps >= most:
                yield frame, STEPS.format(most)
            frame, n_steps = frame + 1, 0


def _marked(lines: Iterator[str], marks: _Marks) -> Iterator[tuple[float, str]]:
    """Energies that a text says are not converged, eV."""
    energies: list[float] = []
    failed, before = False, False
    for line in lines:
        before = before or bool(re.search(marks.before, line))
        if found := re.search(marks.energy, line):
            failed, before, energies = before, False, []
        else:
            found = re.search(marks.more, line)
        if found and found[1]:
            energies.append(float(re.sub("[Dd]", "e", found[1])) * marks.unit)
            if failed:
                yield energies[-1], NOT_REACHED
        if re.search(marks.after, line):
            failed = True  # and so are energies that go on from this one
            yield from ((energy, NOT_REACHED) for energy in energies)
