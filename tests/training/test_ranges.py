"""Are the ranges in a card those of all structures that a model learned, also where it began as another model?"""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
from sets import crystals, labeled, small_recipe, write

import mlpot
from mlpot.training.fit import train

pytestmark = pytest.mark.filterwarnings("ignore:Worse than the model")


def test_ranges_after_a_start_are_those_of_both_trainings(tmp_path: Path) -> None:
    """The second has wider crystals of twice as many atoms, so that its own ranges are narrower in part."""
    near = write(tmp_path / "near.h5", crystals())
    wide = []
    for k, atoms in enumerate(crystals(16)):
        atoms = atoms.copy()
        atoms.symbols[0] = "Ag"
        atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
        wide.append(labeled(atoms * (1, 1, 2) if k % 2 else atoms))
    far = write(tmp_path / "far.h5", wide)
    first = train(small_recipe(near, tmp_path / "first", "training.epochs=1")).model
    second = train(small_recipe(far, tmp_path / "second", "training.epochs=1", f"model.start={first}")).model
    own = train(small_recipe(far, tmp_path / "alone", "training.epochs=1")).model
    before, both, alone = (mlpot.load(path).header["card"]["ranges"] for path in (first, second, own))
    for key in ("nearest_distance_A", "fewest_neighbors"):
        assert both[key].keys() == before[key].keys() | alone[key].keys()
        for name, value in both[key].items():
            assert value == min(before[key].get(name, np.inf), alone[key].get(name, np.inf))
    pairs = {"-".join(pair) for pair in combinations_with_replacement(("Cu", "Ag", "Au"), 2)}
    assert both["nearest_distance_A"].keys() <= pairs
    key = "largest_force_component_eV_per_A"
    assert both[key] == max(before[key], alone[key])
    assert both["n_atoms"] == [min(before["n_atoms"][0], alone["n_atoms"][0]), alone["n_atoms"][1]]
    card = mlpot.load(second).header["card"]
    assert card["start"]["ranges"] == before, "those of the earlier training alone stand there"
    assert both["nearest_distance_A"]["Cu-Cu"] < alone["nearest_distance_A"]["Cu-Cu"], "and count in dynamics"
