"""Outputs that ASE cannot read although most of them is whole: the text that ASE gets in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from ase.io.formats import open_with_compression

from mlpot.data.errors import FormatError
from mlpot.data.sources.steps import CUT_OFF

Note = Callable[[str, int], None]

AIMS_END = "Have a nice day."
AIMS_RESTARTS = (
    "Self-consistency cycle not yet converged - restarting mixer",
    "Components of the stress tensor (for mathematical background",
    "Calculation of numerical stress completed",
)
"""After these FHI-aims begins a self-consistency cycle anew without a new step."""
AIMS_STEP = "Begin self-consistency loop: Re-initialization"
AIMS_RELAXED = "Geometry optimization: Attempting to predict improved coordinates."
AIMS_LEAVES = ("Leaving FHI-aims.", "Final output of selected total energy values", "Final atomic structure:")
"""What FHI-aims writes behind the last of all steps."""
XML_END = "</modeling>"
OUTCAR_ENERGY = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
OUTCAR_LINES = 4  # behind these words, the last with the energy without entropy
OUTCAR_NUMBERS = re.compile(
    r"^(?=.*\d)\s*(?:in kB|free +energy|energy  without)?[-+\d.*\s]+$|^\s*(?:free|energy) .*=.*\*"
)
"""A line of a table, or of what follows it."""
OUTCAR_SYSTEM = ("POTCAR:", "ions per type")


def text_for_ase(path: Path, kind: str) -> tuple[str, str, int] | None:
    """The text for ASE to read in place of a file, what was left out, and of which frame.

    None where the file is fine as it is.

    Raises:
        FormatError: not one step of the run is whole.
    """
    if kind != "aims-output":
        return None
    with open_with_compression(str(path), "rt") as file:
        text = file.read()
    return None if AIMS_END in text[-1000:] else _whole_steps_of_aims(path, text.splitlines())


def _whole_steps_of_aims(path: Path, lines: list[str]) -> tuple[str, str, int]:
    """The steps of FHI-aims that are whole, with the end that ASE looks for."""
    relaxation = any("Geometry relaxation:" in line for line in lines[: _first(lines, AIMS_STEP)])
    end, restarts, n_steps = 0, False, 0
    for k, line in enumerate(lines):
        if relaxation and AIMS_RELAXED in line:
            end, n_steps = k + 1, n_steps + 1
        elif AIMS_STEP in line:
            if not restarts and not relaxation:
                end, n_steps = k, n_steps + 1
            restarts = False
        restarts = restarts or any(words in line for words in AIMS_RESTARTS)
    if any(
        words in line for line in lines[end:] for words in AIMS_LEAVES
    ):  # only its account of times was cut off
        return "\n".join([*lines, AIMS_END, "", ""]), "", n_steps
    if not n_steps:
        raise FormatError(
            f"{path} is of a run of FHI-aims that ended in its first step, so it has no whole frame. Run it again."
        )
    text = "\n".join([*lines[:end], AIMS_END, "", ""])
    has_begun = not relaxation or any(AIMS_STEP in line for line in lines[end:])
    return text, "the run was cut off, so its last step is left out" if has_begun else "", n_steps


def whole_steps_of_vasp(path: Path, lines: Iterable[str], kind: str, note: Note) -> Iterator[str]:
    """The lines of OUTCAR or vasprun.xml up to the end of the last step that is whole.

    Args:
        path, lines, kind: the file, and ASE's name of its format.
        note: is told what was left out, of which frame.

    Raises:
        FormatError: no step of OUTCAR is whole, or two systems stand behind each other in one.
    """
    return _of_vasprun(lines, note) if kind == "vasp-xml" else _of_outcar(path, lines, note)


def _of_vasprun(lines: Iterable[str], note: Note) -> Iterator[str]:
    """A step is whole where its element ends; XML that does not end is ended behind the last one."""
    n_steps, held, has_ended = 0, list[str](), False
    for line in lines:
        has_ended = has_ended or XML_END in line
        if held or "<calculation>" in line:
            held.append(line)
        elif line.endswith("\n") or has_ended:
            yield line
        if "</calculation>" in line:
            yield from held
            n_steps, held = n_steps + 1, []
    if held:
        note(CUT_OFF, n_steps)
    if n_steps and not has_ended:
        yield f"{XML_END}\n"


def _of_outcar(path: Path, lines: Iterable[str], note: Note) -> Iterator[str]:
    """A step is whole where its energies are, with which ASE ends it; what follows the last one is of no step."""
    stream, held, n_steps, is_begun = iter(lines), list[str](), 0, False
    systems: list[list[str]] = []
    for line in stream:
        held.append(line)
        if line.startswith(" vasp."):
            systems.append([])
        elif systems and any(words in line for words in OUTCAR_SYSTEM):
            systems[-1].append(line)
        elif " Iteration " in line:
            is_begun = True
            if len(systems) > 1 and systems[-1] != systems[0]:
                raise FormatError(
                    f"{path} has runs of two systems behind each other. Give each OUTCAR by itself: mlpot data "
                    "merge puts them into one set."
                )
        elif OUTCAR_ENERGY in line:
            held += islice(stream, OUTCAR_LINES)
            if OUTCAR_ENERGY in held[-1 - OUTCAR_LINES] and held[-1].endswith("\n"):
                _check_stars(f"{path}, frame {n_steps}", held)
                yield from held
                n_steps, held, is_begun = n_steps + 1, [], False
    if is_begun and not n_steps:
        raise FormatError(
            f"{path} is of a run of VASP that ended in its first step, so it has no whole frame. Run it again."
        )
    if is_begun:
        note(CUT_OFF, n_steps)


def _check_stars(where: str, lines: Iterable[str]) -> None:
    """Refuse a step of VASP with stars among its numbers."""
    for line in lines:
        if "****" in line and OUTCAR_NUMBERS.match(line):
            raise FormatError(
                f"{where}: VASP wrote stars where a number does not fit: {line.strip()[:80]!r}. Atoms are "
                "too close, or its self-consistency diverged. Remove the step, or cut the file before it."
            )


def _first(lines: list[str], words: str) -> int:
    return next((k for k, line in enumerate(lines) if words in line), len(lines))
