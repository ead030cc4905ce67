"""The data card: the description of a set by its authors, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from mlpot.data.check.info import DataInfo, info
from mlpot.data.errors import DataError
from mlpot.data.h5md import Reader, content_hash
from mlpot.figures.data import data_panels
from mlpot.html.files import number
from mlpot.html.page import Html, aside, facts, finding, pictures, tag
from mlpot.html.view import few

MOST_BYTES = 2**25  # of a file that is surveyed for its page; a larger one would take minutes


def data_cards(paths: list[Path], trained_on: str) -> list[Html]:
    """Cards, figures and pictures of the files of a training set.

    Args:
        paths: of the files, in their order.
        trained_on: hash of their content at the time of the training.
    """
    cards = [card for path in paths for card in _card(path)]
    small = all(path.is_file() and path.stat().st_size <= MOST_BYTES for path in paths)
    try:
        if not small or content_hash(*paths) == trained_on:
            return cards
    except DataError:
        return cards  # they say which file cannot be read
    changed = f"{', '.join(map(str, paths))}: the content has changed."
    return [finding("warning", "The training set has changed since", tag("p", changed)), *cards]


def _card(path: Path) -> list[Html]:
    if not path.is_file():
        return [aside(f"{path} is not found from this folder: no numbers and pictures of the set.")]
    try:
        if path.stat().st_size > MOST_BYTES:
            return [_words(path), aside(f"The set is large: see mlpot data info {path} --picture info.png")]
        told = info(path)
    except DataError as error:
        return [finding("warning", "The training set cannot be read", tag("p", str(error)))]
    return [_words(path), tag("h3", "By its numbers"), facts(_figures(told)), pictures(data_panels(told))]


def _words(path: Path) -> Html:
    with Reader(path) as reader:
        return facts({"file": str(path), **reader.card})


def _figures(told: DataInfo) -> dict[str, str]:
    rows = {
        "frames": f"{told.n_frames}, {told.n_periodic} of them periodic, of {told.n_atoms.min:.0f} to "
        f"{told.n_atoms.max:.0f} atoms",
        "atoms": ", ".join(f"{n} {element}" for element, n in told.elements.items()),
        "groups": ", ".join(f"{name or 'unnamed'} ({n})" for name, n in told.groups.items()),
        "isolated atoms": ", ".join(f"{element} {energy:.3f} eV" for element, energy in told.isolated.items()),
        "energy": f"{told.energy.min:.3f} to {told.energy.max:.3f} eV/atom" if told.energy.n else "",
        "forces": f"{number(told.force_rms)} eV/Å root mean square, at most {number(told.largest_force[0])} "
        f"(frame {told.largest_force[1]})"
        if told.force.n
        else "",
        "nearest atoms": ", ".join(f"{'-'.join(pair)} {d:.2f} Å" for pair, (d, _) in told.nearest.items()),
        "frames without": ", ".join(f"{what} {n}" for what, n in told.missing.items() if n),
    }
    return {name: fact for name, fact in rows.items() if fact}


def frames_of_set(path: Path) -> list[tuple[str, Atoms]]:
    """Some frames of an H5MD file, evenly; none if it is not there or damaged."""
    if not path.is_file():
        return []
    try:
        with Reader(path) as reader:
            whole = [k for k, n in enumerate(reader.n_atoms) if n > 1] or list(range(len(reader)))
            chosen = [whole[k] for k in few(len(whole), int(reader.n_atoms.max()))]
            return [(f"frame {k}", reader[k]) for k in chosen]
    except DataError:
        return []  # the data card says so


def example_frames(card: Mapping[str, Any]) -> list[tuple[str, Atoms]]:
    """The training structures that a model's file holds."""
    return [
        (f"example {k} of the training set", Atoms(**example))
        for k, example in enumerate(card.get("examples", []))
    ]
