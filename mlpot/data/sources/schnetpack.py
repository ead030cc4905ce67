"""Databases of SchNetPack: ASE's, with labels in `row.data` and units in the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data.errors import KeysError, LabelError, UnitsError
from mlpot.data.h5md.safe_hdf5 import naming_damage
from mlpot.data.sources.names import KNOWN, NONE, example_unit, looks_like
from mlpot.data.sources.reading import Reading
from mlpot.data.sources.report import Report
from mlpot.data.unit_names import agreed_factor

SQLITE = b"SQLite format 3\0"
UNITS, LENGTH = "_property_unit_dict", "_distance_unit"
FIRST = 100  # rows that are asked whether a calculator was there
SHAPES = {"energy": ((), (1,)), "forces": ((-1, 3),), "stress": ((3, 3), (1, 3, 3), (6,))}
USUAL = {"energy": ("energy",), "forces": ("forces",), "stress": ("stress",)}


def is_schnetpack(path: Path) -> bool:
    """Whether a database of ASE is one of SchNetPack."""
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            return False  # and whoever reads it as a database says what is wrong
    with naming_damage(str(path)), ase.db.connect(path, type="db") as database:
        metadata = database.metadata
        if UNITS in metadata:
            return True
        rows = list(database.select(limit=FIRST))
    # Results of a calculator stand in columns of their own, which SchNetPack leaves empty.
    if any(name in row for row in rows for name in USUAL):
        return False
    return any(looks_like(q, name) for row in rows[:1] for name in row.data for q in ("energy", "forces"))


def read_schnetpack(path: Path, kind: str, reading: Reading, report: Report) -> Iterator[tuple[int, Atoms]]:
    """The rows of a database in the order of their numbers, with labels by the names and units of the metadata.

    Raises:
        KeysError: several names could be the label; UnitsError: the unit of a label is not said.
        LabelError: a label has the wrong shape.
    """
    if unknown := set(reading.keys) - set(SHAPES):
        raise KeysError(f"{sorted(unknown)} cannot be named in SchNetPack's databases. Correct --key.")
    with naming_damage(str(path)):
        database = ase.db.connect(path, type="db")
        metadata = dict(database.metadata)
        rows = iter(database.select())
    units: Mapping[str, str] = metadata.get(UNITS, {})
    names: dict[str, str] | None = None
    for k in range(2**62):
        with naming_damage(f"{path}, row {k}"):
            row = next(rows, None)
            if row is None:
                return
            atoms, data = row.toatoms(), {**pairs_of(row), **row.data}
        if names is None:
            names = _names(path, [*units, *data], reading)
            written = {"positions": metadata.get(LENGTH), **{q: units.get(name) for q, name in names.items()}}
            scales = _factors(str(path), written, {"positions": "positions", **names}, reading)
            length = scales["positions"]
            report.scales |= {**scales, "cell": length}
        clean = Atoms(atoms.numbers, atoms.positions * length, cell=atoms.cell.array * length, pbc=atoms.pbc)
        labels = {
            q: _label(f"{path}, row {k}", q, data[n], clean, scales[q]) for q, n in names.items() if n in data
        }
        if labels:
            clean.calc = SinglePointCalculator(clean, **labels)
        clean.info |= _states(data)
        report.unused.update(set(data) - set(names.values()) - (set(KNOWN["charge"]) | set(KNOWN["spin"])))
        yield k, clean


def pairs_of(row: Any) -> dict[str, Any]:
    """The names and values of a row of ASE's database, which ASE itself gives as what it derives from the atoms.

    Under the name `charge` it gives the sum of initial charges, under `mass` that of masses, whatever is stored.
    """
    return {name: vars(row).get(name, value) for name, value in row.key_value_pairs.items()}


def _states(data: Mapping[str, Any]) -> dict[str, float]:
    """Total charge and spin, as far as a row has them."""
    found = {}
    for quantity in ("charge", "spin"):
        values = [data[name] for name in KNOWN[quantity] if np.size(data.get(name, ())) == 1]
        if values and np.asarray(values[0]).dtype.kind in "iuf":
            found[quantity] = float(np.ravel(values[0])[0])
    return found


def _names(path: Path, there: list[str], reading: Reading) -> dict[str, str]:
    """Under which name each label is kept."""
    names = {}
    for quantity, usual in USUAL.items():
        given = reading.keys.get(quantity)
        if given is not None and given != NONE and given.removeprefix("-") not in there:
            raise KeysError(f"{path} has nothing named {given}. It has {sorted(set(there))}. Correct --key.")
        likely = list(dict.fromkeys(name for name in there if looks_like(quantity, name)))
        known = [name for name in usual if name in there] or (likely if len(likely) == 1 else [])
        if given is None and likely and not known:
            options = " or ".join(f"--key {quantity}={name}" for name in [*likely, NONE])
            raise KeysError(f"{path}: which is the {quantity}, {', '.join(likely)}? Say {options}.")
        name = given if given is not None else (known[0] if known else NONE)
        if name != NONE:
            names[quantity] = name.removeprefix("-")
    return names


def _factors(
    where: str, written: Mapping[str, Any], names: Mapping[str, str], reading: Reading
) -> dict[str, float]:
    """House units in one unit of each quantity, which the metadata or else the user says."""
    found, unknown = {}, []
    for quantity, unit in written.items():
        said = unit if isinstance(unit, str) and unit not in ("", "1") else None
        value = agreed_factor(where, quantity, said, reading.units.get(quantity))
        if value is None:
            unknown.append(quantity)
        else:
            found[quantity] = -value if reading.keys.get(quantity, "").startswith("-") else value
    if unknown:
        told = ", ".join(repr(names[quantity]) for quantity in unknown)
        raise UnitsError(
            f"{where} does not say in which unit {told} {'is' if len(unknown) == 1 else 'are'}. Say it (units are "
            f"examples, yours may differ): {' '.join(f'--unit {q}={example_unit(q, names[q])}' for q in unknown)}."
        )
    return found


def _label(where: str, quantity: str, value: Any, atoms: Atoms, scale: float) -> Any:
    array = np.asarray(value)
    shapes = [tuple(len(atoms) if n == -1 else n for n in shape) for shape in SHAPES[quantity]]
    if array.dtype.kind not in "iuf" or array.shape not in shapes:
        raise LabelError(
            f"{where}: {quantity} has shape {array.shape} of {array.dtype}, expected "
            f"{' or '.join(map(str, shapes))}. Name another with --key, or correct the database."
        )
    array = array.astype(float) * scale
    if quantity == "energy":
        return float(array.ravel()[0])
    return array.reshape(3, 3) if quantity == "stress" and array.size == 9 else array
