"""Predictions from H5MD to H5MD, column by column: no structure is made where nothing is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from torch import Tensor

from mlpot.data.errors import DataError
from mlpot.data.frame import Columns
from mlpot.data.h5md.block import Block, Series
from mlpot.data.h5md.read import Reader
from mlpot.data.sources.consistency import check_structure
from mlpot.data.sources.output import RESULTS
from mlpot.extrapolation import Outside
from mlpot.graph import Prediction
from mlpot.neighbors import build_equal_molecules, build_graphs
from mlpot.potential import Potential
from mlpot.predictions.spread import predictor


def spans(n_atoms: NDArray[np.int64], batch_atoms: int) -> Iterator[tuple[int, int]]:
    """Where batches of at most so many atoms begin and end; a larger structure is alone in one."""
    ends, first = np.cumsum(n_atoms), 0
    while first < len(n_atoms):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + batch_atoms, side="right")), first + 1)
        yield first, last
        first = last


def read(reader: Reader, indices: NDArray[np.int64]) -> Series | None:
    """Frames of a file; None if something is wrong with one: whoever reads them one by one says what."""
    try:
        return reader.series(indices)
    except DataError:
        return None


def answered(
    potential: Potential, path: str, series: Series, first: int, outside: Outside, spread: bool = True
) -> Series | None:
    """Frames with predictions in place of their labels.

    Args:
        potential: ready for use.
        path: of their file, for errors.
        series: of the frames.
        first: place of the first of them among all.
        outside: is told of those that have an answer.
        spread: of a committee, write that of its members.

    Returns:
        None if something is wrong with one of them, or with an answer: whoever takes them one by one says what.
    """
    try:
        blocks = [_answered(potential, path, block, spread) for block in series.blocks]
    except ValueError:
        return None
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks):
        return None
    for block, grades in known:
        outside.add((first + block.places).tolist(), grades)
        outside.compare(potential.header, block.columns["species"])
    return Series([block for block, _ in known])


def _answered(potential: Potential, path: str, block: Block, spread: bool) -> tuple[Block, Tensor | None] | None:
    """The block with predictions, and the highest grades of its frames; None if a prediction is not finite."""
    columns, device = block.columns, potential.energy_scale.device
    positions, cells = columns["position"], columns["edges"]
    for k in np.flatnonzero((positions == positions[:, :1]).all(axis=(1, 2)) | block.pbc.any()):
        check_structure(path, positions[k], cells[k], block.pbc)
    numbers = columns["species"].astype(np.int64)
    graph = None if block.pbc.any() else build_equal_molecules(numbers, positions, cells, potential.cutoff)
    if graph is None:
        boundary = [block.pbc] * len(block)
        graph = build_graphs(list(numbers), list(positions), list(cells), boundary, potential.cutoff)
    potential.check_elements(graph.numbers.to(device))
    out = predictor(potential, spread)(graph.to(device)).to("cpu")
    found = _columns(out, numbers.shape)
    if not (np.isfinite(found["energy"]).all() and np.isfinite(found["forces"]).all()):
        return None
    kept = {key: values for key, values in columns.items() if key not in RESULTS}
    return replace(block, columns=kept | found), out.extrapolation_grade


def _columns(out: Prediction, shape: tuple[int, ...]) -> Columns:
    """Predictions of n structures of equal size as columns; a stress that is not whole is none."""
    stress = full_3x3_to_voigt_6_stress(out.stress.numpy())
    whole = np.isfinite(stress).all(axis=1)
    found = {"energy": out.energy.numpy(), "forces": out.forces.numpy().reshape(*shape, 3)}
    if out.energy_std is not None and out.forces_std is not None:
        found |= {"energy_std": out.energy_std.numpy(), "forces_std": out.forces_std.numpy().reshape(*shape, 3)}
    return found | ({"stress": np.where(whole[:, None], stress, np.nan)} if whole.any() else {})
