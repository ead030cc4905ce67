"""Space has no origin, no direction and no handedness, and equal atoms have no names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from structures import STRUCTURES, evaluate, worst

from mlpot.potential import Potential

# Energy (eV/atom), forces (eV/Å), and forces relative to the largest: what arithmetic leaves of a symmetry.
# Float64 never relaxes. Float32 bars of 1e-6 eV and 2e-5 eV/Å were first set on a pair potential. The readout of a
# network adds terms that cancel: of 56 eV in all, one unit in the last place is 4e-6 eV, and 7e-6 eV were measured
# in a cell of one atom, where no average helps. Of forces, 2.7e-5 eV/Å, near a bond that pulls with 40 eV/Å;
# 2.04e-5 in another order of atoms, near one that pulls with 101.
BARS = {
    "translation": {torch.float64: (1e-11, 1e-10, 0.0), torch.float32: (1e-5, 1e-5, 0.0)},
    "rotation": {torch.float64: (1e-11, 1e-10, 0.0), torch.float32: (1e-5, 2e-5, 1e-6)},
    "permutation": {torch.float64: (1e-11, 1e-11, 0.0), torch.float32: (2e-5, 2e-5, 1e-6)},
}
pytestmark = pytest.mark.pairs
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
MATTER = pytest.mark.parametrize("matter", STRUCTURES)


def random_orthogonal(rng: np.random.Generator) -> np.ndarray:
    """A rotation or reflection, uniform over O(3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


def turned(atoms: Atoms, q: np.ndarray) -> Atoms:
    """Positions and cell vectors x -> Q x."""
    return Atoms(atoms.numbers, atoms.positions @ q.T, cell=atoms.cell.array @ q.T, pbc=atoms.pbc)


@PRECISIONS
@MATTER
def test_translation_changes_nothing(potential: Potential, matter: str, dtype: torch.dtype) -> None:
    potential = potential.to(dtype)
    atoms = STRUCTURES[matter]()
    rng = np.random.default_rng(1)
    moves = [np.array([1000.0, 0, 0]), *rng.uniform(-1000, 1000, (3, 3)) / np.sqrt(3)]
    copies = [Atoms(atoms.numbers, atoms.positions + m, cell=atoms.cell, pbc=atoms.pbc) for m in moves]
    out, moved = evaluate(potential, atoms), evaluate(potential, *copies)
    bar_energy, bar_forces, bar_relative = BARS["translation"][dtype]
    assert worst(moved.energy, out.energy.repeat(4)) <= bar_energy * len(atoms)
    assert worst(moved.forces, out.forces.repeat(4, 1)) <= bar_forces + bar_relative * out.forces.abs().max()


@PRECISIONS
@MATTER
def test_rotations_and_reflections_turn_forces_and_stress(
    rotating_potential: Potential, matter: str, dtype: torch.dtype
) -> None:
    potential = rotating_potential.to(dtype)
    atoms = STRUCTURES[matter]()
    rng = np.random.default_rng(2)
    turns = [random_orthogonal(rng) for _ in range(20)]
    assert {round(np.linalg.det(q)) for q in turns} == {1, -1}
    out, after = evaluate(potential, atoms), evaluate(potential, *[turned(atoms, q) for q in turns])
    forces = np.concatenate([out.forces.numpy() @ q.T for q in turns])
    bar_energy, bar_forces, bar_relative = BARS["rotation"][dtype]
    assert worst(after.energy, out.energy.repeat(20)) <= bar_energy * len(atoms)
    assert worst(after.forces, forces) <= bar_forces + bar_relative * out.forces.abs().max()
    if atoms.pbc.all():
        stress = np.stack([q @ out.stress[0].numpy() @ q.T for q in turns])
        assert worst(after.stress, stress) <= bar_forces + bar_relative * out.forces.abs().max()


@PRECISIONS
@MATTER
def test_the_order_of_atoms_does_not_matter(potential: Potential, matter: str, dtype: torch.dtype) -> None:
    potential = potential.to(dtype)
    atoms = STRUCTURES[matter]()
    orders = [np.random.default_rng(k).permutation(len(atoms)) for k in range(4)]
    out, after = evaluate(potential, atoms), evaluate(potential, *[atoms[order] for order in orders])
    bar_energy, bar_forces, bar_relative = BARS["permutation"][dtype]
    assert worst(after.energy, out.energy.repeat(4)) <= bar_energy * len(atoms)
    forces = np.concatenate([out.forces.numpy()[order] for order in orders])
    assert worst(after.forces, forces) <= bar_forces + bar_relative * out.forces.abs().max()


@MATTER
def test_forces_have_no_sum(potential: Potential, matter: str) -> None:
    atoms = STRUCTURES[matter]()
    forces = evaluate(potential, atoms).forces.numpy()
    assert worst(forces.sum(axis=0), 0.0) <= 1e-12 * len(atoms)


@MATTER
def test_forces_have_no_torque(rotating_potential: Potential, matter: str) -> None:
    atoms = STRUCTURES[matter]()
    forces = evaluate(rotating_potential, atoms).forces.numpy()
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.positions.mean(axis=0)
        assert worst(np.cross(arms, forces).sum(axis=0), 0.0) <= 1e-12 * len(atoms)


@MATTER
def test_the_sum_of_float32_forces_is_rounding(potential: Potential, matter: str) -> None:
    # Edge gradients are float32, but each is added to one atom and taken from the other in float64.
    atoms = STRUCTURES[matter]()
    forces = evaluate(potential.float(), atoms).forces.numpy()
    rms = np.sqrt(np.mean(forces**2))
    assert worst(forces.sum(axis=0), 0.0) <= 1e-7 * len(atoms) * rms + 1e-12
