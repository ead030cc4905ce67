"""Sums over edges and gathers from atoms: the one place where edges meet atoms.

Plain PyTorch by default. torch-scatter can be chosen with `use_torch_scatter()`; only its `scatter_sum` is
used, because its `segment_csr` has no correct second derivative (pytorch_scatter #299) and would train on
wrong forces without a word. On hot paths `index_select` is several times faster than `x[index]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mlpot.graph import Edges


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (n_atoms, ...) for each edge: (n_edges, ...)."""
    return x.index_select(0, index)


def sum_at_centers(values: Tensor, edges: Edges) -> Tensor:
    """Σ over the edges of each center: (n_edges, ...) -> (n_atoms, ...), zero for an atom without edges."""
    return _sum(values, edges.center, edges.n_atoms)


def _index_add(values: Tensor, index: Tensor, n_rows: int) -> Tensor:
    return values.new_zeros((n_rows, *values.shape[1:])).index_add(0, index, values)


_sum: Callable[[Tensor, Tensor, int], Tensor] = _index_add


@contextmanager
def use_torch_scatter() -> Iterator[None]:
    """Within the block, sum with torch-scatter's scatter_sum.

    Raises:
        ModuleNotFoundError: torch-scatter is not installed.
    """
    global _sum
    try:
        from torch_scatter import scatter_sum
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "torch-scatter is not installed. Install it with `pip install --no-build-isolation torch-scatter`, "
            "or do without: mlpot sums with PyTorch's index_add by default, with equal results."
        ) from error
    before = _sum
    _sum = lambda values, index, n_rows: scatter_sum(values, index, dim=0, dim_size=n_rows)  # noqa: E731
    try:
        yield
    finally:
        _sum = before


def pairs(edges: Edges) -> tuple[Tensor, Tensor]:
    """Each two opposite edges as one pair, so that what depends on distance alone is computed once for both.

    Returns:
        first: (n_pairs,) one edge of each pair. pair: (n_edges,) the pair of each edge.
    """
    index = torch.arange(len(edges), device=edges.reverse.device)
    is_first = edges.reverse > index
    pair = is_first.cumsum(0) - 1
    return index[is_first], torch.where(is_first, pair, pair.index_select(0, edges.reverse))


def distances(vectors: Tensor) -> Tensor:
    """Lengths (n_edges,) of edge vectors; never zero, because a list refuses coincident atoms."""
    return torch.linalg.vector_norm(vectors, dim=-1)
