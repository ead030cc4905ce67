"""Structures that every potential must treat alike: molecule, crystals, slab, isolated atom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.spacegroup import crystal

from mlpot.forces import AtomicEnergies, predict
from mlpot.graph import AtomGraph, Edges, Properties, collate
from mlpot.neighbors import build_graph

CUTOFF = 4.0  # Å, of every small potential in the tests
ELEMENTS = (1, 6, 8, 14, 29)
REFERENCES = {1: -13.6, 6: -147.1, 8: -428.6, 14: -103.9, 29: -1306.2}  # eV, of the size of pseudo-atoms


def shaken(atoms: Atoms, *, by: float = 0.08, seed: int = 0) -> Atoms:
    """A copy with every atom displaced at random by `by` Å."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(scale=by, size=moved.positions.shape)
    return moved


def ethanol(seed: int = 0) -> Atoms:
    """9 atoms, no cell."""
    return shaken(molecule("CH3CH2OH"), seed=seed)


def quartz(seed: int = 2) -> Atoms:
    """α-quartz, 9 atoms in a triclinic cell without a symmetry."""
    atoms = crystal(
        ["Si", "O"],
        [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.7858)],
        spacegroup=154,
        cellpar=[4.916, 4.916, 5.405, 90, 90, 120],
    )
    strain = np.eye(3) + np.array([[0.01, 0.03, -0.02], [0.0, -0.02, 0.04], [0.0, 0.0, 0.02]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return shaken(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True), seed=seed)


def copper(seed: int = 0) -> Atoms:
    """8 atoms in a skewed cell smaller than the cutoff sphere."""
    return shaken(bulk("Cu", "fcc", a=3.61) * (2, 2, 2), by=0.05, seed=seed)


def copper_atom() -> Atoms:
    """One atom in a primitive cell: every neighbor is its own image."""
    return bulk("Cu", "fcc", a=3.61)


def slab(seed: int = 0) -> Atoms:
    """CO on two layers of Cu(111), periodic in two directions, some atoms outside the cell."""
    atoms = fcc111("Cu", size=(2, 2, 2), a=3.61)
    add_adsorbate(atoms, molecule("CO", positions=[(0, 0, 1.15), (0, 0, 0)]), height=1.9, position="ontop")
    atoms.set_cell(np.diag([1.0, 1.0, 0.0]) @ atoms.cell.array)
    atoms.pbc = (True, True, False)
    return shaken(atoms, seed=seed)


def isolated_atom(number: int = 6) -> Atoms:
    """One atom in vacuum."""
    return Atoms(numbers=[number], positions=[(0.3, -0.2, 0.1)])


STRUCTURES = {"ethanol": ethanol, "quartz": quartz, "copper": copper, "copper_atom": copper_atom, "slab": slab}
CRYSTALS = {"quartz": quartz, "copper": copper, "copper_atom": copper_atom}


def graph_of(atoms: Atoms, cutoff: float = CUTOFF) -> AtomGraph:
    """The graph of one structure."""
    return build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def batch_of(structures: Sequence[Atoms], cutoff: float = CUTOFF) -> AtomGraph:
    """The graph of many structures."""
    return collate([graph_of(atoms, cutoff) for atoms in structures])


def evaluate(potential: AtomicEnergies, *structures: Atoms) -> Properties:
    """Energy, forces and stress of the structures, lists built anew."""
    return predict(potential, batch_of(structures, getattr(potential, "cutoff", CUTOFF)))


def worst(a: torch.Tensor | np.ndarray | float, b: torch.Tensor | np.ndarray | float) -> float:
    """Largest |a − b|; NaN if any is NaN, so that `worst(...) <= bar` fails."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max(initial=0.0))


def equal(a: object, b: object) -> bool:
    """Whether two records hold the same tensors, types included; NaN equals NaN."""
    for field in fields(a):  # type: ignore[arg-type]  # of any record
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, Edges):
            same = equal(x, y)
        elif isinstance(x, float):
            same = x == y
        else:
            same = x.dtype == y.dtype and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)
        if not same:
            return False
    return True
