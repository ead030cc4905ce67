"""Do all processes and all sessions of a training take one order of frames, whatever memory each finds free?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import TESTS
from sets import crystals, labeled, small_recipe, write
from training_runs import PowerCutError, StopIn, assert_same_training

from mlpot.data.check.survey import survey
from mlpot.training import sets
from mlpot.training.fit import train
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import Batch, Batches, MemoryBatches, StreamedBatches
from mlpot.training.splits import Part
from mlpot.training.trainer import LAST


class Rank:
    """A process of several, at a step."""

    def __init__(self, rank: int, n: int, step: int = 0):
        self.global_rank, self.world_size, self.global_step = rank, n, step


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large and small structures, so that batches of as many edges are not of as many structures."""
    mixed = [labeled(a * (2, 2, 2)) if k % 3 == 0 else a for k, a in enumerate(crystals(40))]
    return write(tmp_path_factory.mktemp("data") / "set.h5", mixed)


def both(data: Path, rank: Rank, *, even: bool) -> tuple[Batches, Batches]:
    """A set that is streamed, and the same in memory, in its order."""
    part = Part(survey(data), np.arange(1, 40))
    streamed = StreamedBatches(part, 3.0, 3, seed=1, even=even)
    held = MemoryBatches(flatten(part.frames(), 3.0), 3, seed=1, even=even)
    held.in_windows()
    for batches in (streamed, held):
        batches.batches_per_window, batches.run, batches.augment = 3, rank, "rotations"
    return streamed, held


def same(one: Batch, other: Batch) -> bool:
    """To the bit, turned alike."""
    return torch.equal(one[0].positions, other[0].positions) and torch.equal(one[1].forces, other[1].forces)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("rank", [Rank(0, 1), Rank(0, 1, 5), Rank(1, 2), Rank(2, 3, 2)])
def test_a_set_in_memory_can_take_the_order_of_a_stream(data: Path, rank: Rank, even: bool) -> None:
    """To the bit, with turned structures, in the middle of an epoch too."""
    streamed, held = both(data, rank, even=even)
    one, other = list(streamed), list(held)
    assert len(one) == len(other) == len(streamed) - rank.global_step % len(streamed)
    assert all(same(a, b) for a, b in zip(one, other, strict=True))


def test_batches_of_as_many_edges_are_turned_in_a_stream(data: Path) -> None:
    """It ended in an IndexError where a batch had more structures than it was dealt before edges were known."""
    batches = both(data, Rank(0, 1), even=True)[0]
    sizes = {graph.n_graphs for graph, _ in batches}
    assert len(sizes) > 1


@pytest.mark.parametrize("first_streams", [True, False])
def test_a_training_goes_on_in_its_order_whatever_memory_is_free(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_streams: bool
) -> None:
    """A kill within an epoch, and other free memory afterwards: frames came twice or never, without a word."""
    settings = ("training.batch_edges=900", "training.checkpoint_steps=1")
    streams = [first_streams]
    monkeypatch.setattr(sets, "should_stream", lambda part, sample: streams[0] and len(part) > 10)
    whole, cut = (small_recipe(data, tmp_path / name, *settings, backbone="deepsets") for name in ("whole", "cut"))
    train(whole)
    with pytest.raises(PowerCutError):
        train(cut, callbacks=[StopIn(0, step=4)])
    streams[0] = not first_streams
    train(cut, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")
    kept = torch.load(tmp_path / "cut" / LAST, weights_only=True)["callbacks"]["OneOrder"]
    assert kept == {"in_windows": first_streams}


def test_a_set_that_must_be_in_memory_and_cannot_is_refused_in_words(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(data, tmp_path / "run", "training.checkpoint_steps=1")
    with pytest.raises(PowerCutError):
        train(recipe, callbacks=[StopIn(0, step=4)])
    monkeypatch.setattr("mlpot.training.loaders.free_memory", lambda: 1000.0)
    with pytest.raises(ValueError, match=r"takes .* GiB, and .* are free. This run was begun with its set in mem"):
        train(recipe, resume=True)


UNLIKE = """
import os
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import training_runs

from mlpot.training import sets

streams = {streams}[os.environ.get("LOCAL_RANK", "0")]
sets.should_stream = lambda part, sample: streams
training_runs.together(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
"""


@pytest.mark.slow
def test_processes_with_unlike_memory_deal_each_frame_once(data: Path, tmp_path: Path) -> None:
    """L26: one streamed and one did not, and each took its frames of another order."""
    two = ["training.devices=2", "training.strategy=ddp", "training.accelerator=cpu", "training.precision=float64"]
    for name, streams in (("alike", {"0": True, "1": True}), ("unlike", {"0": False, "1": True})):
        script = tmp_path / f"{name}.py"
        script.write_text(UNLIKE.format(streams=streams, tests=str(TESTS)))
        command = [sys.executable, str(script), str(data), str(tmp_path / name), *two, "data.workers=0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "alike", tmp_path / "unlike")
