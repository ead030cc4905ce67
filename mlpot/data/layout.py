"""Where our H5MD files keep what, and the checks that every HDF5 file passes before it is read.

/h5md                                     version 1.1, author, creator, modules/units
/particles/<boundary>/                    one group per number of atoms and boundary: atoms_9, atoms_8_ppp
    species, position, box/edges          each {step, time, value}; velocity, forces, force_mask where any
/observables/<boundary>/energy, stress    stress in the Voigt order of ASE
/parameters/mlpot/index                   (n_frames, 3): particles group, row in it, family of each frame
/parameters/mlpot/groups, families        the names behind the numbers of the index; `card` holds the card

Forces are an element named `forces` and not `force`: MDAnalysis refuses a file whose `force` is not in one of
the units it knows, and eV/Å is not among them. ZnH5MD reads both names.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np
from h5py import h5l, h5o, h5z

from mlpot.data.errors import DataError, FormatError

VERSION = (1, 1)  # of H5MD
INDEX = "parameters/mlpot/index"
GROUPS = "parameters/mlpot/groups"
FAMILIES = "parameters/mlpot/families"
CARD = "parameters/mlpot/card"
NAME_LENGTH = 128  # bytes of a name of a group or family
PATIENCE = 5.0  # seconds for which opening waits for a writer
MAX_CHUNK = 2**30  # bytes; no honest file unpacks more at once


@dataclass(frozen=True)
class Column:
    """One dataset of a particles group."""

    path: str  # "{}" stands for the name of the group
    tail: tuple[int, ...]  # shape of one frame; -1 is the number of atoms
    dtype: str
    fill: Any  # what a frame without this column holds
    quantity: str | None = None  # key of `unit.H5MD_UNITS`
    origin: str | None = None  # where ZnH5MD puts it

    def shape(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of one frame of `n_atoms` atoms."""
        return tuple(n_atoms if size == -1 else size for size in self.tail)


NAN = float("nan")
COLUMNS = {
    "position": Column("particles/{}/position", (-1, 3), "f8", NAN, "positions", "atoms"),
    "species": Column("particles/{}/species", (-1,), "u1", 0, None, "atoms"),
    "edges": Column("particles/{}/box/edges", (3, 3), "f8", 0.0, "cell", "atoms"),
    "velocity": Column("particles/{}/velocity", (-1, 3), "f8", NAN, "velocities", "arrays"),
    "forces": Column("particles/{}/forces", (-1, 3), "f8", NAN, "forces", "calc"),
    "force_mask": Column("particles/{}/force_mask", (-1,), "?", True, None, "arrays"),
    "energy": Column("observables/{}/energy", (), "f8", NAN, "energy", "calc"),
    "stress": Column("observables/{}/stress", (6,), "f8", NAN, "stress", "calc"),
}


def group_name(n_atoms: int, pbc: np.ndarray) -> str:
    """The particles group of a frame: H5MD fixes the boundary for a group, MDAnalysis the number of atoms."""
    return f"atoms_{n_atoms}" + ("_" + "".join("np"[int(p)] for p in pbc) if any(pbc) else "")


def open_checked(path: str | Path) -> h5py.File:
    """An HDF5 file opened for reading, after its links, storage and filters were found to be harmless.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: not HDF5, damaged, or it reaches for data outside itself.
    """
    try:
        file = _open(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        cure = "Restore or remake it."
        if Path(f"{path}.journal").exists():
            cure = "Its writer was killed while writing: go on with `mlpot md ... --continue`, which repairs it."
        raise FormatError(f"{path} is not an HDF5 file, or is damaged: {error}. {cure}") from None
    try:
        with naming_damage(str(path)):
            for name, dataset in walk(file):
                check_storage(f"{path}:{name}", dataset)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def naming_damage(where: str) -> Iterator[None]:
    """Turn what HDF5 and zip files raise on damaged bytes into a FormatError."""
    try:
        yield
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, OverflowError, EOFError, BadZipFile, zlib.error) as error:
        raise FormatError(f"{where} is damaged: {error}. Restore or remake the file.") from None


def _open(path: str | Path) -> h5py.File:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return h5py.File(path, "r")
        except BlockingIOError:  # its writer puts a block in, which takes milliseconds
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        except OSError as error:
            if "open for" not in str(error):
                raise
            # Held open by another program, or left so when it was killed: whole up to its last flush.
            return h5py.File(path, "r", swmr=True)


def walk(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset of a file by its path, following hard links only, each group once."""
    seen: set[Any] = set()
    pending = [("", file.id)]
    while pending:
        path, group = pending.pop()
        for key in list(group):
            name = f"{path}/{key.decode(errors='replace')}"
            if group.links.get_info(key).type != h5l.TYPE_HARD:
                raise FormatError(
                    f"{file.filename}:{name} is a link. Only plain groups and datasets are read; "
                    "copy what it points to into the file."
                )
            info = h5o.get_info(group, key)
            if info.type == h5o.TYPE_DATASET:
                yield name, h5py.Dataset(h5py.h5d.open(group, key))
            elif info.type == h5o.TYPE_GROUP and (info.fileno, info.addr) not in seen:
                seen.add((info.fileno, info.addr))
                pending.append((name, h5py.h5g.open(group, key)))


def check_storage(name: str, dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose values lie outside the file, or that cannot be unpacked here.

    Raises:
        FormatError: external or virtual storage, a missing filter, a chunk of absurd size.
    """
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise FormatError(f"{name} keeps its values in other files. Copy them in (h5repack does).")
    for k in range(properties.get_nfilters()):
        code = properties.get_filter(k)[0]
        if not h5z.filter_avail(code):
            raise FormatError(
                f"{name} is packed with HDF5 filter {code}, which is not installed. Repack it with gzip."
            )
    if dataset.chunks and np.prod(dataset.chunks, dtype=float) * dataset.dtype.itemsize > MAX_CHUNK:
        raise FormatError(f"{name} has chunks of {dataset.chunks}, above 1 GiB each. Repack it in smaller chunks.")
