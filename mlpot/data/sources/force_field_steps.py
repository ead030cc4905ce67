"""Runs of VASP in which it learned a force field (ML_LMLFF): most steps are of that, and of no calculation.

The labels of such steps are those of a model. ASE fails at them, in OUTCAR and in vasprun.xml.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ase.io.formats import open_with_compression

KINDS = ("vasp-out", "vasp-xml")
HEAD = 2**17  # characters at the beginning, among which both files repeat INCAR
ASKED = re.compile(r"ML_(?:LMLFF|MODE)[^=>\n]*[=>]\s*\.?([A-Za-z]+)")
NOT = {"F", "FALSE", "NONE"}
RESULT = "ML FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
LEFT_OUT = "a step of VASP's own force field left out (ML_LMLFF), whose labels no calculation gave; before frame"


def learns(path: Path, kind: str) -> bool:
    """Whether a file is of a run of VASP that may have steps of a force field."""
    if kind not in KINDS:
        return False
    with open_with_compression(str(path), "rt") as file:
        head = file.read(HEAD)
    return any(word.upper() not in NOT for word in ASKED.findall(head))


def calculated(
    lines: Iterable[str], kind: str, note: Callable[[str, int], None] = lambda what, frame: None
) -> Iterator[str]:
    """The lines of a run without the results of its force field.

    Args:
        lines: of OUTCAR or vasprun.xml.
        kind: which of them, one of `KINDS`.
        note: is told of each step that is left out, with the number of the next frame.
    """
    return _of_outcar(lines, note) if kind == "vasp-out" else _of_vasprun(lines, note)


def _of_outcar(lines: Iterable[str], note: Callable[[str, int], None]) -> Iterator[str]:
    """A frame is what stands before the words for its energy: without these, a table of forces is none."""
    frame, is_pending = 0, False
    for line in lines:
        if RESULT in line:
            if is_pending:
                note(LEFT_OUT, frame)
            is_pending = True
            continue
        if " Iteration " in line:
            is_pending = False  # of a step that is calculated too
        elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            frame += 1
        yield line
    if is_pending:
        note(LEFT_OUT, frame)


def _of_vasprun(lines: Iterable[str], note: Callable[[str, int], None]) -> Iterator[str]:
    """A step without electronic steps is of the force field."""
    frame, held = 0, list[str]()
    for line in lines:
        if held or "<calculation>" in line:
            held.append(line)
        else:
            yield line
        if held and "</calculation>" in line:
            if any("<scstep>" in part for part in held):
                yield from held
                frame += 1
            else:
                note(LEFT_OUT, frame)
            held = []
    yield from held


class Lines(io.TextIOBase):
    """Lines as a file that ASE reads."""

    def __init__(self, lines: Iterator[str], name: str):
        self._lines, self._rest = lines, ""
        self.name = name
        """Of the file, beside which ASE looks for CONTCAR."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as in typeshed itself
        """The next line."""
        return next(self._lines, "")

    def read(self, size: int | None = -1, /) -> str:
        """So many characters, or all."""
        parts, n = [self._rest], len(self._rest)
        while (size is None or size < 0 or n < size) and (line := self.readline()):
            parts.append(line)
            n += len(line)
        text = "".join(parts)
        end = len(text) if size is None or size < 0 else size
        self._rest = text[end:]
        return text[:end]
