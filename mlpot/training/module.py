"""The training loop as Lightning sees it: one step, one validation, one optimizer."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties
from mlpot.potential import Potential
from mlpot.training.losses import QUANTITIES, Loss
from mlpot.training.recipe import OptimizerSection

Batch = tuple[AtomGraph, Properties]


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number."""


class TrainingModule(LightningModule):
    """Trains a potential; everything that it logs is logged once an epoch.

    Args:
        potential: changed in place.
        loss: of a batch.
        optimizer: section of the recipe.
        n_steps: of the whole run, over which the cosine schedule falls.
    """

    def __init__(self, potential: Potential, loss: Loss, optimizer: OptimizerSection, *, n_steps: int):
        super().__init__()
        self.potential, self.loss, self.recipe, self.n_steps = potential, loss, optimizer, n_steps
        self.plateau = Plateau(optimizer.plateau_factor, optimizer.plateau_patience)
        self.seconds = 0.0  # of training, earlier sessions included
        self._since = time.monotonic()
        self._loss: list[Tensor] = []  # of each step of this epoch
        self._tally = torch.zeros(0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        graph, labels = batch
        loss = self.loss(predict(self.potential, graph, training=True), labels, graph)
        self._loss.append(loss.detach())
        return loss

    def backward(self, loss: Tensor) -> None:
        """Of the weights alone: the edge vectors need a gradient too, for the forces, but not this one."""
        loss.backward(inputs=[weight for weight in self.potential.parameters() if weight.requires_grad])  # type: ignore[no-untyped-call]

    def on_train_epoch_end(self) -> None:
        self._count_seconds()
        if not self._loss:
            return
        loss = torch.stack(self._loss).mean()
        self._loss.clear()
        self._check(loss, "training")
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict(
            {"train/loss": loss.float(), "train/rate": rate, "train/seconds": self.seconds}, sync_dist=True
        )

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_train_start(self) -> None:
        self._since = time.monotonic()

    def on_validation_epoch_start(self) -> None:
        self._tally = torch.zeros(3, 4, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        graph, labels = batch
        self._tally += self.loss.tally(predict(self.potential, graph), labels, graph)

    def on_validation_epoch_end(self) -> None:
        tally = self.trainer.strategy.reduce(self._tally, reduce_op="sum")
        assert isinstance(tally, Tensor)
        loss = self.loss.of_tally(tally)
        self._check(loss, "validation")
        log = {"validation/loss": loss}
        for name, (_, magnitude, square, n) in zip(QUANTITIES, tally, strict=True):
            if n > 0:
                log[f"validation/{name}_mae"] = 1e3 * magnitude / n
                log[f"validation/{name}_rmse"] = 1e3 * (square / n).sqrt()
        self.log_dict({name: value.float() for name, value in log.items()})
        shown = {"meV/atom": "validation/energy_mae", "meV/Å": "validation/forces_mae"}
        self.log_dict({k: log[v].float() for k, v in shown.items() if v in log}, prog_bar=True, logger=False)
        if self.recipe.schedule == "plateau":
            self.plateau.update(loss.item())

    def _check(self, loss: Tensor, name: str) -> None:
        if not loss.isfinite():
            raise TrainingDivergedError(
                f"The {name} loss of epoch {self.current_epoch + 1} is {loss.item()}. Lower "
                "optimizer.learning_rate, set training.clip, or look for wrong labels with `mlpot data info`."
            )

    def configure_optimizers(self) -> Any:
        r = self.recipe
        # Lightning refuses to clip for a fused optimizer in mixed precision.
        fused = self.trainer.precision == "32-true" and self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=r.learning_rate, weight_decay=r.weight_decay, fused=fused, foreach=not fused
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The learning rate at a step over that of the recipe."""
        r = self.recipe
        if step < r.warmup_steps:
            return (step + 1) / r.warmup_steps
        if r.schedule == "cosine":
            done = min(1.0, (step - r.warmup_steps) / max(1, self.n_steps - r.warmup_steps))
            return r.final_fraction + (1 - r.final_fraction) * (1 + math.cos(math.pi * done)) / 2
        return self.plateau.scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._count_seconds()
        losses = torch.stack(self._loss).cpu() if self._loss else torch.zeros(0)
        checkpoint["mlpot"] = {"seconds": self.seconds, "plateau": self.plateau.state(), "losses": losses}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint["mlpot"]["seconds"]
        self.plateau.restore(checkpoint["mlpot"]["plateau"])
        self._loss = list(checkpoint["mlpot"].get("losses", torch.zeros(0)).to(self.device))


class Plateau:
    """A scale of the learning rate that falls when the validation loss has stopped falling.

    Lightning steps torch's ReduceLROnPlateau after it has written its checkpoints, so that a resumed run would
    differ; this one is stepped before.
    """

    def __init__(self, factor: float, patience: int):
        self.factor, self.patience = factor, patience
        self.scale, self.best, self.n_bad = 1.0, math.inf, 0

    def update(self, loss: float) -> None:
        """Note the validation loss of one more epoch."""
        if loss < self.best:
            self.best, self.n_bad = loss, 0
        else:
            self.n_bad += 1
        if self.n_bad > self.patience:
            self.scale, self.n_bad = self.scale * self.factor, 0

    def state(self) -> tuple[float, float, int]:
        """What `restore` takes."""
        return self.scale, self.best, self.n_bad

    def restore(self, state: tuple[float, float, int]) -> None:
        """Go on as the run that gave this state."""
        self.scale, self.best, self.n_bad = state
