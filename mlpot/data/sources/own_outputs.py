"""Outputs of programs that are read here, as ASE's readers of them give wrong labels or leave frames out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ase.io.formats import open_with_compression

from mlpot.data.sources.espresso import steps_of_espresso
from mlpot.data.sources.gaussian import steps_of_gaussian
from mlpot.data.sources.orca import steps_of_orca
from mlpot.data.sources.steps import Step
from mlpot.data.sources.xdatcar import steps_of_xdatcar

OWN: dict[str, Callable[[str, Iterable[str]], Iterable[Step]]] = {
    "gaussian-out": steps_of_gaussian,
    "orca-output": steps_of_orca,
    "espresso-out": steps_of_espresso,
    "vasp-xdatcar": steps_of_xdatcar,
}
"""Readers, by ASE's name of the format."""


def own_steps(path: Path, kind: str) -> Iterator[Step]:
    """The steps of a file.

    Raises:
        FormatError: it is damaged, or has no whole step.
    """
    with (
        open_with_compression(str(path), "rb") as raw,
        io.TextIOWrapper(raw, "utf-8", errors="replace") as lines,  # titles may be in any encoding
    ):
        yield from OWN[kind](str(path), lines)
