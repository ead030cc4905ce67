"""Units that a file names beside its labels, as `energy_unit=Hartree` in the comment of an extxyz frame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlpot.data.errors import UnitsError
from mlpot.data.sources.names import MEASURED_IN
from mlpot.data.unit_names import factor

ENDS = ("unit", "units")
ATOMIC = {"au": "hartree", "atomic": "hartree", "atomic units": "hartree", "real": "kcal/mol", "metal": "eV"}
"""Systems of units in a word, and their unit of energy; real and metal are those of LAMMPS."""
NAMED = re.compile(r"""["']?([A-Za-z_]+)["']?\s*[:=]\s*["']?([^\s,;"'{}]+)""")
"""A quantity and its unit in a text of several, such as "energy: Hartree, forces: Hartree/Bohr"."""
SEVERAL = re.compile(r"\s*[,;]\s*|\s+and\s+")
MEASURES = ("energy", "positions", "forces", "stress")
LENGTHS = {"hartree": "bohr", "Hartree": "bohr", "Ha": "bohr"}  # that go with an energy; with others Å does
ALSO = {
    "energy": ("energies", "e"),
    "forces": ("force", "f", "gradient", "gradients"),
    "positions": (
        "position", "pos", "coordinates", "coordinate", "coords", "coord", "length", "lengths", "distance", "r",
    ),
    "cell": ("lattice", "box"),
}  # fmt: skip
READ = "{0} taken in {1}, as {2} says; --unit {0}={3} takes it in {3}"


@dataclass(frozen=True)
class SaidUnit:
    """A unit other than the house unit that a file says a label has."""

    unit: str
    by: str  # the name of what says so
    scale: float | None  # house units in one; None if it is unknown, or said of no label in particular


def said_unit(quantity: str, name: str, pool: Mapping[str, Any]) -> SaidUnit | None:
    """The unit that a frame says a label has; None if it says none, or the house unit.

    Args:
        quantity: "energy", "forces", "stress", "virial", "cell".
        name: under which the label is kept.
        pool: everything that the frame carries, by name.
    """
    texts = {
        key.lower().replace("-", "_"): (key, str(text))
        for key, text in pool.items()
        if isinstance(text, str | Mapping)
    }
    labels = dict.fromkeys((name.lower(), quantity, *ALSO.get(quantity, ()))) if texts else {}
    said = [texts[place] for label in labels for place in _places(label) if place in texts]
    several = [texts[end] for end in ENDS if end in texts]
    said += [(key, unit) for key, text in several for of, unit in NAMED.findall(text) if of.lower() in labels]
    for key, text in said:
        scale = _scale(quantity, text)
        return None if scale == 1.0 else SaidUnit(text, key, scale)
    general = ENDS if quantity in ("energy", "positions") else (*ENDS, *(f"energy_{end}" for end in ENDS))
    for key, text in (texts[place] for place in general if place in texts):
        unit = _units_of(text).get(quantity)
        if unit is not None and _scale(quantity, unit) not in (None, 1.0):
            return SaidUnit(unit, key, None)
    return None


def _places(label: str) -> list[str]:
    """Names under which a file may say the unit of a label: energy_unit, unit_energy; a unit_cell is a cell."""
    before = [] if label in ("cell", "lattice", "box") else [f"{end}_{label}" for end in ENDS]
    return [*(f"{label}_{end}" for end in ENDS), *before]


def _units_of(text: str) -> dict[str, str]:
    """What one text says of each quantity: a unit of energies, or several units side by side."""
    plain = ATOMIC.get(text.strip().lower().replace(".", ""), text.strip())
    words = SEVERAL.split(plain)
    if len(words) == 1 and all(any(_scale(q, word) for q in MEASURES) for word in plain.split()):
        words = plain.split()
    own = {q: word for q in MEASURES for word in reversed(words) if _scale(q, word)}
    energy = own.get("energy", plain)
    length = own.get("positions", LENGTHS.get(energy, "Angstrom"))
    usual = {
        "energy": energy,
        "virial": energy,
        "forces": f"{energy}/{length}",
        "positions": length,
        "cell": length,
    }
    return usual | own


def _scale(quantity: str, unit: str) -> float | None:
    """House units in a unit; None of one that is unknown."""
    try:
        return factor(MEASURED_IN.get(quantity, quantity), unit)
    except UnitsError:
        return None
