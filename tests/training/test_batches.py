"""Are all frames in the batches of an epoch, in an order that depends on seed and step alone?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sets import crystals, labeled
from structures import worst

from mlpot.data.h5md import frame_of
from mlpot.error_table import residuals
from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties
from mlpot.potential import Potential
from mlpot.training.in_memory import flatten
from mlpot.training.loaders import Batch, Batches, MemoryBatches, deal, even_ends
from mlpot.training.losses import Loss
from mlpot.training.losses import alone as n_of_one


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


@pytest.mark.parametrize("n_frames", [2, 7, 10])
@pytest.mark.parametrize("seed", [3, None])
def test_several_processes_share_the_frames(seed: int | None, n_frames: int) -> None:
    """L26: each frame once; who has none has a frame without labels, so that nobody waits."""
    flat = flatten([frame_of(a) for a in crystals(n_frames)], cutoff=3.0)
    lengths, energies = [], []
    for rank in range(3):
        batches: Batches = MemoryBatches(flat, 2, seed)
        batches.run = AtStep(0, rank, 3)
        found = [labels.energy for _, labels in batches]
        assert len(batches) == len(found) >= 1
        lengths.append(len(found))
        energies.append(torch.cat(found))
    together = torch.cat(energies)
    assert len(set(lengths)) == 1 or seed is None
    assert torch.equal(together[~together.isnan()].sort().values, flat.energy.sort().values)


def in_one_and_in_several(n_ranks: int, **settings: object) -> tuple[list[Batch], list[list[Batch]]]:
    """Batches of one epoch of a single process, and of each of several that have the same ones together."""
    atoms = [a * (1, 1, 1 + k % 3) for k, a in enumerate(crystals(13))]
    for a in atoms:
        a.symbols = "Cu" * len(a)
    flat = flatten([frame_of(labeled(a)) for a in atoms], cutoff=3.0)
    alone, several = MemoryBatches(flat, 4 * n_ranks, 5), []
    for rank in range(n_ranks):
        batches = MemoryBatches(flat, 4, 5)
        batches.run = AtStep(0, rank, n_ranks)
        several.append(batches)
    for batches in (alone, *several):
        batches.augment = settings.get("augment", "none")  # type: ignore[assignment]  # a word
    return list(alone), [list(batches) for batches in several]


@pytest.mark.parametrize(("n_ranks", "backbone"), [(2, "schnet"), (3, "ace"), (3, "egnn")])
def test_the_gradient_of_several_processes_is_that_of_one(n_ranks: int, backbone: str) -> None:
    """L26: unequal atoms, missing labels, a last batch for which frames are too few; turned structures too."""
    alone, several = in_one_and_in_several(n_ranks, augment="rotations")
    arguments = {"cutoff": 4.0, "n_features": 8, "n_radial": 6}
    potential, loss = Potential(backbone, arguments, reference_energies={29: -1306.2}), Loss((1.0, 10.0, 100.0))
    potential = potential.double()
    weights = [w for w in potential.parameters() if w.requires_grad]

    def gradient(graph: AtomGraph, labels: Properties, divisors: object = n_of_one) -> list[torch.Tensor]:
        found = loss(predict(potential, graph, training=True), labels, graph, divisors)  # type: ignore[arg-type]
        return list(torch.autograd.grad(found, weights, materialize_grads=True))

    for k, (graph, labels) in enumerate(alone):
        known = [without_some(*batches[k]) for batches in several]
        counts = torch.stack([n_known(g, of) for g, of in known]).sum(0).double()
        assert (counts[:2] > 0).all()
        sums = [gradient(g, of, lambda _, n=counts: n.clamp(min=1) / n_ranks) for g, of in known]
        whole = gradient(*without_some(graph, labels))
        scale = max(float(g.abs().max()) for g in whole)
        for one, *parts in zip(whole, *sums, strict=True):
            assert worst(torch.stack(parts).mean(0), one) < 1e-12 * scale
    assert len(alone) == len(several[0])


def without_some(graph: AtomGraph, labels: Properties) -> tuple[AtomGraph, Properties]:
    """Frames of certain energies lose a label, whichever process has them."""
    lost = (labels.energy * 1000).long() % 3 == 0
    return graph, replace(
        labels,
        energy=labels.energy.masked_fill(lost, torch.nan),
        stress=labels.stress.masked_fill(~lost[:, None, None], torch.nan),
    )


def n_known(graph: AtomGraph, labels: Properties) -> torch.Tensor:
    """Of energies, force components and stresses, as the loss counts them."""
    return torch.stack([known.sum() for _, known in residuals(labels, labels, graph)])


def test_processes_have_about_as_much_to_do() -> None:
    """L26: dealt by edges, the sums differ by less than one structure has; by turns, large ones may meet."""
    work = np.random.default_rng(0).integers(1, 100, 64) * np.where(np.arange(64) % 2, 50, 1)
    shares = deal(work, 2)
    assert sorted(np.concatenate(shares).tolist()) == list(range(64))
    sums = [int(work[own].sum()) for own in shares]
    assert max(sums) - min(sums) < 0.01 * sum(sums)
    assert all(np.all(np.diff(own) > 0) for own in shares)
    assert [len(own) for own in deal(np.zeros(5, int), 5)] == [1] * 5


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
