"""Tell cells and positions that are in two units, as a cell in bohr around positions in Å.

Each such mistake is undone in turn. It is believed where that parts atoms which overlapped as the file has them,
or where a linear potential explains the forces clearly better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from ase.data import covalent_radii

from mlpot.data.check.finding import Finding, finding
from mlpot.data.check.geometry import NOBLE
from mlpot.data.check.linear import Basis, fit
from mlpot.data.check.tally import Tally
from mlpot.data.frame import Frame
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph
from mlpot.units import LENGTH

MOST = 60  # frames that are looked at
REACH = 4.0  # Å
OVERLAP, APART = 0.45, 0.6  # sums of covalent radii: atoms on one another, and those that are not
BOND = (0.7, 1.6)  # sums of covalent radii between nearest atoms, in the middle
DENSE = 2.0  # Å³ an atom, less than of any structure
SHORT = 1.0  # Å, of a period
SPARSE = 8.0  # Å, see `_share`
BETTER, EXPLAINED = 0.4, 0.6  # part of the forces left unexplained, beside as they are; part explained
FRACTIONS = "fractions"


@dataclass(frozen=True)
class Mistake:
    """What the numbers really are, and how that is said."""

    positions: str
    cell: str

    def undone(self, frame: Frame) -> Frame:
        """The frame in Å."""
        if self.positions == FRACTIONS:
            return replace(frame, positions=frame.positions @ frame.cell)
        return replace(
            frame, positions=frame.positions * LENGTH[self.positions], cell=frame.cell * LENGTH[self.cell]
        )

    @property
    def told(self) -> str:
        """In words."""
        if self.positions == FRACTIONS:
            return "positions are fractions of the cell, not Cartesian"
        if self.positions == self.cell:
            return f"positions and cell are in {self.cell}, not in angstrom"
        names = (("the cell", self.cell), ("positions", self.positions))
        (wrong, unit), (right, _) = sorted(names, key=lambda name: name[1] == "angstrom")
        verb = ("is" if wrong == "the cell" else "are", "is" if right == "the cell" else "are")
        return f"{wrong} {verb[0]} in {unit}, but {right} {verb[1]} in angstrom"

    @property
    def fix(self) -> str | None:
        """What `--correct` mends it, if it does."""
        if self.positions == FRACTIONS:
            return None
        named = (("positions", self.positions), ("cell", self.cell))
        return ";".join(f"{name}={unit}" for name, unit in named if unit != "angstrom")


MISTAKES = [
    Mistake(FRACTIONS, "angstrom"),
    *(Mistake("angstrom", unit) for unit in LENGTH if unit != "angstrom"),
    *(Mistake(unit, "angstrom") for unit in LENGTH if unit != "angstrom"),
    *(Mistake(unit, unit) for unit in LENGTH if unit != "angstrom"),
]


def cells(tally: Tally) -> Iterator[Finding]:
    """At most one finding: that cells and positions of all frames, or of some, are in two units."""
    sample = [(k, f) for k, f in tally.numbered_sample() if f.pbc.any() and len(f.numbers) > 1]
    sample = [sample[k] for k in np.unique(np.linspace(0, len(sample) - 1, min(MOST, len(sample))).astype(int))]
    if not sample:
        return
    frames = [frame for _, frame in sample]
    spacing = [_spacing(frame) for frame in frames]
    overlapping = np.array([least < OVERLAP for least, _ in spacing])
    undone = {mistake: _possible(mistake, frames, overlapping) for mistake in MISTAKES}
    mistake, why = _by_overlap(undone, overlapping)
    if mistake is None:
        mistake, why = _by_forces(undone, frames, spacing)
    if mistake is None:
        return
    mine = np.array([k for (k, _), there in zip(sample, undone[mistake], strict=True) if there is not None])
    if all(there is not None for there in undone[mistake]):
        fix = mistake.fix
        message = f"{mistake.told[0].upper()}{mistake.told[1:]}: {why}."
        if fix is None:
            message += " Write Cartesian positions in Å: fractions @ cell."
        yield finding("cell and positions", "error", message, mine, fix=fix)
        return
    message = (
        f"In {len(mine)} of {len(sample)} sampled periodic structures {mistake.told}: {why}. Convert their source "
        "by itself, and merge it then."
    )
    if mistake.fix:
        options = " ".join(f"--correct {part}" for part in mistake.fix.split(";"))
        message = message.replace("by itself", f"by itself with {options}")
    yield finding("cell and positions", "error", message, mine)


def _possible(mistake: Mistake, frames: list[Frame], overlapping: np.ndarray) -> list[Frame | None]:
    """The frames as they would be; None where that is no structure, or makes none of one that is fine."""
    found: list[Frame | None] = []
    for frame, overlaps in zip(frames, overlapping, strict=True):
        grows = LENGTH[mistake.cell] > 1 or (mistake.positions == FRACTIONS)
        there = None
        if overlaps or not grows:
            other = mistake.undone(frame)
            least, middle = _spacing(other)
            fits = least > APART and BOND[0] < middle < BOND[1] and _share(other) < SPARSE
            there = other if fits else None
        found.append(there)
    return found


def _share(frame: Frame) -> float:
    """Å, the period that an atom has for itself: in a larger cell, whatever overlaps stands apart."""
    periods = frame.cell[frame.pbc]
    return float(np.sqrt(abs(np.linalg.det(periods @ periods.T))) / len(frame.numbers)) ** (1 / len(periods))


def _spacing(frame: Frame) -> tuple[float, float]:
    """The least distance, and the median over atoms of the nearest, in sums of covalent radii."""
    periods = np.linalg.norm(frame.cell[frame.pbc], axis=1)
    if periods.min() < SHORT:
        return 0.0, 0.0
    if frame.pbc.all() and abs(np.linalg.det(frame.cell)) < DENSE * len(frame.numbers):
        return 0.0, 0.0
    try:
        graph = build_graph(frame.numbers, frame.positions, frame.cell, frame.pbc, REACH)
    except ValueError:  # two atoms in one place, too many of them, or a cell that is none
        return 0.0, 0.0
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    zi, zj = frame.numbers[center], frame.numbers[neighbor]
    r = np.linalg.norm(edge_vectors(graph).numpy(), axis=1) / (covalent_radii[zi] + covalent_radii[zj])
    r = r[~(NOBLE[zi] | NOBLE[zj])]
    nearest = np.full(len(frame.numbers), np.inf)
    np.minimum.at(nearest, center[~(NOBLE[zi] | NOBLE[zj])], r)
    return float(r.min(initial=np.inf)), float(np.median(nearest))


def _by_overlap(undone: dict[Mistake, list[Frame | None]], overlapping: np.ndarray) -> tuple[Mistake | None, str]:
    """The mistake that parts overlapping atoms in most frames."""
    n = int(overlapping.sum())
    if n < max(2, 0.02 * len(overlapping)):
        return None, ""
    parted = {
        mistake: sum(f is not None and bool(o) for f, o in zip(there, overlapping, strict=True))
        for mistake, there in undone.items()
    }
    best = max(parted, key=lambda mistake: parted[mistake])
    if parted[best] < 0.9 * n:
        return None, ""
    for k in np.flatnonzero(~overlapping):  # whole again are those alone that overlapped, unless all are
        if parted[best] < 0.5 * len(overlapping):
            undone[best][k] = None
    return best, "atoms overlap as they stand, and stand a bond apart then"


def _by_forces(
    undone: dict[Mistake, list[Frame | None]], frames: list[Frame], spacing: list[tuple[float, float]]
) -> tuple[Mistake | None, str]:
    """The mistake without which a linear potential explains forces clearly better."""
    usable = [
        k for k, (f, (least, _)) in enumerate(zip(frames, spacing, strict=True))
        if np.isfinite(f.forces).all() and np.isfinite(f.energy) and least > OVERLAP
    ]  # fmt: skip
    likely = {m: there for m, there in undone.items() if sum(there[k] is not None for k in usable) > 1}
    if not likely:
        return None, ""
    as_they_are = _left([frames[k] for k in usable])
    left = {m: _left([there[k] or frames[k] for k in usable]) for m, there in likely.items()}
    best = min(left, key=lambda m: left[m])
    if not (left[best] < BETTER * as_they_are and left[best] < 1 - EXPLAINED):
        return None, ""
    return (
        best,
        f"a potential explains {1 - left[best]:.0%} of the forces then, and {1 - as_they_are:.0%} as they stand",
    )


def _left(frames: list[Frame]) -> float:
    """The part of the forces that a linear potential of its own leaves; 1 where none can be fitted."""
    elements = sorted({int(z) for f in frames for z in f.numbers})
    nearest = float(np.mean([2 * covalent_radii[z] for z in elements])) if elements else 1.0
    n = 3 * sum(len(f.numbers) for f in frames)
    for n_moment in (2, 1):
        basis = Basis(elements, nearest, n_moment)
        if n >= 3 * basis.size:
            found = fit(frames, basis)
            return 1.0 if found is None else 1 - found.forces_alone
    return 1.0
