"""Whether what a structure carries under the name of a quantity has the type and the shape of that quantity."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase import Atoms

from mlpot.data.errors import LabelError
from mlpot.data.sources.names import NONE

OF_ATOMS: dict[str, tuple[int, ...]] = {"masses": (), "momenta": (3,), "initial_charges": (), "force_mask": ()}
"""Shape of what ASE's names are of each atom."""
ROUNDED = 0.05  # e, what digits of partial charges may lack from a whole number together
ALLOWED = {
    "energy": "one number",
    "forces": "three numbers of each atom",
    "stress": "six or nine numbers",
    "virial": "six or nine numbers",
}


NO_VALUE = {"none", "null", "nan", "n/a", "na", "--", "missing"}
"""Words that stand where a number was not calculated, in any case."""


def with_nan(pool: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """What a structure carries, with NaN under those names that have a word which says that there is no value."""
    is_word = {n for n in names if isinstance(pool.get(n), str) and pool[n].strip().lower() in NO_VALUE}
    return {name: np.nan if name in is_word else value for name, value in pool.items()} if is_word else {**pool}


def fits(key: str, value: Any, n_atoms: int) -> bool:
    """Whether a value could be the label of a frame, by its type and shape."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        return False
    scalar, tensor = ((), (1,)), ((6,), (9,), (3, 3))
    shapes = {"energy": scalar, "forces": ((n_atoms, 3),), "stress": tensor, "virial": tensor}
    return array.shape in shapes[key]


def check_label(where: str, key: str, name: str, value: Any, n_atoms: int, *, is_column: bool) -> None:
    """Refuse a label that is no number, or not as many as that label has.

    Args:
        where: of the frame, for messages.
        key: the label.
        name: under which it is kept.
        value: what is kept there.
        n_atoms: of the frame.
        is_column: whether it is a column of the atoms, which one of a single atom does not show.

    Raises:
        LabelError: it is none.
    """
    if np.asarray(value).dtype.kind not in "iuf":
        raise LabelError(f"{where}: {name} is {value!r}, expected numbers. Correct the file or --key.")
    if fits(key, value, n_atoms) and (key == "forces" or not is_column):
        return
    what = "a column of the atoms" if is_column else f"an array of shape {np.shape(value)}"
    verb = "are" if key == "forces" else "is"
    raise LabelError(
        f"{where}: {name} is {what}, and {key} of a frame {verb} {ALLOWED[key]}. Correct the file, name another "
        f"by --key {key}=NAME, or leave it out: --key {key}={NONE}."
    )


def check_arrays(where: str, atoms: Atoms) -> None:
    """Refuse masses, momenta and charges that are not as many of each atom as these are.

    Raises:
        LabelError: a column is of another shape.
    """
    for name, shape in OF_ATOMS.items():
        if name in atoms.arrays and atoms.arrays[name].shape[1:] != shape:
            n = int(np.prod(atoms.arrays[name].shape[1:]))
            raise LabelError(
                f"{where}: the column {name} has {n} numbers of each atom, expected {shape[0] if shape else 1}. "
                "Correct or rename it."
            )


def charge_of_columns(arrays: Mapping[str, Any], *, whole: bool) -> float | None:
    """Total charge (e) that initial charges of the atoms sum to, as ASE's calculators take it where none is set.

    Args:
        arrays: of a structure, by ASE's names.
        whole: None for a sum that is no whole number, as of partial charges of a force field in a piece of a cell.
    """
    charges = arrays.get("initial_charges")
    if charges is None or np.asarray(charges).dtype.kind not in "iuf":
        return None
    total = float(np.sum(charges))
    nearest = float(round(total)) if np.isfinite(total) else np.nan
    if abs(total - nearest) < ROUNDED:
        return nearest or None  # a neutral sum says nothing that was not taken without it
    return None if whole or np.isnan(nearest) else total
