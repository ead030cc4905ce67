"""Elements of an H5MD file that are written at other steps than its positions, joined to these by the step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlpot.data.errors import FormatError
from mlpot.data.h5md.safe_hdf5 import naming_damage

SHOWN = 3  # steps that are named


def at_steps(
    positions: h5py.Group, columns: Mapping[str, h5py.Dataset], labels: Collection[str], where: str
) -> dict[str, NDArray[np.int64]]:
    """(n_rows,) the rows of columns that are written at other steps than the positions; -1 of a label not there.

    Args:
        positions: the element of the positions.
        columns: the values of the others.
        labels: what a structure may lack.
        where: the group in words.

    Raises:
        FormatError: a column that each structure needs lacks a step; or as of `_rows_at_steps`.
    """
    found = {}
    for key, dataset in columns.items():
        rows = _rows_at_steps(positions, dataset, where)
        if rows is None:
            continue
        if (rows < 0).any() and key not in labels:
            raise FormatError(
                f"{where}: {dataset.name} is not written at the step of positions {int((rows < 0).argmax())}. "
                "Correct the file."
            )
        found[key] = rows
    return found


def values_at(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The values of rows in any order; NaN where the row is -1."""
    there = rows >= 0
    dtype = dataset.dtype.newbyteorder("=") if there.all() else np.dtype(np.float64)
    block = np.full((len(rows), *dataset.shape[1:]), 0 if there.all() else np.nan, dtype=dtype)
    if there.any():
        first = rows[there].min()
        with naming_damage(f"{dataset.file.filename}:{dataset.name}"):
            block[there] = dataset[first : rows.max() + 1][rows[there] - first]
    return block


def _rows_at_steps(positions: h5py.Group, dataset: h5py.Dataset, where: str) -> NDArray[np.int64] | None:
    """(n_rows,) the row of a dataset at the step of each position, -1 where it has none.

    None where rows belong together as they stand: the steps are the same, or one of the two has none.

    Raises:
        FormatError: no step is the same, or one stands twice, so that it is not clear what belongs together.
    """
    ours, theirs = positions.get("step"), dataset.parent.get("step")
    if not isinstance(ours, h5py.Dataset) or not isinstance(theirs, h5py.Dataset) or ours == theirs:
        return None
    wanted, there = _steps(ours, len(positions["value"])), _steps(theirs, len(dataset))
    if wanted is None or there is None or np.array_equal(wanted, there):
        return None
    order = np.argsort(there, kind="stable")
    places = np.searchsorted(there[order], wanted).clip(max=len(there) - 1)
    rows = np.where(there[order][places] == wanted, order[places], -1).astype(np.int64)
    told = f"{where}: {dataset.name} is written at steps {_shown(there)} and the positions at {_shown(wanted)}"
    if (rows < 0).all():
        raise FormatError(f"{told}, of which none is the same. Correct the file, or leave the element out of it.")
    if len(np.unique(there)) < len(there) or len(np.unique(wanted)) < len(wanted):
        raise FormatError(f"{told}, some of them twice, as of a run that began anew. Correct the file.")
    return rows


def _steps(step: h5py.Dataset, n: int) -> NDArray[np.int64] | None:
    """(n,) steps that are written out, or as an increment with an offset; None if they are neither."""
    if step.dtype.kind not in "iu" or n == 0:
        return None
    if step.shape == ():
        return int(step.attrs.get("offset", 0)) + int(step[()]) * np.arange(n)
    return step[:n].astype(np.int64) if step.ndim == 1 and len(step) >= n else None


def _shown(steps: NDArray[np.int64]) -> str:
    return ", ".join(map(str, steps[:SHOWN].tolist())) + (", ..." if len(steps) > SHOWN else "")
