"""Structures that are the same, or nearly: within a set, and between training and validation sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from mlpot.data.check.checks import dropping
from mlpot.data.check.finding import Finding, Severity, finding
from mlpot.data.check.stream import Floats, Ints
from mlpot.data.check.tally import Columns
from mlpot.data.label_differences import label_differences, moved_differences
from mlpot.data.sources.read import Source

SAME = 1e-4  # Å, of frames that differ in rounding, rotation or the order of atoms alone
NEAR = 4e-3  # Å, of frames that teach the same


def repeated(c: Columns) -> tuple[Ints, Ints]:
    """Rows of structures that repeat an earlier one exactly, and of the earlier ones."""
    structures = np.flatnonzero(~c.isolated)
    _, first, again = np.unique(c.digest[structures], return_index=True, return_inverse=True)
    original = structures[first][again]
    return structures[structures != original], original[structures != original]


def moved(c: Columns, displacement: float) -> tuple[Ints, Ints]:
    """Rows that seem to be an earlier structure, turned or in another order of atoms, and the earlier ones."""
    seem, earlier, _ = _pairs(c, np.setdiff1d(np.flatnonzero(~c.isolated), repeated(c)[0]), displacement)
    return seem, earlier


def duplicates(c: Columns, displacement: float, source: Source) -> Iterator[Finding]:
    """Frames that repeat an earlier one, exactly or nearly; the labels of those that do are compared."""
    again = Source(source.path, source.reading)  # its report is of its own
    structures = np.flatnonzero(~c.isolated)
    exact, original = repeated(c)
    if len(exact):
        message = f"{len(exact)} of {len(structures)} structures repeat an earlier one."
        places = [((0, int(a)), (0, int(b))) for a, b in zip(c.index[original], c.index[exact], strict=True)]
        told = _told(c.index[original], c.index[exact], [d.of_both for d in label_differences([again], places)])
        severity: Severity = "error" if told else "warning"
        yield finding("duplicates", severity, message + told, c.index[exact], fix="drop=duplicates")
    rest = np.setdiff1d(structures, exact)
    seem, earlier, near = _pairs(c, rest, displacement)
    pairs = [(int(a), int(b)) for a, b in zip(c.index[earlier], c.index[seem], strict=True)]
    differences = moved_differences(again, pairs)
    is_same = np.array([d is not None for d in differences], dtype=bool)
    same, first = seem[is_same], earlier[is_same]
    if len(same):
        message = (
            f"{len(same)} structures are an earlier one rotated, mirrored, in another cell, or with atoms in "
            "another order."
        )
        told = _told(c.index[first], c.index[same], [d.of_both for d in differences if d is not None])
        severity = "note" if c.periodic[same].all() else "warning"  # strained crystals repeat by their symmetry
        severity = "error" if told else severity
        yield finding("duplicates", severity, message + told, c.index[same], fix=dropping(c.index[same]))
    near = np.sort(np.concatenate([near, seem[~is_same & (np.abs(c.index[seem] - c.index[earlier]) > 1)]]))
    if len(near) > 0.01 * len(rest):
        message = f"{len(near)} of {len(rest)} structures are within about {NEAR} Å of an earlier one."
        yield finding("near-duplicates", "warning", message, c.index[near], fix=dropping(c.index[near]))


def _told(first: Ints, second: Ints, differences: list[str]) -> str:
    """A sentence about those of some pairs of frames whose labels differ, with an example; empty if none do."""
    k = next((k for k, difference in enumerate(differences) if difference), None)
    if k is None:
        return ""
    n = sum(map(bool, differences))
    return (
        f" {n} of them with other labels (frames {first[k]} and {second[k]}: {differences[k]}): one of the two is "
        "wrong, or they are of two methods."
    )


def _pairs(c: Columns, frames: Ints, displacement: float) -> tuple[Ints, Ints, Ints]:
    """Frames with the fingerprint of an earlier one, and that one; and those merely near, not steps in time."""
    same: list[Ints] = []
    first: list[Ints] = []
    near: list[Ints] = []
    for kind in np.unique(c.composition[frames]) if displacement > 0 else ():
        mine = frames[(c.composition[frames] == kind) & np.isfinite(c.fingerprint[frames]).all(axis=1)]
        points = c.fingerprint[mine] * displacement
        if len(mine) < 2:
            continue
        tree = cKDTree(points)
        # Among very many frames some have nearly the same fingerprint by chance: near is a tenth of what is usual.
        usual = np.percentile(tree.query(points[:: 1 + len(points) // 2000], k=2, workers=1)[0][:, 1], 90)
        limit = float(np.clip(0.1 * usual, SAME, NEAR))
        distance, partner = tree.query(points, k=2, distance_upper_bound=limit, workers=1)
        other = np.where(partner[:, 0] == np.arange(len(mine)), partner[:, 1], partner[:, 0])
        found = np.isfinite(distance[:, 1]) & (other < np.arange(len(mine)))
        k = np.flatnonzero(found)
        exact = distance[k, 1] < SAME
        same.append(mine[k[exact]])
        first.append(mine[other[k[exact]]])
        apart = np.abs(c.index[mine[k]] - c.index[mine[other[k]]]) > 1  # neighbors in time are near by nature
        near.append(mine[k[~exact & apart & (distance[k, 1] < NEAR)]])
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *same]), np.concatenate([none, *first]), np.concatenate([none, *near])


def shared(train: Columns, other: Columns, displacement: float) -> tuple[Ints, Ints, Ints]:
    """Rows of `other` that are in the training set: exactly; rotated or reordered; nearly."""
    theirs = np.flatnonzero(~other.isolated)
    exact = theirs[np.isin(other.digest[theirs], train.digest)]
    rest = np.setdiff1d(theirs, exact)
    near, moved = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for kind in np.unique(other.composition[rest]) if displacement > 0 else ():
        mine = rest[(other.composition[rest] == kind) & np.isfinite(other.fingerprint[rest]).all(axis=1)]
        points = _points(train, kind, displacement)
        if len(mine) and len(points):
            distance, partner = cKDTree(points).query(other.fingerprint[mine] * displacement, workers=1)
            theirs_force = train.force[_members(train, kind)][partner]
            distance[np.abs(other.force[mine] - theirs_force) > 0.05 * (1 + theirs_force)] = np.inf  # by chance
            moved.append(mine[distance < SAME])
            near.append(mine[(distance >= SAME) & (distance < NEAR)])
    return exact, np.sort(np.concatenate(moved)), np.sort(np.concatenate(near))


def leakage(train: Columns, other: Columns, displacement: float, path: str, against: str) -> Iterator[Finding]:
    """Structures of `other` that are in the training set."""
    n = int((~other.isolated).sum())
    exact, moved, close = shared(train, other, displacement)
    both, fix = np.sort(np.concatenate([exact, moved])), f"without={against}"
    if len(both):
        turned = f", {len(moved)} of them rotated or with atoms in another order" if len(moved) else ""
        crystals = len(exact) == 0 and other.periodic[moved].all()
        meaning = (
            "strained crystals repeat by their symmetry, but these test nothing new"
            if crystals
            else "their errors mean nothing"
        )
        message = f"{len(both)} of {n} structures of {against} are in {path} too{turned}: {meaning}."
        yield finding("leakage", "note" if crystals else "error", message, other.index[both], fix=fix)
    if len(close) > max(1, 0.01 * n):
        message = (
            f"{len(close)} of {n} structures of {against} are within about {NEAR} Å of one in {path}: "
            "they come from the same piece of a trajectory, and errors look smaller than they are. Split by block."
        )
        yield finding("leakage", "warning", message, other.index[close], fix=fix)


def _points(c: Columns, kind: np.uint64, displacement: float) -> Floats:
    return np.asarray(c.fingerprint[_members(c, kind)] * displacement)


def _members(c: Columns, kind: np.uint64) -> Ints:
    return np.flatnonzero((c.composition == kind) & np.isfinite(c.fingerprint).all(axis=1))
