"""Where the atoms of structures are cut into parts: what a thread serves at once.

The parts do not depend on the number of threads, so that no sum does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FEW, WHOLE = 24, 96  # atoms that are one part in every network, and most atoms that are so in any
LARGE = 360_000  # numbers of all atoms from which a second thread saves more than edges between two parts cost
PART, PARTS = 512, 32  # atoms of two parts, and most parts


class Parts(NamedTuple):
    """What a thread serves at once."""

    ends: Array  # (n_parts + 1,) int64, atoms at which they begin, and the end
    apart: bool  # whether no edge is between two of them, so that threads need not wait for each other


def most_in_one(n_arena: int) -> int:
    """Most atoms of a structure in one part.

    Args:
        n_arena: numbers of an atom in all arrays of the network.
    """
    return min(WHOLE, max(FEW, LARGE // n_arena))


def _n_parts(n_atoms: int, whole: int, part: int = PART) -> int:
    return 1 if n_atoms <= whole else min(PARTS, 2 * -(-n_atoms // part))


def parts_of(row_ptr: Array, whole: int, part: int = PART) -> Array:
    """Where the parts begin: an even number of equal ones, whatever the number of threads and the edges.

    Isolated atoms at the end, which only a training has, change nothing.
    """
    if len(row_ptr) <= whole + 1:
        return np.array([0, len(row_ptr) - 1])
    n_atoms = int(np.searchsorted(row_ptr, row_ptr[-1]))
    n_parts = _n_parts(n_atoms, whole, part)
    ends = n_atoms * np.arange(n_parts + 1) // n_parts
    ends[-1] = len(row_ptr) - 1
    return ends.astype(np.int64)


def parts_of_graphs(row_ptr: Array, batch: Array, n_graphs: int, whole: int) -> Parts:
    """Where the parts begin: between graphs, and within a large one where it would be cut if it were alone.

    Small graphs have two parts together, so that two threads share a batch of a training.

    Args:
        row_ptr: (n_atoms + 1,) where the edges begin of all atoms, and perhaps of isolated atoms behind them.
        batch: (n_atoms,) the graph of each atom but the isolated ones, ascending.
        n_graphs: their number.
        whole: most atoms of one part.
    """
    n_atoms = len(batch)
    if n_graphs == 1:
        return Parts(parts_of(row_ptr, whole), apart=False)
    ends, n_parts = np.searchsorted(batch, np.arange(n_graphs + 1)), max(2, _n_parts(n_atoms, whole))
    wanted = n_atoms * np.arange(n_parts + 1) // n_parts
    cuts = [ends[np.searchsorted(ends, wanted)]]
    large = np.flatnonzero(np.diff(ends) > whole)
    for k in large:
        first, last = ends[k : k + 2]
        cuts.append(first + parts_of(row_ptr[first : last + 1] - row_ptr[first], whole))
    parts = np.unique(np.concatenate(cuts))
    parts[-1] = len(row_ptr) - 1
    return Parts(parts, apart=len(large) == 0)


def parts_of_process(row_ptr: Array, n_own: int, whole: int) -> tuple[Array, int]:
    """Where the parts begin of own atoms, which come first, and of ghosts; how many are of own ones.

    Processes have few threads each, and the fewer parts, the fewer edges between them.
    """
    own = np.unique(parts_of(row_ptr[: n_own + 1], whole, 2 * PART))
    ghosts = n_own + parts_of(row_ptr[n_own:] - row_ptr[n_own], whole)
    return np.unique(np.concatenate([own, ghosts])), len(own) - 1
