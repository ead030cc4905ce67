"""Structures from files of any kind that ASE reads, and our own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import ase.io
import h5py
from ase import Atoms

from mlpot.data.errors import FormatError
from mlpot.data.h5md_read import Reader
from mlpot.data.h5md_write import write
from mlpot.version import __version__

H5MD_ENDINGS = (".h5", ".hdf5", ".h5md")


def read_structures(path: str | Path, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Atoms]:
    """The structures of a slice of a file, streamed, with the labels that ASE finds there.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: the format is unknown, or the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path.")
    if path.suffix in H5MD_ENDINGS or h5py.is_hdf5(path):
        with Reader(path) as reader:
            yield from reader.frames(start, stop, step)
        return
    try:
        yield from ase.io.iread(path, index=slice(start, stop, step))
    except Exception as error:  # ASE has a hundred readers, and each fails in its own way
        raise FormatError(f"{path} cannot be read by ASE: {error}. Give a file in one of its formats.") from error


def read_structure(path: str | Path, index: int = 0) -> Atoms:
    """One structure of a file, counted from the end if negative.

    Raises:
        FileNotFoundError, FormatError: as `read_structures`, or the file has no such structure.
    """
    stop = None if index == -1 else index + 1
    for atoms in read_structures(path, index, stop):
        return atoms
    raise FormatError(f"{path} has no structure {index}. Give an index that is there.")


def write_structures(path: str | Path, structures: Iterable[Atoms], *, overwrite: bool = False) -> None:
    """Write structures with their labels, as H5MD if the name ends so, else in the format that its ending says.

    Raises:
        FileExistsError: the file exists and is not to be replaced.
    """
    path = Path(path)
    if path.suffix in H5MD_ENDINGS:
        write(path, structures, card={"made with": f"mlpot {__version__}"}, overwrite=overwrite)
        return
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another name, or ask to overwrite it.")
    ase.io.write(path, list(structures))
