"""One order of frames for all processes of a training and for all its sessions, wherever each has its set.

A set in memory is shuffled as a whole, one that is streamed by windows. Which of the two a process takes depends
on the memory that it finds free, and frames would be dealt twice or never where processes took different ones.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mlpot.training.loaders import Batches


class OneOrder(Callback):
    """Has all processes take the order of windows if one of them streams its set; checkpoints keep which it is.

    Args:
        batches: of the training set.
    """

    def __init__(self, batches: Batches):
        self._batches = batches

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = torch.tensor(float(self._in_windows), device=trainer.strategy.root_device)
        found = trainer.strategy.reduce(mine, reduce_op="max")
        assert isinstance(found, Tensor)
        if found > 0 and not self._in_windows:
            self._batches.in_windows()

    @property
    def _in_windows(self) -> bool:
        return self._batches.batches_per_window is not None

    def state_dict(self) -> dict[str, Any]:
        return {"in_windows": self._in_windows}


def kept_order(checkpoint: dict[str, Any] | None) -> bool | None:
    """Whether a run takes frames in windows, of its checkpoint; None where that is not known, or not yet."""
    if checkpoint is None:
        return None
    kept: bool | None = checkpoint["callbacks"].get(OneOrder.__name__, {}).get("in_windows")
    return kept
