"""Batches in an order that depends only on seed and step, so that a run can be continued from any step.

A set that fits is held in memory as one `FlatSet`. A larger one is read by windows: blocks of neighboring
frames come in random order, some blocks make a window, and a worker process turns each window into a small
`FlatSet` whose frames are shuffled. Reads stay local, and memory is that of a few windows.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from heapq import heapreplace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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


class Dealt(NamedTuple):
    """What one process takes of the batch of all."""

    frames: Ints  # (n_own,) of the part
    places: Ints  # (n_own,) in the batch of all
    n_all: int  # frames of that
    counts: bool  # whether their labels do; not where there are fewer frames than processes


class Batches:
    """A part of the data as a sequence of batches, for Lightning.

    Args:
        n_frames: size of the part.
        batch_size: structures in a batch.
        seed: of a new random order in each epoch; None keeps the order of the file.
        even: all batches have about the same number of edges, and batch_size structures on average.

    Of n processes each takes its part of a batch of n · batch_size structures, which a single process would take
    whole, with about as much work as the others.
    """

    augment: Augment = "none"  # of a part with a seed, how its structures are rotated in each epoch
    work: Ints  # (n_frames,) how much is to be done for each frame, up to a factor
    n_atoms: Ints  # (n_frames,)
    batches_per_window: int | None = None  # None: all frames are shuffled together

    def __init__(self, n_frames: int, batch_size: int, seed: int | None, *, even: bool = False):
        self.n_frames, self.batch_size, self.seed, self.even = n_frames, batch_size, seed, even
        self.run: Run = Alone()

    def __len__(self) -> int:
        n = self.run.world_size
        if self.seed is None:
            return max(1, -(-len(range(self.run.global_rank, self.n_frames, n)) // self.batch_size))
        return -(-self.n_frames // (n * self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        """The batches that the run has still to take in its present epoch."""
        epoch, first = (0, 0) if self.seed is None else divmod(self.run.global_step, len(self))
        dealt = self.dealt(epoch)
        for k, (batch, own) in enumerate(zip(self.batches(dealt, first), dealt[first:], strict=True), first):
            if not own.counts:
                yield unlabeled(batch)
            elif self.seed is None or self.augment == "none":
                yield batch
            else:
                # Drawn for all processes alike: a run that goes on draws those of one that never stopped.
                rng = np.random.default_rng((OF_ROTATIONS, self.seed, epoch, k, 0))
                reflections = self.augment == "rotations-and-reflections"
                places = np.arange(batch[0].n_graphs) if self.cuts_windows else own.places
                n_all = len(places) if self.cuts_windows else own.n_all
                yield rotated_batch(batch, random_rotations(n_all, rng, reflections=reflections)[places])

    def in_windows(self) -> None:
        """Take the frames in the order in which a set is streamed, as other processes do, or earlier sessions."""
        self.work = self.n_atoms  # edges are not known before frames are read
        self.batches_per_window = max(1, round(min(WINDOW / self.n_atoms.mean(), 1024) / self.batch_size))

    @property
    def cuts_windows(self) -> bool:
        """Whether batches are cut anew within each window, once its edges are known."""
        return self.batches_per_window is not None and self.even and self.run.world_size == 1

    def dealt(self, epoch: int) -> list[Dealt]:
        """What this process takes in an epoch."""
        rank, n, everything = self.run.global_rank, self.run.world_size, np.arange(self.n_frames)
        if self.seed is None:
            own = everything[rank::n]
            parts = [own[k : k + self.batch_size] for k in range(0, len(own), self.batch_size)]
            return [Dealt(part, part, self.n_frames, True) for part in parts] or [_nothing(everything)]
        order = self.shuffled(np.random.default_rng((self.seed, epoch)))
        out = []
        for batch in self.cut(order):
            places = deal(self.work[batch], n)[rank] if n > 1 else np.arange(len(batch))
            out.append(Dealt(batch[places], places, len(batch), True) if len(places) else _nothing(batch))
        return out

    def shuffled(self, rng: np.random.Generator) -> Ints:
        """A random order of all frames, or of blocks and of the frames in each window."""
        if self.batches_per_window is None:
            return rng.permutation(self.n_frames)
        starts = rng.permutation(np.arange(0, self.n_frames, BLOCK))
        order = (starts[:, None] + np.arange(BLOCK)).ravel()
        order = order[order < self.n_frames]
        window = self.batches_per_window * self.batch_size * self.run.world_size
        return np.concatenate([rng.permutation(order[k : k + window]) for k in range(0, len(order), window)])

    def windows(self, dealt: list[Dealt], first: int) -> list[tuple[Ints, list[int], int]]:
        """Of each window from that of batch `first` on: frames, sizes of batches, how many are before `first`."""
        n = len(dealt) if self.batches_per_window is None else self.batches_per_window
        skipped, parts = first % n, []
        for k in range(first - skipped, len(dealt), n):
            frames = [own.frames for own in dealt[k : k + n]]
            parts.append((np.concatenate(frames), [len(own) for own in frames], skipped))
            skipped = 0
        return parts

    def chosen(self, sizes: list[int], n_edges: Tensor, skipped: int) -> list[Tensor]:
        """Places in a window of the frames of each batch, some left out; n_edges (n_frames,) are of its frames."""
        ends = torch.tensor(sizes).cumsum(0)[:-1]
        if self.cuts_windows:
            ends = even_ends(n_edges, len(sizes))
        return list(torch.tensor_split(torch.arange(len(n_edges)), ends))[skipped:]

    def batches(self, dealt: list[Dealt], first: int) -> Iterator[Batch]:
        """Batches of these frames, from batch `first` on."""
        raise NotImplementedError

    def cut(self, order: Ints) -> list[Ints]:
        """The order in batches of all processes."""
        size = self.batch_size * self.run.world_size
        if not self.even:
            return [order[k : k + size] for k in range(0, len(order), size)]
        ends = even_ends(torch.from_numpy(self.work[order]), -(-len(order) // size))
        return list(np.split(order, ends.numpy()))

    # Lightning continues within an epoch only loaders that have these two methods. This one needs no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class MemoryBatches(Batches):
    """Batches of a set in memory."""

    def __init__(self, frames: FlatSet, batch_size: int, seed: int | None = None, *, even: bool = False):
        super().__init__(len(frames), batch_size, seed, even=even)
        self.frames, self.work, self.n_atoms = frames, frames.table[3].numpy(), frames.table[1].numpy()

    def batches(self, dealt: list[Dealt], first: int) -> Iterator[Batch]:
        for window, sizes, skipped in self.windows(dealt, first):
            frames = torch.from_numpy(window)
            n_edges = self.frames.table[3].index_select(0, frames)
            for own in self.chosen(sizes, n_edges, skipped):
                yield self.frames.batch(frames.index_select(0, own))


class StreamedBatches(Batches):
    """Batches of a set in a file, of which each process reads its own frames.

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
        self.n_atoms = part.data.n_atoms[part.indices]
        self.in_windows()

    def batches(self, dealt: list[Dealt], first: int) -> Iterator[Batch]:
        windows = self.windows(dealt, first)
        reader = DataLoader(
            Windows(self.part, self.cutoff),  # type: ignore[arg-type]  # an index is a window of frames
            sampler=[self.part.indices[frames] for frames, _, _ in windows],  # type: ignore[arg-type]  # likewise
            batch_size=None,
            num_workers=self.workers,
            generator=torch.Generator(),  # else PyTorch draws a base seed from the global generator
        )
        for (_, sizes, skipped), frames in zip(windows, reader, strict=True):
            yield from (frames.batch(own) for own in self.chosen(sizes, frames.table[3], skipped))


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


