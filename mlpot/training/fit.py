"""Follow a recipe: data in, a potential, its errors and its pictures out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from ase.data import chemical_symbols
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from mlpot.checkpoint import DTYPES, save_potential
from mlpot.data.h5md import content_hash
from mlpot.potential import Potential
from mlpot.report.parity import plot_parity
from mlpot.report.training import plot_learning_curve
from mlpot.training.errors import errors, predict_all
from mlpot.training.flat import FlatSet, flatten
from mlpot.training.loaders import Batches
from mlpot.training.losses import Loss
from mlpot.training.module import TrainingModule
from mlpot.training.recipe import Recipe
from mlpot.training.survey import (
    Baseline,
    baseline_of,
    check_elements,
    check_labels,
    read_frames,
    split,
    survey,
)

LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.ckpt"


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its directory."""

    directory: Path
    potential: Potential
    metrics: dict[str, Any]

    @property
    def model(self) -> Path:
        """The file of the potential."""
        return self.directory / "model.safetensors"


def train(
    recipe: Recipe, *, resume: bool = False, overwrite: bool = False, callbacks: Sequence[Callback] = ()
) -> TrainingResult:
    """Train a potential and write model.safetensors, metrics.json and pictures to the recipe's directory."""
    directory = Path(recipe.training.directory)
    directory.mkdir(parents=True, exist_ok=True)
    data = survey(recipe.data.train)
    assert not isinstance(recipe.data.validation, str)
    train_frames, validation_frames = split(data, recipe.data.validation, recipe.data.seed)
    check_labels(data, train_frames, recipe.loss.model_dump(include={"energy", "forces", "stress"}))
    sample = list(read_frames(data.path, train_frames[:1000]))
    potential = initial_potential(recipe, baseline_of(data, train_frames, {}, sample))
    t = recipe.training
    training = Batches(flatten(read_frames(data.path, train_frames), potential.cutoff), t.batch_size, seed=t.seed)
    validation = Batches(flatten(read_frames(data.path, validation_frames), potential.cutoff), 4 * t.batch_size)
    loss = Loss(**recipe.loss.model_dump())
    module = TrainingModule(potential, loss, recipe.optimizer, n_steps=t.epochs * len(training))
    training.step = lambda: module.global_step
    trainer = make_trainer(recipe, module, directory, len(training), callbacks)
    with quiet():
        trainer.fit(module, training, validation)
    weights = torch.load(directory / BEST, weights_only=True)["state_dict"]
    module.load_state_dict(weights)
    metrics: dict[str, Any] = {"seconds": module.seconds, "seed": t.seed, "epochs": trainer.current_epoch}
    parity = predict_all(potential.freeze(), validation)
    metrics["validation"] = errors(*parity)
    if recipe.data.test:
        test = survey(recipe.data.test)
        check_elements(list(potential.elements), test, test.structures())
        frames = flatten(read_frames(test.path, test.structures()), potential.cutoff)
        parity = predict_all(potential, Batches(frames, 4 * t.batch_size))
        metrics["test"] = errors(*parity)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    save_potential(potential, directory / "model.safetensors", {"metrics": metrics, "recipe": recipe.model_dump()})
    plot_parity(*parity, directory / "parity.png")
    return TrainingResult(directory, potential, metrics)


def initial_potential(recipe: Recipe, start: Baseline) -> Potential:
    """An untrained potential; its weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        potential = Potential(
            recipe.model.backbone,
            recipe.model.arguments,
            reference_energies=start.reference_energies,
            scale=start.scale,
            shift=start.shift,
            repulsion=recipe.model.repulsion,
        )
    return potential.to(torch.float64 if recipe.training.precision == "float64" else torch.float32)


def averaging(decay: float, module: TrainingModule) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Exponential average of weights that forgets the start: decay (1 + n) / (10 + n) at step n, at most `decay`."""

    def average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor) -> None:
        n = module.global_step  # a Python number: asking n_averaged would wait for the device
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average


def make_trainer(
    recipe: Recipe, module: TrainingModule, directory: Path, n_batches: int, callbacks: Sequence[Callback]
) -> Trainer:
    """Lightning's trainer with the recipe's settings."""
    t = recipe.training
    own: list[Callback] = [
        ModelCheckpoint(
            # Not weights only: Lightning would then write the last weights and not their average.
            directory / "checkpoints", "best", monitor="validation/loss",
            save_on_train_epoch_end=False, enable_version_counter=False,
        ),
        ModelCheckpoint(
            directory / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False
        ),
    ]  # fmt: skip
    if recipe.optimizer.ema_decay:
        own.append(WeightAveraging(use_buffers=False, multi_avg_fn=averaging(recipe.optimizer.ema_decay, module)))
    return Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        num_nodes=t.nodes,
        strategy=t.strategy,
        precision="bf16-mixed" if t.precision == "bf16" else "32-true",
        max_epochs=t.epochs,
        max_time=None if t.max_minutes is None else {"minutes": t.max_minutes},
        gradient_clip_val=t.clip,
        callbacks=[*own, *callbacks],
        logger=[CSVLogger(directory, name="logs")],
        log_every_n_steps=n_batches,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=t.progress,
        inference_mode=False,
        use_distributed_sampler=False,
        default_root_dir=directory,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's announcements."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
