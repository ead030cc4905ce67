"""Predictions of structures that come one by one, made batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from ase import Atoms

from mlpot.forces import native_obstacle
from mlpot.graph import AtomGraph, Prediction, collate, collate_properties
from mlpot.neighbors import build_graph, build_molecules
from mlpot.potential import Potential, UnknownElementError
from mlpot.predictions.spread import predictor

BATCH_ATOMS = 1024
"""Atoms computed at once where autograd keeps arrays of all their edges, unless a structure has more."""
NATIVE_BATCH_ATOMS = 8192
"""The same where compiled code computes, which keeps none."""
OnBad = Callable[[int, str], None]
"""Told the place in the source and the reason of each structure that is left out."""
Placed = tuple[int, Atoms]
"""A structure with its place in the source."""


class NotFiniteError(ValueError):
    """A potential has no finite answer for a structure."""


def usual_batch_atoms(potential: Potential) -> int:
    """Atoms that are computed at once if nobody says."""
    return NATIVE_BATCH_ATOMS if native_obstacle(potential) is None else BATCH_ATOMS


def checked_batch_atoms(batch_atoms: int | None) -> None:
    """Raise ValueError for a number of atoms that is none, which would make batches of one structure each."""
    if batch_atoms is None:
        return
    if isinstance(batch_atoms, bool) or not isinstance(batch_atoms, int | np.integer) or batch_atoms < 1:
        raise ValueError(
            f"batch_atoms = {str(batch_atoms)[:40]}: give a whole number, 1 or above, or None for the usual."
        )


def predict_placed(
    potential: Potential,
    structures: Iterable[Placed],
    batch_atoms: int | None,
    on_bad: OnBad | None,
    spread: bool = True,
) -> Iterator[tuple[int, Atoms, Prediction]]:
    """Structures with their places and predictions on the CPU; arguments and errors as of `predict_structures`."""
    for batch in batches(structures, batch_atoms or usual_batch_atoms(potential)):
        yield from _predict_batch(potential, batch, on_bad, spread)


def batches(structures: Iterable[Placed], batch_atoms: int) -> Iterator[list[Placed]]:
    """Structures that follow each other, with at most so many atoms together; a larger one is alone in one."""
    batch: list[Placed] = []
    n_atoms = 0
    for place, atoms in structures:
        if not isinstance(atoms, Atoms):
            raise TypeError(
                f"Structure {place} is of type {type(atoms).__name__}, and ASE's Atoms are needed: a list of "
                "them, which is [atoms] for a single one."
            )
        if batch and n_atoms + len(atoms) > batch_atoms:
            yield batch
            batch, n_atoms = [], 0
        batch.append((place, atoms))
        n_atoms += len(atoms)
    if batch:
        yield batch


def _predict_batch(
    potential: Potential, batch: list[Placed], on_bad: OnBad | None, spread: bool
) -> Iterator[tuple[int, Atoms, Prediction]]:
    known, graph = batch, _graph_at_once(potential, [atoms for _, atoms in batch])
    if graph is None:
        known, graph = _graph_one_by_one(potential, batch, on_bad)
    if graph is None:
        return
    out = predictor(potential, spread)(graph.to(potential.energy_scale.device)).to("cpu")
    sizes = [len(atoms) for _, atoms in known]
    bad = torch.zeros_like(out.energy).index_add(0, graph.batch.cpu(), (~out.forces.isfinite()).sum(1).double())
    finite = (out.energy.isfinite() & (bad == 0)).tolist()
    for (index, atoms), is_finite, own in zip(known, finite, of_each(out, sizes), strict=True):
        if is_finite:
            yield index, atoms, own
            continue
        told = (
            f"The prediction for structure {index} is not finite. Its atoms may be far closer than any in the "
            "training set; look at the structure."
        )
        if on_bad is None:
            raise NotFiniteError(told)
        on_bad(index, told)


def of_each(out: Prediction, sizes: Sequence[int]) -> Iterator[Prediction]:
    """Predictions of structures, one by one, out of those of all; sizes are their numbers of atoms."""
    parts = [torch.split(t, n) for t, n in ((out.energy, 1), (out.forces, list(sizes)), (out.stress, 1))]
    of_some = ((out.extrapolation_grade, 1), (out.energy_std, 1), (out.forces_std, list(sizes)))
    some = [[None] * len(sizes) if t is None else torch.split(t, n) for t, n in of_some]
    for own in zip(*parts, *some, strict=True):
        yield Prediction(*own)


def of_all(predictions: Sequence[Prediction]) -> Prediction:
    """Those of structures, one behind the other, of one potential."""
    out = collate_properties(predictions)
    some = (
        [t for own in predictions if (t := getattr(own, name)) is not None]
        for name in ("extrapolation_grade", "energy_std", "forces_std")
    )
    return Prediction(out.energy, out.forces, out.stress, *(torch.cat(own) if own else None for own in some))


def _graph_at_once(potential: Potential, batch: list[Atoms]) -> AtomGraph | None:
    """The graph of small molecules; None if there are others, or if something is wrong."""
    if any(atoms.pbc.any() for atoms in batch):
        return None
    numbers, positions = [atoms.numbers for atoms in batch], [atoms.positions for atoms in batch]
    graph = build_molecules(numbers, positions, [atoms.cell.array for atoms in batch], potential.cutoff)
    if graph is None:
        return None
    try:
        potential.check_elements(graph.numbers.to(potential.energy_scale.device))
    except UnknownElementError:  # of one of them
        return None
    return graph


def _graph_one_by_one(
    potential: Potential, batch: list[Placed], on_bad: OnBad | None
) -> tuple[list[Placed], AtomGraph | None]:
    """The graph of all structures that have one, with their places in the source; None without any."""
    known, graphs = [], []
    for k, atoms in batch:
        try:
            potential.check_elements(torch.as_tensor(atoms.numbers, device=potential.energy_scale.device))
            graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
        except ValueError as error:
            if on_bad is None:  # of the same kind, with the structure's name before it
                raise type(error)(f"Structure {k} ({atoms.get_chemical_formula()}): {error}") from error
            on_bad(k, f"({atoms.get_chemical_formula()}) {error}")
            continue
        graphs.append(graph)
        known.append((k, atoms))
    return known, collate(graphs) if graphs else None
