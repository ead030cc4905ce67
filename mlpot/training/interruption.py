"""Ends a training when a signal arrives, or when the first of its processes has died."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.multiprocessing.spawn import ProcessRaisedException

from mlpot.signals import SignalledError, StopRequest
from mlpot.training.module import TrainingDivergedError
from mlpot.training.trainer import LAST, Average

SPAWNING = "spawn", "fork", "notebook"
"""In the names of strategies whose processes are this one's, which does no more than wait for them."""
TRANSPORT = "gloo/transport"
"""In what PyTorch says where messages between processes on CPUs fail; it has no class of errors for them."""


class LostProcessError(ConnectionError):
    """A process of a training went away, and the others cannot go on."""


@contextmanager
def lost_processes_told(recipe: Path) -> Iterator[None]:
    """Say in words that another process of the training has gone, or why one that `ddp_spawn` made has.

    Args:
        recipe: the file by which the training goes on.

    Raises:
        LostProcessError: instead of PyTorch's errors of messages between processes.
        TrainingDivergedError: a spawned process found that.
    """
    try:
        yield
    except ProcessRaisedException as error:
        kind, _, words = str(error).strip().splitlines()[-1].partition(": ")
        if not kind.startswith("mlpot."):
            raise
        raise (TrainingDivergedError if kind.endswith(TrainingDivergedError.__name__) else LostProcessError)(
            words
        ) from None
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or TRANSPORT in str(error)):
            raise
        message = str(error).partition(". This is")[0]
        raise LostProcessError(
            f"Another process of this training has ended ({message}). Look for its reason above, or in what the "
            "system says of memory; nothing that was saved is lost. Continue with as many processes: mlpot train "
            f"{recipe} --resume"
        ) from error


def hand_on(number: signal.Signals, strategy: str) -> bool:
    """Hand a signal on to processes that a strategy spawned, and wait until they saved; whether there are any.

    This process computes nothing then; at its end it would wait for them without having told them.
    """
    if not any(word in strategy for word in SPAWNING):
        return False
    spawned = multiprocessing.active_children()
    # A terminal sends an interrupt to all of them, and a second one would end them at once.
    handed = signal.SIGTERM if number == signal.SIGINT else number
    for process in spawned:
        if process.pid is not None:
            os.kill(process.pid, handed)
    for process in spawned:
        process.join()
    return bool(spawned)


class StopOnSignal(Checkpoint):
    """Saves and stops after the step, or the batch of a validation, during which a signal arrived.

    Several processes decide this together after each step. They finish a validation first, as the number of its
    batches may differ between them.

    Args:
        request: it raises at once before the first step and after the last.
    """

    def __init__(self, request: StopRequest):
        self.request = request

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.request.listen()  # Lightning's own handlers would talk to other processes within a step
        self.request.at_once = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        number = int(self.request.signal or 0)
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce(torch.tensor(number, device=pl_module.device), reduce_op="max")
            number = int(asked)
        if number and not trainer.is_last_batch:  # else `WithinEpoch` tells why it waits for the validation
            trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)
            _leave(trainer, number)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.request.signal is None or trainer.world_size > 1:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # which another class of Lightning's sets
            if isinstance(callback, Average):  # restores the weights that are trained, in place of their average
                callback.on_validation_epoch_end(trainer, pl_module)
        # Lightning begins a validation again if it was saved within the first batch.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        progress.current.reset()
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)
        _leave(trainer, self.request.signal)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.request.at_once = True
        if self.request.signal is not None:  # all is saved
            _leave(trainer, self.request.signal)


def _leave(trainer: Trainer, number: int) -> None:
    """Raise the error that ends each process; the first one has the message."""
    if not trainer.is_global_zero:
        raise SystemExit(128 + number)
    raise SignalledError(
        f"Step {trainer.global_step}: stopped by {signal.Signals(number).name} and saved. Continue with "
        f"mlpot train {Path(trainer.default_root_dir) / 'recipe.yaml'} --resume",
        number,
    )
