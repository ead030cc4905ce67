"""Messages of tensors: what a neighbor has couples with harmonics, each path to a sum of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from mlpot.stages.coupling import couplings
from mlpot.stages.neighbor_sum import Term


class Path(NamedTuple):
    """A coupling of a message: degrees of what the neighbor has, of the harmonic, and of the sum."""

    source: int
    harmonic: int
    target: int


def per_path(paths: Sequence[Path], read: Sequence[int]) -> tuple[tuple[Term, ...], tuple[int, ...]]:
    """Terms of the sum over neighbors, and the first component of each path's sum: they stand side by side.

    Args:
        paths: in the order of the radial functions and of the sums.
        read: of each path, first component of the tensor that the neighbor has.
    """
    return _per_path(tuple(paths), tuple(read))


@cache
def _per_path(paths: tuple[Path, ...], read: tuple[int, ...]) -> tuple[tuple[Term, ...], tuple[int, ...]]:
    first = tuple(accumulate((2 * path.target + 1 for path in paths[:-1]), initial=0))
    terms = (
        Term(k, path.harmonic**2 + c.m2, read[k] + c.m1, first[k] + c.m, c.value)
        for k, path in enumerate(paths)
        for c in couplings(*path)
    )
    return tuple(terms), first
