"""Where the training of a propagator stands: made at its start, saved, restored to the bit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mlpot.atomic_files import write_whole
from mlpot.propagators.frame_pairs import FramePairs
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.recipe import PropagatorRecipe
from mlpot.training.parameter_groups import make_optimizer
from mlpot.training.run_directory import RunDirectoryError, read_checkpoint

OF_STATE = ("epoch", "step", "seconds", "best", "log", "data")


@dataclass
class State:
    """A training at the end of an epoch."""

    propagator: Propagator  # whose weights are trained
    averaged: Propagator
    optimizer: torch.optim.Optimizer
    epoch: int = 0  # done
    step: int = 0
    seconds: float = 0.0  # of the processor, earlier sessions included
    best: dict[str, Any] = field(default_factory=dict)  # weights with the lowest validation loss, and that
    log: list[dict[str, float]] = field(default_factory=list)
    data: str = ""  # fingerprints of what it learns and is chosen by; none of what a recipe makes anew

    def average(self, decay: float) -> None:
        """Move the average of the weights, with a decay of (1 + n) / (10 + n) at step n up to `decay`."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.propagator.parameters()), share)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the old one stays whole until the new one is."""
        content = io.BytesIO()
        models = {name: getattr(self, name).state_dict() for name in ("propagator", "averaged", "optimizer")}
        torch.save(models | {name: getattr(self, name) for name in OF_STATE}, content)
        write_whole(path, content.getvalue())

    def restore(self, path: Path) -> None:
        """Take over a checkpoint.

        Raises:
            RunDirectoryError: it is damaged, or of other trajectories.
        """
        saved = {"data": self.data} | read_checkpoint(path)  # which checkpoints of before do not tell
        if saved["data"] != self.data:
            raise RunDirectoryError(
                f"The trajectories changed since the run in {path.parent} was started. Restore them, or start a "
                "run in another directory."
            )
        for name in ("propagator", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        for name in OF_STATE:
            setattr(self, name, saved[name])


def start(recipe: PropagatorRecipe, sets: Mapping[str, FramePairs]) -> State:
    """Random weights of a recipe's seed; the scales of speed and distance are those of the training set."""
    pairs = sets["train"]
    velocities = torch.as_tensor(pairs.velocities) * pairs.interval
    positions = torch.as_tensor(pairs.positions)
    apart = (positions.unsqueeze(2) - positions.unsqueeze(1)).norm(dim=-1)
    arguments = {
        **recipe.model.model_dump(),
        "speed": float(velocities.square().mean().sqrt()) if recipe.data.trajectory else 1.0,
        "radius": float(apart.mean() + 2 * apart.std()),
    }
    elements = sorted(set(pairs.numbers.ravel().tolist()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        propagator = Propagator(arguments, elements=elements, interval=pairs.interval)
        averaged = Propagator(arguments, elements=elements, interval=pairs.interval)
    averaged.load_state_dict(propagator.state_dict())
    optimizer = make_optimizer(propagator, recipe.optimizer, fused=True, rows={})
    # What the experiment makes is told whole by its recipe, and may differ in last digits from machine to machine.
    names = ("train", "validation") if recipe.data.trajectory else ()
    data = " ".join(sets[name].fingerprint() for name in names)
    return State(propagator, averaged.requires_grad_(False), optimizer, data=data)
