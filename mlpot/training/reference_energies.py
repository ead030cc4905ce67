"""What the data say before any training: reference energies, scales and shifts, element by element."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def reference_energies(
    counts: Floats, energies: Floats, elements: list[int], isolated: Mapping[int, float]
) -> dict[int, float]:
    """Energy of each free atom, eV: as computed where `isolated` has it, fitted for all elements otherwise.

    Args:
        counts: (n_frames, n_elements) atoms of each element in each frame.
        energies: (n_frames,) eV.
        elements: atomic number of each column.
        isolated: energies of isolated atoms, eV.

    Isolated atoms are used only if every element has one: a mixture of computed and fitted references would
    depend on the composition of the set.
    """
    if all(z in isolated for z in elements):
        return {z: float(isolated[z]) for z in elements}
    fitted = robust_least_squares(counts, energies)
    return {z: float(e) for z, e in zip(elements, fitted, strict=True)}


def shifts(
    counts: Floats, energies: Floats, elements: list[int], references: Mapping[int, float]
) -> dict[int, float]:
    """Mean energy per atom of each element above its reference, eV, as far as compositions tell them apart."""
    binding = energies - counts @ np.array([references[z] for z in elements])
    return {z: float(e) for z, e in zip(elements, robust_least_squares(counts, binding), strict=True)}


def robust_least_squares(counts: Floats, energies: Floats, n_rounds: int = 30) -> Floats:
    """Coefficients x of energies ≈ counts · x with Huber weights, so that a few bad frames do not count.

    The shortest solution is taken where compositions do not tell elements apart. P. J. Huber, Ann. Math.
    Statist. 35, 73 (1964); by iteratively reweighted least squares.
    """
    n_atoms = counts.sum(axis=1)
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
