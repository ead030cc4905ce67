"""The blocks of an npz or HDF5 data set, and the layout of a data set in which they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

from mlpot.data.elements import CURE_WITHOUT_TYPES, Elements
from mlpot.data.errors import FormatError, KeysError
from mlpot.data.h5md.safe_hdf5 import naming_damage, open_unchecked, walk_groups
from mlpot.data.safe_npz import open_arrays
from mlpot.data.sources.layouts import LAYOUTS, Layout
from mlpot.data.sources.proposal import NO_STRUCTURES, holds_structures, proposal
from mlpot.data.sources.reading import Reading
from mlpot.data.sources.report import Report

Block = Mapping[str, Any]
"""Arrays or datasets of some conformations of one molecule, or of one number of atoms, by name."""
QUANTITIES = ("numbers", "positions", "energy", "forces", "stress", "virial", "cell", "pbc", "charge", "spin")
"""What can be named."""
MANY = 1000  # names among which something to propose is looked for
MOST_LISTED = 8  # names of a group
WITHIN = ("properties", "property_weights")  # subgroups that belong to the group around them


def laid_out(
    path: str | Path, format: str | None, keys: Mapping[str, str], reading: Reading, report: Report
) -> Iterator[tuple[str, Block, Layout]]:
    """The blocks that hold structures, where each stands, and their layout; others are counted."""
    layout, names = _find_layout(path, format, keys, reading)
    found, whole = set(), ("positions",) if reading.elements is not None else ("numbers", "positions")
    for name, block in _blocks(path):
        found |= {key for key in keys if place_of(block, layout.keys[key])}
        lacking = [layout.keys[key] for key in whole if not place_of(block, layout.keys[key])]
        if not lacking:
            yield f"{path}:{name}", block, layout
        elif holds_structures(block):
            report.leave_out_group(name, f"{', '.join(lacking)} (it has {', '.join(sorted(block)[:MOST_LISTED])})")
    if absent := set(keys) - found:
        raise KeysError(
            f"{path} has nothing named {[keys[key] for key in sorted(absent)]}. It holds {list(names)[:20]}. "
            "Correct --key."
        )


def _find_layout(
    path: str | Path, format: str | None, keys: Mapping[str, str], reading: Reading
) -> tuple[Layout, Mapping[str, None]]:
    """The layout of the first block that has one, and the names up to there."""
    names, told = dict[str, None](), ""
    for name, block in _blocks(path):
        names |= dict.fromkeys(block)
        layout = _layout(path, name, names, block, format, keys, reading.elements)
        if layout is not None:
            return layout, names
        if not told or (told == NO_STRUCTURES and len(names) < MANY):
            told = proposal(path, block, reading)
    if not names:
        raise FormatError(f"{path} has no data. Check the path.")
    raise KeysError(
        f"{path} is in no layout that is known ({', '.join(LAYOUTS)}). It holds {sorted(names)[:20]}. {told}"
    )


def _layout(
    path: str | Path,
    group: str,
    names: Mapping[str, None],
    block: Block,
    format: str | None,
    keys: Mapping[str, str],
    elements: Elements | None,
) -> Layout | None:
    """The layout asked for, or the one whose names are in the block, with the keys given put over it."""
    whole = {"positions"} if elements is not None else {"numbers", "positions"}
    needed, asked = whole - set(keys), format
    if format is None and needed:
        needed |= {"energy"} - set(keys)
        fitting = [
            k
            for k, layout in LAYOUTS.items()
            if layout.group in group and all(place_of(block, layout.keys[q]) for q in needed)
        ]
        if len(fitting) != 1:
            return None
        format = fitting[0]
    known = LAYOUTS[format] if format in LAYOUTS else Layout({})
    if unknown := set(keys) - set(QUANTITIES):
        raise KeysError(
            f"{sorted(unknown)} are not quantities that are kept: {', '.join(QUANTITIES)}. Correct --key."
        )
    if missing := whole - set(known.keys) - set(keys):
        how = CURE_WITHOUT_TYPES if missing == {"numbers"} else ""
        raise KeysError(f"--key lacks {sorted(missing)}. {path} holds {list(names)[:20]}. {how}".rstrip())
    return replace(
        known,
        name="" if format is None or format == asked else format,
        keys={**known.keys, **keys},
        units={quantity: unit for quantity, unit in known.units.items() if quantity not in keys},
    )


def _blocks(path: str | Path) -> Iterator[tuple[str, Block]]:
    """What the file holds, by name: one block for npz, one a group for HDF5."""
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            yield "", open_arrays(raw, str(path))
        return
    with naming_damage(str(path)), open_unchecked(path) as file:
        for name, datasets in walk_groups(file, within=WITHIN):
            if datasets:
                yield name or "/", _Group(datasets)


class _Group(Mapping[str, h5py.Dataset]):
    """The datasets of a group, each made h5py's when it is asked for."""

    def __init__(self, datasets: Mapping[str, h5py.h5d.DatasetID]):
        self._datasets = datasets

    def __getitem__(self, name: str) -> h5py.Dataset:
        return h5py.Dataset(self._datasets[name])

    def __contains__(self, name: object) -> bool:
        return name in self._datasets

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)


def place_of(block: Block, key: str) -> str | None:
    """The name in a block of what a layout or a user calls `key`, None if it is not there."""
    name = key.removeprefix("-")
    return next((place for place in (name, *(f"{group}/{name}" for group in WITHIN)) if place in block), None)
