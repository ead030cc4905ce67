"""Batches in an order that depends only on seed and step, so that a run can be continued from any step.

A set that fits is held in memory as one `FlatSet`. A larger one is read by windows: blocks of neighboring
frames come in random order, some blocks make a window, and a worker process turns each window into a small
`FlatSet` whose frames are shuffled. Reads stay local, and memory is that of a few windows.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlpot.data.h5md import SetReader
from mlpot.graph import AtomGraph, Properties
from mlpot.rotations import random_rotations, rotated, rotated_labels
from mlpot.training.in_memory import FlatSet, flatten
from mlpot.training.recipe import Augment
from mlpot.training.splits import Part

BLOCK = 16  # frames read together when streaming
WINDOW = 10_000  # atoms shuffled together when streaming
OF_ROTATIONS = 1  # before the seed of their stream, so that it is none of those that shuffle

Batch = tuple[AtomGraph, Properties]
Ints = NDArray[np.int64]


class Run(Protocol):
    """Epoch, step and process of a training; Lightning's Trainer has these attributes."""

    @property
    def global_step(self) -> int: ...
    @property
    def global_rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...


class Alone:
    """The run of a loader outside of a training: one process, from the start."""

    global_step, global_rank, world_size = 0, 0, 1


class Batches:
    """A part of the data as a sequence of batches, for Lightning.

    Args:
        n_frames: size of the part.
        batch_size: structures in a batch.
        seed: of a new random order in each epoch, in which all processes get equally many frames; None keeps the
            order of the file.
        even: all batches have about the same number of edges, and batch_size structures on average.
    """

    augment: Augment = "none"  # of a part with a seed, how its structures are turned anew in each epoch

    def __init__(self, n_frames: int, batch_size: int, seed: int | None, *, even: bool = False):
        self.n_frames, self.batch_size, self.seed, self.even = n_frames, batch_size, seed, even
        self.run: Run = Alone()

    def __len__(self) -> int:
        return -(-len(self._share(np.arange(self.n_frames))) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that the run has still to take in its present epoch."""
        epoch, first = (0, 0) if self.seed is None else divmod(self.run.global_step, len(self))
        if self.seed is None:
            order = np.arange(self.n_frames)
        else:
            order = self.shuffled(np.random.default_rng((self.seed, epoch)))
        batches = self.batches(self._share(order), first)
        if self.seed is None or self.augment == "none":
            return batches
        return (turned(batch, self.augment, self._stream(epoch, k)) for k, batch in enumerate(batches, first))

    def _stream(self, epoch: int, batch: int) -> np.random.Generator:
        """The random numbers of a batch's rotations: a run that goes on draws those of one that never stopped."""
        assert self.seed is not None
        return np.random.default_rng((OF_ROTATIONS, self.seed, epoch, batch, self.run.global_rank))

    def shuffled(self, rng: np.random.Generator) -> Ints:
        """A random order of all frames."""
        return rng.permutation(self.n_frames)

    def batches(self, order: Ints, first: int) -> Iterator[Batch]:
        """Batches of the frames in this order, from batch `first` on."""
        raise NotImplementedError

    def cut(self, frames: FlatSet, order: Tensor) -> Sequence[Tensor]:
        """The order in batches."""
        if not self.even:
            return torch.split(order, self.batch_size)
        n_batches = -(-len(order) // self.batch_size)
        return torch.tensor_split(order, even_ends(frames.table[3].index_select(0, order), n_batches))

    def _share(self, order: Ints) -> Ints:
        """Every n-th frame, for one of n processes."""
        n = self.run.world_size
        if self.seed is not None or len(order) < n:
            order = np.concatenate([order, np.resize(order, -len(order) % n)])
        return order[self.run.global_rank :: n]

    # Lightning continues within an epoch only loaders that have these two methods. This one needs no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class MemoryBatches(Batches):
    """Batches of a set in memory."""

    def __init__(self, frames: FlatSet, batch_size: int, seed: int | None = None, *, even: bool = False):
        super().__init__(len(frames), batch_size, seed, even=even)
        self.frames = frames

    def batches(self, order: Ints, first: int) -> Iterator[Batch]:
        for chosen in self.cut(self.frames, torch.from_numpy(order))[first:]:
            yield self.frames.batch(chosen)


class StreamedBatches(Batches):
    """Batches of a set in a file.

    Args:
        part: the set.
        cutoff: Å.
        workers: processes that read and build neighbor lists; with 0, this process does that.

    Raises:
        ValueError: there is no folder for temporary files, through which processes exchange data.
    """

    def __init__(
        self,
        part: Part,
        cutoff: float,
        batch_size: int,
        seed: int | None = None,
        *,
        even: bool = False,
        workers: int = 0,
    ):
        super().__init__(len(part), batch_size, seed, even=even)
        self.part, self.cutoff, self.workers = part, cutoff, workers
        if workers:
            check_temporary_folder()
        n_atoms = part.data.n_atoms[part.indices].mean()
        self.batches_per_window = max(1, round(min(WINDOW / n_atoms, 1024) / batch_size))

    def shuffled(self, rng: np.random.Generator) -> Ints:
        """A random order of blocks, and of the frames in each window."""
        starts = rng.permutation(np.arange(0, self.n_frames, BLOCK))
        order = (starts[:, None] + np.arange(BLOCK)).ravel()
        order = order[order < self.n_frames]
        window = self.batches_per_window * self.batch_size * self.run.world_size
        return np.concatenate([rng.permutation(order[k : k + window]) for k in range(0, len(order), window)])

    def batches(self, order: Ints, first: int) -> Iterator[Batch]:
        window, skipped = divmod(first, self.batches_per_window)
        size = self.batches_per_window * self.batch_size
        indices = self.part.indices[order]
        windows = [indices[k : k + size] for k in range(window * size, len(order), size)]
        reader = DataLoader(
            Windows(self.part, self.cutoff),  # type: ignore[arg-type]
            sampler=windows,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.workers,
            generator=torch.Generator(),  # else PyTorch draws a base seed from the global generator
        )
        for frames in reader:
            for chosen in self.cut(frames, torch.arange(len(frames)))[skipped:]:
                yield frames.batch(chosen)
            skipped = 0


class Windows(Dataset[FlatSet]):
    """Flat sets made of frames of files; each process opens the files itself."""

    def __init__(self, part: Part, cutoff: float):
        self.part, self.cutoff = part, cutoff
        self.reader: SetReader | None = None

    def __getitem__(self, frames: Ints) -> FlatSet:
        if self.reader is None:
            self.reader = SetReader(self.part.data.paths)
        names, weights = self.part.data.names(frames), self.part.weights_of(frames)
        return flatten(self.reader.columns(frames), self.cutoff, names, weights)


def turned(batch: Batch, augment: Augment, rng: np.random.Generator) -> Batch:
    """Each structure of a batch, with its labels, turned by a random rotation of its own, or also reflected."""
    graph, labels = batch
    matrices = random_rotations(graph.n_graphs, rng, reflections=augment == "rotations-and-reflections")
    turns = torch.from_numpy(matrices).to(graph.positions.device)
    return rotated(graph, turns), rotated_labels(labels, graph, turns)


def even_ends(n_edges: Tensor, n_batches: int) -> Tensor:
    """The ends of all batches but the last, so that all have about the same number of edges and none is empty.

    Args:
        n_edges: (n_frames,) edges of each frame, in the order of the epoch.
        n_batches: at most n_frames.
    """
    work = (n_edges + 1).cumsum(0)  # an isolated atom takes time too
    k = torch.arange(1, n_batches)
    ends = torch.searchsorted(work, work[-1] * k / n_batches) + 1
    ends = torch.cummax(ends - k, dim=0).values.clamp(min=0) + k if len(ends) else ends
    return torch.minimum(ends, len(n_edges) - n_batches + k)


def sample_of(part: Part, cutoff: float) -> FlatSet:
    """Some fifty frames of a part."""
    some = Part(part.data, part.indices[:: -(-len(part) // 50)])
    return flatten(some.frames(), cutoff, some.names())


def should_stream(part: Part, flat: FlatSet) -> bool:
    """Whether a part would take more than half of the free memory, judged by a sample of its frames."""
    n_bytes = flat.n_bytes * int(part.data.n_atoms[part.indices].sum()) / len(flat.numbers)
    return n_bytes > free_memory() / 2


def check_temporary_folder() -> None:
    """Raise ValueError if there is no such folder: workers could not hand over data, and all would wait."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.strerror}, which the processes that read the data need. Set TMPDIR to a folder that can be "
            "written, or data.workers=0."
        ) from None


def free_memory() -> float:
    """Free memory of the machine in bytes; infinite where the system does not tell it."""
    table = Path("/proc/meminfo")
    match = re.search(r"MemAvailable: +(\d+) kB", table.read_text()) if table.exists() else None
    return 1024.0 * int(match[1]) if match else math.inf
