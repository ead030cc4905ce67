"""Is a network's number of neighbors that of its data, unless a recipe says another?"""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from sets import crystals, free_atoms, small_recipe, write
from test_reach import frames_of

from mlpot.model_file import load_potential
from mlpot.models import build_backbone
from mlpot.recipes import load_recipe
from mlpot.training.fit import train
from mlpot.training.messages import LOG
from mlpot.training.neighbor_count import mean_neighbors
from mlpot.training.recipe import Recipe


def test_shells_of_copper_are_counted_and_isolated_atoms_left_out(tmp_path: Path) -> None:
    fcc, dimer = bulk("Cu", "fcc", a=3.6), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    frames = frames_of(tmp_path / "a.h5", [fcc, Atoms("Cu"), dimer])
    assert mean_neighbors(frames[:1], 3.0) == 12
    assert mean_neighbors(frames[:2], 4.0) == 12 + 6
    assert mean_neighbors(frames, 3.0) == pytest.approx((12 + 1 + 1) / 3, abs=0.05)
    assert mean_neighbors(frames[1:2], 3.0) is None
    assert mean_neighbors([], 3.0) is None


@pytest.mark.parametrize("given", [None, 5.0])
def test_a_training_counts_neighbors_and_goes_on_with_the_same_number(tmp_path: Path, given: float | None) -> None:
    data = write(tmp_path / "set.h5", crystals() + free_atoms())
    arguments = {"cutoff": 4.0, "n_features": 8, "n_radial": 6, "max_degree": 1} | (
        {} if given is None else {"n_neighbors": given}
    )
    overrides = [f"model.arguments={arguments}", "training.solve=false", "optimizer.schedule=none"]
    recipe = small_recipe(data, tmp_path / "run", *overrides, "training.epochs=1", backbone="ace")
    result = train(recipe)
    kept = load_recipe(Recipe, tmp_path / "run" / "recipe.yaml").model.arguments["n_neighbors"]
    assert kept == given if given else 12 < kept < 24
    assert load_potential(result.model).arguments["n_neighbors"] == kept
    assert result.potential.backbone.n_neighbors == kept
    assert (f"within 4 Å: {kept:g} " in (tmp_path / "run" / LOG).read_text()) is (given is None)
    longer = small_recipe(data, tmp_path / "run", *overrides, "training.epochs=2", backbone="ace")
    assert train(longer, resume=True).potential.arguments["n_neighbors"] == kept


@pytest.mark.parametrize("backbone", ["ace", "mace", "nequip"])
def test_so_few_neighbors_that_sums_overflow_are_refused(backbone: str) -> None:
    with pytest.raises(ValueError, match=r"n_neighbors is 1e-300, expected at least 0\.1"):
        build_backbone(backbone, elements=(1,), n_neighbors=1e-300)
