"""The training loop as Lightning sees it: one step, one validation, one optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mlpot.equivariance import RotationError, rotation_error
from mlpot.error_table import MILLI, QUANTITIES, UNITS
from mlpot.forces import predict
from mlpot.graph import AtomGraph, Properties, collate
from mlpot.potential import Potential
from mlpot.training.losses import Loss, alone
from mlpot.training.parameter_groups import element_rows, make_optimizer
from mlpot.training.recipe import OptimizerSection

Batch = tuple[AtomGraph, Properties]


HALVINGS = 6  # of the learning rate, after which a training that diverges ends with an error
TOO_LARGE = 100.0  # times the validation loss of the first epoch: a training whose loss is larger has diverged


class TrainingDivergedError(ValueError):
    """The loss is no longer a number, or has grown without bounds."""


def relative_rate(recipe: OptimizerSection, step: int, n_steps: int) -> float:
    """The learning rate at a step over that of the recipe, before plateau and divergence lower it."""
    warmup = recipe.warmup(n_steps)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule != "cosine":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    return recipe.final_fraction + (1 - recipe.final_fraction) * (1 + math.cos(math.pi * done)) / 2


class NoLossError(ValueError):
    """The loss is exactly zero, as if there were no label."""


class TrainingModule(LightningModule):
    """Trains a potential; all values are logged once an epoch.

    Args:
        potential: changed in place.
        losses: of a batch, in the first and in the last part of the run; the last one chooses the best epoch.
        optimizer: section of the recipe.
        n_steps: of the whole run, over which the cosine schedule falls.
        final_from: the step with which the last part begins.
        fixed: atomic numbers whose own rows of weights stay as they are.
        halvings: how often the learning rate was halved because the training diverged.
    """

    def __init__(
        self,
        potential: Potential,
        losses: tuple[Loss, Loss],
        optimizer: OptimizerSection,
        *,
        n_steps: int,
        final_from: int,
        fixed: Sequence[int] = (),
        halvings: int = 0,
    ):
        super().__init__()
        self.potential, self.losses, self.loss = potential, losses, losses[1]
        self.recipe, self.n_steps, self.final_from, self.fixed = optimizer, n_steps, final_from, fixed
        self.plateau = Plateau(optimizer.plateau_factor, optimizer.plateau_patience)
        self.halvings, self._lowered = halvings, halvings > 0
        self.run = ""  # its name, in its checkpoints
        self.first_loss = math.inf  # of the validation of the first epoch
        self.seconds = 0.0  # of training, earlier sessions included
        self._since = time.monotonic()
        self._loss: list[Tensor] = []  # of each step of this epoch
        self._tally = torch.zeros(0)
        self.to_rotate: list[AtomGraph] = []  # structures whose rotated copies are compared in each validation
        self._rotation_error: RotationError | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        graph, labels = batch
        function = self.losses[self.global_step >= self.final_from]
        loss = function(predict(self.potential, graph, training=True), labels, graph, self._divisors)
        self._loss.append(loss.detach())
        if self.device.type == "cpu" and self.trainer.world_size == 1:  # on a GPU, the CPU would wait for it
            self._check(loss, "training")
        return loss

    def _divisors(self, n_known: Tensor) -> Tensor:
        """Numbers of labels by which a process divides its sums of residuals.

        The gradient is that of the mean of all processes' losses, so that it is that of all their batches in one:
        Σ_r s_r / N = (1/n) Σ_r s_r / (N/n) with N = Σ_r n_r known labels of n processes.
        """
        n = self.trainer.world_size
        if n == 1:
            return alone(n_known)
        of_all = self.trainer.strategy.reduce(n_known.double(), reduce_op="sum")
        assert isinstance(of_all, Tensor)
        return of_all.clamp(min=1) / n

    def backward(self, loss: Tensor) -> None:
        """The gradient by the weights alone; the edge vectors need none of the loss."""
        loss.backward(inputs=[weight for weight in self.potential.parameters() if weight.requires_grad])  # type: ignore[no-untyped-call]

    def on_train_epoch_end(self) -> None:
        self._count_seconds()
        if not self._loss:
            return
        loss = torch.stack(self._loss).mean()
        self._loss.clear()
        if self.trainer.world_size > 1:  # a loss that is no number must be seen by all
            reduced = self.trainer.strategy.reduce(loss, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            loss = reduced
        self._check(loss, "training")
        self._check_labels(loss, "training")
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict(
            {
                "train/loss": loss.float(),
                "train/rate": rate,
                "train/seconds": self.seconds,
                "train/part": 1.0 + (self.global_step > self.final_from),
            },
            sync_dist=True,
        )

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_train_start(self) -> None:
        self._since = time.monotonic()
        if self._lowered:  # the optimizer of the checkpoint has the rate with which it diverged
            scheduler = self.lr_schedulers()
            for group, base in zip(self.optimizers().param_groups, scheduler.base_lrs, strict=True):  # type: ignore[union-attr]
                group["lr"] = base * self.rate(scheduler.last_epoch)  # type: ignore[union-attr]

    def on_validation_epoch_start(self) -> None:
        self._tally = torch.zeros(3, 5, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        graph, labels = batch
        self._tally += self.loss.tally(predict(self.potential, graph), labels, graph)
        if batch_idx == 0 and self.to_rotate:  # here the weights are the averaged ones
            self._rotation_error = rotation_error(self.potential, collate(self.to_rotate))

    def on_validation_epoch_end(self) -> None:
        tally = self.trainer.strategy.reduce(self._tally, reduce_op="sum")
        assert isinstance(tally, Tensor)
        loss = self.loss.of_tally(tally)
        self._check(loss, "validation")
        self._check_labels(loss, "validation")
        self.first_loss = min(self.first_loss, loss.item()) if self.current_epoch == 0 else self.first_loss
        log = {"validation/loss": loss}
        for name, (_, n, magnitude, square, _) in zip(QUANTITIES, tally, strict=True):
            if n > 0:
                log[f"validation/{name}_mae_{UNITS[name]}"] = MILLI * magnitude / n
                log[f"validation/{name}_rmse_{UNITS[name]}"] = MILLI * (square / n).sqrt()
        if self._rotation_error is not None:
            for name, figure in self._rotation_error.as_dict().items():
                log[f"validation/rotations_{name}"] = torch.tensor(figure, dtype=torch.float64)
        self.log_dict({name: value.float() for name, value in log.items()})
        shown = {
            "meV/atom (energy MAE)": "validation/energy_mae_meV_per_atom",
            "meV/Å (forces MAE)": "validation/forces_mae_meV_per_A",
            "meV/Å (rotated copies)": "validation/rotations_rms_meV_per_A",
        }
        self.log_dict({k: log[v].float() for k, v in shown.items() if v in log}, prog_bar=True, logger=False)
        if self.recipe.schedule == "plateau":
            self.plateau.update(loss.item())

    def _check(self, loss: Tensor, name: str) -> None:
        if not loss.isfinite() or (name == "validation" and loss > TOO_LARGE * self.first_loss):
            raise TrainingDivergedError(
                f"the {name} loss of epoch {self.current_epoch + 1} is {loss.item():.3g}, at a learning rate of "
                f"{self.optimizers().param_groups[0]['lr']:.2g}"  # type: ignore[union-attr]
            )

    def _check_labels(self, loss: Tensor, name: str) -> None:
        if loss == 0 and self.trainer.world_size == 1:
            raise NoLossError(
                f"The {name} loss of epoch {self.current_epoch + 1} is exactly zero: no label counts, or "
                "nothing is left to learn. Look at labels with `mlpot data info`, and at the weights of the loss."
            )

    def configure_optimizers(self) -> Any:
        r = self.recipe
        fused = self.device.type in ("cpu", "cuda")
        optimizer = make_optimizer(
            self.potential.backbone, r, fused=fused, rows=element_rows(self.potential), fixed=self.fixed
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The learning rate at a step over that of the recipe."""
        scale = self.plateau.scale if step >= self.recipe.warmup(self.n_steps) else 1.0
        return relative_rate(self.recipe, step, self.n_steps) * scale * 0.5**self.halvings

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not all(weight.isfinite().all() for weight in self.potential.parameters()):
            raise TrainingDivergedError(f"a weight is no longer a number in epoch {self.current_epoch + 1}")
        self._count_seconds()
        losses = torch.stack(self._loss).cpu() if self._loss else torch.zeros(0)
        checkpoint["mlpot"] = {
            "seconds": self.seconds,
            "plateau": self.plateau.state(),
            "losses": losses,
            "halvings": self.halvings,
            "first_loss": self.first_loss,
            "run": self.run,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["mlpot"]
        self.seconds = kept["seconds"]
        self.plateau.restore(kept["plateau"])
        self._loss = list(kept.get("losses", torch.zeros(0)).to(self.device))
        self.first_loss = kept.get("first_loss", math.inf)
        self.halvings = max(self.halvings, kept.get("halvings", 0))
        self._lowered = self.halvings > kept.get("halvings", 0)


def diverged(error: TrainingDivergedError, state: str, module: TrainingModule) -> TrainingDivergedError:
    """The error for the user, when a training has diverged too often."""
    lowered = f", after {module.halvings} halvings of the learning rate" if module.halvings else ""
    rate = module.recipe.learning_rate / 2 ** max(2, module.halvings)
    return TrainingDivergedError(
        f"The training diverged{lowered}: {error}. The last good state is {state}. Look for wrong labels with "
        f"`mlpot data check`, or start anew with optimizer.learning_rate={rate:.1g}, or a smaller training.clip."
    )


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
        """Continue as the run that gave this state."""
        self.scale, self.best, self.n_bad = state