def deal(work: Ints, n: int) -> list[Ints]:
    """Places (n_own,) of the frames that each of n processes takes, in their order, with about equal work.

    The largest come first, each to whoever has least: nobody has none while there are frames enough.

    Args:
        work: (n_frames,) of each frame.
    """
    owner, least = np.empty(len(work), np.int64), [(0, rank) for rank in range(n)]  # a heap
    for k in np.argsort(-work, kind="stable"):
        done, rank = least[0]
        owner[k] = rank
        heapreplace(least, (done + int(work[k]) + 1, rank))  # an isolated atom takes time too
    return [np.flatnonzero(owner == rank) for rank in range(n)]


def _nothing(frames: Ints) -> Dealt:
    """A frame that another process has: whoever has none must still meet the others in each step."""
    return Dealt(frames[:1], np.zeros(1, np.int64), len(frames), False)


def unlabeled(batch: Batch) -> Batch:
    """The structures of a batch, of which nothing is to be learned."""
    graph, labels = batch
    nothing = {name: torch.full_like(getattr(labels, name), torch.nan) for name in ("energy", "forces", "stress")}
    return graph, replace(labels, **nothing)


def rotated_batch(batch: Batch, matrices: NDArray[np.float64]) -> Batch:
    """Each structure of a batch, with its labels, rotated or reflected by its own matrix of (n_graphs, 3, 3)."""
    graph, labels = batch
    rotations = torch.from_numpy(matrices).to(graph.positions.device)
    return rotated(graph, rotations), rotated_labels(labels, graph, rotations)


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
    return bytes_of(part, flat) > free_memory() / 2


def bytes_of(part: Part, flat: FlatSet) -> float:
    """Memory that a part would take, judged by a sample of its frames."""
    return flat.n_bytes * int(part.data.n_atoms[part.indices].sum()) / len(flat.numbers)


def check_memory(part: Part, flat: FlatSet) -> None:
    """Raise ValueError if a set cannot be in memory whose run was begun with it there."""
    wanted, there = bytes_of(part, flat), free_memory()
    if wanted > there:
        raise ValueError(
            f"The set takes {wanted / 2**30:.3g} GiB, and {there / 2**30:.3g} are free. This run was begun with "
            "its set in memory, in an order in which it cannot be streamed. Resume it where there is more memory, "
            "or begin a new one with data.stream=true."
        )


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
