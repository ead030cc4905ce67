"""Snapshots for labels: as many as asked for, centered, warm, and the same for the same seed."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from mlpot.dynamics.snapshots import snapshots


def sampled(seed: int) -> list[Atoms]:
    atoms = molecule("H2O")
    atoms.calc = EMT()
    return snapshots(atoms, temperature_K=300, seed=seed, n_frames=3, spacing=5, equilibration=5)


def test_snapshots_are_centered_and_depend_on_the_seed_alone() -> None:
    first, again, other = sampled(0), sampled(0), sampled(1)
    assert [frame.info["group"] for frame in first] == ["300K"] * 3
    assert all(np.abs(frame.get_center_of_mass()).max() < 1e-12 for frame in first)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, again, strict=True))
    assert np.abs(first[0].positions - other[0].positions).max() > 1e-3
    assert np.abs(first[0].positions - first[1].positions).max() > 1e-3
