"""The parts of a run, each with its own loss, and which weights are kept at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties
from mlpot.potential import Potential
from mlpot.recipes import RecipeError
from mlpot.training.losses import Loss
from mlpot.training.messages import Messages
from mlpot.training.module import TrainingModule
from mlpot.training.recipe import LossSection, Recipe
from mlpot.training.trainer import MONITOR


def make_module(
    recipe: Recipe, potential: Potential, steps: int, fixed: Sequence[int], halvings: int
) -> TrainingModule:
    """The module that Lightning trains, for a run of `steps` steps an epoch."""
    first, epochs = first_epochs(recipe), recipe.training.epochs
    return TrainingModule(
        potential,
        (make_loss(recipe.loss), final_loss(recipe)),
        recipe.optimizer,
        n_steps=epochs * steps,
        final_from=first * steps,
        fixed=fixed,
        halvings=halvings,
    )


def final_loss(recipe: Recipe) -> Loss:
    """The loss of the last part of a run."""
    return make_loss(recipe.loss, recipe.loss.final_energy)


def make_loss(section: LossSection, energy: float | None = None) -> Loss:
    """The loss of a recipe, with another weight of energies if one is given."""
    weights = (section.energy if energy is None else energy, section.forces, section.stress)
    thresholds = (section.energy_threshold, section.forces_threshold, section.stress_threshold)
    return Loss(weights, section.function, thresholds)


def first_epochs(recipe: Recipe) -> int:
    """Epochs before the last part of a run, all of them if there is none."""
    epochs = recipe.training.epochs
    return epochs if recipe.loss.final_energy is None else math.ceil((1 - recipe.loss.final_part) * epochs)


def check_schedule(recipe: Recipe, steps: int) -> None:
    """Raise RecipeError where a schedule of a run of so many steps an epoch contradicts itself."""
    epochs, warmup = recipe.training.epochs, recipe.optimizer.warmup_steps
    if warmup is not None and 0 < epochs * steps <= warmup:
        raise RecipeError(
            f"optimizer.warmup_steps={warmup} is not less than the {epochs * steps} steps of the whole run "
            f"({epochs} epochs of {steps}). Lower it, or leave it out, or train for more epochs."
        )
    if epochs and recipe.loss.final_energy is not None and first_epochs(recipe) == epochs:
        raise RecipeError(
            f"loss.final_part={recipe.loss.final_part} of {epochs} epochs is no epoch, so that loss.final_energy "
            "would never count. Train for more epochs, or leave loss.final_energy out."
        )


def chosen_by(best: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Which weights are written, and the number that decides; loss.final_energy counts in it in all epochs."""
    scores = [c["best_model_score"] for c in best["callbacks"].values() if c.get("monitor") == MONITOR]
    return {
        "epoch": best["epoch"] + 1,
        "part": 1 + (best["epoch"] >= first_epochs(recipe)),
        "weights": "averaged" if recipe.optimizer.ema_decay else "raw",
        "validation_loss": float(scores[0]),
    }


def solved_too(chosen: dict[str, Any], loss: float, tell: Messages) -> dict[str, Any]:
    """`chosen_by` after the closing solve: which weights are written, which the log's row of the epoch is of."""
    before = chosen["validation_loss"]
    tell(
        f"The potential has these weights after the closing solve: validation loss {loss:.6g}, as metrics.json "
        f"and the model's card tell; the log's row of epoch {chosen['epoch']} is from before it, {before:.6g}."
    )
    weights = f"{chosen['weights']}, then the closing solve"
    return chosen | {"weights": weights, "validation_loss": loss, "validation_loss_in_log": before}


def loss_of(potential: Potential, batches: Iterable[tuple[AtomGraph, Properties]], loss: Loss) -> float:
    """The loss of a frozen potential over a whole set."""
    device = potential.energy_scale.device
    tallies = [
        loss.tally(predict(potential, graph.to(device)), labels.to(device), graph.to(device))
        for graph, labels in batches
    ]
    return float(loss.of_tally(torch.stack(tallies).sum(dim=0)))


def tell_of_end(chosen: dict[str, Any], last_epoch: int, recipe: Recipe, tell: Messages) -> None:
    """Tell which weights are written, and which part is missing if the run ended early; epochs count from 0."""
    first = first_epochs(recipe)
    part = f" (part {chosen['part']} of the run)" if first < recipe.training.epochs else ""
    tell(
        f"The potential has the {chosen['weights']} weights of epoch {chosen['epoch']}{part}, with the lowest "
        f"validation loss: {chosen['validation_loss']:.6g}"
    )
    if last_epoch < first < recipe.training.epochs:
        tell.warn(
            f"The training ended in epoch {last_epoch + 1}, before its last part, in which loss.final_energy "
            f"counts (from epoch {first + 1} on): that part is missing. Train for fewer epochs, or longer."
        )
