"""Structures for the certificate where the user gives none: a molecule, a crystal, and its smallest cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states

MOLECULES = ("CH3CH2OH", "C2H6", "CH3OH", "NH3", "H2O", "CH4", "CO2", "Si2H6", "N2", "O2", "H2")
MOST_PAIRS = 10  # of elements
CRYSTALS = {"fcc": "fcc", "bcc": "bcc", "diamond": "diamond"}


def shaken(atoms: Atoms, by: float = 0.05, seed: int = 0) -> Atoms:
    """A copy with every atom displaced at random by `by` Å, so that no symmetry hides an error."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(scale=by, size=moved.positions.shape)
    return moved


def bundled(elements: Iterable[int]) -> dict[str, Atoms]:
    """A molecule, a crystal of 8 atoms in a skewed cell and its primitive cell, all of known elements."""
    known = sorted(elements)
    found = {"molecule": shaken(_molecule(known))}
    for z in reversed(known):
        state = reference_states[z]
        if state is not None and state["symmetry"] in CRYSTALS:
            primitive = bulk(chemical_symbols[z])
            break
    else:  # no simple crystal is known, as of gases: a dense cubic one shows the same symmetry
        a = 2.2 * covalent_radii[known[-1]] + 0.2
        primitive = Atoms([known[-1]], cell=a * (np.ones((3, 3)) - np.eye(3)) / np.sqrt(2), pbc=True)
    multiple = (2, 2, 2) if len(primitive) == 1 else (2, 2, 1)
    return found | {"crystal": shaken(primitive * multiple, seed=1), "primitive cell": primitive}


def _molecule(known: list[int]) -> Atoms:
    for name in MOLECULES:
        atoms = molecule(name)
        if set(atoms.numbers) <= set(known):
            return atoms
    a, b = known[0], known[-1]
    r = covalent_radii[a] + covalent_radii[b]
    return Atoms([a, b, b], [(0, 0, 0), (r, 0, 0), (0.3 * r, r, 0.1)])


def elements_of(structures: Iterable[Atoms]) -> tuple[int, ...]:
    """Atomic numbers in the structures, sorted."""
    return tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))


def element_pairs(elements: Iterable[int], structures: Mapping[str, Atoms]) -> list[tuple[int, int]]:
    """The pairs of elements that are checked; those in the structures come first."""
    known = list(elements)
    here = [z for z in elements_of(structures.values()) if z in known]
    order = here + [z for z in known if z not in here]
    return list(combinations_with_replacement(order, 2))[:MOST_PAIRS]


def pair_name(a: int, b: int) -> str:
    """Such as C-H."""
    return f"{chemical_symbols[a]}-{chemical_symbols[b]}"


def numbers_of(symbols: str) -> tuple[int, ...]:
    """Atomic numbers of symbols such as "H,C,O".

    Raises:
        ValueError: a symbol is not one of an element.
    """
    names = [s.strip() for s in symbols.split(",")]
    unknown = [s for s in names if s not in atomic_numbers]
    if unknown:
        raise ValueError(f"{unknown} are not elements. Give symbols such as H,C,O.")
    return tuple(sorted(atomic_numbers[s] for s in names))
