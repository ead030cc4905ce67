"""Several files as one set, and frames and families that count more than others in the loss."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from sets import crystals, small_recipe, write

from mlpot.data.frame import frame_of
from mlpot.data.h5md import LabelError, Reader, content_hash
from mlpot.data.sources.convert import convert
from mlpot.graph import Properties
from mlpot.html.training import training_page
from mlpot.model_file import read_header
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.training.fit import train
from mlpot.training.in_memory import flatten
from mlpot.training.losses import Loss
from mlpot.training.module import NoLossError
from mlpot.training.recipe import Recipe
from mlpot.training.splits import DoubtfulDataError, make_parts


def grouped(frames: list[Atoms], *names: str) -> list[Atoms]:
    """The frames in families by turns."""
    for k, atoms in enumerate(frames):
        atoms.info["group"] = names[k % len(names)]
    return frames


def test_several_files_train_as_one_merged_file(tmp_path: Path) -> None:
    frames = crystals(16)
    one = write(tmp_path / "one.h5", frames)
    a, b = write(tmp_path / "a.h5", frames[:7]), write(tmp_path / "b.h5", frames[7:])
    assert content_hash(a, b) == content_hash(one) != content_hash(b, a)
    runs = []
    for name, files in (("one", f"{one}"), ("two", f"[{a}, {b}]"), ("streamed", f"[{a}, {b}]")):
        more = ["data.stream=true"] if name == "streamed" else []
        runs.append(train(small_recipe(one, tmp_path / name, f"data.train={files}", "training.epochs=1", *more)))
    of_one, of_two, _ = (
        json.loads((tmp_path / n / "splits.json").read_text()) for n in ("one", "two", "streamed")
    )
    assert of_one == of_two | {"validation_set": str(one), "run": of_one["run"]}
    first, second = (run.potential.state_dict() for run in runs[:2])
    assert all(torch.equal(first[key], second[key]) for key in first)
    page = training_page(tmp_path / "two")
    assert all(str(path) in page for path in (a, b))
    assert "has changed since" not in page
    by_file = runs[1].metrics["labels_by_file"]["train"]
    assert by_file.keys() == {str(a), str(b)}
    assert sum(n["structures"] for n in by_file.values()) == 12
    assert f"train: {a}: {by_file[str(a)]['structures']} structures" in (tmp_path / "two/train.log").read_text()


def test_validation_and_test_may_be_several_files_too(tmp_path: Path) -> None:
    frames = crystals(20)
    paths = [write(tmp_path / f"{k}.h5", frames[4 * k : 4 * k + 4]) for k in range(5)]
    overrides = [f"data.validation=[{paths[1]}, {paths[2]}]", f"data.test=[{paths[3]}, {paths[4]}]"]
    recipe = small_recipe(paths[0], tmp_path / "run", *overrides)
    parts = make_parts(recipe.data, recipe.loss)
    assert (len(parts.train), len(parts.validation), len(parts.test or [])) == (4, 8, 8)


def test_a_file_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="twice"):
        parse_recipe(Recipe, "data: {train: [a.h5, a.h5]}")


def test_files_in_different_units_are_refused_by_name(tmp_path: Path) -> None:
    good, bad = crystals(60)[:30], crystals(60)[30:]
    for atoms in bad:
        labels = atoms.calc.results
        atoms.calc = SinglePointCalculator(atoms, **labels | {"forces": 23.06 * labels["forces"]})
    a, b = write(tmp_path / "a.h5", good), write(tmp_path / "b.h5", bad)
    recipe = small_recipe(a, tmp_path / "run", f"data.train=[{a}, {b}]")
    with pytest.raises(DoubtfulDataError, match=r"b\.h5: "):
        make_parts(recipe.data, recipe.loss)


def test_a_frame_of_a_set_is_named_with_its_file(tmp_path: Path) -> None:
    a = write(tmp_path / "a.h5", crystals(8))
    twins = crystals(11)[8:]
    twins[1].positions[1] = twins[1].positions[0]
    b = write(tmp_path / "b.h5", twins)
    recipe = small_recipe(a, tmp_path / "run", f"data.train=[{a}, {b}]", "data.check=warn", "data.seed=1")
    with pytest.raises(ValueError, match=r"Frame 1 of .*b\.h5"):
        train(recipe)


def test_a_weight_of_two_is_the_frame_twice() -> None:
    """The loss of weighted frames is that of the repeated ones; errors stay as they are."""
    frames = crystals(3)
    plain = flatten([frame_of(a) for a in [*frames, frames[0]]], cutoff=4.0)
    weighted = flatten([frame_of(a) for a in frames], cutoff=4.0, weights=[1.5, 0.75, 0.75])
    loss = Loss((2.0, 0.0, 5.0), "huber")  # forces are means over atoms, of which cells have different numbers
    values, counts = [], []
    for flat in (plain, weighted):
        graph, labels = flat.batch(torch.arange(len(flat)))
        guess = Properties(labels.energy + 0.3 * graph.cell[:, 0, 0], labels.forces, 1.1 * labels.stress)
        tally = loss.tally(guess, labels, graph)
        values.append(loss(guess, labels, graph).item())
        counts.append(tally[:, 1].tolist())
        assert loss.of_tally(tally).item() == pytest.approx(values[-1], rel=1e-12)
    assert values[1] == pytest.approx(values[0], rel=1e-12)
    assert counts[1] == [3, 3 * sum(len(a) for a in frames), 27]


def test_families_and_frames_are_weighted_together_and_said(tmp_path: Path) -> None:
    frames = grouped(crystals(16), "bulk", "surface")
    for atoms in frames[:8]:
        atoms.info["config_weight"] = 2.0
    data = write(tmp_path / "set.h5", frames)
    assert Reader(data)[0].info["config_weight"] == 2.0
    recipe = small_recipe(data, tmp_path / "run", "loss.weights={surface: 3.0}", "training.epochs=1")
    part = make_parts(recipe.data, recipe.loss).train
    weights = part.weights_of(part.indices)
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    raw = [(2.0 if k < 8 else 1.0) * (3.0 if k % 2 else 1.0) for k in part.indices]
    assert weights == pytest.approx(np.array(raw) / np.mean(raw))
    result = train(recipe)
    assert result.metrics["loss_weights"]["surface"]["mean"] > result.metrics["loss_weights"]["bulk"]["mean"]
    assert "weights in the loss" in (tmp_path / "run/train.log").read_text()
    assert read_header(result.model)["card"]["metrics"]["loss_weights"] == result.metrics["loss_weights"]


def test_weights_change_what_is_learned_and_equal_ones_do_not(tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", grouped(crystals(16), "bulk", "surface"))
    runs = [
        train(small_recipe(data, tmp_path / str(k), f"loss.weights={weights}", "training.epochs=2"))
        for k, weights in enumerate(["{}", "{bulk: 4.0, surface: 4.0}", "{bulk: 0.0}"])
    ]
    plain, equal, other = (run.potential.state_dict() for run in runs)
    assert all(torch.equal(plain[key], equal[key]) for key in plain)
    assert not all(torch.equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize(
    ("weights", "message"),
    [("{slab: 2.0}", "bulk, surface"), ("{bulk: -1.0}", "negative"), ("{bulk: 0, surface: 0}", "zero")],
)
def test_weights_that_make_no_sense_are_refused(weights: str, message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "set.h5", grouped(crystals(16), "bulk", "surface"))
    with pytest.raises(ValueError, match=message):
        train(small_recipe(data, tmp_path / "run", f"loss.weights={weights}"))


def test_a_loss_that_no_label_enters_stops_with_the_reason(tmp_path: Path) -> None:
    """N19: every validation structure is of a family that counts nothing."""
    data = write(tmp_path / "set.h5", grouped(crystals(12), "bulk", "surface"))
    validation = write(tmp_path / "validation.h5", grouped(crystals(16)[12:], "bulk"))
    recipe = small_recipe(data, tmp_path / "run", f"data.validation={validation}", "loss.weights={bulk: 0.0}")
    with pytest.raises(NoLossError, match="validation loss of epoch 1 is exactly zero"):
        train(recipe)


def test_weights_come_with_a_converted_file(tmp_path: Path) -> None:
    frames = crystals(4)
    for k, atoms in enumerate(frames):
        atoms.info["w"] = 0.5 * k
    ase.io.write(tmp_path / "set.xyz", frames)
    convert(tmp_path / "set.xyz", tmp_path / "set.h5", keys={"weight": "w"})
    assert [atoms.info["config_weight"] for atoms in Reader(tmp_path / "set.h5").frames()] == [0.0, 0.5, 1.0, 1.5]
    for wrong in (-1.0, "heavy", np.nan):
        frames[2].info["config_weight"] = wrong
        with pytest.raises(LabelError, match="Frame 2: config_weight"):
            write(tmp_path / "set.h5", frames)
