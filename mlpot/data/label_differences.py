"""Whether frames of the same structure, in one source or several, have the same energies, forces and stresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpot.data.check.geometry import by_element, surroundings
from mlpot.data.check.stream import Floats
from mlpot.data.frame import Frame
from mlpot.data.sources.read import Source

Place = tuple[int, int]
"""Number of a source and of a frame in it."""
ENERGY_DIFFERS = 2e-3  # eV
FORCE_DIFFERS, STRESS_DIFFERS = 1e-2, 1e-4  # eV/Å, eV/Å³: positions are equal to 1e-4 Å alone
PART_DIFFERS = 1e-3  # of the largest force or stress, beside these
SURROUNDED = 0.02  # of `surroundings`, where places are equal to 1e-4 Å; another neighbor changes them by 0.1


@dataclass(frozen=True)
class _Labels:
    """Of one frame; NaN where there is none."""

    energy: float  # eV
    forces: NDArray[np.float32]  # (n_atoms, 3) eV/Å, or (n_atoms, 1)
    stress: NDArray[np.float32]  # (3, 3) eV/Å³, or (3,)


@dataclass(frozen=True)
class Difference:
    """Of the labels of two frames, in words; empty where there is none."""

    of_both: str = ""  # labels that both have
    of_second: str = ""  # labels that the second alone has


def label_differences(sources: Sequence[Source], pairs: Sequence[tuple[Place, Place]]) -> list[Difference]:
    """What differs in the labels of each two frames.

    Args:
        sources: of the frames, each read once, up to the last that is needed.
        pairs: of frames of one structure, the first before the second, and no frame the second of two.
    """
    earlier = {first for first, _ in pairs}
    later = {second: k for k, (_, second) in enumerate(pairs)}
    found, kept = [Difference()] * len(pairs), dict[Place, _Labels]()
    last: dict[int, int] = {}
    for s, k in (place for pair in pairs for place in pair):
        last[s] = max(k, last.get(s, k))
    for s in sorted(last):
        for k, frame in sources[s].records():
            place = (s, k)
            if place in later:
                found[later[place]] = _difference(kept[pairs[later[place]][0]], _labels(frame))
            if place in earlier:
                kept[place] = _labels(frame)
            if k >= last[s]:
                break
    return found


def moved_differences(source: Source, pairs: Sequence[tuple[int, int]]) -> list[Difference | None]:
    """What differs in the labels of each two frames of one structure, turned or with atoms in another order.

    What turning leaves as it is can be compared: the energy, how strong the forces on the atoms of an element are,
    and the principal stresses.

    Args:
        source: of the frames, read once, up to the last that is needed.
        pairs: of frames that seem alike, the first before the second, and no frame the second of two.

    Returns:
        None where atoms of the two frames have other neighbors, so that they are two structures.
    """
    earlier, later = {first for first, _ in pairs}, {second: k for k, (_, second) in enumerate(pairs)}
    found, kept = list[Difference | None]([None] * len(pairs)), dict[int, tuple[Floats, _Labels]]()
    last = max(later, default=-1)
    for k, frame in source.records() if pairs else ():
        mine = _as_it_is(frame) if k in earlier or k in later else None
        theirs = kept.get(pairs[later[k]][0]) if k in later else None
        if mine and theirs and np.allclose(theirs[0], mine[0], rtol=1e-3, atol=SURROUNDED):
            found[later[k]] = _difference(theirs[1], mine[1])
        if mine is not None and k in earlier:
            kept[k] = mine
        if k >= last:
            break
    return found


def _as_it_is(frame: Frame) -> tuple[Floats, _Labels] | None:
    """What no turning changes; None of atoms in one place, which are a finding of their own."""
    try:
        return surroundings(frame), _without_direction(frame)
    except ValueError:
        return None


def _without_direction(frame: Frame) -> _Labels:
    """The energy, the sizes of the forces on the atoms of each element in their order, the principal stresses."""
    sizes = by_element(frame.numbers, np.linalg.norm(frame.forces, axis=1, keepdims=True))
    known = np.isfinite(frame.stress).all()
    stress = np.linalg.eigvalsh(frame.stress) if known else np.full(3, np.nan)
    return _Labels(frame.energy, sizes.astype(np.float32), stress.astype(np.float32))


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
