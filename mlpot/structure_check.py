"""What a structure must be before pairs of its atoms are looked for; errors name what is wrong."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

FARTHEST = 1e8  # Å from the origin; beyond it, rounding of positions moves atoms by more than 1e-8 Å

REALS = "Give an array of real numbers, such as atoms.positions or atoms.cell."

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def checked_structure(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike
) -> tuple[Ints, Floats, Floats, NDArray[np.bool_]]:
    """The four arrays of a structure in house types, or a ValueError that names what is wrong."""
    z, r, h = atomic_numbers_of(numbers), reals("positions", positions), reals("cell", cell)
    periodic = _directions(pbc)
    for name, array, shape in (
        ("positions", r, (len(r) if r.ndim else 0, 3)),
        ("numbers", z, (len(r) if r.ndim else 0,)),
        ("cell", h, (3, 3)),
        ("pbc", periodic, (3,)),
    ):
        if array.shape != shape:
            wanted = "" if name == "positions" else f", expected {shape}"
            raise ValueError(f"{name} has shape {array.shape}{wanted}. {SHAPES[name]}")
    if len(r) == 0:
        raise ValueError("The structure has no atoms. Remove the empty frame.")
    if not np.isfinite(r).all():
        bad = np.flatnonzero(~np.isfinite(r).all(axis=1))
        raise ValueError(f"Positions of atoms {bad[:5].tolist()} are not finite. Repair or remove the frame.")
    if not np.isfinite(h).all():
        raise ValueError("The cell is not finite. Repair or remove the frame.")
    if not sized(r, h):
        bad = np.flatnonzero((np.abs(r) > FARTHEST).any(axis=1))
        what = f"Positions of atoms {bad[:5].tolist()} are" if len(bad) else "The cell is"
        raise ValueError(
            f"{what} beyond {FARTHEST:g} Å, where rounding moves atoms: a value that stands for none, or another "
            "unit, or a time step that is too long. Repair or remove the frame, or take a shorter step."
        )
    if periodic.any():
        _check_periodic(h, periodic)
    return z, r, h, periodic


SHAPES = {
    "positions": "Give one row of x, y, z per atom, (n_atoms, 3).",
    "numbers": "Give one number per atom.",
    "cell": "Give its three vectors as rows; np.diag([a, b, c]) makes them of three lengths, atoms.cell of any.",
    "pbc": "Give True or False for each of the three directions.",
}


def reals(name: str, given: Any) -> Floats:
    """An array of real numbers in float64; `name` it, for errors.

    Raises:
        ValueError: it holds something else, such as complex numbers, words, or entries that are masked out.
    """
    if type(given) is np.ndarray and given.dtype == np.float64:
        return given
    array = _array(name, given)
    if array.dtype.kind not in "fiu":  # NumPy would take real parts of complex numbers, and dates for numbers
        if array.dtype.kind not in "OUS":
            raise ValueError(
                f"{name} {_is(name)} of type {array.dtype}, not real numbers. Give an array of those."
            )
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} {_is(name)} no array of numbers ({error}). Give an array of those."
            ) from None
    return array.astype(np.float64, copy=False)


def atomic_numbers_of(given: Any) -> Ints:
    """Atomic numbers as integers.

    Raises:
        ValueError: they are something else, such as chemical symbols or 6.5.
    """
    array = _array("numbers", given)
    if array.dtype.kind in "US" or (array.dtype.kind == "O" and any(isinstance(z, str) for z in array.flat)):
        raise ValueError(
            f"Atomic numbers {str(given)[:40]} are text. Give integers, 6 for carbon; ase.symbols.symbols2numbers "
            "makes them of symbols."
        )
    if array.dtype.kind == "b":
        raise ValueError(
            "Atomic numbers are true or false: a mask of atoms. Give integers, such as numbers[mask]."
        )
    try:
        with np.errstate(invalid="ignore"):
            z = array.astype(np.int64, casting="unsafe" if array.dtype.kind in ("f", "O") else "same_kind")
    except (TypeError, ValueError, OverflowError):
        z = None
    if z is None or not np.array_equal(z, array):
        raise ValueError(f"Atomic numbers {str(given)[:40]} are not whole. Give integers: 6 for carbon.")
    return z


def checked_length(name: str, given: Any, least: str, example: str) -> float:
    """A length in Å as a number.

    Args:
        name: what it is, for errors.
        given: it.
        least: "above 0" or "from 0 on".
        example: the end of a sentence that says what to give.

    Raises:
        ValueError: it is no number, negative, or absurdly large.
    """
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    length = array.item() if isinstance(array, np.ndarray) and array.size == 1 else given
    is_number = isinstance(length, Real) and not isinstance(length, bool | np.bool_)
    if is_number and 0 <= length <= FARTHEST and (length > 0 or least != "above 0"):
        return float(length)
    raise ValueError(f"{name} = {repr(given)[:40]}: give a number of Å {least}{example}.")


def sized(r: Floats, cell: Floats) -> bool:
    """Whether positions and cells are numbers in which float64 tells distances; NaN are none."""
    return bool((np.abs(r) <= FARTHEST).all() and (np.abs(cell) <= FARTHEST).all())


def _array(name: str, given: Any) -> NDArray[Any]:
    """As NumPy makes it, of a tensor too, with what keeps it from being one in words."""
    if isinstance(given, Tensor):
        if given.requires_grad:
            raise ValueError(
                f"{name} {_is(name)} a tensor that requires a gradient, and none goes through a graph. "
                f"Give {name}.detach(); mlpot.predict has the forces."
            )
        given = given.to_dense() if given.is_sparse else given
        given = given.cpu() if not given.is_meta else given
        given = given.float() if given.dtype.itemsize == 2 and given.is_floating_point() else given
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths, or no values at all
        raise ValueError(f"{name} {_is(name)} no array of numbers ({error}). {REALS}") from None
    if isinstance(given, np.ma.MaskedArray) and given.mask.any():
        raise ValueError(f"{name} {_is(name)} masked out in part. Leave those atoms out, or give {name}.data.")
    return array


def _is(name: str) -> str:
    return "are" if name in ("positions", "numbers") else "is"


def _directions(pbc: Any) -> NDArray[np.bool_]:
    """(3,) bool; of "FFF", 0.5 or NaN, any of which NumPy takes for true, a ValueError."""
    given = np.asarray(False if pbc is None else pbc.cpu() if isinstance(pbc, Tensor) else pbc)
    if given.dtype.kind != "b":
        known = given.dtype.kind in ("i", "u", "f", "O") and all(
            any(p is v or p == v for v in (0, 1)) for p in given.flat
        )
        if not known:
            raise ValueError(
                f"pbc is {str(pbc)[:40]}: give True or False for each of the three directions, such as "
                "[True, True, False]."
            )
    periodic = given.astype(bool)
    return np.repeat(periodic, 3) if periodic.ndim == 0 else periodic


def _check_periodic(cell: Floats, periodic: NDArray[np.bool_]) -> None:
    vectors = cell[periodic]
    lengths = np.linalg.norm(vectors, axis=1)
    if (lengths < 1e-6).any():
        told = f"pbc is {periodic.tolist()} but a periodic cell vector is zero:\n{cell}\n"
        raise ValueError(f"{told}Give the cell, or set pbc to False for a molecule.")
    if np.linalg.matrix_rank(vectors / lengths[:, None], tol=1e-6) < len(vectors):
        raise ValueError(f"The periodic cell vectors are linearly dependent:\n{cell}\nCorrect the cell.")
