"""LAMMPS' dumps and data files: types that are no elements, numbers in one of its styles of units, no energies."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lammps import convert
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses, atomic_numbers
from ase.io.formats import open_with_compression
from numpy.typing import NDArray

from mlpot.data.elements import Elements, ask_for_types
from mlpot.data.errors import FormatError, UnitsError

KINDS = ("lammps-dump-text", "lammps-data")
STYLES = ("real", "metal", "si", "cgs", "electron", "micro", "nano")
IN_U = ("real", "metal", "electron")  # the styles whose masses are in u
NO_STABLE_ISOTOPE = {43, 61, *range(84, 90), *range(93, 119)}
NEAR = 0.1  # u, within which a mass names an element
TILTS = ["xy", "xz", "yz"]
FLAGS = re.compile(r"\b[pfsm]{2}\b")
"""Of a direction in a dump: periodic, fixed, shrink-wrapped."""
VECTORS = ("x y z", "xs ys zs", "xu yu zu", "xsu ysu zsu", "vx vy vz", "fx fy fz")
"""Columns of a dump that are one quantity: positions in one of four forms, velocities, forces."""
NO_VELOCITIES = (
    "velocities left out, as their unit is not known; --unit lammps=metal, or another style of LAMMPS, keeps them"
)


@dataclass
class _Said:
    """Types and units that a file states besides the atoms."""

    columns: list[str] = field(default_factory=list)
    style: str | None = None
    box: list[str] = field(default_factory=list)  # the line of a dump that says the boundary
    masses: dict[int, float] = field(default_factory=dict)  # u, by type
    labels: dict[int, str] = field(default_factory=dict)


def lammps_frames(
    path: Path,
    kind: str,
    frames: Iterable[tuple[int, Atoms]],
    elements: Elements | None,
    units: Mapping[str, str],
    note: Callable[[str, int], None],
    boundary: str | None = None,
) -> Iterator[tuple[int, Atoms]]:
    """The frames that ASE reads, with their true elements, in Å, Å/fs and eV/Å where the style is known.

    Args:
        path, kind: the file and its format, one of `KINDS`.
        frames: as ASE reads them: types for atomic numbers, units metal, an energy of 0 beside forces.
        elements: of the types, where the file does not tell.
        units: "lammps" is the style; "forces" their unit, where no style is known.
        note: is told what was left out.
        boundary: as the user says it.

    Raises:
        FormatError: nothing says which directions are periodic, of which ASE makes none, or an error; a vector
            lacks a component.
        KeysError: the file tells types alone; UnitsError: forces of no known unit.
    """
    heads = _heads(path) if kind == "lammps-dump-text" else repeat(_data(path))
    read, said = 0, next(heads, _Said())
    _check_head(f"{path}, frame 0", said, boundary)  # of what lacks a position ASE reads nothing
    for k, atoms in frames:
        while read < k:
            read, said = read + 1, next(heads)
        where = f"{path}, frame {k}"
        _check_head(where, said, boundary)
        style = _style(where, said, units)
        numbers = _numbers(where, atoms, said, elements)
        yield k, _in_house_units(path, k, atoms, numbers, style, units, note)


def _check_head(where: str, said: _Said, boundary: str | None) -> None:
    """Refuse a frame with parts of vectors, or that says no boundary, as its user does not either."""
    _check_vectors(where, said.columns)
    box, n_flags = said.box, len(FLAGS.findall(" ".join(said.box[3:])))
    if box and n_flags != 3 and not (boundary and box[3:] == TILTS):
        raise FormatError(
            f"{where}: nothing says which directions are periodic, as in dumps of an old LAMMPS. Write it behind "
            f"{' '.join(box)!r}: pp pp pp where all are, ff in place of a pp where one is not."
        )


def _style(where: str, said: _Said, units: Mapping[str, str]) -> str | None:
    """The style of units of a frame, None if nobody says it."""
    style = units.get("lammps", said.style)
    if style is not None and style not in STYLES:
        reduced = (
            " Numbers in units lj have none: turn them into Å and eV, and write extxyz." if style == "lj" else ""
        )
        raise UnitsError(f"{style!r} is no style of units of LAMMPS that is read: {', '.join(STYLES)}.{reduced}")
    if said.style is not None and style != said.style:
        raise UnitsError(f"{where} is in units {said.style}, as it says itself, not {style}.")
    return style


def whole_frames(lines: Iterable[str]) -> tuple[int, int | None]:
    """How many lines of a dump are of whole frames, and the number of the frame that is cut off, if one is."""
    n_lines = whole = frame = n_atoms = n_rows = 0
    before, is_atoms = "", False
    for line in lines:
        if line.startswith("ITEM:"):
            if is_atoms and n_rows == n_atoms:
                whole, frame = n_lines, frame + 1
            is_atoms, n_rows = line.startswith("ITEM: ATOMS"), 0
            n_columns = len(line.split()) - 2
        elif before.startswith("ITEM: NUMBER OF ATOMS"):
            n_atoms = int(line) if line.strip().isdecimal() else 0
        elif is_atoms and line.endswith("\n"):
            n_rows += len(line.split()) == n_columns
        n_lines, before = n_lines + 1, line
    if is_atoms and n_rows == n_atoms:
        return n_lines, None
    return whole, frame


def _check_vectors(where: str, columns: Iterable[str]) -> None:
    """Refuse a vector of which a component is absent: ASE leaves out what it has of it, without a word."""
    for vector in map(str.split, VECTORS):
        absent = [name for name in vector if name not in columns]
        if 0 < len(absent) < 3:
            there = [name for name in vector if name in columns]
            raise FormatError(
                f"{where} has columns {', '.join(there)} without {', '.join(absent)}. Let LAMMPS dump all of "
                f"{' '.join(vector)}, or take {', '.join(there)} out of the file."
            )


def _in_house_units(
    path: Path,
    k: int,
    atoms: Atoms,
    numbers: NDArray[np.int64],
    style: str | None,
    units: Mapping[str, str],
    note: Callable[[str, int], None],
) -> Atoms:
    forces = None if atoms.calc is None else atoms.calc.results.get("forces")
    if forces is not None and style is None and "forces" not in units:
        raise UnitsError(
            f"{path}, frame {k} has forces, and the unit is not said: kcal/mol/Å in LAMMPS' units real, eV/Å in "
            "units metal. Give the style, --unit lammps=real or metal, ..."
        )
    scale = {q: _factor(q, style) for q in ("distance", "velocity", "force")}
    length = scale["distance"]
    clean = Atoms(numbers, atoms.positions * length, cell=atoms.cell.array * length, pbc=atoms.pbc)
    if atoms.has("masses") and style in (None, *IN_U):
        far = np.abs(atoms.get_masses() - atomic_masses[numbers]) > NEAR
        if far.any():
            clean.set_masses(np.where(far, atoms.get_masses(), atomic_masses[numbers]))
    if atoms.has("momenta") and style is not None:
        clean.set_velocities(atoms.get_velocities() * scale["velocity"])
    elif atoms.has("momenta"):
        note(NO_VELOCITIES, k)
    known = ("numbers", "positions", "momenta", "masses", "id", "type", "mol-id")
    for name, values in atoms.arrays.items():
        if name not in known and values.dtype.kind in "iuf":
            clean.set_array(name, values)
    if forces is not None:
        clean.calc = SinglePointCalculator(clean, forces=forces * scale["force"])
    return clean


def _factor(quantity: str, style: str | None) -> float:
    """ASE's unit in one of a style; ASE took the numbers for those of metal."""
    if style is None:
        return 1.0
    return float(convert(1.0, quantity, style, "ASE") / convert(1.0, quantity, "metal", "ASE"))


