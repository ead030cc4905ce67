"""Does a set that does not fit in memory train as one that does?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from places import TESTS
from sets import crystals, small_recipe, write

from mlpot.data import h5md
from mlpot.data.check.survey import survey
from mlpot.graph import AtomGraph
from mlpot.training.fit import train
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import BLOCK, Alone, StreamedBatches, free_memory, sample_of, should_stream
from mlpot.training.splits import Part


def part_of(path: Path, n: int) -> Part:
    return Part(survey(path), np.arange(1, n))


class AtStep(Alone):
    """A run that stands at a step."""

    def __init__(self, step: int):
        self.global_step = step


@pytest.mark.parametrize("workers", [0, 2])
def test_every_frame_is_streamed_once_an_epoch(workers: int, tmp_path: Path) -> None:
    part = part_of(write(tmp_path / "set.h5", crystals(12)), 12)
    whole = flatten(part.frames(), 3.0)
    batches = StreamedBatches(part, 3.0, 4, seed=1, workers=workers)
    batches.batches_per_window = 2
    seen = [labels.energy for _, labels in batches]
    assert [len(e) for e in seen] == [4, 4, 3]
    assert len(seen) == len(batches)
    assert torch.equal(torch.cat(seen).sort().values, whole.energy.sort().values)
    batches.run = AtStep(1)
    rest = [labels.energy for _, labels in batches]
    assert all(torch.equal(a, b) for a, b in zip(rest, seen[1:], strict=True))
    batches.run = AtStep(3)
    assert not torch.equal(torch.cat([labels.energy for _, labels in batches]), torch.cat(seen))


def test_streamed_batches_can_be_of_as_many_edges(tmp_path: Path) -> None:
    mixed = [a * (2, 2, 2) if k % 3 == 0 else a for k, a in enumerate(crystals(12))]
    batches = StreamedBatches(part_of(write(tmp_path / "set.h5", mixed), 12), 3.0, 3, seed=1, even=True)
    batches.batches_per_window = 4
    seen = [graph for graph, _ in batches]
    assert len(seen) == len(batches) == 4
    assert sum(graph.n_graphs for graph in seen) == 11
    sizes = [len(graph.edges) for graph in seen]
    assert max(sizes) <= sum(sizes) / 4 + max(sizes_of(seen))


def sizes_of(graphs: list[AtomGraph]) -> list[int]:
    """Edges of each structure."""
    return [n for g in graphs for n in g.batch[g.edges.center].bincount(minlength=g.n_graphs).tolist()]


def test_streamed_frames_are_read_in_blocks() -> None:
    n = 20 * BLOCK
    order = np.arange(n)
    batches = StreamedBatches.__new__(StreamedBatches)
    batches.n_frames, batches.batch_size, batches.batches_per_window, batches.run = n, 5, 16, Alone()
    order = batches.shuffled(np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(n))
    for window in np.split(order, n // 80):
        assert len(set(window // BLOCK)) <= 80 // BLOCK + 1


def test_streaming_and_memory_learn_the_same_things(tmp_path: Path) -> None:
    """Same frames, same step count; only their order differs."""
    data = write(tmp_path / "set.h5", crystals())
    runs = [
        train(small_recipe(data, tmp_path / str(stream), f"data.stream={stream}", "training.epochs=20"))
        for stream in ("true", "false")
    ]
    a, b = (run.metrics["validation"]["forces_mae_meV_per_A"] for run in runs)
    assert a == pytest.approx(b, rel=0.3)


def test_a_set_that_fits_is_not_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(write(tmp_path / "set.h5", crystals()), 16)
    assert free_memory() > 1e6
    assert not should_stream(part, sample_of(part, 4.0))
    monkeypatch.setattr("mlpot.training.loaders.free_memory", lambda: 1.9 * flatten(part.frames(), 4.0).n_bytes)
    assert should_stream(part, sample_of(part, 4.0))


LIMITED = """
import re, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from sets import small_recipe
from mlpot.training.fit import train
def run(data, name):
    stream = ["data.stream=true", "data.workers={workers}", "training.epochs=1", "training.batch_size=20"]
    small = ["model.arguments.n_features=4", "model.arguments.cutoff=3.0"]
    return train(small_recipe(Path(data), Path({folder!r}) / name, *stream, *small))
run({small!r}, "small")  # everything is imported and warm
used = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
limit = used + {room}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    hog = torch.ones({room} // 4 + 2**20)
except RuntimeError:
    print("limited")
metrics = run({large!r}, "large").metrics
print("structures", metrics["labels"]["structures"])
"""


def gas(n_frames: int, n_atoms: int, seed: int = 0) -> Iterator[Atoms]:
    """Copper atoms in a large box with made-up labels; one at a time."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(10) * 3.2] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    for _ in range(n_frames):
        atoms = Atoms(np.full(n_atoms, 29), grid + rng.uniform(-0.5, 0.5, grid.shape))
        labels = {"energy": rng.normal(), "forces": rng.normal(size=grid.shape)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        yield atoms


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are set as Linux has them")
@pytest.mark.slow
def test_a_set_four_times_larger_than_the_memory_limit_streams_through_an_epoch(tmp_path: Path) -> None:
    room, n_atoms = 64 * 2**20, 300  # a thread's stack takes 8 MiB of it
    n_frames = 4 * room // (n_atoms * 49) + 1  # 49 bytes an atom: number, position, force
    h5md.write(tmp_path / "large.h5", gas(n_frames, n_atoms), card={})
    h5md.write(tmp_path / "small.h5", gas(24, n_atoms, seed=1), card={})
    script = LIMITED.format(
        tests=str(TESTS),
        folder=str(tmp_path),
        small=str(tmp_path / "small.h5"),
        large=str(tmp_path / "large.h5"),
        room=room,
        workers=2,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "limited" in done.stdout
    assert f"structures {n_frames - 4}" in done.stdout
