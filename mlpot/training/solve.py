"""The closing solve: after training, the weights in which the energy is linear are found by least squares.

    E = E_trained + Σ_i s(Z_i) Σ_k w_k(Z_i) B_ik          B the products of a network's arrays, see `StagedNetwork`
    minimize  Σ_q λ_q Σ (label − prediction)² + ρ Σ_k (D_k w_k)²,    D² the diagonal of the normal matrix

Forces are −∂E/∂r, so a row of the problem is a tangent of the products along one coordinate of one atom, and every
structure of a batch has one at once. The strength ρ is the largest whose validation error is within 5 % of the
least: weaker ones fit no better, and worse away from the training structures. Nothing is kept unless the errors of
the validation set fall. The matrix is one of weights, so memory does not depend on the size of the set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlpot.array_tangents import along
from mlpot.forces import predict
from mlpot.graph import AtomGraph, Edges, Properties
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork
from mlpot.stages.products import Product, Products
from mlpot.stages.run import Program, Step, forward
from mlpot.stages.stage import Environments

Batch = tuple[AtomGraph, Properties]
STRENGTHS = tuple(10.0**-k for k in range(1, 7))  # below 1e-6 float32 loses what the solve gains
SLACK = 1.05
MOST_WEIGHTS = 12_000  # a matrix of 1.2 GB
MOST_ROWS = 60_000  # of forces; more are drawn from


@dataclass(frozen=True)
class Errors:
    """Root mean square errors."""

    energy: float  # eV/atom; NaN without labels
    forces: float  # eV/Å; NaN without labels

    def fell(self, before: Errors) -> bool:
        """Whether neither rose and one fell."""
        pairs = [(self.energy, before.energy), (self.forces, before.forces)]
        known = [(a, b) for a, b in pairs if not math.isnan(b)]
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


@dataclass
class Sums:
    """Sums over rows a with target t of one quantity: Σ a aᵀ, Σ a t, Σ t² and their number."""

    matrix: Tensor
    vector: Tensor
    square: float = 0.0
    n: int = 0

    @classmethod
    def zero(cls, n_weights: int) -> Sums:
        """No rows yet."""
        return cls(torch.zeros(n_weights, n_weights).double(), torch.zeros(n_weights).double())

    def add(self, rows: Tensor, target: Tensor) -> None:
        """Rows (n, n_weights) and their targets (n,)."""
        known = ~target.isnan()
        rows, target = rows[known], target[known]
        self.matrix.addmm_(rows.T, rows)
        self.vector += rows.T @ target
        self.square += float(target @ target)
        self.n += len(target)

    def error(self, w: Tensor) -> float:
        """Root mean square of what is left with weights w."""
        if self.n == 0:
            return math.nan
        left = self.square - 2 * float(self.vector @ w) + float(w @ (self.matrix @ w))
        return math.sqrt(max(left, 0.0) / self.n)


class Features:
    """The products B of a potential, and their tangents.

    Args:
        potential: float64; not changed.
        network: its backbone.
    """

    def __init__(self, potential: Potential, network: StagedNetwork):
        self.potential, self.network = potential, network
        self.sizes = {f"{name} products": network.linear_weight(name).shape[1:] for name in network.linear}
        self.n = len(network.elements) * sum(size.numel() for size in self.sizes.values())
        products = [
            Step(Products(tuple(Product(t.factors, t.path, 0, t.value) for t in terms)), name, f"{name} products")
            for name, terms in network.linear.items()
        ]
        self.program = Program([*network.program().steps, *products])
        self.isolated = self._of_isolated_atoms()

    def _of_isolated_atoms(self) -> dict[str, Tensor]:
        """B of an atom of each element without neighbors, which the potential takes off."""
        n = len(self.network.elements)
        none = torch.zeros(0, dtype=torch.int64)
        edges = Edges(none, none, torch.zeros(n + 1, dtype=torch.int64), none)
        at = Environments(torch.arange(n), edges, torch.zeros(0, 3, dtype=torch.float64))
        arrays = forward(self.program, at)
        return {name: arrays[name] for name in self.sizes}

    def rows(self, graph: AtomGraph, directions: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """∂E/∂w of each structure (n_graphs, n), and then −∂/∂r of it along each direction in turn.

        A direction is an atom, counted within its structure, and a coordinate.
        """
        element = self.network.element_index.index_select(0, graph.numbers)
        motions = (_motion(graph, within(graph) == atom, axis) for atom, axis in directions)
        arrays = along(self.network, self.program, graph, list(self.sizes), motions)
        values = next(arrays)
        yield self._summed(
            graph, {name: b - self.isolated[name].index_select(0, element) for name, b in values.items()}
        )
        for dots in arrays:
            yield -self._summed(graph, dots)

    def _summed(self, graph: AtomGraph, products: dict[str, Tensor]) -> Tensor:
        """Σ over the atoms of each element, s(Z) times products (n_atoms, n_paths, n_channels)."""
        kind = self.potential.element_index.index_select(0, graph.numbers)
        n, scale = len(self.potential.elements), self.potential.energy_scale.index_select(0, kind)
        parts = []
        for values in products.values():
            sums = values.new_zeros(graph.n_graphs * n, *values.shape[1:])
            sums = sums.index_add(0, graph.batch * n + kind, values * scale[:, None, None])
            parts.append(sums.view(graph.n_graphs, -1))
        return torch.cat(parts, 1)

    def write(self, network: StagedNetwork, w: Tensor) -> None:
        """Add weights (n,) to those of a network."""
        for name in network.linear:
            own = network.linear_weight(name)
            part, w = w[: own.numel()], w[own.numel() :]
            own += part.view(own.shape).to(own)


def _motion(graph: AtomGraph, moved: Tensor, axis: int) -> Tensor:
    motion = torch.zeros_like(graph.positions)
    motion[:, axis] = moved.double()
    return motion


def within(graph: AtomGraph) -> Tensor:
    """The number of each atom within its structure, (n_atoms,)."""
    n = torch.bincount(graph.batch, minlength=graph.n_graphs)
    first = torch.cat([n.new_zeros(1), n.cumsum(0)[:-1]])
    return torch.arange(graph.n_atoms) - first.index_select(0, graph.batch)


def closing_solve(
    potential: Potential,
    train: Iterable[Batch],
    validation: Iterable[Batch],
    *,
    energy_weight: float,
    forces_weight: float,
    n_force_labels: int,
) -> Solved:
    """Solve for the linear weights of a trained potential, and keep them if the validation errors fall.

    Args:
        potential: trained, in any precision, on the CPU; its linear weights change if the solve is accepted.
        train: all batches of the training set, in an order that is always the same.
        validation: those of the validation set.
        energy_weight: of the loss, for squares of energies per atom.
        forces_weight: of the loss, for squares of force components.
        n_force_labels: of the training set; the rows of forces are drawn if there are more than `MOST_ROWS`.
    """
    exact = copy.deepcopy(potential).double().eval()
    network = exact.backbone
    unknown = Errors(math.nan, math.nan)
    if not isinstance(network, StagedNetwork) or not network.linear:
        return Solved(False, 0, 0, math.nan, unknown, unknown)
    with torch.no_grad():
        features = Features(exact, network)
        if features.n > MOST_WEIGHTS:
            return Solved(False, features.n, 0, math.nan, unknown, unknown)
        of_train = accumulate(features, train, min(1.0, MOST_ROWS / max(1, n_force_labels)))
        of_validation = accumulate(features, validation, 1.0)
    weights = (energy_weight, forces_weight)
    before, *others = (
        Candidate(w, strength, Errors(*(sums.error(w) for sums in of_validation)))
        for w, strength in [(torch.zeros(features.n).double(), math.nan), *solutions(of_train, weights)]
    )
    best = choose(before, others, weights)
    if best is not before:
        with torch.no_grad():
            features.write(potential.backbone, best.w)  # type: ignore[arg-type]
    n_rows = of_train[1].n
    return Solved(best is not before, features.n, n_rows, best.strength, before.errors, best.errors)


@dataclass(frozen=True)
class Candidate:
    """Weights, the strength ρ that gave them, and their validation errors."""

    w: Tensor
    strength: float
    errors: Errors


def choose(before: Candidate, others: list[Candidate], weights: tuple[float, float]) -> Candidate:
    """The strongest of those that are good enough, or what was before."""

    def loss(candidate: Candidate) -> float:
        pairs = zip(weights, (candidate.errors.energy, candidate.errors.forces), strict=True)
        return sum(weight * e**2 for weight, e in pairs if not math.isnan(e))

    better = [c for c in others if c.errors.fell(before.errors)]
    least = min((loss(c) for c in better), default=math.nan)
    return next((c for c in better if loss(c) <= SLACK**2 * least), before)


def accumulate(features: Features, batches: Iterable[Batch], share: float) -> tuple[Sums, Sums]:
    """Sums of energies per atom and of forces, with so large a share of the rows of forces."""
    of_energy, of_forces = Sums.zero(features.n), Sums.zero(features.n)
    generator = torch.Generator().manual_seed(0)
    for graph, labels in batches:
        predicted = predict(features.potential, graph)
        n_atoms = torch.bincount(graph.batch, minlength=graph.n_graphs)
        chosen = drawn(3 * int(n_atoms.max()), share, generator)
        number, left = within(graph), labels.forces - predicted.forces
        rows = features.rows(graph, chosen)
        of_energy.add(next(rows) / n_atoms[:, None], (labels.energy - predicted.energy) / n_atoms)
        kept, targets = [], []
        for (atom, axis), row in zip(chosen, rows, strict=True):
            here = number == atom
            kept.append(row.index_select(0, graph.batch[here]))
            targets.append(left[here, axis])
            if sum(map(len, kept)) > 2000:
                of_forces.add(torch.cat(kept), torch.cat(targets))
                kept, targets = [], []
        if kept:
            of_forces.add(torch.cat(kept), torch.cat(targets))
    return of_energy, of_forces


def drawn(n: int, share: float, generator: torch.Generator) -> list[tuple[int, int]]:
    """A share of n directions as atoms and coordinates."""
    chosen = torch.randperm(n, generator=generator)[: max(1, math.ceil(share * n))].sort().values
    return [divmod(k, 3) for k in chosen.tolist()]


def solutions(train: tuple[Sums, Sums], weights: tuple[float, float]) -> Iterator[tuple[Tensor, float]]:
    """The weights for each strength, strongest first."""
    scale = [weight / max(1, sums.n) for weight, sums in zip(weights, train, strict=True)]
    matrix = scale[0] * train[0].matrix + scale[1] * train[1].matrix
    vector = scale[0] * train[0].vector + scale[1] * train[1].vector
    diagonal = matrix.diagonal().sqrt()
    used = diagonal > 1e-12 * diagonal.max().clamp(min=1e-300)  # an element without structures has no rows
    inverse = torch.where(used, 1 / torch.where(used, diagonal, 1.0), 0.0)
    matrix *= inverse[:, None] * inverse
    for strength in STRENGTHS:
        shifted = matrix.clone()
        shifted.diagonal().add_(strength)
        factor = torch.linalg.cholesky(shifted)
        yield torch.cholesky_solve((vector * inverse)[:, None], factor)[:, 0] * inverse, strength
