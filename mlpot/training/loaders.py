"""Batches in an order that depends on the seed and the step alone, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.graph import AtomGraph, Properties
from mlpot.training.flat import FlatSet

Batch = tuple[AtomGraph, Properties]
Ints = NDArray[np.int64]


def shuffled(n: int, seed: int, epoch: int) -> Ints:
    """The order of n frames in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def share(order: Ints, rank: int, n_ranks: int, *, equal: bool) -> Ints:
    """Every n-th frame of an order; if all ranks need equally many, it is filled up from its start."""
    if equal or len(order) < n_ranks:
        order = np.concatenate([order, np.resize(order, -len(order) % n_ranks)])
    return order[rank::n_ranks]


class Batches:
    """A set in memory as a sequence of batches, for Lightning.

    Args:
        frames: the set.
        batch_size: structures in a batch.
        seed: shuffles, anew in each epoch, and gives all ranks equally many; None keeps the order.
        rank, n_ranks: which part of the set, of how many.
    """

    def __init__(self, frames: FlatSet, batch_size: int, *, seed: int | None = None, rank: int = 0, n_ranks: int = 1):
        self.frames, self.batch_size, self.seed = frames, batch_size, seed
        self.rank, self.n_ranks = rank, n_ranks
        self.step: Callable[[], int] = lambda: 0

    def __len__(self) -> int:
        return -(-len(self.order(0)) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch in which the run is, from the step at which it is."""
        epoch, first = divmod(self.step(), len(self))
        for frames in self.order(epoch).split(self.batch_size)[first:]:
            yield self.frames.batch(frames)

    def order(self, epoch: int) -> Tensor:
        """Indices of frames in the order of an epoch."""
        n = len(self.frames)
        order = np.arange(n) if self.seed is None else shuffled(n, self.seed, epoch)
        return torch.from_numpy(share(order, self.rank, self.n_ranks, equal=self.seed is not None))

    # Lightning takes a loader with these two for one that can go on within an epoch; this one needs no state.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
