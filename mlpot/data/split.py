"""Training, validation and test sets that share no structure, and no piece of a trajectory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mlpot.atomic_files import check_folder, make_folder
from mlpot.data.check.check import tally
from mlpot.data.check.checks import correlation_time
from mlpot.data.check.duplicates import moved
from mlpot.data.check.stream import Ints, groups_of
from mlpot.data.check.tally import Columns
from mlpot.data.errors import DataError
from mlpot.data.h5md.write import write
from mlpot.data.sources.read import Source, as_source
from mlpot.data.sources.report import of_potential

NAMES = ("train", "validation", "test")


class RareElementWarning(UserWarning):
    """Frames were kept in the training set because an element is in no others."""


By = Literal["block", "composition", "group", "random"]


def split(
    file: str | Path | Source,
    fractions: Sequence[float],
    *,
    by: By = "block",
    block: int | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[Path, int]:
    """Write the parts as H5MD beside the file and return how many frames each has.

    Frames that belong together stay in one part: those of a block, a composition or a group, and equal structures.
    Isolated atoms go to the training set, whose reference energies they are; so does the last frame with an
    element.

    Args:
        file: of any kind.
        fractions: of training, validation and, if there are three, test frames.
        by: "block": pieces of consecutive frames, as long as energies remember; "composition"; "group": families
            of structures; "random": single frames.
        block: frames of a block.
        output: folder of the parts.
        seed: draws them.
        overwrite: replace what is there.

    Raises:
        DataError: fractions that are none; too few pieces that belong together.
        FileExistsError: a part exists.
    """
    source, fractions = as_source(file), [float(f) for f in fractions]
    path = source.path
    if not 2 <= len(fractions) <= 3 or not all(f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(f"Fractions {fractions} are not two or three positive numbers with the sum 1.")
    names = NAMES[: len(fractions)]
    targets = _targets(path, names, output, overwrite)
    tallied = tally(source)
    columns = tallied.columns()
    pieces = _joined(_keys(source, columns, by, block), columns, tallied.displacement)
    part = _drawn(pieces, ~columns.isolated, tallied.holds(columns), fractions, seed, by)
    counts = {}
    for k, target in enumerate(targets):
        make_folder(target.parent)
        card = {"source": path.name, "split": f"{names[k]} of {fractions} by {by}, seed {seed}"}
        card |= of_potential(source.card)
        write(target, _chosen(source, part == k), card=card, overwrite=overwrite)
        counts[target] = int((part == k).sum())
    return counts


def _targets(path: Path, names: Sequence[str], output: str | Path | None, overwrite: bool) -> list[Path]:
    """The files of the parts, none of which is there unless it may be replaced."""
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise DataError(f"{output} is a file, and the parts are written to a folder. Name a folder.")
    check_folder(output or path.parent)
    targets = [Path(output or path.parent) / f"{path.stem}-{name}.h5" for name in names]
    for target in targets:
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists. Choose another folder, or overwrite it: --overwrite.")
    return targets


def _keys(source: Source, c: Columns, by: By, block: int | None) -> Ints:
    """What the rule keeps together has one number."""
    n = len(c.index)
    if by == "composition":
        keys = np.unique(c.composition, return_inverse=True)[1]
    elif by == "group":
        keys = np.unique(groups_of(source), return_inverse=True)[1]
    elif by == "block":
        change = np.concatenate([[0], np.cumsum(np.diff(np.unique(c.composition, return_inverse=True)[1]) != 0)])
        keys = np.unique(
            np.stack([change, np.arange(n) // (block or _block(c))], axis=1), axis=0, return_inverse=True
        )[1]
    else:
        keys = np.arange(n)
    return np.asarray(keys).ravel().astype(np.int64)


def _block(c: Columns) -> int:
    """Blocks of twice the frames over which energies remember, but at least twenty blocks."""
    tau = correlation_time(c)
    return int(max(1, min(np.ceil(4 * tau) if np.isfinite(tau) else 1, len(c.index) // 20)))


def _joined(keys: Ints, c: Columns, displacement: float) -> Ints:
    """The piece of each frame, from 0: frames of one key, and of one structure, moved or not, are in one."""
    n = len(keys)
    digest = np.unique(c.digest, return_inverse=True)[1].ravel()
    second, first = moved(c, displacement)
    n_all = n + keys.max() + 1 + digest.max() + 1  # frames, keys, structures
    rows = np.concatenate([np.arange(n), np.arange(n), second])
    columns = np.concatenate([n + keys, n + keys.max() + 1 + digest, first])
    bonds = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n_all, n_all))
    piece = connected_components(bonds, directed=False)[1][:n]
    least = np.full(piece.max() + 1, n_all)
    np.minimum.at(least, piece, keys)
    return np.asarray(np.unique(least[piece], return_inverse=True)[1]).ravel()


def _drawn(
    pieces: Ints,
    structure: NDArray[np.bool_],
    holds: NDArray[np.bool_],
    fractions: list[float],
    seed: int,
    by: str,
) -> Ints:
    """The part of each frame: pieces in random order fill the smallest parts first.

    A piece trains if it is the last that holds an element which no training piece holds yet.
    """
    sizes = np.bincount(pieces[structure], minlength=pieces.max() + 1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(sizes))
    if len(order) < len(fractions):
        raise DataError(
            f"There are {len(order)} pieces by {by}, too few for {len(fractions)} parts. Split by another rule."
        )
    elements = np.zeros((len(sizes), holds.shape[1]), dtype=np.bool_)
    np.logical_or.at(elements, pieces[structure], holds[structure])
    left, trained, n_kept = elements.sum(axis=0), np.zeros(holds.shape[1], dtype=np.bool_), 0
    part = np.zeros(pieces.max() + 1, dtype=np.int64)
    wanted = np.array(fractions) * sizes.sum()
    filled = np.zeros(len(fractions))
    for piece in sorted(order, key=lambda p: -sizes[p]) if by in ("composition", "group") else order:
        short = int(np.argmax((wanted - filled) / wanted))
        is_last = bool((elements[piece] & ~trained & (left == 1)).any())
        part[piece] = 0 if is_last else short
        n_kept += is_last and short > 0
        trained |= elements[piece] & (part[piece] == 0)
        left = left - elements[piece]
        filled[part[piece]] += sizes[piece]
    if not filled.all():
        empty = " and no ".join(name for name, n in zip(NAMES, filled, strict=False) if n == 0)
        raise DataError(
            f"Of {len(order)} pieces by {by}, {n_kept} must train, as they hold the last frames of an element: "
            f"there would be no {empty} frames. Split by another rule, or into fewer parts (--fractions 0.8,0.2)."
        )
    if n_kept:
        what = f"{n_kept} piece by {by} trains" if n_kept == 1 else f"{n_kept} pieces by {by} train"
        message = f"{what} although drawn otherwise, for the last frames of an element."
        warnings.warn(message, RareElementWarning, stacklevel=3)
    return np.where(structure, part[pieces], 0)


def _chosen(source: Source, mine: np.ndarray) -> Iterator[Atoms]:
    return (atoms for atoms, ours in zip(source.frames(), mine, strict=True) if ours)
