"""Reference energies of a training that starts from a model: kept, given, or fitted to its residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlpot.recipes import RecipeError
from mlpot.training.reference_energies import robust_least_squares
from mlpot.training.splits import Part

Floats = NDArray[np.float64]
CHEMICAL = 15.0
"""eV/atom: no structure is bound, or squeezed, by more than that on average."""
N_ROUNDS = 300  # a fit is repeated until it changes nothing more


@dataclass(frozen=True)
class Reference:
    """The energy of an isolated atom, eV, and where it comes from."""

    value: float
    source: str


class StrangeEnergiesError(ValueError):
    """Energies of structures and reference energies are not of the same method, code or unit."""


def known_references(
    model: Mapping[int, float],
    elements: list[int],
    mode: str,
    given: Mapping[str, float] | None,
    isolated: Mapping[int, float],
) -> dict[int, Reference]:
    """References that need no fit, by atomic number; elements that are to be fitted are left out.

    Args:
        model: references of the model, eV.
        elements: of the new data.
        mode: "keep", "given" or "fitted", of elements of the model.
        given: by chemical symbol, eV, of the recipe.
        isolated: energies of isolated atoms in the data, eV.

    Raises:
        RecipeError: mode and given energies contradict each other.
    """
    told = {atomic_numbers[symbol]: energy for symbol, energy in (given or {}).items()}
    _check(model, elements, mode, told, isolated)
    references = {}
    for z in sorted({*model, *elements}):
        if mode == "keep" and z in model:
            references[z] = Reference(model[z], "kept")
        elif z in told:
            references[z] = Reference(told[z], "given by data.reference_energies")
        elif z in isolated and (mode != "fitted" or z not in model):
            references[z] = Reference(isolated[z], "isolated atom in the data")
        elif z in model and (mode == "given" or z not in elements):
            references[z] = Reference(model[z], "kept")
    return references


def _check(
    model: Mapping[int, float],
    elements: list[int],
    mode: str,
    told: Mapping[int, float],
    isolated: Mapping[int, float],
) -> None:
    names = chemical_symbols
    if mode == "keep" and (other := [z for z in told if z in model and abs(told[z] - model[z]) > 1e-9]):
        pairs = ", ".join(f"{names[z]} {told[z]:.6f} (the model has {model[z]:.6f})" for z in other)
        raise RecipeError(
            f"data.reference_energies gives {pairs}, and model.start_references=keep keeps those of the model. "
            "Leave the energies out, or set model.start_references=given."
        )
    if mode == "fitted" and (both := [names[z] for z in told if z in elements]):
        raise RecipeError(
            f"data.reference_energies gives {', '.join(both)}, and model.start_references=fitted fits them. Leave "
            "the energies out, or set model.start_references=given."
        )
    if mode == "given" and not any(z in told or z in isolated for z in model):
        raise RecipeError(
            "model.start_references=given, but neither data.reference_energies nor isolated atoms in the data "
            "give the energy of an element of the model. Give them, or set it to keep or fitted."
        )


def fitted_changes(
    counts: Floats, residual: Floats, n_atoms: NDArray[np.int64], fitted: list[int]
) -> tuple[dict[int, float], list[int]]:
    """The change of each reference that minimizes the residuals, eV; and the elements that it cannot separate.

    Args:
        counts: (n_frames, n_fitted) atoms of each element.
        residual: (n_frames,) label − prediction, eV.
        n_atoms: (n_frames,) of all elements.
        fitted: atomic number of each column.

    The smallest change is taken where compositions do not tell elements apart.
    """
    change = robust_least_squares(counts, residual, n_atoms.astype(np.float64), N_ROUNDS)
    _, sizes, directions = np.linalg.svd(counts / n_atoms[:, None], full_matrices=True)
    rank = int((sizes > 1e-8 * sizes.max(initial=0.0)).sum())
    free = np.abs(directions[rank:]).max(axis=0, initial=0.0) > 1e-6
    return (
        {z: float(e) for z, e in zip(fitted, change, strict=True)},
        [z for z, is_free in zip(fitted, free, strict=True) if is_free],
    )


def check_energies(train: Part, references: Mapping[int, float]) -> None:
    """Raise StrangeEnergiesError where energies lie outside of any chemical range around the sum of references.

    Args:
        train: the structures.
        references: eV by atomic number, of every element of the structures.
    """
    frames = train.indices[np.isfinite(train.data.energy[train.indices])]
    elements = train.elements
    if not len(frames):
        return
    counts = train.data.counts(frames, elements)
    reference = np.array([references[z] for z in elements])
    excess = train.data.energy[frames] - counts @ reference
    typical = float(np.median(excess / counts.sum(axis=1)))
    if abs(typical) <= CHEMICAL:
        return
    wanted = reference + robust_least_squares(counts, excess)
    table = ", ".join(
        f"{chemical_symbols[z]} {set_to:.3f} and {would:.3f}"
        for z, set_to, would in zip(elements, reference, wanted, strict=True)
    )
    raise StrangeEnergiesError(
        f"{train.data.path}: energies are {typical:.4g} eV/atom from the sum of reference energies, which no "
        f"structure is by its chemistry. Reference energies in eV, as set and as the energies want them: {table}. "
        "They are of another method, code or unit. Give those of the data (data.reference_energies; where a "
        "training starts from a model, model.start_references=given or fitted), or convert the data."
    )
