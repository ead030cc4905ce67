"""Does the cutoff reach from an atom to its neighbors? Without, only the elements are learned."""

from __future__ import annotations

from collections.abc import Iterable

from mlpot.data.frame import Frame
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.training.messages import Messages

FARTHEST = 64.0
"""Å, in which a nearest neighbor is looked for."""
MOST = 100
"""Structures that are looked at, evenly spread."""


def warn_of_reach(frames: Iterable[Frame], cutoff: float, tell: Messages) -> None:
    """Warn if no two atoms are closer than the cutoff in half of the structures, with the nearest distance.

    Fewer may be meant: molecules that fall apart.

    Args:
        frames: of the training, or some of them; one atom without periods needs no neighbor.
        cutoff: Å.
        tell: what gives the warning.
    """
    able = [frame for frame in frames if len(frame.numbers) > 1 or frame.pbc.any()]
    able = able[:: -(-len(able) // MOST)] if able else []
    blind = [frame for frame in able if nearest_distance(frame, cutoff) is None]
    if 2 * len(blind) < max(len(able), 1):
        return
    found = [d for frame in blind if (d := nearest_distance(frame, FARTHEST)) is not None]
    distance = f"their nearest atoms are {min(found):.3g} Å apart" if found else "their atoms are far apart"
    which = "In all" if len(blind) == len(able) else f"In {len(blind)} of {len(able)}"
    tell.warn(
        f"{which} structures that were looked at, no atom has a neighbor within the cutoff of {cutoff:g} Å; "
        f"{distance}. Of these, nothing but the elements is learned, and forces are zero. Set "
        "model.arguments.cutoff to two or three times the nearest distance, or correct the unit of the positions."
    )


def nearest_distance(frame: Frame, cutoff: float) -> float | None:
    """The shortest distance between two atoms or their images, Å; None if it is beyond the cutoff.

    Zero of a structure that cannot be, such as two atoms in one place.
    """
    reach = min(cutoff, 4.0)
    while True:
        try:
            graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, reach)
        except ValueError:  # of an impossible structure, which the training refuses with its place
            return 0.0
        if len(graph.edges):
            return float(edge_vectors(graph).norm(dim=1).min())
        if reach >= cutoff:
            return None
        reach = min(2 * reach, cutoff)
