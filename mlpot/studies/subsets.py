"""Nested training sets of several sizes, and one validation set without a piece of a trajectory in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mlpot.atomic_files import make_folder
from mlpot.data.check.check import tally
from mlpot.data.check.duplicates import shared
from mlpot.data.check.stream import Ints
from mlpot.data.check.survey import Survey, survey
from mlpot.data.h5md import Reader, content_hash, write
from mlpot.data.split import By, split
from mlpot.recipes import RecipeError
from mlpot.training.recipe import DataSection
from mlpot.training.splits import paths_of, structures

POOL = "all"
CARD = {"source": "drawn by mlpot"}


@dataclass(frozen=True)
class Drawing:
    """How the sets of a curve are drawn, and from what."""

    by: By  # what stays together between training and validation, as `mlpot data split` has it
    block: int | None  # frames of a block
    seed: int  # draws the validation frames
    train_hash: str  # of the content of the files from which all is drawn
    validation: int | float | None  # number or fraction that is drawn from these
    validation_hash: str | None  # else of the files
    test_hash: str


def changed_fields(before: Drawing, now: Drawing) -> list[str]:
    """In what two drawings differ."""
    return [key for key, value in asdict(now).items() if value != asdict(before)[key]]


@dataclass(frozen=True)
class Pool:
    """The frames from which training sets are drawn, and the sets that judge all of them."""

    train: str
    validation: str | list[str]
    n_structures: int  # in `train`
    n_isolated: int  # isolated atoms, which are in every training set
    n_validation: int
    n_test: int
    near: dict[str, int]  # validation and test structures that are, or nearly are, among those to train on


def drawing_of(data: DataSection, by: By, block: int | None) -> Drawing:
    """How the sets of a recipe are drawn.

    Raises:
        RecipeError: there is no test set; FileNotFoundError, DataError: as `data.h5md.Reader`.
    """
    if data.test is None:
        raise RecipeError(
            "A curve needs a test set, which no training sees and which chooses no weights. Give data.test=FILE; "
            "`mlpot data split FILE` makes one."
        )
    drawn = data.validation if isinstance(data.validation, int | float) else None
    given = None if isinstance(data.validation, int | float) else content_hash(*paths_of(data.validation))
    train, test = (content_hash(*paths_of(files)) for files in (data.train, data.test))
    return Drawing(by, block, data.seed, train, drawn, given, test)


def draw_pool(data: DataSection, drawing: Drawing, folder: Path) -> Pool:
    """Write what is trained on, and the validation set unless it is a file, into a folder.

    A number or a fraction of validation frames is drawn in whole pieces, as nearly as these allow.

    Raises:
        DataError: too few pieces; StorageError: the folder cannot be written.
    """
    make_folder(folder)
    paths = paths_of(data.train)
    whole = Path(paths[0])
    if len(paths) > 1:
        whole = folder / f"{POOL}.h5"
        write(whole, chain.from_iterable(_frames(path) for path in paths), card=CARD, overwrite=True)
    train, validation = str(whole), data.validation
    if isinstance(validation, int | float):
        n = len(structures(survey(whole)))
        part = validation / n if isinstance(validation, int) else validation
        if not 0 < part < 1:
            raise RecipeError(
                f"data.validation={validation} leaves none of the {n} structures of {data.train} for training. "
                "Give fewer, or a file."
            )
        parts = split(
            whole, [1 - part, part], by=drawing.by, block=drawing.block, output=folder, seed=drawing.seed,
            overwrite=True,
        )  # fmt: skip
        train, validation = (str(path) for path in parts)
    assert data.test is not None
    surveyed = survey(train)
    sets = {"validation": paths_of(validation), "test": paths_of(data.test)}
    n_validation, n_test = (len(structures(survey(*files))) for files in sets.values())
    return Pool(
        train=train,
        validation=validation,
        n_structures=len(structures(surveyed)),
        n_isolated=int(surveyed.is_isolated.sum()),
        n_validation=n_validation,
        n_test=n_test,
        near=_near(train, sets),
    )


def _frames(path: str) -> Iterator[Atoms]:
    with Reader(path) as reader:
        yield from reader.frames()


def _near(train: str, sets: dict[str, list[str]]) -> dict[str, int]:
    """How many structures of each set are, or nearly are, among those from which training sets are drawn."""
    tallied = tally(train)
    columns = tallied.columns()
    return {
        name: sum(
            len(rows) for path in paths for rows in shared(columns, tally(path).columns(), tallied.displacement)
        )
        for name, paths in sets.items()
    }


def order_of(surveyed: Survey, seed: int) -> Ints:
    """The structures of a set in the order in which training sets take them: a smaller set begins a larger one.

    The order is random, but that a structure with an element which none before it has comes first: else a small
    set could hold no atom of an element of the others.
    """
    frames = structures(surveyed).indices
    order = np.random.default_rng(seed).permutation(frames)
    holds = surveyed.holds(order)
    first = np.unique(holds.argmax(axis=0)[holds.any(axis=0)])
    needed = []
    known = np.zeros(holds.shape[1], dtype=np.bool_)
    for k in first:
        if (holds[k] & ~known).any():
            needed.append(k)
            known |= holds[k]
    return np.concatenate([order[needed], np.delete(order, needed)])


def check_elements_of(surveyed: Survey, judged: Survey, smallest: int, seed: int) -> None:
    """Raise RecipeError where the smallest set of a seed lacks an element that is judged and could be trained on.

    Args:
        surveyed: of the file to draw from.
        judged: of the sets for validation and test.
        smallest: number of structures.
        seed: of the order.
    """
    order = order_of(surveyed, seed)
    holds = np.logical_or.accumulate(surveyed.holds(order), axis=0)
    needed = holds[-1] & judged.holds(structures(judged).indices).any(axis=0)
    lacking = np.flatnonzero(needed & ~holds[smallest - 1])
    if len(lacking):
        least = 1 + int(holds[:, needed].all(axis=1).argmax())
        raise RecipeError(
            f"--sizes from {smallest} on: the first {smallest} of the structures that seed {seed} draws have no "
            f"{', '.join(chemical_symbols[z] for z in lacking)}, which the validation or test set has. Begin with "
            f"{least}, which have all elements."
        )


def write_subsets(train: str, targets: dict[Path, int], seed: int) -> None:
    """Write the sets of one seed that are not there yet, each of so many structures and all isolated atoms.

    Args:
        train: the file to draw from.
        targets: number of structures by the file of each set.
        seed: of the order.
    """
    surveyed = survey(train)
    order, isolated = order_of(surveyed, seed), np.flatnonzero(surveyed.is_isolated)
    for path, n in targets.items():
        if not path.exists():
            chosen = np.sort(np.concatenate([isolated, order[:n]]))
            write(path, _chosen(train, chosen), card=CARD)


def _chosen(path: str, frames: Sequence[int] | Ints) -> Iterator[Atoms]:
    with Reader(path) as reader:
        yield from (reader[int(k)] for k in frames)
