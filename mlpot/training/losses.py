"""What is minimized: residuals of energies per atom, force components and stress, with missing labels left out.

All three are intensive: a cell and its supercell have equal terms, whatever the function of the residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlpot.error_table import QUANTITIES, error_sums, residuals
from mlpot.graph import AtomGraph, Properties


@dataclass(frozen=True)
class Labels(Properties):
    """Labels, and the weights of their frames in the loss."""

    weight: Tensor  # (n_graphs,) float64, of mean 1 over the training set; (0,) where all frames count alike


def absolute(r: Tensor, threshold: float) -> Tensor:
    """|r|."""
    return r.abs()


def squared(r: Tensor, threshold: float) -> Tensor:
    """r²."""
    return r.square()


def huber(r: Tensor, threshold: float) -> Tensor:
    """r² up to the threshold t, t (2|r| − t) beyond: the squared function whose slope stops growing."""
    return 2 * torch.nn.functional.huber_loss(r, torch.zeros_like(r), reduction="none", delta=threshold)


FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "squared": squared,
    "absolute": absolute,
    "huber": huber,
}


def alone(n_known: Tensor) -> Tensor:
    """Divisors of the loss of a batch that no other process shares."""
    return n_known.clamp(min=1)


class Loss:
    """Σ_q weight_q · Σ_known w_frame · function(residual) / number of known labels of quantity q.

    Args:
        weights: of energy, forces and stress.
        function: one of `FUNCTIONS`.
        thresholds: of huber, for energy (eV/atom), forces (eV/Å) and stress (eV/Å³).
    """

    def __init__(
        self,
        weights: tuple[float, float, float],
        function: str = "squared",
        thresholds: tuple[float, float, float] = (0.01, 0.01, 0.01),
    ):
        self.weights, self.thresholds, self.function = weights, thresholds, FUNCTIONS[function]

    def __call__(
        self,
        predicted: Properties,
        labels: Properties,
        graph: AtomGraph,
        divisors: Callable[[Tensor], Tensor] = alone,
    ) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            divisors: by which sums over known labels are divided, from the numbers of these here, (3,).
        """
        total = 0 * predicted.energy.sum()  # DDP needs a gradient of every weight, even if a label is missing
        terms = self._terms(residuals(predicted, labels, graph), labels, graph)
        by = divisors(torch.stack([known.sum() for _, known in terms]))
        for weight, (term, _), n in zip(self.weights, terms, by, strict=True):
            if weight > 0:
                total = total + weight * term / n
        return total

    def _terms(
        self, all_residuals: list[tuple[Tensor, Tensor]], labels: Properties, graph: AtomGraph
    ) -> list[tuple[Tensor, Tensor]]:
        """For each quantity Σ w_frame · function(residual), and which labels are known."""
        frame = labels.weight if isinstance(labels, Labels) and len(labels.weight) else None
        terms = []
        for quantity, threshold, (residual, known) in zip(QUANTITIES, self.thresholds, all_residuals, strict=True):
            values = self.function(residual, threshold)
            if frame is not None:
                weight = frame.index_select(0, graph.batch) if quantity == "forces" else frame
                values = values * weight.view(-1, *[1] * (values.dim() - 1))
            terms.append((values.sum(), known))
        return terms

    def tally(self, predicted: Properties, labels: Properties, graph: AtomGraph) -> Tensor:
        """(3, 5) sums over a batch for each quantity: Σ w · function(residual), then `error_sums`, unweighted."""
        compared = residuals(predicted, labels, graph)
        terms = self._terms(compared, labels, graph)
        rows = [
            torch.cat([term.double()[None], error_sums(residual, known)])
            for (term, _), (residual, known) in zip(terms, compared, strict=True)
        ]
        return torch.stack(rows)

    def of_tally(self, tally: Tensor) -> Tensor:
        """The loss of a whole set, from the sum of the tallies of its batches."""
        return (tally.new_tensor(self.weights) * tally[:, 0] / tally[:, 1].clamp(min=1)).sum()
