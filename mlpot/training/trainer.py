"""Lightning's Trainer with mlpot's settings: checkpoints, averages, logs, progress and suppressed messages."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mlpot.atomic_files import write_whole
from mlpot.figures.training import LOGS
from mlpot.torch_settings import known_device
from mlpot.training.recipe import Recipe, TrainingSection

FOLDER = "checkpoints"
LAST = f"{FOLDER}/last.ckpt"
MONITOR = "validation/loss"  # it chooses the best epoch; its weights in the loss stay the same during a run
BEST = f"{FOLDER}/best.ckpt"

MPI_LAUNCHED = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "PMI_RANK",
    "PMIX_RANK",
    "MV2_COMM_WORLD_SIZE",
    "MPI_LOCALNRANKS",
)
"""Variables of a process that mpirun or mpiexec of Open MPI, MPICH, Intel MPI or MVAPICH started."""

Callbacks = Sequence[Callback]  # what rooms above call Lightning's, without importing it


def _accelerator(name: str) -> str:
    """A kind of device that is here and has float64, in which positions and sums are: never Apple's GPUs.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known_device({"gpu": "cuda"}.get(name, name))
    return name


def check_device(recipe: Recipe) -> None:
    """Raise ValueError for a device that is not here, before data are read."""
    _accelerator(recipe.training.accelerator)


def _trainer(**settings: Any) -> Trainer:
    """A Lightning Trainer; its errors are shortened to one line."""
    try:
        trainer = Trainer(**settings)
    except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"{why} Correct training.accelerator, devices, nodes or strategy of the recipe; accelerator: cpu with "
            "devices: 1 runs everywhere."
        ) from None
    environment = getattr(trainer.strategy, "cluster_environment", None)
    alone = isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ
    if trainer.num_nodes > 1 and alone:  # else it waits for the other machines for ever
        raise ValueError(
            f"training.nodes is {trainer.num_nodes}, but nothing tells where the other machines are. Start the "
            "training by SLURM or torchrun on each machine, set MASTER_ADDR, or take training.nodes=1."
        )
    return trainer


def _strategy(name: str) -> str | DDPStrategy:
    """Lightning's of a name; the usual one sends no buffers, which no step changes."""
    if name != "ddp":
        return name
    known = signature(DistributedDataParallel).parameters
    former, now = "broadcast_buffers", "forward_sync_buffers"  # since torch 2.13
    options: dict[str, Any] = {now if now in known else former: False}
    return DDPStrategy(gradient_as_bucket_view=True, **options)


def _environment() -> list[LightningEnvironment]:
    """Keep Lightning from asking MPI, where that launched nothing, whether there are other processes.

    It asks by starting MPI if mpi4py is installed, which ends the process where MPI cannot start: on the login
    nodes of many clusters, and without room for memory that is shared.
    """
    others = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment)
    if any(name in os.environ for name in MPI_LAUNCHED) or any(other.detect() for other in others):
        return []
    return [LightningEnvironment()]


def make_trainer(recipe: Recipe, directory: Path, extra: Sequence[Callback], *, done: int = 0) -> Trainer:
    """The trainer of a recipe, which writes to `directory`; `done` epochs are there already, perhaps too many."""
    t = recipe.training
    loggers: list[Logger] = [CSVLogger(directory, name=LOGS)]
    if find_spec("tensorboard"):
        loggers.append(TensorBoardLogger(directory, name=LOGS, version=f"version_{loggers[0].version}"))
    callbacks = checkpoints(directory / FOLDER, t)
    if recipe.optimizer.ema_decay:
        callbacks.append(Average(recipe.optimizer.ema_decay))
    if t.patience is not None:
        # On validation and not on the epoch's end, so that its count is in the checkpoint of the epoch.
        callbacks.append(EarlyStop(MONITOR, patience=t.patience, check_on_train_epoch_end=False))
    if t.max_minutes is not None:
        callbacks.append(Timer(timedelta(minutes=t.max_minutes), interval="epoch", verbose=False))
    bar = t.progress and sys.stdout.isatty()
    if t.progress:
        callbacks.append(RichProgressBar(refresh_rate=10) if bar else Lines())
    return _trainer(
        accelerator=_accelerator(t.accelerator),
        devices=t.devices,
        num_nodes=t.nodes,
        strategy=_strategy(t.strategy),
        precision="32-true",  # float64: the weights are
        max_epochs=max(t.epochs, done),  # of fewer than are done, Lightning makes an error
        gradient_clip_val=t.clip,
        callbacks=[*callbacks, *extra],
        plugins=[DurableIO(), *_environment()],
        logger=loggers,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=bar,
        inference_mode=False,  # inference tensors have no forces
        use_distributed_sampler=False,  # `Batches` shares
        default_root_dir=directory,
    )


