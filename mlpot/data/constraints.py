"""Which coordinates of a structure are held, in the two forms that files and integrators use.

ASE has many constraints. Those that hold Cartesian coordinates (`FixAtoms`, `FixCartesian`) are an array of truth
values, one a coordinate; `FixCom` is one truth value. All others are known by name only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom
from numpy.typing import ArrayLike, NDArray

from mlpot.data.sources.names import MAY_MOVE, looks_like

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


KEPT_BY: dict[str, tuple[type, ...]] = {
    "extxyz": (FixAtoms, FixCartesian),
    "vasp": (FixAtoms,),
    "aims": (FixAtoms, FixCartesian),
    "espresso-in": (FixAtoms, FixCartesian),
    "castep-cell": (FixAtoms, FixCartesian),
    "turbomole": (FixAtoms,),
}
"""The constraints that a format of ASE can hold; those of `KEEP_ALL` hold all, others none."""
KEEP_ALL = ("traj", "db", "json", "h5md")  # the last warns of those that it does not keep


def lost_constraints(atoms: Atoms, format: str) -> str:
    """The names of the constraints of a structure that a format cannot hold; empty if it keeps all."""
    kept = (*KEPT_BY.get(format, ()), *([object] if format in KEEP_ALL else []))
    return ", ".join(sorted({type(c).__name__ for c in atoms.constraints if not isinstance(c, kept)}))


def is_mask(value: ArrayLike, n_atoms: int) -> bool:
    """Whether a value is one truth value, or three, of each atom, and not the same of all."""
    array = np.asarray(value)
    is_true = array.dtype.kind in "biu" and bool(np.isin(array, (0, 1)).all())
    return is_true and array.shape in ((n_atoms,), (n_atoms, 3)) and 0 < array.sum() < array.size


def unused_masks(atoms: Atoms) -> list[str]:
    """Arrays of a structure that seem to say which atoms are held, `-name` if which may move, if none is held."""
    arrays = {} if atoms.constraints else atoms.arrays
    names = [n for n, array in arrays.items() if looks_like("fixed", n) and is_mask(array, len(atoms))]
    return [f"-{name}" if MAY_MOVE.search(name) else name for name in names]


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
