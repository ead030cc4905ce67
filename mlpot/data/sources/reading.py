"""What a user says of a source: its format, names and units, which frames, and how to take what is doubtful."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.elements import Elements
from mlpot.data.errors import FormatError, KeysError

MEASURED = ("positions", "cell", "energy", "forces", "stress", "virial", "velocities", "time", "masses", "charges",
            "lammps")  # fmt: skip
"""What `Reading.units` may say the unit of; of "lammps", the name of a style."""
PERIODIC = {"t": True, "true": True, "p": True, "periodic": True, "1": True, "f": False, "false": False,
            "n": False, "none": False, "s": False, "m": False, "0": False, "open": False}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Args:
        format: where the file does not show it: one of `ase.io`, of `datasets.LAYOUTS`, "h5md", "npz", "hdf5", ...
        keys: names under which the file keeps quantities ("energy", "forces", "stress", "virial", "cell", "pbc",
            "charge", "spin", "group", "weight" of a frame, "fixed" of its atoms; for npz and HDF5 also "numbers",
            "positions");
            a leading minus turns a gradient into a force, and "none" says that the file has no such quantity.
        units: by quantity ("positions", "energy", "forces", "stress", "virial"), such as "kcal/mol".
        index: slice of the frames to take, such as "::10".
        pbc: periodic directions, such as "TTF", whatever the file says.
        nan_is_missing: a label that is NaN throughout is one that was not calculated.
        raw_forces: forces are those of the potential, also of atoms that constraints hold.
        labels: whether labels are wanted; otherwise structures alone, with everything else that they carry.
        elements: of the atoms or their types, where the file does not tell.
        cell: in Å where CP2K's file of cells is absent: three lengths, or nine numbers, row by row.
        keep_unconverged: take frames of outputs whose self-consistency did not converge.
    """

    format: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    index: str = ":"
    pbc: str | None = None
    nan_is_missing: bool = False
    raw_forces: bool = False
    labels: bool = True
    elements: Elements | None = None
    keep_unconverged: bool = False
    cell: str | None = None

    def __post_init__(self) -> None:
        """Raise KeysError for units of what no file keeps."""
        if unknown := sorted(self.units.keys() - MEASURED):
            known = ", ".join(MEASURED)
            raise KeysError(f"There is no quantity {unknown[0]!r} that has a unit. Correct --unit: {known}.")

    @property
    def lattice(self) -> NDArray[np.float64] | None:
        """(3, 3) Å, the cell that is given, if any.

        Raises:
            KeysError: it is none.
        """
        if self.cell is None:
            return None
        try:
            numbers = np.array([float(part) for part in self.cell.replace(",", " ").split()])
        except ValueError:
            numbers = np.empty(0)
        if numbers.size not in (3, 9) or not np.isfinite(numbers).all():
            raise KeysError(f"{self.cell!r} is no cell. Write three lengths in Å, 10,10,10, or nine numbers.")
        return np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)

    @property
    def options(self) -> tuple[str, ...]:
        """What of it the command line says with options."""
        names = None if self.elements is None else self.elements.names or None
        named = {
            "--format": self.format,
            "--index": self.index if self.index != ":" else None,
            "--pbc": self.pbc,
            "--elements": names,
            "--cell": self.cell,
        }
        pairs = [f"--key {shlex.quote(f'{quantity}={name}')}" for quantity, name in self.keys.items()]
        pairs += [f"--unit {shlex.quote(f'{quantity}={unit}')}" for quantity, unit in self.units.items()]
        pairs += ["--elements-from structure.xyz"] if self.elements is not None and names is None else []
        flags = {
            "--nan-is-missing": self.nan_is_missing,
            "--raw-forces": self.raw_forces,
            "--keep-unconverged": self.keep_unconverged,
        }
        return (
            *(f"{option} {shlex.quote(value)}" for option, value in named.items() if value is not None),
            *pairs,
            *(option for option, is_set in flags.items() if is_set),
        )

    @property
    def wanted(self) -> slice:
        """The slice that the index spells.

        Raises:
            FormatError: it spells none.
        """
        try:
            parts = [int(part) if part.strip() else None for part in self.index.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or parts[2:] == [0] or (len(parts) == 1 and parts[0] is None):
            raise FormatError(f"{self.index!r} is no slice of frames. Write it as 5, 10:20 or ::10.")
        if len(parts) == 1:
            start = parts[0] or 0
            return slice(start, None if start == -1 else start + 1)
        return slice(*parts)


def index_of(frames: Any) -> str:
    """A slice of frames as it is written, of what a program gives: text, a whole number, or a slice.

    Raises:
        FormatError: it is something else.
    """
    if isinstance(frames, str):
        return frames
    parts = (frames.start, frames.stop, frames.step) if isinstance(frames, slice) else (frames,)
    whole = (isinstance(k, int | np.integer) and not isinstance(k, bool) for k in parts if k is not None)
    if not all(whole) or parts == (None,):
        raise FormatError(
            f"{str(frames)[:40]} is no slice of frames. Write it as 5, slice(10, 20) or '::10'; of a list, "
            "choose among what is read."
        )
    return ":".join("" if k is None else str(int(k)) for k in parts)


def boundary_of(said: Any) -> NDArray[np.bool_]:
    """(3,) which directions are periodic, of words such as "T T F", "ppp" or "periodic", or of truth values.

    Raises:
        KeysError: it says no such thing.
    """
    given = said
    if isinstance(said, str):
        words = said.replace(",", " ").lower().split()
        if len(words) == 1 and words[0] not in PERIODIC:
            words = list(words[0])
        said = [PERIODIC.get(word) for word in words]
    values = np.ravel(np.asarray(said, dtype=object))
    if values.size not in (1, 3) or not all(value in (True, False) for value in values.tolist()):
        raise KeysError(f"{given!r} does not say which directions are periodic. Write it as TTF or FFF.")
    return np.broadcast_to(values.astype(bool), (3,)).copy()