def checkpoints(folder: Path, t: TrainingSection) -> list[Callback]:
    """Checkpoints of the best and the last epoch and, within an epoch, after a number of steps or minutes."""
    best = Checkpoints(
        folder,
        "best",
        monitor=MONITOR,
        save_on_train_epoch_end=False,
        save_weights_only=False,  # else Lightning writes the last weights, not their average
        enable_version_counter=False,
    )
    last = Checkpoints(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    within: list[dict[str, Any]] = []
    if t.checkpoint_steps is not None:
        within.append({"every_n_train_steps": t.checkpoint_steps})
    if t.checkpoint_minutes is not None:
        within.append({"train_time_interval": timedelta(minutes=t.checkpoint_minutes)})
    often = [
        WithinEpoch(folder, "last", save_on_train_epoch_end=False, enable_version_counter=False, **when)
        for when in within
    ]
    return [best, last, *often]


class Checkpoints(ModelCheckpoint):
    """Lightning's would forget, where a run was moved, how good the best epoch was, and write over it."""

    @property
    def state_key(self) -> str:
        return super().state_key.replace("Checkpoints", "ModelCheckpoint")  # as it was called in earlier versions

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = str(self.dirpath)
        there = str(state_dict.get("dirpath", here))

        def moved(path: str) -> str:
            return here + path.removeprefix(there) if path.startswith(there) else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        models = {moved(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        known = {name: moved(state_dict[name]) for name in paths if name in state_dict}
        super().load_state_dict(state_dict | known | {"dirpath": self.dirpath, "best_k_models": models})


class WithinEpoch(Checkpoints):
    """Saves after any step but the last of an epoch: from there, Lightning would go on with an epoch too many."""

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


class EarlyStop(EarlyStopping):
    """Lightning's would forget, in a resumed run, that it had ended it, and take that run's patience."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class DurableIO(TorchCheckpointIO):
    """Checkpoints that hold, at every moment and after every crash, all of the old or all of the new state.

    Lightning's own come by way of the folder for temporary files, which may be on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content.getvalue())


class Average(WeightAveraging):
    """Exponential average of the weights, with a decay of (1 + n) / (10 + n) at step n up to `decay`.

    The average is moved every few steps only: on small structures it would cost a tenth of the time.
    """

    EVERY = 5

    def __init__(self, decay: float):
        super().__init__(use_buffers=False, multi_avg_fn=self._move)
        self.decay, self._step = decay, 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None or step_idx % self.EVERY:
            return False
        self._step = step_idx
        return True

    def _move(self, averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        n = self._step  # a Python number; to ask n_averaged would wait for the device
        decay = min(self.decay, (1 + n) / (10 + n)) ** self.EVERY
        torch._foreach_lerp_(averaged, current, 1 - decay)


class Lines(Callback):
    """Progress where there is no terminal: about twenty lines in all."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        if trainer.is_global_zero and (epoch % max(1, last // 20) == 0 or epoch in (1, last)):
            errors = [f"{v:8.2f} {k}" for k, v in trainer.progress_bar_metrics.items() if k.startswith("meV")]
            print(f"epoch {epoch:5d} of {last}", *errors, sep="   ", flush=True)


@contextmanager
def announcements_off() -> Iterator[None]:
    """Within the block, Lightning shows no advertisements and no remarks on the settings."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning on torch >= 2.10
                "Checkpoint directory .* exists and is not empty",  # as it should when resuming
                "GPU available but not used",
                "It is recommended to use `self.log\\(.*sync_dist=True",  # of what processes have summed already
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Within the block, float32 products may use TF32 if that is the precision asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
