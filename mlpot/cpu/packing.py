"""Weights as the loops read them: matrices in panels, there and back, and weights of paths as those of nodes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlpot.kernels.simd import compiled


@compiled
def _pack(matrices, rows, columns, sizes, panel, out):
    """Panels of n matrices (n_in, n_out), rows and columns so far apart, with zeros up to whole panels.

    Panels have n_rows rows, those beyond n_in of zeros.
    """
    n, n_in, n_out, wide, n_rows = sizes
    to = 0
    for m in range(n):
        for first in range(0, wide, panel):
            full = max(min(panel, n_out - first), 0)
            for a in range(n_in):
                source = m * n_in * n_out + a * rows + first * columns
                if columns == 1:
                    for c in range(full):
                        out[to + c] = matrices[source + c]
                else:
                    for c in range(full):
                        out[to + c] = matrices[source + c * columns]
                for c in range(full, panel):
                    out[to + c] = 0
                to += panel
            out[to : to + (n_rows - n_in) * panel] = 0
            to += (n_rows - n_in) * panel


def pack_matrices(
    matrices: Tensor, wide: tuple[int, int], panel: int, forth: Tensor, back: Tensor, *, filled: bool
) -> None:
    """Panels of matrices (…, n_in, n_out) and of their transposes, with zeros up to whole panels.

    Args:
        matrices: contiguous, perhaps transposed.
        wide: numbers of a row that comes back, and of one that went through.
        panel: columns of a panel.
        forth: (n_matrices · wide[1] · n_in,), written.
        back: (n_matrices · wide[0] · n_out,), written.
        filled: whether n_in and n_out are those of wide there, with rows of zeros.
    """
    n_in, n_out = matrices.shape[-2:]
    rows, columns = n_out, 1
    if matrices.mT.is_contiguous():
        matrices, rows, columns = matrices.mT, 1, n_in
    flat = matrices.reshape(-1).numpy()
    n = len(flat) // (n_in * n_out)
    in_rows, out_rows = wide if filled else (n_in, n_out)
    _pack(flat, rows, columns, (n, n_in, n_out, wide[1], in_rows), panel, forth.numpy())
    _pack(flat, columns, rows, (n, n_out, n_in, wide[0], out_rows), panel, back.numpy())


@compiled
def _combine(starts, places, factors, x, out):
    """out[z, r] = Σ_k factors[k] x[z, places[k]] for starts[r] ≤ k < starts[r + 1], with zeros beyond x."""
    n = min(x.shape[2], out.shape[2])
    for z in range(len(out)):
        for r in range(out.shape[1]):
            row = out[z, r]
            row[:] = 0
            for k in range(starts[r], starts[r + 1]):
                factor, own = factors[k], x[z, places[k]]
                for c in range(n):
                    row[c] += factor * own[c]


class Combination:
    """A matrix κ (n_rows, n_columns) of which few numbers are not zero, for weights of several elements.

    Args:
        kappa: the matrix.
        dtype: of the weights.
    """

    def __init__(self, kappa: Tensor, dtype: torch.dtype):
        self.dtype, self.shape = dtype, kappa.shape
        self._forth, self._back = self._rows(kappa.numpy()), self._rows(kappa.T.numpy())

    def _rows(
        self, kappa: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        rows, places = np.nonzero(kappa)
        starts = np.searchsorted(rows, np.arange(len(kappa) + 1))
        return starts, places, torch.from_numpy(kappa[rows, places]).to(self.dtype).numpy()

    def forth(self, weights: Tensor, width: int) -> Tensor:
        """κ w for w (n_elements, n_columns, n), with zeros up to so many channels."""
        out = torch.empty(len(weights), self.shape[0], width, dtype=self.dtype, device="cpu")
        _combine(*self._forth, weights.contiguous().numpy(), out.numpy())
        return out

    def back(self, gradient: Tensor, n: int) -> Tensor:
        """κᵀ g for g (n_elements, n_rows, width), of the first n channels."""
        out = torch.empty(len(gradient), self.shape[1], n, dtype=self.dtype, device="cpu")
        _combine(*self._back, gradient.contiguous().numpy(), out.numpy())
        return out
