"""Matrices as the loops read them: panels of columns, for rows that go through and for those that come back."""

from __future__ import annotations

from torch import Tensor

from mlpot.kernels.simd import compiled


@compiled
def _pack(matrices, rows, columns, sizes, panel, out):
    """Panels of n matrices (n_in, n_out), rows and columns so far apart, with zeros up to whole panels."""
    n, n_in, n_out, wide = sizes
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


def pack_matrices(matrices: Tensor, wide_in: int, wide_out: int, panel: int, forth: Tensor, back: Tensor) -> None:
    """Panels of matrices (…, n_in, n_out) and of their transposes, with zeros up to whole panels.

    Args:
        matrices: contiguous, perhaps transposed.
        wide_in: numbers of a row that comes back.
        wide_out: numbers of a row that went through.
        panel: columns of a panel.
        forth: (n_matrices · wide_out · n_in,), written.
        back: (n_matrices · wide_in · n_out,), written.
    """
    n_in, n_out = matrices.shape[-2:]
    rows, columns = n_out, 1
    if matrices.mT.is_contiguous():
        matrices, rows, columns = matrices.mT, 1, n_in
    flat = matrices.reshape(-1).numpy()
    n = len(flat) // (n_in * n_out)
    _pack(flat, rows, columns, (n, n_in, n_out, wide_out), panel, forth.numpy())
    _pack(flat, columns, rows, (n, n_out, n_in, wide_in), panel, back.numpy())
