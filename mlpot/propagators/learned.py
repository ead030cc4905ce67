"""What a propagator learned, as its file tells, and how another start differs from that."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import units
from ase.data import chemical_symbols, covalent_radii
from ase.symbols import Symbols
from numpy.typing import NDArray
from pydantic import BaseModel

from mlpot.data.frame import ASE_VELOCITY
from mlpot.propagators.frame_pairs import FramePairs

Floats = NDArray[np.float64]
MOLECULE = "molecule"
"""Entry of a card: `molecule_of` what was learned; not in files of before."""
BOND = 1.25  # atoms closer than this part of the sum of their covalent radii are bonded
SAME_MASS = 1e-3  # u
WARMER = 1.3  # times the warmest that was learned
MOST = 500  # pairs that are looked at


class UnlearnedWarning(UserWarning):
    """A propagator moves what it has not learned."""


class Molecule(BaseModel, frozen=True):
    """What a propagator learned, whatever the order of its atoms."""

    formula: str
    masses: list[tuple[int, int, int]]  # atomic number, mass in thousandths of u, and how many atoms have them
    bonds: list[str]  # how many of each two elements, such as "C-C 1, C-H 5", as seen
    warmest_K: float


def molecule_of(pairs: FramePairs) -> Molecule | None:
    """What is learned from these pairs; None where particles are no atoms."""
    some = pairs[:: max(1, len(pairs) // MOST)]
    if not len(some) or not some.numbers.all():
        return None
    return Molecule(
        formula=_formula(some.numbers[0]),
        masses=_masses(some.numbers[0], some.masses[0]),
        bonds=sorted({_bonds(z, x) for z, x in zip(some.numbers, some.positions, strict=True)}),
        warmest_K=float(temperatures(some.masses, some.velocities).max()),
    )


def warn_of_unlearned(
    card: Mapping[str, Any], numbers: NDArray[np.int64], masses: Floats, positions: Floats, velocities: Floats
) -> None:
    """Tell, in one warning, how a start differs from what a propagator learned, as far as its file tells.

    Args:
        card: of the propagator's file.
        numbers: (n_atoms,).
        masses: (n_atoms,) u.
        positions: (n, n_atoms, 3) Å, of all starts.
        velocities: (n, n_atoms, 3) Å/fs.
    """
    if card.get(MOLECULE) is None:
        return
    told = _differences(Molecule.model_validate(card[MOLECULE]), numbers, masses, positions, velocities)
    if told:
        warnings.warn(
            f"The propagator has not learned this: {'; '.join(told)}. Nothing tells how it errs there. "
            "Train it on trajectories of such molecules, or integrate with mlpot md.",
            UnlearnedWarning,
            stacklevel=3,
        )


def _differences(
    learned: Molecule, numbers: NDArray[np.int64], masses: Floats, positions: Floats, velocities: Floats
) -> list[str]:
    formula = _formula(numbers)
    if formula != learned.formula:
        return [f"it learned {learned.formula}, and the start is {formula}"]
    told = []
    if _masses(numbers, masses) != learned.masses:
        told.append("the masses are of other isotopes than those that it learned")
    if not {_bonds(numbers, x) for x in positions} <= set(learned.bonds):
        other = next(bonds for x in positions if (bonds := _bonds(numbers, x)) not in learned.bonds)
        told.append(f"the atoms are bonded otherwise ({other}) than what it learned ({learned.bonds[0]})")
    hot, warmest = float(temperatures(masses, velocities).max()), learned.warmest_K
    if hot > WARMER * warmest:
        told.append(f"the start is at {hot:.0f} K, and what it learned at {warmest:.0f} at most")
    return told


def temperatures(masses: Floats, velocities: Floats) -> Floats:
    """(n,) K, of the motion about the center of mass; velocities (n, n_atoms, 3) Å/fs."""
    m = np.broadcast_to(masses, velocities.shape[:2])[..., None]
    own = (velocities - (m * velocities).sum(1, keepdims=True) / m.sum(1, keepdims=True)) / ASE_VELOCITY
    return np.asarray(
        (m * own**2).sum((1, 2)) / (3 * max(1, velocities.shape[1] - 1) * units.kB), dtype=np.float64
    )


def _formula(numbers: NDArray[np.int64]) -> str:
    return str(Symbols(np.asarray(numbers)).get_chemical_formula())


def _masses(numbers: NDArray[np.int64], masses: Floats) -> list[tuple[int, int, int]]:
    found = Counter((int(z), round(float(m) / SAME_MASS)) for z, m in zip(numbers, masses, strict=True))
    return [(z, m, n) for (z, m), n in sorted(found.items())]


def _bonds(numbers: NDArray[np.int64], positions: Floats) -> str:
    """How many bonds of each two elements there are, such as "C-C 1, C-H 5"; "no bonds"."""
    i, j = np.triu_indices(len(numbers), 1)
    radii = covalent_radii[numbers]
    near = np.linalg.norm(positions[i] - positions[j], axis=1) < BOND * (radii[i] + radii[j])
    pairs = Counter(
        tuple(sorted((chemical_symbols[numbers[a]], chemical_symbols[numbers[b]])))
        for a, b in zip(i[near], j[near], strict=True)
    )
    return ", ".join(f"{a}-{b} {n}" for (a, b), n in sorted(pairs.items())) or "no bonds"
