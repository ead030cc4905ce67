"""Follow a recipe: data in; a potential, its errors and its pictures out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from mlpot.atomic_files import storing, write_whole
from mlpot.figures.training import LOGS
from mlpot.potential import Potential
from mlpot.recipes import RecipeError, load_recipe
from mlpot.signals import SignalledAtOnce, SignalledError, stop_request
from mlpot.training.in_memory import flatten
from mlpot.training.interruption import StopOnSignal, end_with_parent
from mlpot.training.loaders import Alone, Batches, MemoryBatches, StreamedBatches, sample_of, should_stream
from mlpot.training.losses import Loss
from mlpot.training.module import TrainingModule
from mlpot.training.outputs import write_outputs
from mlpot.training.recipe import Recipe
from mlpot.training.splits import Baseline, Part, Parts, make_baseline, make_parts
from mlpot.training.trainer import (
    BEST,
    FOLDER,
    LAST,
    announcements_off,
    make_trainer,
    matmul_precision,
)

MAY_CHANGE = {
    "training": {"epochs", "max_minutes", "patience", "checkpoint_minutes", "checkpoint_steps", "progress"}
}
EVALUATION = 4  # evaluation batches are larger than training batches


class RunDirectoryError(ValueError):
    """The directory of a run is not in the state that is asked for."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training left in its directory; metrics are empty in all but the first process of several."""

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
    """Train a potential; model.safetensors, metrics.json and pictures are in the recipe's directory afterwards.

    Args:
        recipe: what to do.
        resume: go on with the run in the directory, as if it had never stopped.
        overwrite: remove a run that is in the directory.
        callbacks: Lightning's, beside our own.

    Raises:
        RunDirectoryError: there is a run already, or none to resume.
        RecipeError: the recipe of the run to resume was another.
        StorageError: the directory cannot be written, or is full.
        ValueError: as `parts.make_parts`; DataError: as `data.h5md.Reader`.
        TrainingDivergedError: the loss is no longer finite.
        SignalledError: asked to stop by a signal; the run is saved, and can be resumed.
    """
    with stop_request(at_once=True) as stop:
        try:
            return _train(recipe, [*callbacks, StopOnSignal(stop)], resume=resume, overwrite=overwrite)
        except SignalledAtOnce:
            assert stop.signal is not None
            raise SignalledError(
                f"Stopped by {stop.signal.name} outside of the steps: nothing is lost. Go on by the same command, "
                f"with --resume if {recipe.training.directory} holds checkpoints of this run.",
                stop.signal,
            ) from None


def _train(recipe: Recipe, callbacks: Sequence[Callback], *, resume: bool, overwrite: bool) -> TrainingResult:
    directory = Path(recipe.training.directory)
    parts = make_parts(recipe.data, recipe.loss)
    potential = initial_potential(recipe, make_baseline(parts.train, recipe.data.reference_energies))
    sets = make_sets(recipe, parts, potential.cutoff)
    with announcements_off(), matmul_precision(recipe.training.precision):
        trainer = make_trainer(recipe, directory, callbacks)
        if trainer.local_rank > 0:
            end_with_parent()  # Lightning looks after the other way round
        if trainer.is_global_zero:
            prepare_directory(directory, recipe, parts, resume=resume, overwrite=overwrite)
        for batches in sets.values():
            batches.run = trainer
        to_device(sets, trainer)
        n_steps = recipe.training.epochs * len(sets["train"])
        module = TrainingModule(potential, Loss(**recipe.loss.model_dump()), recipe.optimizer, n_steps=n_steps)
        last = str(directory / LAST) if resume and (directory / LAST).exists() else None
        trainer.fit(module, sets["train"], sets["validation"], ckpt_path=last, weights_only=True)
    if not trainer.is_global_zero:
        return TrainingResult(directory, potential, {})
    return finish(directory, module, trainer, recipe, parts, sets)


