"""Whether frames of the same structure in several sources have the same energies, forces and stresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Frame
from mlpot.data.sources.read import Source

Place = tuple[int, int]
"""Number of a source and of a frame in it."""
ENERGY_DIFFERS = 2e-3  # eV
FORCE_DIFFERS, STRESS_DIFFERS = 1e-2, 1e-4  # eV/Å, eV/Å³: positions are equal to 1e-4 Å alone
PART_DIFFERS = 1e-3  # of the largest force or stress, beside these


@dataclass(frozen=True)
class _Labels:
    """Of one frame; NaN where there is none."""

    energy: float  # eV
    forces: NDArray[np.float32]  # (n_atoms, 3) eV/Å
    stress: NDArray[np.float32]  # (3, 3) eV/Å³


@dataclass(frozen=True)
class Difference:
    """Of the labels of two frames, in words; empty where there is none."""

    of_both: str = ""  # labels that both have
    of_second: str = ""  # labels that the second alone has


def label_differences(sources: Sequence[Source], pairs: Sequence[tuple[Place, Place]]) -> list[Difference]:
    """What differs in the labels of each two frames.

    Args:
        sources: of the frames, each read once.
        pairs: of frames of one structure, the first of an earlier source than the second.
    """
    earlier = {first for first, _ in pairs}
    later = {second: k for k, (_, second) in enumerate(pairs)}
    found, kept = [Difference()] * len(pairs), dict[Place, _Labels]()
    needed = {source for pair in pairs for source, _ in pair}
    for s in sorted(needed):
        for k, frame in sources[s].records():
            place = (s, k)
            if place in later:
                found[later[place]] = _difference(kept[pairs[later[place]][0]], _labels(frame))
            if place in earlier:
                kept[place] = _labels(frame)
    return found


def _labels(frame: Frame) -> _Labels:
    return _Labels(frame.energy, frame.forces.astype(np.float32), frame.stress.astype(np.float32))


def _difference(a: _Labels, b: _Labels) -> Difference:
    alone = [
        name
        for name, x, y in (
            ("energy", a.energy, b.energy),
            ("forces", a.forces, b.forces),
            ("stress", a.stress, b.stress),
        )
        if np.isfinite(y).any() and not np.isfinite(x).any()
    ]
    return Difference(_of_both(a, b), " and ".join(alone))


def _of_both(a: _Labels, b: _Labels) -> str:
    if abs(a.energy - b.energy) >= ENERGY_DIFFERS:
        return f"{a.energy:.4f} and {b.energy:.4f} eV"
    forces = _apart(a.forces, b.forces, FORCE_DIFFERS)
    if forces:
        return f"forces that differ by up to {forces:.3g} eV/Å"
    stress = _apart(a.stress, b.stress, STRESS_DIFFERS)
    return f"stresses that differ by up to {stress:.3g} eV/Å³" if stress else ""


def _apart(a: NDArray[np.float32], b: NDArray[np.float32], least: float) -> float:
    """The largest difference of components that both have, 0 where it is rounding."""
    apart = np.abs(a - b)
    known = np.isfinite(apart)
    worst = float(apart[known].max(initial=0.0))
    return worst if worst > least + PART_DIFFERS * float(np.abs(a[known]).max(initial=0.0)) else 0.0
