"""The batches of each part of the data, in memory or streamed."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

from mlpot.training.in_memory import flatten
from mlpot.training.loaders import (
    Batches,
    MemoryBatches,
    StreamedBatches,
    check_memory,
    sample_of,
    should_stream,
)
from mlpot.training.recipe import Recipe
from mlpot.training.splits import Part, Parts

EVALUATION = 4  # evaluation batches are larger than training batches


def make_sets(
    recipe: Recipe, parts: Parts, cutoff: float, *, in_windows: bool | None = None
) -> dict[str, Batches]:
    """The batches of each part, in memory or streamed; `in_windows` is the order of the run that goes on."""
    sets = {
        "train": batches_of(parts.train, recipe, cutoff, seed=recipe.training.seed, in_windows=in_windows),
        "validation": batches_of(parts.validation, recipe, cutoff, EVALUATION),
    }
    if parts.test is not None:
        sets["test"] = batches_of(parts.test, recipe, cutoff, EVALUATION)
    return sets


def batches_of(
    part: Part,
    recipe: Recipe,
    cutoff: float,
    times: int = 1,
    seed: int | None = None,
    *,
    in_windows: bool | None = None,
) -> Batches:
    """The batches of one part, `times` as large as in training; shuffled if there is a seed.

    Raises:
        ValueError: they are not to come in windows, and the memory does not suffice for another order.
    """
    sample, stream, edges = sample_of(part, cutoff), recipe.data.stream, recipe.training.batch_edges
    size = times * recipe.training.batch_size
    if edges is not None:
        size = max(1, round(times * edges / max(1.0, sample.table[3].double().mean().item())))
    batches: Batches
    if stream == "auto" and in_windows is False:
        check_memory(part, sample)
        stream = False
    if should_stream(part, sample) if stream == "auto" else stream:
        workers = recipe.data.workers
        batches = StreamedBatches(part, cutoff, size, seed, even=edges is not None, workers=workers)
    else:
        frames = flatten(part.frames(), cutoff, part.names(), part.weights_of(part.indices))
        batches = MemoryBatches(frames, size, seed, even=edges is not None)
        if in_windows:
            batches.in_windows()
    batches.augment = recipe.training.augment
    return batches


def to_device(sets: dict[str, Batches], trainer: Trainer) -> None:
    """Move sets in memory to the GPU, if there is one GPU and its memory is four times what a set takes."""
    device = trainer.strategy.root_device
    if device.type != "cuda" or trainer.world_size > 1:
        return
    for batches in sets.values():
        if isinstance(batches, MemoryBatches) and batches.frames.n_bytes < torch.cuda.mem_get_info(device)[0] / 4:
            batches.frames = batches.frames.to(device)
