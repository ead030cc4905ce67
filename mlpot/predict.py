"""Energies, forces and stresses of many structures: the batch door beside the ASE door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlpot.data.sources.read import Source, as_source, write_structures
from mlpot.forces import predict
from mlpot.graph import Properties, collate
from mlpot.model_file import load_potential
from mlpot.neighbors import build_graph
from mlpot.potential import Potential

BATCH_ATOMS = 1024
"""Atoms computed at once, unless a structure has more."""


class NotFiniteError(ValueError):
    """A potential has no finite answer for a structure."""


def predict_structures(
    potential: Potential, structures: Iterable[Atoms], *, batch_atoms: int = BATCH_ATOMS
) -> Iterator[tuple[Atoms, Properties]]:
    """Each structure with its Properties on the CPU, computed in batches on the device of the potential.

    Raises:
        UnknownElementError: an element the potential was not made for.
        ValueError: a wrong shape, a value that is not finite, two atoms in one place; by index of the structure.
        NotFiniteError: a prediction is not finite.
    """
    first = 0
    for batch in _batches(structures, batch_atoms):
        for k, out in enumerate(_predict_batch(potential, batch, first)):
            _check_finite(out, first + k)
            yield batch[k], out
        first += len(batch)


def labeled(atoms: Atoms, out: Properties) -> Atoms:
    """A copy of a structure with predictions in its calculator; no stress where there is none."""
    copy = atoms.copy()
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
) -> int:
    """Write the structures of a file with the predictions of a model to another file; their number.

    Args:
        model: a file that mlpot wrote.
        structures: a file of any kind.
        output: .h5 for H5MD, otherwise a format that ASE writes.
        device: where it computes.
        dtype: "float32" or "float64"; that of the model by default.
        batch_atoms: atoms computed at once.
        overwrite: replace an existing output.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: as the functions that read, compute and write.
    """
    potential = load_potential(model, device=device, dtype=dtype)
    source = as_source(structures, labels=False)
    n_structures = 0

    def predictions() -> Iterator[Atoms]:
        nonlocal n_structures
        for atoms, out in predict_structures(potential, source.frames(), batch_atoms=batch_atoms):
            n_structures += 1
            yield labeled(atoms, out)

    write_structures(output, predictions(), overwrite=overwrite)
    return n_structures


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


def _predict_batch(potential: Potential, batch: list[Atoms], first: int) -> Iterator[Properties]:
    graphs = []
    for k, atoms in enumerate(batch):
        try:
            potential.check_elements(torch.as_tensor(atoms.numbers, device=potential.energy_scale.device))
            graphs.append(
                build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
            )
        except ValueError as error:  # of the same kind, with the structure's name before it
            raise type(error)(f"Structure {first + k} ({atoms.symbols}): {error}") from error
    out = predict(potential, collate(graphs).to(potential.energy_scale.device)).to("cpu")
    ends = np.cumsum([len(atoms) for atoms in batch])
    for k, (end, atoms) in enumerate(zip(ends, batch, strict=True)):
        yield Properties(out.energy[k : k + 1], out.forces[end - len(atoms) : end], out.stress[k : k + 1])


def _check_finite(out: Properties, index: int) -> None:
    if not (out.energy.isfinite().all() and out.forces.isfinite().all()):
        raise NotFiniteError(
            f"The prediction for structure {index} is not finite. Its atoms may be far closer than any in the "
            "training set; look at the structure."
        )
