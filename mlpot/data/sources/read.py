"""Structures from files of any kind that ASE reads, and our own."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import ase.io
import h5py
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, ioformats, open_with_compression

from mlpot.data.errors import FormatError
from mlpot.data.h5md.read import Reader
from mlpot.data.h5md.write import write
from mlpot.version import __version__

MAX_BEYOND = 100  # lines that a reader may ask for where there are none
H5MD_ENDINGS = (".h5", ".hdf5", ".h5md")
READABLE = {
    "aims", "aims-output", "castep-geom", "castep-md", "cfg", "cif", "cjson", "cp2k-dcd", "cp2k-restart",
    "crystal", "cube", "db", "dftb", "dlp-history", "dlp4", "dmol-arc", "dmol-car", "eon", "espresso-in",
    "espresso-out", "extxyz", "gamess-us-out", "gaussian-out", "gen", "gpaw-out", "gpumd", "gpw",
    "gromacs", "gromos", "json", "lammps-data", "lammps-dump-text", "magres", "mol", "nomad-json",
    "nwchem-out", "onetep-out", "orca-output", "proteindatabank", "qbox", "res", "rmc6f", "runnerdata",
    "sdf", "siesta-xv", "struct", "struct_out", "sys", "traj", "turbomole", "turbomole-gradient", "v-sim",
    "vasp", "vasp-out", "vasp-xdatcar", "vasp-xml", "wout", "xsd", "xsf", "xyz",
}  # fmt: skip
"""ASE's formats whose readers look at the file alone (and at VASP's CONTCAR beside it).

Others run a program (CASTEP's cell), follow names in the file (Gaussian's, Octopus' and ONETEP's inputs), ask
servers, or are not ASE's.
"""


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
    yield from read_with_ase(path, index=slice(start, stop, step))


def ase_kind(path: Path) -> str:
    """The format of ASE that the content, or else the name, of a file shows; empty if none."""
    try:
        kind = str(ase.io.formats.filetype(str(path)))
    except (UnknownFileTypeError, OSError, EOFError, zlib.error):
        kind = ""
    return kind if kind in ioformats else ""


def read_with_ase(path: Path, kind: str | None = None, index: str | slice = ":") -> Iterator[Atoms]:
    """The structures of a file in a format of ASE, by default the one that it shows, streamed.

    Raises:
        FormatError: no format, one whose reader could be led to run or open something else, or a damaged file.
    """
    kind = kind or ase_kind(path)
    if kind not in READABLE:
        raise FormatError(
            f"{path} is in no format that is read ({kind or 'unknown'}). Convert it to extxyz with a program you "
            f"trust, or name the format, one of: {', '.join(sorted(READABLE))}."
        )
    with _opened(path, kind) as source:
        reading = ase.io.iread(source, index=index, format=kind, do_not_split_by_at_sign=True)
        for k in count():
            try:
                atoms = next(reading)
            except StopIteration:
                return
            except Exception as error:  # ASE has a hundred readers, and each fails in its own way
                raise FormatError(f"ASE could not read frame {k} of {path} as {kind}: {error!r}.") from error
            yield atoms


class _Lines(io.TextIOWrapper):
    """A text of which nobody reads line upon line beyond the end, as ASE does if told of a billion atoms."""

    _beyond = 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as in typeshed itself
        line = super().readline(size)
        self._beyond = 0 if line else self._beyond + 1
        if self._beyond > MAX_BEYOND:
            raise EOFError("it ends before the last frame does")
        return line


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[_Lines | str]:
    """What ASE is given to read: lines where that is what it wants, else the name."""
    if not ioformats[kind].acceptsfd or ioformats[kind].isbinary:
        yield str(path)
        return
    with _Lines(open_with_compression(str(path), "rb")) as lines:
        yield lines


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
