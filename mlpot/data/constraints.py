"""Which coordinates of a structure are held, in the two forms that files and integrators use.

ASE has many constraints. Those that hold Cartesian coordinates (`FixAtoms`, `FixCartesian`) are an array of truth
values, one a coordinate; `FixCom` is one truth value. All others are known by name only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def held_coordinates(atoms: Atoms) -> Mask:
    """(n_atoms, 3): True where a coordinate is held by `FixAtoms` or `FixCartesian`."""
    held = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if type(constraint) is FixAtoms:
            held[constraint.index] = True
        elif type(constraint) is FixCartesian:
            held[constraint.index] |= constraint.mask
    return held


def holds_center(atoms: Atoms) -> bool:
    """Whether the center of mass of all atoms is held by `FixCom`."""
    return any(type(constraint) is FixCom for constraint in atoms.constraints)


def other_constraints(atoms: Atoms) -> list[str]:
    """Names of the constraints that neither hold coordinates nor the center of mass."""
    known = (FixAtoms, FixCartesian, FixCom)
    return sorted({type(constraint).__name__ for constraint in atoms.constraints if type(constraint) not in known})


def constraints_of(held: Mask, center: bool = False) -> list[FixAtoms | FixCartesian | FixCom]:
    """ASE's constraints that hold these coordinates, and the center of mass if `center`."""
    fixed = held.all(axis=1)
    constraints: list[FixAtoms | FixCartesian | FixCom] = []
    if fixed.any():
        constraints.append(FixAtoms(np.flatnonzero(fixed)))
    partly = held[held.any(axis=1) & ~fixed]
    for mask in _patterns(partly):
        constraints.append(FixCartesian(np.flatnonzero((held == mask).all(axis=1)), mask))
    return [*constraints, FixCom()] if center else constraints


def _patterns(rows: Mask) -> Iterable[Mask]:
    return np.unique(rows, axis=0) if len(rows) else ()
