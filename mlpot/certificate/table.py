"""The table of the certificate: what each check claims, and its bar."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from mlpot.certificate.bars import WORDS
from mlpot.certificate.verify import FULL, QUICK, Run


class Row(NamedTuple):
    """One row of the table."""

    id: str
    level: str  # the first level that runs the check
    sentence: str
    bar: str


def rows() -> list[Row]:
    """All checks in order, each with the first sentence of its function's docstring."""
    ids = sorted(FULL, key=lambda id: int(id[1:]))
    return [Row(id, "quick" if id in QUICK else "full", _sentence(id, FULL[id]), WORDS[id]) for id in ids]


def _sentence(id: str, run: Run) -> str:
    function = getattr(run, "func", run)  # a partial's function
    first = (inspect.getdoc(function) or "").splitlines()[0].removeprefix(f"{id}: ")
    return first[:1].upper() + first[1:]
