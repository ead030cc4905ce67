"""Linear least squares from rows that come a few at a time: the memory is that of one matrix of the weights.

    minimize  Σ_k (a_k · w − t_k)² + ρ Σ_i (D_i w_i)²        D_i² = Σ_k a_ki²

solved by (Σ a aᵀ + ρ D²) w = Σ a t. The normal matrix squares the condition number of the rows, which the ridge
bounds by n/ρ: float64 has digits enough for ρ of 1e-6 and more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

ROWS = 2048  # that go into the matrix together: it is far larger than any cache
COLUMNS = 512  # of a strip of the matrix, of which only what is on or above the diagonal is computed


class NormalEquations:
    """Σ a aᵀ and Σ a t, in float64.

    Args:
        n: number of the weights.
    """

    def __init__(self, n: int):
        self.matrix = torch.zeros(n, n, dtype=torch.float64)  # on and above the diagonal
        self.vector = torch.zeros(n, dtype=torch.float64)
        self.n_rows = 0
        self._rows = torch.empty(min(ROWS, 4 * n), n, dtype=torch.float64)
        self._targets = torch.empty(len(self._rows), dtype=torch.float64)
        self._n_waiting = 0

    def add(self, rows: Tensor, targets: Tensor) -> None:
        """Rows (n_rows, n) and their targets (n_rows,); those without a known target are left out."""
        known = ~targets.isnan()
        if not known.all():
            rows, targets = rows[known], targets[known]
        self.n_rows += len(rows)
        while len(rows):
            first = self._n_waiting
            n = min(len(rows), len(self._rows) - first)
            self._rows[first : first + n] = rows[:n]
            self._targets[first : first + n] = targets[:n]
            self._n_waiting += n
            rows, targets = rows[n:], targets[n:]
            if self._n_waiting == len(self._rows):
                self._flush()

    def _flush(self) -> None:
        rows, targets = self._rows[: self._n_waiting], self._targets[: self._n_waiting]
        self._n_waiting = 0
        if len(rows) == 0:
            return
        self.vector += rows.T @ targets
        for first in range(0, len(self.vector), COLUMNS):
            own = slice(first, first + COLUMNS)
            self.matrix[own, first:].addmm_(rows[:, own].T, rows[:, first:])

    def solutions(self, strengths: Sequence[float]) -> Iterator[Tensor]:
        """Weights (n,) for each ρ; zero where all rows are. No more rows can be added."""
        self._flush()
        diagonal = self.matrix.diagonal().sqrt()
        used = diagonal > 1e-12 * diagonal.max().clamp(min=1e-300)  # an element without structures has no rows
        inverse = torch.where(used, 1 / torch.where(used, diagonal, 1.0), 0.0)
        self.matrix *= inverse[:, None]
        self.matrix *= inverse
        right = (self.vector * inverse)[:, None]
        factor = torch.empty_like(self.matrix)
        for strength in strengths:
            factor.copy_(self.matrix)
            factor.diagonal().add_(strength)
            torch.linalg.cholesky(factor, upper=True, out=factor)
            yield torch.cholesky_solve(right, factor, upper=True)[:, 0] * inverse
