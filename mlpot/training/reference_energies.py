"""Reference energies, scales and shifts of each element, found from the data before the training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NOT_DETERMINED = "not determined"
OF_SET = frozenset(("given", "isolated atom", "fitted", NOT_DETERMINED))
"""Where reference energies are from, unless from an earlier model."""


@dataclass(frozen=True)
class References:
    """Energy of an isolated atom of each element, and where it is from."""

    energies: dict[int, float]  # eV, by atomic number
    sources: dict[int, str]  # "given", "isolated atom", "fitted", or "not determined"


class ReferenceEnergyWarning(UserWarning):
    """The set does not determine the energies of some isolated atoms."""


def warn_of_references(found: References, unused: list[str], has_energies: bool) -> None:
    """Warn of given energies without use, and of elements whose energy is fitted beside known ones of others.

    Such an energy takes up what binds all atoms, so that an isolated atom of the element is far off.
    """
    if unused:
        message = f"data.reference_energies has {', '.join(unused)}, which no training structure holds."
        warnings.warn(message, ReferenceEnergyWarning, stacklevel=3)
    unclear = _symbols(found, NOT_DETERMINED)
    if unclear and has_energies and len(unclear) < len(found.sources):
        warnings.warn(
            f"The compositions tell only sums of the reference energies of {', '.join(unclear)}: they are shared "
            "out, which is right for compositions like those of the training set alone. Give these too in "
            "data.reference_energies, or as isolated atoms in the set.",
            ReferenceEnergyWarning,
            stacklevel=3,
        )
    fitted, known = _symbols(found, "fitted"), [*_symbols(found, "isolated atom"), *_symbols(found, "given")]
    if fitted and known:
        warnings.warn(
            f"The energy of an isolated atom is known of {', '.join(known)}, and fitted of {', '.join(fitted)}. "
            "What is fitted takes up the binding of all atoms, so that isolated atoms of these will be far off. "
            "Give them too in data.reference_energies, or as isolated atoms in the set.",
            ReferenceEnergyWarning,
            stacklevel=3,
        )


def _symbols(found: References, source: str) -> list[str]:
    return [chemical_symbols[z] for z, of in found.sources.items() if of == source]


def reference_energies(
    counts: Floats,
    energies: Floats,
    elements: list[int],
    isolated: Mapping[int, float],
    given: Mapping[int, float] | None = None,
) -> References:
    """Energy of an isolated atom of each element, eV: known ones are held, and the others fitted to what is left.

    Args:
        counts: (n_frames, n_elements) atoms of each element in each frame.
        energies: (n_frames,) eV; none: what is not known is zero.
        elements: atomic number of each column.
        isolated: energies of isolated atoms in the set, eV.
        given: energies that the user gives, eV; they go before those of the set.

    An element is "not determined" where compositions tell only sums of it and of others that are not known: the
    shortest solution shares such a sum out, which is right for compositions like those of the set alone.
    """
    known = {z: float(e) for z, e in {**isolated, **(given or {})}.items() if z in elements}
    sources = {z: "given" if z in (given or {}) else "isolated atom" for z in known}
    open_ones = np.array([k for k, z in enumerate(elements) if z not in known], dtype=int)
    found = dict(known)
    if len(open_ones) and not len(energies):
        found |= {elements[k]: 0.0 for k in open_ones}
        sources |= {elements[k]: NOT_DETERMINED for k in open_ones}
    elif len(open_ones):
        held = np.array([known.get(z, 0.0) for z in elements])
        n_atoms = counts.sum(axis=1)
        fitted = robust_least_squares(counts[:, open_ones], energies - counts @ held, n_atoms)
        clear = determined(counts[:, open_ones])
        for k, energy, is_clear in zip(open_ones, fitted, clear, strict=True):
            found[elements[k]] = float(energy)
            sources[elements[k]] = "fitted" if is_clear else NOT_DETERMINED
    return References({z: found[z] for z in elements}, {z: sources[z] for z in elements})


def determined(counts: Floats) -> NDArray[np.bool_]:
    """(n_elements,) whether the compositions tell the energy of each element, and not only sums of several."""
    if not counts.size:
        return np.zeros(counts.shape[1], dtype=np.bool_)
    return np.asarray(np.abs(unseen_directions(counts)).max(axis=0, initial=0.0) < 1e-6)


def unseen_directions(counts: Floats) -> Floats:
    """(n, n_elements) unit vectors, orthogonal to all compositions and to each other."""
    composition = np.unique(counts, axis=0)
    _, size, rows = np.linalg.svd(composition / max(1.0, np.abs(composition).max()), full_matrices=True)
    rank = int((size > 1e-8 * max(1e-300, size[0])).sum())
    return np.asarray(rows[rank:])


def shifts(
    counts: Floats, energies: Floats, elements: list[int], references: Mapping[int, float]
) -> dict[int, float]:
    """Mean energy per atom of each element above its reference, eV, as far as compositions tell them apart."""
    binding = energies - counts @ np.array([references[z] for z in elements])
    return {z: float(e) for z, e in zip(elements, robust_least_squares(counts, binding), strict=True)}


def robust_least_squares(
    counts: Floats, energies: Floats, n_atoms: Floats | None = None, n_rounds: int = 30
) -> Floats:
    """Coefficients x of energies ≈ counts · x with Huber weights, so that a few bad frames do not count.

    Residuals count per atom, of all atoms where `n_atoms` (n_frames,) is given, else of those in `counts`.
    The shortest solution is taken where compositions do not tell elements apart. P. J. Huber, Ann. Math.
    Statist. 35, 73 (1964); by iteratively reweighted least squares.
    """
    n_atoms = counts.sum(axis=1) if n_atoms is None else n_atoms
    a, b = counts / n_atoms[:, None], energies / n_atoms
    weight = np.ones_like(b)
    for _ in range(n_rounds):
        root = np.sqrt(weight)
        x: Floats = np.linalg.lstsq(a * root[:, None], b * root, rcond=1e-8)[0]
        residual = np.abs(b - a @ x)
        limit = max(1.345 * 1.4826 * float(np.median(residual)), 1e-10)
        weight = np.minimum(1.0, limit / np.maximum(residual, limit))
    return x


def force_scales(numbers: NDArray[np.int64], forces: Floats, elements: list[int]) -> dict[int, float]:
    """Root mean square force component on each element, eV/Å; NaN rows are not counted.

    An element without a force label, or with vanishing forces, takes the value of the whole set.
    """
    known = np.isfinite(forces).all(axis=1)
    whole = _rms(forces[known]) or 1.0
    return {z: _rms(forces[known & (numbers == z)]) or whole for z in elements}


def _rms(values: Floats) -> float:
    if values.size == 0:
        return 0.0
    rms = float(np.sqrt(np.mean(np.square(values))))
    return rms if rms > 1e-8 else 0.0