def _numbers(where: str, atoms: Atoms, said: _Said, elements: Elements | None) -> NDArray[np.int64]:
    """Atomic numbers: as the user says, or by names, or by masses, or not at all."""
    if "element" in said.columns:
        return np.asarray(atoms.numbers, dtype=np.int64)
    types = np.asarray(atoms.arrays.get("type", atoms.numbers), dtype=np.int64)
    if elements is not None:
        return elements.of_types(where, types)
    named = {t: atomic_numbers.get(label, 0) for t, label in said.labels.items()}
    if not named or not all(named.values()):
        named = _by_mass(said.masses)
    if not all(named.get(t) for t in set(types.tolist())):
        masses = ", ".join(f"{t}: {m:g}" for t, m in sorted(said.masses.items())[:10])
        why = f"Their masses ({masses}) are not clearly those of elements. " if masses else ""
        ask_for_types(where, sorted(set(types.tolist())), why)
    return np.array([named[t] for t in types.tolist()], dtype=np.int64)


def _by_mass(masses: Mapping[int, float]) -> dict[int, int]:
    """The element of each type whose mass is clearly its; 0 where none is, as of beads and of units lj."""
    if set(masses.values()) == {1.0}:
        return {}
    z = np.array([k for k in range(1, 119) if k not in NO_STABLE_ISOTOPE])
    found = {}
    for kind, mass in masses.items():
        far = np.abs(atomic_masses[z] - mass)
        first, second = np.argsort(far)[:2]
        found[kind] = int(z[first]) if far[first] < min(NEAR, far[second] / 2) else 0
    return found


