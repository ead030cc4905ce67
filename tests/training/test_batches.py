"""Are all frames in the batches of an epoch, in an order that depends on seed and step alone?"""

from __future__ import annotations

import pytest
import torch
from sets import crystals

from mlpot.data.h5md import frame_of
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import Batches, MemoryBatches, even_ends


class AtStep:
    """A run that stands at a step."""

    def __init__(self, step: int, rank: int = 0, n_ranks: int = 1):
        self.global_step, self.global_rank, self.world_size = step, rank, n_ranks


def test_the_order_of_frames_is_new_in_each_epoch_and_complete() -> None:
    flat = flatten([frame_of(a) for a in crystals(10)], cutoff=3.0)
    batches = MemoryBatches(flat, 3, seed=4)
    seen = []
    for step in (0, 4, 8):
        batches.run = AtStep(step)
        seen.append(torch.cat([labels.energy for _, labels in batches]))
        assert torch.equal(seen[-1].sort().values, flat.energy.sort().values)
    assert not torch.equal(seen[0], seen[1])
    batches.run = AtStep(6)
    rest = torch.cat([labels.energy for _, labels in batches])
    assert torch.equal(rest, seen[1][6:])  # a run that goes on at step 6 sees the second half of epoch 1


@pytest.mark.parametrize("seed", [3, None])
def test_several_processes_share_the_frames(seed: int | None) -> None:
    flat = flatten([frame_of(a) for a in crystals(10)], cutoff=3.0)
    lengths, energies = set(), []
    for rank in range(3):
        batches: Batches = MemoryBatches(flat, 2, seed)
        batches.run = AtStep(0, rank, 3)
        lengths.add(len(batches))
        energies.append(torch.cat([labels.energy for _, labels in batches]))
    together = torch.cat(energies)
    assert lengths == {2}
    assert set(together.tolist()) == set(flat.energy.tolist())
    assert len(together) == (12 if seed else 10)  # training fills up, validation counts each frame once


def test_batches_of_so_many_edges_take_more_small_structures_than_large_ones() -> None:
    small, large = crystals(20), [a * (2, 2, 2) for a in crystals(4)]
    flat = flatten([frame_of(a) for a in (*small, *large)], cutoff=3.0)
    work = flat.table[3]
    batches = MemoryBatches(flat, 3, seed=0, even=True)
    for epoch in range(3):
        batches.run = AtStep(epoch * len(batches))
        graphs = [graph for graph, _ in batches]
        assert len(graphs) == len(batches) == 8
        assert sum(graph.n_graphs for graph in graphs) == 24
        mean = work.sum().item() / 8
        assert max(len(graph.edges) for graph in graphs) <= mean + work.max().item()
    assert len({graph.n_graphs for graph in graphs}) > 1


@pytest.mark.parametrize("n_edges", [[0, 0, 0, 0], [9000, 1, 1, 1], [1, 1, 1, 9000], [5, 0, 7, 3]])
@pytest.mark.parametrize("n_batches", [1, 2, 3, 4])
def test_no_batch_is_empty(n_edges: list[int], n_batches: int) -> None:
    ends = even_ends(torch.tensor(n_edges), n_batches)
    sizes = [len(part) for part in torch.tensor_split(torch.arange(4), ends)]
    assert len(sizes) == n_batches
    assert sum(sizes) == 4
    assert min(sizes) >= 1
