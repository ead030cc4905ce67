"""Is a cutoff that reaches no neighbor told, with the distance that it should reach?"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from sets import crystals, free_atoms, labeled, small_recipe, write

from mlpot.data.frame import Frame
from mlpot.data.h5md import Reader
from mlpot.training.fit import train
from mlpot.training.messages import LOG, Messages, TrainingWarning
from mlpot.training.reach import nearest_distance, warn_of_reach


def frames_of(path: Path, structures: list[Atoms]) -> list[Frame]:
    with Reader(write(path, [labeled(atoms) for atoms in structures])) as reader:
        return reader.columns(range(len(reader)))


def copper(a: float) -> Atoms:
    return bulk("Cu", "fcc", a=a)


def test_a_training_whose_cutoff_reaches_no_neighbor_says_so(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", crystals() + free_atoms())
    with pytest.warns(
        TrainingWarning, match=r"In all structures .* cutoff of 1.5 Å; their nearest atoms are 2\.\d+ Å"
    ):
        train(small_recipe(data, tmp_path / "run", "training.epochs=1", "model.arguments.cutoff=1.5"))
    assert "Set model.arguments.cutoff to two or three times" in (tmp_path / "run" / LOG).read_text()


def test_the_nearest_distance_is_that_of_an_atom_and_its_image_too(tmp_path: Path) -> None:
    (frame,) = frames_of(tmp_path / "a.h5", [copper(12.0)])
    assert nearest_distance(frame, 8.0) is None
    assert nearest_distance(frame, 9.0) == pytest.approx(12.0 / 2**0.5)


def test_half_of_the_structures_are_told_and_fewer_are_not(tmp_path: Path) -> None:
    near, far = [copper(3.6), copper(3.7)], [copper(9.0), copper(9.2)]
    tell = Messages(show=False)
    with pytest.warns(TrainingWarning, match=r"In 2 of 4 .* apart"):
        warn_of_reach(frames_of(tmp_path / "a.h5", near + far), 4.0, tell)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_reach(frames_of(tmp_path / "b.h5", near + far[:1]), 4.0, tell)
        warn_of_reach(frames_of(tmp_path / "c.h5", [Atoms("Cu")]), 4.0, tell)
        warn_of_reach([], 4.0, tell)
