"""Errors of predictions against labels: which labels count, and how they are summed up, for all figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlpot.graph import AtomGraph, Properties

QUANTITIES = ("energy", "forces", "stress")
UNITS = {"energy": "meV_per_atom", "forces": "meV_per_A", "stress": "meV_per_A3"}
"""Of the figures of each quantity, as they stand in the names of columns and keys."""
MILLI = 1e3  # from eV to meV, in which all figures are told


@dataclass(frozen=True)
class Error:
    """The distribution of predicted − reference, in one line."""

    mae: float
    rmse: float
    bias: float  # mean of predicted − reference
    worst: float  # greatest |predicted − reference|
    n: int  # numbers compared


def residuals(predicted: Properties, labels: Properties, graph: AtomGraph) -> list[tuple[Tensor, Tensor]]:
    """(predicted − label, known) of energies per atom (eV), force components (eV/Å) and stress components (eV/Å³).

    A label is known where it is not NaN; that of a stress only where there is a volume, and of slabs and wires in
    their own axes (`in_periodic_axes`), so that it counts alike however they are turned. Where the label is not
    known the residual is zero, which is put in before anything is squared, so that a NaN never reaches a gradient.
    """
    ones = torch.ones_like(graph.batch, dtype=labels.energy.dtype)
    n_atoms = torch.zeros_like(labels.energy).index_add(0, graph.batch, ones)
    stress, label = (in_periodic_axes(x.stress, graph.cell, graph.pbc) for x in (predicted, labels))
    known = (
        ~labels.energy.isnan(),
        ~labels.forces.isnan(),
        ~(label.isnan() | stress.isnan()),
    )
    errors = (
        predicted.energy / n_atoms - labels.energy / n_atoms,
        predicted.forces - labels.forces,
        stress - label,
    )
    return [(torch.where(there, error, 0.0), there) for error, there in zip(errors, known, strict=True)]


def in_periodic_axes(stress: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Stresses of slabs and wires with their periodic directions as first axes, NaN beyond; others as they are.

    σ -> A σ Aᵀ, where the rows of A are made of the periodic cell vectors by the method of Gram and Schmidt. So a
    slab has four known components and a wire one, which stay the same when the structure is rotated, while P σ P
    (`data.stress_labels`) has up to nine.

    Args:
        stress: (n_graphs, 3, 3), zero across the periodic directions.
        cell: (n_graphs, 3, 3), rows are cell vectors.
        pbc: (n_graphs, 3) periodic directions.
    """
    n = pbc.sum(-1)
    partly = (n > 0) & (n < 3)
    if not partly.any():
        return stress
    order = (~pbc).to(torch.int8).argsort(dim=-1, stable=True)  # periodic vectors first
    vectors = cell.detach().gather(1, order[:, :, None].expand_as(cell))
    first = _unit(vectors[:, 0])
    least = torch.nn.functional.one_hot(first.abs().argmin(-1), 3).to(cell)  # for a wire any direction will do
    other = torch.where((n == 2)[:, None], vectors[:, 1], least)
    second = _unit(other - (other * first).sum(-1, keepdim=True) * first)
    axes = torch.stack([first, second, torch.linalg.cross(first, second)], dim=1).to(stress.dtype)
    along = torch.arange(3, device=pbc.device) < n[:, None]
    own = torch.where(along[:, :, None] & along[:, None, :], axes @ stress @ axes.mT, torch.nan)
    return torch.where(partly[:, None, None], own, stress)


def _unit(vectors: Tensor) -> Tensor:
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def error_sums(errors: Tensor, known: Tensor) -> Tensor:
    """(4,) float64: n, Σ|r|, Σr² and Σr of the residuals that are known; zero where they are not."""
    r = errors.double()
    return torch.stack([known.sum().double(), r.abs().sum(), r.square().sum(), r.sum()])


class ErrorSums:
    """Running sums of the errors of one quantity, so that a set of any size needs the memory of one batch."""

    def __init__(self) -> None:
        self.sums, self.worst = torch.zeros(4, dtype=torch.float64), 0.0

    def add(self, errors: Tensor) -> None:
        """Take in known errors, of any shape."""
        self.sums += error_sums(errors, torch.ones_like(errors, dtype=torch.bool))
        if errors.numel():
            self.worst = max(self.worst, float(errors.abs().max()))

    def result(self) -> Error:
        """Mean, root mean square, bias and worst of all of them.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        n, absolute, square, total = self.sums.tolist()
        return Error(absolute / n, (square / n) ** 0.5, total / n, self.worst, int(n))


def error_of(errors: Tensor) -> Error:
    """The error of known residuals, of any shape."""
    sums = ErrorSums()
    sums.add(errors)
    return sums.result()
