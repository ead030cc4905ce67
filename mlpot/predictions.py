"""Energies, forces and stresses of many structures: the batch door beside the ASE door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlpot.data.errors import DataError
from mlpot.data.h5md.read import BLOCK
from mlpot.data.sources.output import output_format, without_results, write_structures
from mlpot.data.sources.read import Source, as_source
from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.model_file import load_potential
from mlpot.neighbors import build_graph, build_molecules
from mlpot.potential import Potential, UnknownElementError

BATCH_ATOMS = 1024
"""Atoms computed at once, unless a structure has more."""
OnBad = Callable[[int, str], None]
"""Told the place in the source and the reason of each structure that is left out."""
Progress = Callable[[int, int | None], None]
"""Told how many structures are done, and how many there are where that is known."""


class NotFiniteError(ValueError):
    """A potential has no finite answer for a structure."""


def predict_structures(
    potential: Potential,
    structures: Iterable[Atoms],
    *,
    batch_atoms: int = BATCH_ATOMS,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[Atoms, Properties]]:
    """Each structure with its Properties on the CPU, computed in batches on the device of the potential.

    Args:
        on_bad: told of structures that are left out; without it, the first ends all.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: a wrong shape, a value that is not finite, two atoms in one place; by index of the structure.
        NotFiniteError: a prediction is not finite.
    """
    first = 0
    for batch in _batches(structures, batch_atoms):
        yield from _predict_batch(potential, batch, first, on_bad)
        first += len(batch)


def labeled(atoms: Atoms, out: Properties) -> Atoms:
    """A copy of a structure with predictions in its calculator, no stress where there is none.

    What its `info` and `arrays` have under the same names is called `input_energy`, `input_forces`, ... there.
    """
    copy = without_results(atoms)
    energy = out.energy.item()
    results = {"energy": energy, "free_energy": energy, "forces": out.forces.numpy()}
    if out.stress.isfinite().all():
        results["stress"] = full_3x3_to_voigt_6_stress(out.stress[0].numpy())
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def predict_file(
    model: str | Path,
    structures: str | Path | Source,
    output: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    batch_atoms: int = BATCH_ATOMS,
    overwrite: bool = False,
    on_bad: OnBad | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the structures of a file with the predictions of a model to another file; their number.

    Args:
        model: a file that mlpot wrote.
        structures: a file of any kind.
        output: a name whose ending is of H5MD (.h5) or of a format of ASE that holds results (.xyz, .traj, .db);
            checked before anything is computed, and absent or as before until all is written.
        device: where it computes.
        dtype: "float32" or "float64"; that of the model by default.
        batch_atoms: atoms computed at once.
        overwrite: replace an existing output.
        on_bad: told of structures that are left out; without it, the first ends all and nothing is written.
        progress: told how far it is.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: as the functions that read, compute and write.
    """
    output_format(output, overwrite=overwrite)
    potential = load_potential(model, device=device, dtype=dtype)
    source = as_source(structures, labels=False)
    n_structures = 0

    def counted() -> Iterator[Atoms]:
        nonlocal n_structures
        for atoms in _predictions(potential, source, batch_atoms, on_bad, progress):
            n_structures += 1
            yield atoms

    write_structures(output, counted(), overwrite=overwrite)
    return n_structures


def _predictions(
    potential: Potential, source: Source, batch_atoms: int, on_bad: OnBad | None, progress: Progress | None
) -> Iterator[Atoms]:
    """The structures of a source with predictions; an error tells what it costs."""
    n_structures, total = 0, source.n_frames
    try:
        found = _readable(source, on_bad)
        for atoms, out in predict_structures(potential, found, batch_atoms=batch_atoms, on_bad=on_bad):
            n_structures += 1
            if progress is not None:
                progress(n_structures, total)
            yield labeled(atoms, out)
    except ValueError as error:
        if n_structures == 0 or on_bad is not None:
            raise
        raise type(error)(
            f"{error} Of the {n_structures} structures before it nothing is written: leave such structures out "
            "with --skip-bad, or correct them."
        ) from error


def _readable(source: Source, on_bad: OnBad | None) -> Iterator[Atoms]:
    """The structures of a source; with `on_bad`, damaged ones are passed over where the format allows it."""
    k = 0
    while True:
        try:
            for atoms in source.frames(k):
                yield atoms
                k += 1
            return
        except DataError as error:
            n_frames = source.n_frames
            if on_bad is None or (k == 0 and n_frames is None):
                raise
            if n_frames is None:
                on_bad(k, f"{error} Nothing after it can be read.")
                return
        stop = min(k + BLOCK, n_frames)  # H5MD is read by blocks, of which one bad frame spoils all
        for place in range(k, stop):
            try:
                yield from source.frames(place, place + 1)
            except DataError as error:
                on_bad(place, str(error))
        k = stop


def _batches(structures: Iterable[Atoms], batch_atoms: int) -> Iterator[list[Atoms]]:
    batch: list[Atoms] = []
    n_atoms = 0
    for atoms in structures:
        if batch and n_atoms + len(atoms) > batch_atoms:
            yield batch
            batch, n_atoms = [], 0
        batch.append(atoms)
        n_atoms += len(atoms)
    if batch:
        yield batch


def _predict_batch(
    potential: Potential, batch: list[Atoms], first: int, on_bad: OnBad | None
) -> Iterator[tuple[Atoms, Properties]]:
    known, graph = list(enumerate(batch, first)), _graph_at_once(potential, batch)
    if graph is None:
        known, graph = _graph_one_by_one(potential, batch, first, on_bad)
    if graph is None:
        return
    out = predict(potential, graph.to(potential.energy_scale.device)).to("cpu")
    sizes = [len(atoms) for _, atoms in known]
    bad = torch.zeros_like(out.energy).index_add(0, graph.batch.cpu(), (~out.forces.isfinite()).sum(1).double())
    finite = (out.energy.isfinite() & (bad == 0)).tolist()
    own_parts = (torch.split(t, n) for t, n in ((out.energy, 1), (out.forces, sizes), (out.stress, 1)))
    parts = zip(known, finite, *own_parts, strict=True)
    for (index, atoms), is_finite, *own in parts:
        if is_finite:
            yield atoms, Properties(*own)
            continue
        told = (
            f"The prediction for structure {index} is not finite. Its atoms may be far closer than any in the "
            "training set; look at the structure."
        )
        if on_bad is None:
            raise NotFiniteError(told)
        on_bad(index, told)


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
    potential: Potential, batch: list[Atoms], first: int, on_bad: OnBad | None
) -> tuple[list[tuple[int, Atoms]], AtomGraph | None]:
    """The graph of all structures that have one, with their places in the source; None without any."""
    known, graphs = [], []
    for k, atoms in enumerate(batch):
        try:
            potential.check_elements(torch.as_tensor(atoms.numbers, device=potential.energy_scale.device))
            graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
        except ValueError as error:
            if on_bad is None:  # of the same kind, with the structure's name before it
                raise type(error)(f"Structure {first + k} ({atoms.symbols}): {error}") from error
            on_bad(first + k, f"({atoms.symbols}) {error}")
            continue
        graphs.append(graph)
        known.append((first + k, atoms))
    return known, collate(graphs) if graphs else None
