"""Predictions by the workers of a cluster: batches go there, and their answers come back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ase import Atoms

from mlpot.data.cluster import LOST, Cluster, ClusterError, WorkerError, cluster, held
from mlpot.forces import computed_by
from mlpot.graph import Prediction
from mlpot.potential import Potential
from mlpot.predictions.batches import OnBad, Placed, batches, of_all, of_each, predict_placed, usual_batch_atoms
from mlpot.version import __version__

AHEAD = 64  # batches that a scheduler knows at a time
KEPT = "Nothing is written."


class Answer(NamedTuple):
    """Of a batch."""

    places: list[int]  # of structures that have predictions
    found: Prediction | None  # of all of them, one behind the other; None without any
    left_out: list[tuple[int, str]]  # places of those without, and why
    error: ValueError | None  # which the first without a prediction raised, if all end with it


def predict_elsewhere(
    potential: Potential,
    structures: Iterable[Placed],
    batch_atoms: int | None,
    on_bad: OnBad | None,
    address: str,
    spread: bool = True,
) -> Iterator[tuple[int, Atoms, Prediction]]:
    """As `predict_placed`, by the workers of a scheduler; a worker that dies costs the time of its batches.

    Args:
        potential: goes to each worker once. It computes there where it does here, on a CPU or a GPU.
        structures, batch_atoms, on_bad, spread: as of `predict_placed`.
        address: of the scheduler, tcp://host:8786.

    Raises:
        ClusterError: the scheduler or a worker cannot be used, or workers die of a structure.
        ValueError: as of `predict_placed`.
    """
    parts = batches(structures, batch_atoms or usual_batch_atoms(potential))
    with cluster(address, packages="mlpot[dask]", kept=KEPT) as workers, workers.holding(potential) as model:
        common = model, (__version__, computed_by(potential)), on_bad is not None, spread
        jobs = ((*common, part) for part in parts)
        yield from _gathered(workers, jobs, on_bad)


def _gathered(
    workers: Cluster, jobs: Iterable[tuple[Any, ...]], on_bad: OnBad | None
) -> Iterator[tuple[int, Atoms, Prediction]]:
    sent: deque[list[Placed]] = deque()  # with what structures carry beside their atoms, which no worker needs

    def bare() -> Iterator[tuple[Any, ...]]:
        for *common, part in jobs:
            sent.append(part)
            yield *common, [_bare(place, atoms) for place, atoms in part]

    for job, answer in workers.in_order(_elsewhere, bare(), AHEAD):
        part = dict(sent.popleft())
        answers = _one_by_one(workers, job, on_bad is not None) if answer is LOST else [answer]
        for places, found, left_out, error in answers:
            if found is not None:
                sizes = [len(part[place]) for place in places]
                for place, out in zip(places, of_each(found, sizes), strict=True):
                    yield place, part[place], out
            if error is not None:
                raise error
            for place, why in left_out:
                assert on_bad is not None
                on_bad(place, why)


def _one_by_one(workers: Cluster, job: tuple[Any, ...], is_told: bool) -> Iterator[Answer]:
    """Of a batch of which workers died each time, each structure alone."""
    *common, part = job
    for (*_, [(place, atoms)]), answer in workers.in_order(_elsewhere, ((*common, [one]) for one in part), 1):
        if answer is not LOST:
            yield answer
            continue
        told = f"({atoms.get_chemical_formula()}) each worker that computed it died: a crash, or no memory left."
        error = None if is_told else ClusterError(f"Structure {place} {told} {KEPT}")
        yield Answer([], None, [(place, told)] if is_told else [], error)


def _bare(place: int, atoms: Atoms) -> Placed:
    """A structure with nothing that a potential does not see."""
    return place, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _elsewhere(model: str, expected: tuple[str, str], is_told: bool, spread: bool, part: list[Placed]) -> Answer:
    """Runs in a worker."""
    potential = held(model)
    if (own := (__version__, computed_by(potential))) != expected:
        here, there = (f"mlpot {version}, {executor}" for version, executor in (expected, own))
        raise WorkerError(
            f"A worker computes by {there}, and this process by {here}: answers would differ. Install the same on "
            f"all. {KEPT}"
        )
    found: dict[int, Prediction] = {}
    left_out: list[tuple[int, str]] = []
    n_atoms, error = sum(len(atoms) for _, atoms in part), None
    try:
        on_bad = (lambda place, why: left_out.append((place, why))) if is_told else None
        found.update((place, out) for place, _, out in predict_placed(potential, part, n_atoms, on_bad, spread))
    except ValueError as reason:
        error = reason
    whole = of_all(list(found.values())) if found else None  # parts of it would be sent as the whole each
    return Answer(list(found), whole, left_out, error)