def initial_potential(recipe: Recipe, start: Baseline) -> Potential:
    """An untrained potential; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
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


def make_sets(recipe: Recipe, parts: Parts, cutoff: float) -> dict[str, Batches]:
    """The batches of each part, in memory or streamed."""
    sets = {
        "train": batches_of(parts.train, recipe, cutoff, seed=recipe.training.seed),
        "validation": batches_of(parts.validation, recipe, cutoff, EVALUATION),
    }
    if parts.test is not None:
        sets["test"] = batches_of(parts.test, recipe, cutoff, EVALUATION)
    return sets


def batches_of(part: Part, recipe: Recipe, cutoff: float, times: int = 1, seed: int | None = None) -> Batches:
    """The batches of one part, so many times as large as in training; shuffled if there is a seed."""
    sample, stream, edges = sample_of(part, cutoff), recipe.data.stream, recipe.training.batch_edges
    size = times * recipe.training.batch_size
    if edges is not None:
        size = max(1, round(times * edges / max(1.0, sample.table[3].double().mean().item())))
    if should_stream(part, sample) if stream == "auto" else stream:
        workers = recipe.data.workers
        return StreamedBatches(part, cutoff, size, seed, even=edges is not None, workers=workers)
    return MemoryBatches(flatten(part.frames(), cutoff, part.indices), size, seed, even=edges is not None)


def to_device(sets: dict[str, Batches], trainer: Trainer) -> None:
    """Move sets in memory to the GPU, if there is one, it is the only one, and they leave most of it free."""
    device = trainer.strategy.root_device
    if device.type != "cuda" or trainer.world_size > 1:
        return
    for batches in sets.values():
        if isinstance(batches, MemoryBatches) and batches.frames.n_bytes < torch.cuda.mem_get_info(device)[0] / 4:
            batches.frames = batches.frames.to(device)


def prepare_directory(directory: Path, recipe: Recipe, parts: Parts, *, resume: bool, overwrite: bool) -> None:
    """Check and fill the directory of a run: recipe.yaml and splits.json."""
    content = {
        "training_set_hash": parts.train_hash,
        "train": parts.train.indices.tolist(),
        "validation": parts.validation.indices.tolist(),
        "validation_set": parts.validation.data.path,
    }
    if resume:
        check_same_run(directory, recipe, content)
    else:
        if (directory / FOLDER).exists() and not overwrite:
            raise RunDirectoryError(
                f"{directory} holds a run already. Resume it, overwrite it, or give another training.directory."
            )
        for folder in (FOLDER, LOGS):
            shutil.rmtree(directory / folder, ignore_errors=True)
    with storing(directory, 0):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metrics.json").unlink(missing_ok=True)  # what is left last says that a run has finished
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(directory / "splits.json", f"{json.dumps(content)}\n".encode())
    write_whole(directory / "recipe.yaml", text.encode())


def check_same_run(directory: Path, recipe: Recipe, content: dict[str, Any]) -> None:
    """Raise unless the directory holds a run of the same recipe on the same data, if only its beginning."""
    if not (directory / "recipe.yaml").is_file():
        raise RunDirectoryError(f"{directory} holds no run to resume. Start it without resuming.")
    if (directory / LAST).exists():  # else the run was killed before its first checkpoint, and begins again
        read_checkpoint(directory / LAST)  # before anything else is done with it
    before = load_recipe(Recipe, directory / "recipe.yaml").model_dump(exclude=MAY_CHANGE)
    now = recipe.model_dump(exclude=MAY_CHANGE)
    changed = [f"{s}.{k}" for s, fields in now.items() for k, v in fields.items() if v != before[s][k]]
    if changed:
        raise RecipeError(
            f"The run in {directory} was started with other values of {', '.join(changed)}. Resume it with "
            f"{directory / 'recipe.yaml'}; only {', '.join(sorted(MAY_CHANGE['training']))} may change."
        )
    if json.loads((directory / "splits.json").read_text(encoding="utf-8")) != content:
        raise RunDirectoryError(
            f"The data changed since the run in {directory} was started. Restore them, or start a new run."
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint, read without running anything that it may hold, whatever the environment says.

    Raises:
        RunDirectoryError: damaged, or made of more than numbers, text and tensors.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch, zip and unpickling fail in many ways
        reason = (str(error) or repr(error)).splitlines()[0]
        raise RunDirectoryError(
            f"{path} is damaged, or holds more than numbers and tensors: {reason} Start the run anew."
        ) from None


def finish(
    directory: Path,
    module: TrainingModule,
    trainer: Trainer,
    recipe: Recipe,
    parts: Parts,
    sets: dict[str, Batches],
) -> TrainingResult:
    """Take the weights of the best epoch and write all outputs."""
    best = read_checkpoint(directory / BEST)
    module.load_state_dict(best["state_dict"])
    potential = module.potential.to(trainer.strategy.root_device).freeze()
    last = read_checkpoint(directory / LAST)
    facts = {
        "backbone": recipe.model.backbone,
        "n_weights": sum(p.numel() for p in potential.parameters()),
        "epochs": last["epoch"] + 1,
        "best_epoch": best["epoch"] + 1,
        "seconds": last["mlpot"]["seconds"],
        "seed": recipe.training.seed,
        "device": str(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "labels": parts.train.n_labels(),
        "repeated_structures": parts.repeated(),
    }
    for batches in sets.values():
        batches.run = Alone()
    metrics = write_outputs(directory, potential, recipe, parts, sets, facts)
    return TrainingResult(directory, potential, metrics)
