"""Training of a propagator: plain steps over pairs of frames, with checkpoints to go on from to the bit."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mlpot.atomic_files import check_folder, make_folder, write_whole
from mlpot.data.h5md import content_hash
from mlpot.folder_lock import folder_lock
from mlpot.propagators.errors import errors_of, free_flight_mse, free_flight_time, loss_of, scales_of
from mlpot.propagators.frame_pairs import FramePairs
from mlpot.propagators.learned import MOLECULE, molecule_of
from mlpot.propagators.propagator import Propagator, tensors_of
from mlpot.propagators.propagator_file import LEARNED, save_propagator
from mlpot.propagators.recipe import PropagatorRecipe
from mlpot.propagators.state import State, start
from mlpot.recipes import RecipeError, load_recipe
from mlpot.signals import SignalledError, StopRequest, stop_request
from mlpot.training.module import TrainingDivergedError, relative_rate
from mlpot.training.run_directory import RunDirectoryError, check_holds_run, has_begun

CHECKPOINT, LOG, METRICS, MODEL, RECIPE = (
    "checkpoint.ckpt", "log.csv", "metrics.json", "model.safetensors", "recipe.yaml"
)  # fmt: skip
LARGEST_GRADIENT = 1.0  # norm of all: close encounters have gradients of any size

Tell = Callable[[str], None]
Sets = Mapping[str, FramePairs]


def train(
    recipe: PropagatorRecipe, sets: Sets, *, resume: bool = False, overwrite: bool = False, tell: Tell = print
) -> dict[str, Any]:
    """Train a propagator; gives what metrics.json says.

    Args:
        recipe: of the training.
        sets: pairs "train", "validation" and perhaps "test".
        resume: go on from the last checkpoint, with the bits of a training that never stopped.
        overwrite: replace a training that is there.
        tell: where lines of progress go.

    Raises:
        RunDirectoryError, RecipeError: a training is there, or none, or one by another recipe or on other data.
        LockedError: another process has the directory.
        TrainingDivergedError: the loss is no number.
        SignalledError: stopped by a signal, and saved.
    """
    directory = Path(recipe.training.directory)
    check_directory(recipe, resume=resume, overwrite=overwrite)
    with folder_lock(directory):
        _begin(directory, recipe, resume=resume)
        learned = learned_files(recipe)
        state = start(recipe, sets)
        if resume and (directory / CHECKPOINT).exists():
            state.restore(directory / CHECKPOINT)
            tell(f"Going on after epoch {state.epoch} of {recipe.training.epochs}.")
        with stop_request() as request:
            _epochs(state, recipe, sets, directory, request, tell)
        return _finish(state, recipe, sets, learned)


def learned_files(recipe: PropagatorRecipe) -> list[str]:
    """The hash of each trajectory that a recipe learns, by which `judge` knows it; none of the experiment."""
    given = recipe.data.trajectory or []
    return [content_hash(path) for path in ([given] if isinstance(given, str) else given)]


def _finish(state: State, recipe: PropagatorRecipe, sets: Sets, learned: list[str]) -> dict[str, Any]:
    """Write the chosen weights and metrics.json, and give what the latter says."""
    directory = Path(recipe.training.directory)
    chosen: Propagator = state.averaged
    chosen.load_state_dict(state.best["weights"])
    molecule = molecule_of(sets["train"])
    card = {
        "recipe": recipe.model_dump(mode="json"),
        "epoch": state.best["epoch"],
        LEARNED: learned,
        MOLECULE: None if molecule is None else molecule.model_dump(mode="json"),
    }
    save_propagator(chosen, directory / MODEL, card)
    t = free_flight_time(sets["train"])
    metrics = {
        "best_epoch": state.best["epoch"],
        "minutes_of_processor": round(state.seconds / 60, 2),
        "n_parameters": sum(w.numel() for w in chosen.parameters()),
        "free_flight_time": t,
    }
    for name, pairs in sets.items():
        metrics[name] = errors_of(chosen, pairs) | {"free_flight_mse": free_flight_mse(pairs, t)}
    write_whole(directory / METRICS, json.dumps(metrics, indent=2).encode() + b"\n")
    return metrics


def check_directory(recipe: PropagatorRecipe, *, resume: bool, overwrite: bool) -> None:
    """Raise what would stop a training before its first step, so that no data need be made for that.

    Raises:
        RunDirectoryError, RecipeError, StorageError: as `train`, or the folder cannot be written.
    """
    directory = Path(recipe.training.directory)
    check_folder(directory)
    if (directory / "splits.json").exists():
        raise RunDirectoryError(
            f"{directory} holds the training of a potential. Give another training.directory, or remove it."
        )
    now = recipe.model_dump(mode="json", exclude={"training": {"directory", "checkpoint_minutes"}})
    if resume:
        check_holds_run(directory)
        earlier = load_recipe(PropagatorRecipe, directory / RECIPE).model_dump(mode="json")
        if changed := [f"{s}.{k}" for s, keys in now.items() for k, v in keys.items() if earlier[s][k] != v]:
            raise RecipeError(
                f"The run in {directory} was started with other values of {', '.join(changed)}. Resume it with "
                f"{directory / RECIPE}, or start a run in another directory."
            )
    elif has_begun(directory) and not overwrite:
        raise RunDirectoryError(
            f"{directory} holds a run already. Resume it (--resume), overwrite it (--overwrite), or give another "
            "training.directory."
        )
    elif not has_begun(directory) and (others := [n for n in (LOG, METRICS, MODEL) if (directory / n).exists()]):
        raise RunDirectoryError(
            f"{directory} has {', '.join(others)} of something else, which a training would replace. Give another "
            "training.directory, or move them."
        )


def _begin(directory: Path, recipe: PropagatorRecipe, *, resume: bool) -> None:
    """Write the recipe of a run that begins, and remove what is left of the one before."""
    if resume:
        return
    make_folder(directory)
    for name in (CHECKPOINT, LOG, METRICS, MODEL):
        (directory / name).unlink(missing_ok=True)
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(directory / RECIPE, text.encode())


def _epochs(
    state: State, recipe: PropagatorRecipe, sets: Sets, directory: Path, request: StopRequest, tell: Tell
) -> None:
    """Train to the last epoch, or raise when a signal came; checkpoints are written between epochs only."""
    training = recipe.training
    scales = scales_of(sets["train"])
    learned, judged = (tensors_of(sets[name], state.propagator) for name in ("train", "validation"))
    saved = time.monotonic()
    while state.epoch < training.epochs:
        before = time.process_time()
        loss = _one_epoch(state, recipe, learned, scales)
        last = state.epoch == training.epochs
        if last or state.epoch % training.validate_every == 0:
            with torch.no_grad():
                found = state.averaged(*judged[0])
            validation = float(loss_of(found, judged[1], scales, training.velocity_weight))
            if not math.isfinite(validation):
                raise _diverged(recipe, "validation loss", state.epoch)
            moved = float((found[0] - judged[1][0]).square().mean())
            if validation < state.best.get("loss", math.inf):
                weights = {name: w.clone() for name, w in state.averaged.state_dict().items()}
                state.best = {"loss": validation, "epoch": state.epoch, "weights": weights}
            row = {"epoch": state.epoch, "loss": loss, "validation_loss": validation, "positions_mse": moved}
            minutes = (state.seconds + time.process_time() - before) / 60
            state.log.append(row | {"minutes_of_processor": round(minutes, 3)})
            write_whole(directory / LOG, _csv(state.log))
            if last or state.epoch % max(1, training.epochs // 20) < training.validate_every:
                tell(f"epoch {state.epoch}: loss {loss:.5g}, validation {validation:.5g}, positions {moved:.5g}")
        state.seconds += time.process_time() - before
        if last or request.signal or time.monotonic() - saved >= 60 * training.checkpoint_minutes:
            state.save(directory / CHECKPOINT)
            saved = time.monotonic()
        if request.signal and not last:
            raise SignalledError(
                f"Epoch {state.epoch}: stopped by {request.signal.name} and saved. Continue with "
                f"mlpot propagate train {directory / RECIPE} --resume",
                request.signal,
            )


def _one_epoch(state: State, recipe: PropagatorRecipe, learned: Any, scales: tuple[float, float]) -> float:
    """The mean loss; the order of pairs is drawn from seed and epoch, so that it needs no state."""
    training, (given, wanted) = recipe.training, learned
    random = torch.Generator().manual_seed(training.seed * 1_000_003 + state.epoch)
    n_batches = max(1, len(given[0]) // training.batch_size)
    order = torch.randperm(len(given[0]), generator=random)
    total = torch.zeros(())
    for k in range(n_batches):
        batch = order[k * training.batch_size :][: training.batch_size]
        *kinds, x, v = (t[batch] for t in given)
        y, w = (t[batch] for t in wanted)
        if training.reversal and (state.epoch + k) % 2:
            x, v, y, w = y, -w, x, -v
        rate = relative_rate(recipe.optimizer, state.step, training.epochs * n_batches)
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.optimizer.learning_rate * rate
        loss = loss_of(state.propagator(*kinds, x, v), (y, w), scales, training.velocity_weight)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.nn.utils.clip_grad_norm_(state.propagator.parameters(), LARGEST_GRADIENT)
        state.optimizer.step()
        state.step += 1
        state.average(recipe.optimizer.ema_decay)
        total += loss.detach()
    if not total.isfinite():
        raise _diverged(recipe, "loss", state.epoch + 1)
    state.epoch += 1
    return float(total) / n_batches


def _diverged(recipe: PropagatorRecipe, what: str, epoch: int) -> TrainingDivergedError:
    rate = recipe.optimizer.learning_rate
    return TrainingDivergedError(
        f"The {what} is no number in epoch {epoch}. Lower optimizer.learning_rate ({rate:g})."
    )


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
