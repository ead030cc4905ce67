"""Outputs of programs that are read here, as ASE's readers of them give wrong labels or leave frames out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ase.io.formats import open_with_compression

from mlpot.data.errors import DataError, FormatError
from mlpot.data.sources.espresso import steps_of_espresso
from mlpot.data.sources.gamess import steps_of_gamess
from mlpot.data.sources.gaussian import steps_of_gaussian
from mlpot.data.sources.nwchem import steps_of_nwchem
from mlpot.data.sources.orca import steps_of_orca
from mlpot.data.sources.steps import Step
from mlpot.data.sources.xdatcar import steps_of_xdatcar

ENDS = re.compile("terminat|JOB DONE|Total times", re.IGNORECASE)
"""Words of the last line of a run, which may lack its end if somebody copied the text."""
OWN: dict[str, Callable[[str, Iterable[str]], Iterable[Step]]] = {
    "gaussian-out": steps_of_gaussian,
    "orca-output": steps_of_orca,
    "espresso-out": steps_of_espresso,
    "nwchem-out": steps_of_nwchem,
    "gamess-us-out": steps_of_gamess,
    "vasp-xdatcar": steps_of_xdatcar,
}
"""Readers, by ASE's name of the format."""


def own_steps(path: Path, kind: str) -> Iterator[Step]:
    """The steps of a file.

    Raises:
        FormatError: it is damaged, or has no whole step.
    """
    at = _Place()
    with (
        open_with_compression(str(path), "rb") as raw,
        io.TextIOWrapper(raw, "utf-8", errors="replace") as lines,  # titles may be in any encoding
    ):
        try:
            yield from OWN[kind](str(path), at.followed(_whole_lines(lines)))
        except DataError:
            raise
        except (ValueError, TypeError, IndexError, KeyError) as error:
            stars = " Fortran writes stars where a number does not fit." if "***" in at.line else ""
            raise FormatError(
                f"{path}, line {at.number} or just above: {at.line.strip()[:80]!r} is not what the format has."
                f"{stars} Compute the step anew, remove it from the file, or restore that."
            ) from error


class _Place:
    """Where in a file its reader is."""

    number, line = 0, ""

    def followed(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines as they come."""
        for self.number, self.line in enumerate(lines, start=1):
            yield self.line


def _whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines but for a last one that was cut off, perhaps within a number."""
    return (line for line in lines if line.endswith("\n") or ENDS.search(line))
