"""What is minimised: residuals of energies per atom, force components and stress, with missing labels left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlpot.graph import AtomGraph, Properties

QUANTITIES = ("energy", "forces", "stress")


def absolute(r: Tensor, delta: float) -> Tensor:
    """|r|."""
    return r.abs()


def squared(r: Tensor, delta: float) -> Tensor:
    """r²."""
    return r.square()


def huber(r: Tensor, delta: float) -> Tensor:
    """r²/2 up to delta, delta (|r| − delta/2) beyond."""
    return torch.nn.functional.huber_loss(r, torch.zeros_like(r), reduction="none", delta=delta)


KINDS: dict[str, Callable[[Tensor, float], Tensor]] = {"squared": squared, "absolute": absolute, "huber": huber}


def residuals(predicted: Properties, labels: Properties, graph: AtomGraph) -> list[tuple[Tensor, Tensor]]:
    """(residual, known) of energies per atom, forces and stress; a residual is zero where the label is missing.

    The label is known where it is not NaN. Zero is put in before anything is squared, so that a NaN never
    reaches a gradient.
    """
    ones = torch.ones_like(graph.batch, dtype=labels.energy.dtype)
    n_atoms = torch.zeros_like(labels.energy).index_add(0, graph.batch, ones)
    pairs = (
        (predicted.energy / n_atoms, labels.energy / n_atoms),
        (predicted.forces, labels.forces),
        (predicted.stress, labels.stress),
    )
    result = []
    for value, label in pairs:
        known = ~label.isnan()
        result.append((torch.where(known, value - label, 0.0), known))
    return result


class Loss:
    """Σ_q weight_q · mean over the known labels of quantity q of kind(residual)."""

    def __init__(self, *, energy: float, forces: float, stress: float, kind: str, delta: float):
        self.weights = (energy, forces, stress)
        self.function, self.delta = KINDS[kind], delta

    def __call__(self, predicted: Properties, labels: Properties, graph: AtomGraph) -> Tensor:
        """The loss of a batch, a scalar."""
        total = 0 * predicted.energy.sum()  # DDP wants a gradient of every weight, whatever is labelled
        for weight, (residual, known) in zip(self.weights, residuals(predicted, labels, graph), strict=True):
            if weight > 0:
                total = total + weight * self.function(residual, self.delta).sum() / known.sum().clamp(min=1)
        return total

    def tally(self, predicted: Properties, labels: Properties, graph: AtomGraph) -> Tensor:
        """(3, 4) sums over a batch for each quantity: kind(residual), |residual|, residual², known labels."""
        rows = [
            torch.stack([self.function(r, self.delta).sum(), r.abs().sum(), r.square().sum(), known.sum()])
            for r, known in residuals(predicted, labels, graph)
        ]
        return torch.stack(rows)

    def of_tally(self, tally: Tensor) -> Tensor:
        """The loss of a whole set, from the sum of the tallies of its batches."""
        return (tally.new_tensor(self.weights) * tally[:, 0] / tally[:, 3].clamp(min=1)).sum()
