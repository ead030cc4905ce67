"""The result of a check: the measurement closest to its bar, or furthest beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

Structures = Mapping[str, Atoms]
STILL = "mlpot: still"
"""Key in `info` of structures that are not used for dynamics."""


class NothingToCheckError(ValueError):
    """A check does not apply to these structures or to this calculator."""


class Measurement(NamedTuple):
    """One measured number, which passes if it does not exceed its bar."""

    what: str  # with its unit
    where: str
    value: float
    bar: float

    @property
    def passed(self) -> bool:
        """NaN fails."""
        return bool(self.value <= self.bar)

    @property
    def badness(self) -> tuple[bool, float]:
        """Failures first, then by value over bar."""
        ratio = self.value / self.bar if self.bar > 0 else self.value
        return not self.passed, ratio if np.isfinite(ratio) else np.inf


@dataclass(frozen=True)
class Check:
    """The result of one row of the physics table."""

    id: str
    name: str
    what: str  # which quantity came closest to its bar, with its unit
    where: str
    figure: float
    bar: float
    passed: bool
    note: str = ""


def verdict(id: str, name: str, figures: Iterable[Measurement], note: str = "", advice: str = "") -> Check:
    """The check that passes if every measurement does, described by the worst of them.

    Args:
        advice: a note on what to do, if the check fails.

    Raises:
        NothingToCheckError: there are no measurements.
    """
    found = list(figures)
    if not found:
        raise NothingToCheckError("the check applies to none of the structures; give one with --structures")
    worst_of_all = max(found, key=lambda f: f.badness)
    what, where, value, bar = worst_of_all
    failed = {f.what for f in found if not f.passed and f.what != what}
    also = f"also beyond their bars: {', '.join(sorted(failed))}" if failed else ""
    passed = not any(worst_of_all.badness[:1])
    notes = (note, "" if passed else advice, also)
    return Check(id, name, what, where, value, bar, passed, "; ".join(filter(None, notes)))


def worst(a: ArrayLike, b: ArrayLike = 0.0) -> float:
    """Largest |a − b|; NaN if any is NaN."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max(initial=0.0))


def periodic(structures: Structures) -> Structures:
    """The structures with three periodic directions."""
    return {name: atoms for name, atoms in structures.items() if atoms.pbc.all()}


def repeated(structures: Structures) -> Structures:
    """The structures with a periodic direction and a volume: crystals, slabs and wires."""
    return {name: atoms for name, atoms in structures.items() if atoms.pbc.any() and abs(atoms.cell.volume) > 0}


def movable(structures: Structures) -> Structures:
    """The structures that molecular dynamics may start from."""
    return {name: atoms for name, atoms in structures.items() if len(atoms) > 1 and STILL not in atoms.info}


def free(structures: Structures) -> Structures:
    """The structures without a periodic direction."""
    return {name: atoms for name, atoms in structures.items() if not atoms.pbc.any()}