def _heads(path: Path) -> Iterator[_Said]:
    """What each frame of a dump says: LAMMPS writes its columns anew for each, and its units once a run."""
    said = _Said()
    with open_with_compression(str(path), "rb") as raw, io.TextIOWrapper(raw, "utf-8-sig") as lines:
        n_atoms = 0
        for line in lines:
            if line.startswith("ITEM: UNITS"):
                said.style = next(lines, "").strip()
            elif line.startswith("ITEM: NUMBER OF ATOMS"):
                count = next(lines, "").strip()
                if not count.isdecimal():
                    raise FormatError(f"{path}: {count[:40]!r} is no number of atoms. Restore the file.")
                n_atoms = int(count)
            elif line.startswith("ITEM: BOX BOUNDS"):
                said.box = line.split()
            elif line.startswith("ITEM: ATOMS"):
                said.columns = line.split()[2:]
                rows = [row.split() for row in islice(lines, n_atoms)] if _needs_masses(said.columns) else ()
                try:
                    mass, kind = (said.columns.index(name) if rows else 0 for name in ("mass", "type"))
                    said.masses |= {int(row[kind]): float(row[mass]) for row in rows}
                except (ValueError, IndexError) as error:
                    raise FormatError(
                        f"{path}: a row of atoms has no type or mass where {' '.join(said.columns)} say. Restore "
                        "the file."
                    ) from error
                yield said


def _needs_masses(columns: Sequence[str]) -> bool:
    return "element" not in columns and {"mass", "type"} <= set(columns)


def _data(path: Path) -> _Said:
    """The sections of a data file that tell of types."""
    said, section = _Said(), ""
    with open_with_compression(str(path), "rt") as lines:
        for k, line in enumerate(lines):
            text, words = line.partition("#")[0].strip(), line.partition("#")[0].split()
            if k == 0:
                found = re.search(r"units\s*=\s*(\w+)", line)  # as write_data notes it
                said.style = found[1] if found and found[1] in STYLES else None
            elif text and not text[0].isdigit() and text[0] not in "-+.":
                section = text
            elif section == "Masses" and len(words) >= 2:
                said.masses[int(words[0]) if words[0].isdigit() else len(said.masses) + 1] = float(words[1])
            elif section == "Atom Type Labels" and len(words) >= 2 and words[0].isdigit():
                said.labels[int(words[0])] = words[1]
    return said
