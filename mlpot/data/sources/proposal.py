"""What to say of an npz or HDF5 file whose layout nobody knows: the names that fit, as a command to try."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from mlpot.data.sources.leftovers import says_unit
from mlpot.data.sources.names import UNIT, example_unit, looks_like
from mlpot.data.sources.reading import Reading

NUMBERS = re.compile(
    r"^z+s?$|atomic_?n(um|o)|nuclear_?charge|^at_?num|^(atom(ic)?_?)?(numbers?|species|elements?|symbols?|types?)$|type",
    re.IGNORECASE,
)
POSITIONS = re.compile(r"^r$|coord|pos(ition)?s?$|xyz|geom|conform|cart|^x$", re.IGNORECASE)
DEEPMD = "coord.npy"  # a dataset of this name is in dpdata's HDF5 files alone
OF_DEEPMD = (
    "It is HDF5 of DeePMD-kit, whose folders are read: dpdata.LabeledSystem(FILE, fmt='deepmd/hdf5')"
    ".to('deepmd/npy', FOLDER) writes one; give that."
)
NO_STRUCTURES = (
    "Nothing in it looks like positions of atoms, (frames, atoms, 3). If it holds some all the same, give names "
    "and units: --key numbers=... --key positions=... --key energy=... --unit positions=Angstrom --unit energy=eV."
)


def proposal(path: object, block: Mapping[str, Any], reading: Reading) -> str:
    """Which names of a block could be which quantity, as a command with the options that say so.

    Args:
        path: of the file.
        block: arrays by name, of the first group that holds any.
        reading: what the user said already, which stays in the command.
    """
    if DEEPMD in block:
        return OF_DEEPMD
    found = {quantity: name for quantity, name in _likely(block).items() if quantity not in reading.keys}
    if "positions" not in {**found, **reading.keys}:
        return NO_STRUCTURES
    options = list(reading.options)
    for quantity, name in found.items():
        sign = "-" if quantity == "forces" and re.search("grad", name, re.IGNORECASE) else ""
        options.append(f"--key {quantity}={shlex.quote(sign + name)}")
        if quantity in UNIT and quantity not in reading.units and not says_unit(block[name]):
            options.append(f"--unit {quantity}={example_unit(quantity, name)}")
    if "numbers" not in {**found, **reading.keys} and reading.elements is None:
        options.append("--elements-from structure.xyz")
    return (
        "Give names and units; if these are right (units are examples, yours may differ):\n  "
        f"mlpot data convert {shlex.quote(str(path))} set.h5 {' '.join(options)}"
    )


def holds_structures(block: Mapping[str, Any]) -> bool:
    """Whether something in a block looks like positions of atoms."""
    return "positions" in _likely(block)


def _likely(block: Mapping[str, Any]) -> dict[str, str]:
    """A name for each quantity that something in the block could be, by its name, type and shape."""
    shapes = {name: tuple(array.shape) for name, array in block.items()}
    kinds = {name: array.dtype.kind for name, array in block.items()}
    vectors = [n for n, s in shapes.items() if len(s) in (2, 3) and s[-1] == 3 and kinds[n] == "f"]
    places = [n for n in vectors if POSITIONS.search(n)]
    if not places:
        return {}
    positions = max(places, key=lambda name: len(shapes[name]))
    *n_frames, n_atoms, _ = shapes[positions]
    n = n_frames[0] if n_frames else 1
    fitting = {
        "numbers": ((n_atoms,), (n, n_atoms)),
        "energy": ((n,), (n, 1)) if n_frames else ((), (1,)),
        "forces": (shapes[positions],),
    }
    found = {"positions": positions}
    for quantity, of in fitting.items():
        like = [
            name
            for name, shape in shapes.items()
            if shape in of and kinds[name] in ("iuOS" if quantity == "numbers" else "f")
            and (NUMBERS.search(name) if quantity == "numbers" else looks_like(quantity, name))
        ]  # fmt: skip
        if like:
            found[quantity] = min(like, key=len)
    return {q: found[q] for q in ("numbers", "positions", "energy", "forces") if q in found}
