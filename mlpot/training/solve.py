"""The closing solve: after training, the weights in which the energy is linear are found by least squares.

    E = E_trained + Σ_i s(Z_i) Σ_k w_k(Z_i) B_ik          B the products of a network's arrays, see `StagedNetwork`
    minimize  Σ_q λ_q Σ (label − prediction)² + ρ Σ_k (D_k w_k)²,    D² the diagonal of the normal matrix

Forces are −∂E/∂r, so a row of the problem is a tangent of the products along one coordinate of one atom, and every
structure of a batch has one at once; rows of stresses are tangents along strains. The strength ρ is the largest
whose validation error is within 5 % of the least: weaker ones fit no better, and worse away from the training
structures. Nothing is kept unless the errors of the validation set fall. The matrix is one of weights, so memory
does not depend on the size of the set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlpot.error_table import MILLI
from mlpot.forces import periodic_directions, predict
from mlpot.graph import AtomGraph, Properties
from mlpot.models.backbone import Backbone
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork
from mlpot.training.linear_features import LinearFeatures, within
from mlpot.training.losses import Labels
from mlpot.training.normal_equations import NormalEquations

Batch = tuple[AtomGraph, Properties]
STRENGTHS = tuple(10.0**-k for k in range(1, 7))  # below 1e-6 float32 loses what the solve gains
SLACK = 1.05
MOST_WEIGHTS = 12_000  # a matrix of 1.2 GB, and a second for its factor
MOST_ROWS = 60_000  # of forces; more are drawn from
ENERGY, FORCES, STRESS = range(3)  # kinds of rows
Weights = tuple[float, float, float]  # of the kinds


@dataclass(frozen=True)
class LabeledSet:
    """Batches in an order that is always the same, and how many labels are known in them."""

    batches: Iterable[Batch]
    n_energies: int
    n_forces: int  # components
    n_stress: int = 0  # components; without any, no stress counts

    @property
    def share(self) -> float:
        """Of the rows of forces that are taken."""
        return min(1.0, MOST_ROWS / max(1, self.n_forces))


@dataclass(frozen=True)
class Errors:
    """Root mean square errors."""

    energy: float  # eV/atom; NaN without labels
    forces: float  # eV/Å; NaN without labels
    stress: float = math.nan  # eV/Å³; NaN without labels

    @property
    def of_kinds(self) -> tuple[float, float, float]:
        """In the order of `ENERGY`, `FORCES`, `STRESS`."""
        return self.energy, self.forces, self.stress

    def __str__(self) -> str:
        units = {"meV/atom": self.energy, "meV/Å": self.forces, "meV/Å³": self.stress}
        return " and ".join(f"{MILLI * e:.2f} {unit}" for unit, e in units.items() if not math.isnan(e))

    def fell(self, before: Errors) -> bool:
        """Whether none rose and one fell."""
        known = [(a, b) for a, b in zip(self.of_kinds, before.of_kinds, strict=True) if not math.isnan(b)]
        return all(a <= b for a, b in known) and any(a < b for a, b in known)


@dataclass(frozen=True)
class Solved:
    """What a closing solve did."""

    accepted: bool
    n_weights: int
    n_rows: int  # of forces in training
    strength: float  # ρ; NaN if there is nothing to solve
    before: Errors  # of the validation set
    after: Errors

    def facts(self) -> dict[str, Any]:
        """The same for JSON, which has no NaN: errors without labels are left out."""
        out = asdict(self) | {"strength": None if math.isnan(self.strength) else self.strength}
        for name in ("before", "after"):
            out[name] = {kind: error for kind, error in out[name].items() if not math.isnan(error)}
        return out


def closing_solve(
    potential: Potential,
    train: LabeledSet,
    validation: LabeledSet,
    *,
    energy_weight: float,
    forces_weight: float,
    stress_weight: float = 0.0,
) -> Solved:
    """Solve for the linear weights of a trained potential, and keep them if the validation errors fall.

    Args:
        potential: trained, in any precision, on any device; its linear weights change if the solve is accepted.
        train: the training set; its frames count by their weights.
        validation: the validation set.
        energy_weight: of the loss, for squares of energies per atom.
        forces_weight: of the loss, for squares of force components.
        stress_weight: of the loss, for squares of stress components.
    """
    exact = copy.deepcopy(potential).cpu().double().eval()
    network = exact.backbone
    if not isinstance(network, StagedNetwork) or n_linear_weights(network) == 0:
        unknown = Errors(math.nan, math.nan)
        return Solved(False, 0, 0, math.nan, unknown, unknown)
    weights = energy_weight, forces_weight, stress_weight
    with torch.no_grad():
        features = LinearFeatures(exact, network, arrays_that_fit(network))
        solutions, n_rows = least_squares(features, train, weights)
        zero = torch.zeros(features.n, dtype=torch.float64)
        errors = errors_of(features, validation, torch.stack([zero, *solutions], 1))
    before, *others = map(Candidate, [zero, *solutions], (math.nan, *STRENGTHS), errors)
    best = choose(before, others, weights)
    if best is not before:
        with torch.no_grad():
            features.write(potential.backbone, best.w)  # type: ignore[arg-type]
        if potential.is_frozen:  # its constants, and its native call, are those of the old weights
            potential.freeze()
    return Solved(best is not before, features.n, n_rows, best.strength, before.errors, best.errors)


def labeled_set(batches: Iterable[Batch], n_labels: Mapping[str, int], *, with_stress: bool) -> LabeledSet:
    """A set whose labels have been counted by structure, forces by atom."""
    in_plane = n_labels["stress_in_plane"]  # of slabs; of a wire one component is known, which is rare
    n_stress = 9 * (n_labels["stress"] - in_plane) + 4 * in_plane
    return LabeledSet(batches, n_labels["energy"], 3 * n_labels["forces"], n_stress if with_stress else 0)


def arrays_that_fit(network: StagedNetwork) -> tuple[str, ...]:
    """The arrays whose products are solved for: from the last one on, as many as the matrix has room for."""
    kept: list[str] = []
    for name in reversed(list(network.linear)):
        if sum(network.linear_weight(other).numel() for other in [*kept, name]) <= MOST_WEIGHTS:
            kept.append(name)
    return tuple(reversed(kept))


def n_linear_weights(backbone: Backbone) -> int:
    """The number of weights that a closing solve of a backbone finds; 0 where there are none."""
    if not isinstance(backbone, StagedNetwork):
        return 0
    return sum(backbone.linear_weight(name).numel() for name in arrays_that_fit(backbone))


def least_squares(features: LinearFeatures, train: LabeledSet, weights: Weights) -> tuple[list[Tensor], int]:
    """The weights (n,) for each of `STRENGTHS`, and the number of rows of forces."""
    equations, n_forces = NormalEquations(features.n), 0
    numbers = max(1, train.n_energies), max(1.0, train.n_forces * train.share), max(1, train.n_stress)
    for rows in rows_of(features, train):
        n_forces += len(rows.targets) if rows.kind == FORCES else 0
        factor = (rows.weight * (weights[rows.kind] / numbers[rows.kind])).sqrt()
        equations.add(rows.matrix * factor[:, None], rows.targets * factor)
    return list(equations.solutions(STRENGTHS)), n_forces


def errors_of(features: LinearFeatures, data: LabeledSet, solutions: Tensor) -> list[Errors]:
    """With each column of some solutions (n, n_solutions)."""
    squares, numbers = torch.zeros(3, solutions.shape[1], dtype=torch.float64), [0, 0, 0]
    for rows in rows_of(features, data):
        squares[rows.kind] += (rows.targets[:, None] - rows.matrix @ solutions).square().sum(0)
        numbers[rows.kind] += len(rows.targets)
    numbers[STRESS] = data.n_stress  # six rows stand for the components that are known
    of_kinds = [
        (s / n).sqrt().tolist() if n else [math.nan] * len(s) for s, n in zip(squares, numbers, strict=True)
    ]
    return [Errors(*errors) for errors in zip(*of_kinds, strict=True)]


class Rows(NamedTuple):
    """Rows of the problem whose label is known."""

    kind: int  # ENERGY, per atom; FORCES; STRESS
    matrix: Tensor  # (n_rows, n_weights)
    targets: Tensor  # (n_rows,), what the potential leaves of the labels
    weight: Tensor  # (n_rows,), of the frame

    def known(self) -> Rows:
        """Those with a label."""
        known = ~self.targets.isnan()
        return self if known.all() else Rows(self.kind, *(t[known] for t in self[1:]))


def rows_of(features: LinearFeatures, data: LabeledSet) -> Iterator[Rows]:
    """All rows of energies, a share of those of forces, always the same, and all of stresses, which are few."""
    generator = torch.Generator().manual_seed(0)
    for graph, labels in data.batches:
        graph, labels = graph.to("cpu"), labels.to("cpu")
        predicted = predict(features.potential, graph)
        n_atoms, number = torch.bincount(graph.batch, minlength=graph.n_graphs), within(graph)
        frame = labels.weight if isinstance(labels, Labels) and len(labels.weight) else torch.ones(graph.n_graphs)
        chosen = drawn(3 * int(n_atoms.max()), data.share, generator)
        strains = strains_of(graph) if data.n_stress else []
        matrices = features.rows(graph, chosen, strains)
        left = (labels.energy - predicted.energy) / n_atoms
        yield Rows(ENERGY, next(matrices) / n_atoms[:, None], left, frame).known()
        left = labels.forces - predicted.forces
        for (atom, axis), matrix in zip(chosen, islice(matrices, len(chosen)), strict=True):
            here = torch.nonzero(number == atom)[:, 0]  # structures with fewer atoms have no such row
            its = graph.batch.index_select(0, here)
            yield Rows(FORCES, matrix.index_select(0, its), left[here, axis], frame.index_select(0, its)).known()
        left, volume = labels.stress - predicted.stress, torch.linalg.det(graph.cell).abs()
        unknown = left.isnan().any(dim=(1, 2))
        for strain, matrix in zip(strains, matrices, strict=True):
            along = torch.where(unknown, torch.nan, (strain * left).sum((1, 2)))
            yield Rows(STRESS, matrix / volume[:, None], along, frame).known()


def strains_of(graph: AtomGraph) -> list[Tensor]:
    """Six symmetric strains (n_graphs, 3, 3) whose squared products with a stress sum to Σ_ab σ_ab².

    Of slabs and wires along their periodic directions, see `error_table.in_periodic_axes`.
    """
    onto, out = periodic_directions(graph).double(), []
    for a in range(3):
        for b in range(a, 3):
            one = torch.zeros(3, 3, dtype=torch.float64)
            one[a, b] = one[b, a] = 1.0 if a == b else 0.5**0.5
            out.append(onto @ one @ onto)
    return out


def drawn(n: int, share: float, generator: torch.Generator) -> list[tuple[int, int]]:
    """A share of n directions as atoms and coordinates."""
    chosen = torch.randperm(n, generator=generator)[: max(1, math.ceil(share * n))].sort().values
    return [divmod(k, 3) for k in chosen.tolist()]


@dataclass(frozen=True)
class Candidate:
    """Weights, the strength ρ that gave them, and their validation errors."""

    w: Tensor
    strength: float
    errors: Errors


def choose(before: Candidate, others: list[Candidate], weights: Weights) -> Candidate:
    """The strongest of those that are good enough, or what was before."""

    def loss(candidate: Candidate) -> float:
        pairs = zip(weights, candidate.errors.of_kinds, strict=True)
        return sum(weight * e**2 for weight, e in pairs if not math.isnan(e))

    better = [c for c in others if c.errors.fell(before.errors)]
    least = min((loss(c) for c in better), default=math.nan)
    return next((c for c in better if loss(c) <= SLACK**2 * least), before)
