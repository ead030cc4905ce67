"""Is a rotation that nothing stops neither drawn nor counted, whatever is held?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixCartesian, FixCom
from springs import EqualSprings

from mlpot.dynamics.ensembles import build_ensemble
from mlpot.dynamics.free_rotations import free_rotations, number_of_rotations
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.start import degrees_of_freedom, draw_velocities


def bent_wire() -> Atoms:
    positions = [[0.0, 0.5, 0.2], [2.0, -0.6, 0.1], [4.0, 0.2, -0.7], [6.0, 0.1, 0.6]]
    return Atoms("C4", positions, cell=[8.0, 0, 0], pbc=[True, False, False])


def held(atoms: Atoms, *constraints: Any) -> Atoms:
    atoms.set_constraint(constraints)
    return atoms


CASES = {
    "free": (molecule("CH3CH2OH"), 3, 21),
    "about an atom": (held(molecule("CH3CH2OH"), FixAtoms([4])), 3, 21),
    "about two atoms": (held(molecule("CH3CH2OH"), FixAtoms([0, 2])), 1, 20),
    "three atoms held": (held(molecule("CH3CH2OH"), FixAtoms([0, 1, 2])), 0, 18),
    "two atoms, one twice": (held(molecule("CH3CH2OH"), FixAtoms([0]), FixAtoms([0, 2])), 1, 20),
    "in a plane": (held(molecule("H2O"), FixCartesian([0, 1, 2], (True, False, False))), 1, 3),
    "one height": (held(molecule("CH4"), FixCartesian([1], (False, False, True))), 1, 11),
    "center": (held(molecule("CH4"), FixCom()), 3, 9),
    "a pair about one": (held(molecule("N2"), FixAtoms([1])), 2, 1),
    "a pair": (molecule("N2"), 2, 1),
    "a line": (molecule("CO2"), 2, 3),
    "a long line": (molecule("C2H2"), 2, 6),
    "a line of three elements": (molecule("HCN"), 2, 3),
    "a line about two": (held(molecule("CO2"), FixAtoms([0, 1])), 0, 2),
    "a line about its end": (held(molecule("CO2"), FixAtoms([1])), 2, 3),
    "a straight wire": (
        Atoms("C3", [[2.0 * k, 0, 0] for k in range(3)], cell=[6.0, 0, 0], pbc=[True, 0, 0]),
        0,
        5,
    ),
    "wire": (bent_wire(), 1, 8),
    "a wire about an atom": (held(bent_wire(), FixAtoms([1])), 1, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rotation_that_nothing_stops_is_neither_drawn_nor_counted(name: str) -> None:
    atoms, n_rotations, n_degrees = CASES[name]
    atoms = atoms.copy()
    draw_velocities(atoms, 300, np.random.default_rng(0))
    turns = free_rotations(atoms)
    assert len(turns) == n_rotations
    assert np.abs(np.einsum("aik,ik->a", turns, atoms.get_momenta())).max(initial=0.0) < 1e-12
    assert degrees_of_freedom(atoms, keeps_momentum=True) == n_degrees
    if n_rotations == number_of_rotations(atoms):
        turned = atoms.get_velocities() + turns.sum(axis=0)
        atoms.set_velocities(turned)
        np.testing.assert_allclose(atoms.get_velocities(), turned, atol=1e-12)  # what is held, is at rest in each
        assert degrees_of_freedom(atoms, keeps_momentum=True) == n_degrees + n_rotations


@pytest.mark.parametrize("name", CASES)
def test_no_rotation_begins_in_a_run(name: str) -> None:
    atoms, n_rotations, n_degrees = CASES[name]
    atoms = atoms.copy()
    atoms.calc = EqualSprings(1.5)
    rng = np.random.default_rng(1)
    draw_velocities(atoms, 300, rng)
    settings = MDRecipe(model=Path("none"), structure=Path("x"), ensemble="bussi", timestep_fs=0.5)
    ensemble = build_ensemble(atoms, settings, rng)
    assert ensemble.n_degrees == n_degrees
    ensemble.dynamics.run(100)
    assert len(free_rotations(atoms)) == number_of_rotations(atoms) >= n_rotations
    assert degrees_of_freedom(atoms, keeps_momentum=True) == n_degrees
    size = np.abs(atoms.get_momenta()).sum()
    assert (
        np.abs(np.einsum("aik,ik->a", free_rotations(atoms), atoms.get_momenta())).max(initial=0.0) < 1e-9 * size
    )
