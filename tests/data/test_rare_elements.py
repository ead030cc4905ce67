"""Elements in few frames stay in the training set, whatever the seed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from sets import crystals, small_recipe, write

from mlpot.data.h5md import Reader
from mlpot.data.split import RareElementWarning, split
from mlpot.training.splits import draw, make_parts


def with_rare(n: int, rare: list[str]) -> list[Atoms]:
    """Crystals of copper and gold; each rare element takes the place of an atom in one frame."""
    frames = crystals(n)
    for k, symbol in enumerate(rare):
        frames[2 * k].symbols[0] = symbol
    return frames


@pytest.mark.parametrize("seed", range(4))
def test_the_only_frame_of_an_element_is_never_drawn(seed: int, tmp_path: Path) -> None:
    rare = ["Ge", "Sn", "Pb", "Ni", "Pt", "Pd"]
    data = write(tmp_path / "set.h5", with_rare(16, rare))
    recipe = small_recipe(data, tmp_path / "run", "data.validation=0.5", f"data.seed={seed}", "data.check=off")
    with pytest.warns(RareElementWarning, match="stay in training"):
        parts, again = (make_parts(recipe.data, recipe.loss) for _ in range(2))
    assert set(parts.validation.elements) <= set(parts.train.elements)
    assert len(parts.validation) == 8
    assert set(parts.train.indices) >= {0, 2, 4, 6, 8, 10}
    assert np.array_equal(parts.train.indices, again.train.indices)


def test_without_rare_elements_the_draw_is_that_of_the_seed() -> None:
    holds = np.ones((20, 2), dtype=bool)
    order = np.random.default_rng(3).permutation(20)
    chosen, kept = draw(holds, order, 7)
    assert chosen.tolist() == order[:7].tolist()
    assert not len(kept)


def test_of_two_frames_of_an_element_one_may_be_drawn() -> None:
    holds = np.ones((6, 2), dtype=bool)
    holds[:4, 1] = False
    chosen, kept = draw(holds, np.array([5, 4, 0, 1, 2, 3]), 3)
    assert chosen.tolist() == [5, 0, 1]
    assert kept.tolist() == [4]


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    frames = with_rare(6, ["Ge", "Sn", "Pb"])
    data = write(tmp_path / "set.h5", frames)
    recipe = small_recipe(data, tmp_path / "run", "data.validation=5", "data.check=off")
    with pytest.warns(RareElementWarning, match="instead of 5"):
        parts = make_parts(recipe.data, recipe.loss)
    assert len(parts.validation) <= 3
    assert {32, 50, 82} <= set(parts.train.elements)


@pytest.mark.parametrize("by", ["random", "block", "composition"])
def test_written_parts_hold_every_element_in_training(by: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", with_rare(24, ["Ge", "Sn", "Pb", "Ni"]))
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RareElementWarning)
            counts = split(data, [0.4, 0.3, 0.3], by=by, seed=seed, overwrite=True)  # type: ignore[arg-type]
        assert sum(counts.values()) == 24
        train, *others = (
            {z for atoms in Reader(path).frames() for z in atoms.numbers.tolist()} for path in counts
        )
        for other in others:
            assert other <= train
