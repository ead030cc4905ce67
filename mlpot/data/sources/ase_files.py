"""Files in the formats that ASE reads, streamed; only readers that look at the file alone."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import ase.db
import ase.io
import ase.io.aims
import ase.io.extxyz
import ase.io.trajectory
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, ioformats, open_with_compression

from mlpot.data.errors import FormatError
from mlpot.data.sources import xyz_frames, xyz_numbers
from mlpot.data.sources.ase_faults import mended, molecules
from mlpot.data.sources.cut_off import text_for_ase, whole_steps_of_vasp
from mlpot.data.sources.force_field_steps import KINDS as OF_VASP
from mlpot.data.sources.force_field_steps import Lines, calculated, learns
from mlpot.data.sources.lammps import whole_frames
from mlpot.data.sources.own_outputs import OWN, own_steps
from mlpot.data.sources.programs import cause, origin, packing
from mlpot.data.sources.schnetpack import pairs_of
from mlpot.data.sources.steps import CUT_OFF, numbered

MAX_BEYOND = 100  # lines that a reader may ask for where there are none
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
NUL = "\0"
ZEROS = (
    "Its bytes of zero are those of text in UTF-16 (iconv -f UTF-16 -t UTF-8 writes it anew), or of a disk that "
    "failed while it was written: cut them off, or restore it."
)
RAW = {"cfg", "db", "extxyz", "json", "lammps-dump-text", "traj", "xyz"}
"""Formats whose numbers come as they stand in the file; those of all others ASE turns into eV and Å."""

CUT_TRAJ = "left out, as the file ends before the frame does"
ENDS_WITHIN = "left out, as the file ends within the frame, which begins in line {} and says {} atoms"

BY_ENDING = ("runnerdata", "sys", "gaussian-out", "espresso-out")
"""Formats that ASE knows by an ending (.data, .sys, .log, .out) that other programs use too."""
BY_PLACE = {"dlp-history"}
"""Formats whose readers ask for places in a file as they go over its lines, which only a text in memory tells."""

ASSERTS = __debug__
"""Whether this Python runs asserts, in one of which ASE reads."""

ASSUMED = {
    "runnerdata": "taken in bohr, hartree and hartree/bohr, as RuNNer writes; n2p2 takes any units: if they are "
    "others, write extxyz",
}
"""Units of formats that programs write in others too."""


def ase_kind(path: Path) -> str:
    """The format of ASE that the content, or else the name, of a file shows; empty if none."""
    try:
        kind = str(ase.io.formats.filetype(str(path)))
    except (UnknownFileTypeError, OSError, EOFError, zlib.error):
        kind = ""
    return kind if kind in ioformats else ""


def read_with_ase(
    path: Path,
    kind: str,
    wanted: slice = slice(None),
    note: Callable[[str, int], None] = lambda what, frame: None,
    labels: bool = False,
    faults: dict[int, str] | None = None,
) -> Iterator[tuple[int, Atoms]]:
    """The structures of a file in a format of ASE with their numbers in the file, streamed.

    Args:
        path, kind, wanted: the file, its format, and which of its frames.
        note: it is given what is left out before ASE reads.
        labels: whether labels are wanted, which must be of one method.
        faults: it is given, before the frame itself, why a frame of `OWN` formats did not converge, by its number.

    Raises:
        FormatError: a format whose reader could be led to run or open something else, or a damaged file.
    """
    if kind not in READABLE:
        raise FormatError(
            f"{path} is in no format that is read ({kind or 'unknown'}). {origin(path)} Convert it to "
            f"extxyz with a program you trust, or name the format, one of: {', '.join(sorted(READABLE))}."
        )
    if kind in ("xyz", "extxyz"):
        yield from _read_xyz(path, kind, wanted, note)
        return
    if kind in ("db", "json"):
        yield from _read_database(path, kind, wanted)
        return
    if kind in OWN:
        with _named_damage(path):
            yield from numbered(
                path, own_steps(path, kind), wanted, note, labels, {} if faults is None else faults
            )
        return
    with _opened(path, kind, note) as source:
        for k, atoms in _numbered(path, source, kind, wanted, note):
            if kind in ASSUMED:
                note(ASSUMED[kind], k)
            if told := mended(path, kind, atoms):
                note(told, k)
            yield k, atoms


def _numbered(
    path: Path, source: Given, kind: str, wanted: slice, note: Callable[[str, int], None]
) -> Iterator[tuple[int, Atoms]]:
    """The structures with their numbers, or why ASE could not read one."""
    reading = _reading(source, kind, wanted)
    for k in range(wanted.start or 0, 2**62, wanted.step or 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ASE's warnings to its own users
                atoms = next(reading)
        except StopIteration:
            return
        except FormatError:
            raise
        except Exception as error:  # ASE has a hundred readers, and each fails in its own way
            if kind == "traj" and k > (wanted.start or 0) and (lost := _ends_before(path, k)):
                for frame in lost:
                    note(CUT_TRAJ, frame)
                return
            raise FormatError(
                f"ASE could not read frame {k} of {path} as {kind}: {cause(path, kind, error)}"
            ) from error
        yield k, atoms


def _ends_before(path: Path, frame: int) -> range:
    """The frames of a trajectory of ASE from one on, if none of them is whole, as where the file was cut off."""
    with ase.io.trajectory.TrajectoryReader(str(path)) as trajectory:
        rest = range(frame, len(trajectory))
        for k in rest:
            try:
                trajectory[k]
            except Exception:  # damage raises errors of any kind
                continue
            return range(0)
    return rest


def _reading(source: Given, kind: str, wanted: slice) -> Iterator[Atoms]:
    if kind == "aims-output" and not isinstance(source, str):  # ASE itself takes nothing but a name
        yield from ase.io.aims.read_aims_output(source, index=wanted)
    elif kind in ("sdf", "mol") and not isinstance(source, str):
        yield from islice(molecules(source.read()), wanted.start, wanted.stop, wanted.step)
    else:
        yield from ase.io.iread(source, index=wanted, format=kind, do_not_split_by_at_sign=True)


def _read_xyz(
    path: Path, kind: str, wanted: slice, note: Callable[[str, int], None]
) -> Iterator[tuple[int, Atoms]]:
    """The frames of an xyz file, one text after another; ASE itself stops at a blank line, whatever follows."""
    if kind == "extxyz" and not ASSERTS:
        raise FormatError(
            f"{path} cannot be read by a Python without asserts (-O, PYTHONOPTIMIZE): ASE's reader of extxyz "
            "skips the number of atoms in one, and takes the comment for an atom. Leave that option out."
        )
    frames = range(*wanted.indices(2**62))
    with closing(texts_of_xyz(path, note)) as texts:
        for k, (line, text) in enumerate(texts):
            if k >= frames.stop:
                return
            if k not in frames:
                continue
            text = xyz_frames.with_names(text) if kind == "extxyz" else text
            columns = xyz_frames.columns(text) if kind == "extxyz" else xyz_frames.PLAIN
            if xyz_frames.has_unnamed(text, columns):
                note(xyz_frames.UNNAMED, k)
            xyz_frames.check_positions(f"{path}, frame {k} (line {line})", columns)
            if kind == "extxyz":
                xyz_frames.check_keys(f"{path}, frame {k}", text)
                if xyz_frames.check_numbers(f"{path}, frame {k}", line, text):
                    note(xyz_numbers.BEHIND, k)
                text = xyz_frames.with_matrices(f"{path}, frame {k} (line {line})", text)
            text, masses = xyz_frames.without_isotopes(text, columns)
            try:
                if kind == "xyz":
                    atoms = next(ase.io.iread(io.StringIO(text), format=kind))
                else:
                    atoms = next(ase.io.extxyz.read_xyz(io.StringIO(text), 0))
            except Exception as error:  # ASE raises errors of any kind for wrong lines
                xyz_frames.check_numbers(f"{path}, frame {k}", line, text, thorough=True)
                raise FormatError(
                    f"ASE could not read frame {k} of {path}, line {line}, as {kind}: {cause(path, kind, error)}"
                ) from error
            if kind == "extxyz":
                xyz_frames.keep_columns(atoms, columns)
                xyz_frames.keep_comment(f"{path}, frame {k}", atoms, text)
            if masses:
                xyz_frames.set_masses(atoms, masses)
                note(xyz_frames.ISOTOPES_READ, k)
            yield k, atoms


def _read_database(path: Path, kind: str, wanted: slice) -> Iterator[tuple[int, Atoms]]:
    """The rows of a database of ASE with the names and data of their writers, which ASE's reader leaves out."""
    start = k = wanted.start or 0
    try:
        with ase.db.connect(path, type=kind, serial=True) as database:
            n_frames = database.count()
            rows = database.select(offset=start, limit=max(0, min(wanted.stop or n_frames, n_frames) - start))
            for k, row in enumerate(rows, start=start):
                if k in range(*wanted.indices(n_frames)):
                    atoms = row.toatoms(add_additional_information=True)
                    atoms.info["key_value_pairs"] = pairs_of(row)
                    yield k, atoms
    except Exception as error:  # ASE raises errors of any kind for wrong rows
        what = f"{type(error).__name__}: {error}"[:300]  # some say all that the file holds
        if isinstance(error, UnknownFileTypeError):
            what = "it is no database of ASE. If it is of pymatgen, write extxyz with its AseAtomsAdaptor"
        raise FormatError(f"ASE could not read frame {k} of {path} as {kind}: {what}.") from error


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        if packed := packing(path, error.object):
            raise FormatError(f"{path} is no text. {packed}") from error
        wide = error.object[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in error.object
        other = "UTF-16, as Windows writes" if wide else "another encoding, as Latin-1"
        raise FormatError(
            f"{path} is no text in UTF-8: byte {error.object[error.start]:#x} is none of it. If it is text of "
            f"{other}: iconv -f {'UTF-16' if wide else 'LATIN1'} -t UTF-8 writes it anew; else restore or remake "
            "it."
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read as text: {error}. Restore or remake it.") from error


def texts_of_xyz(
    path: Path, note: Callable[[str, int], None] = lambda what, frame: None
) -> Generator[tuple[int, str]]:
    """Number of the first line and text of each frame of an xyz file, which may be packed by gzip, bzip2 or xz.

    Args:
        path: the file.
        note: is told of a last frame that is not whole, where there are others.

    Raises:
        FormatError: it is no text, or damaged.
    """
    with (
        open_with_compression(str(path), "rb") as raw,
        _named_damage(path),
        io.TextIOWrapper(raw, "utf-8-sig") as lines,
    ):
        yield from _xyz_frames(path, lines, note)


def _xyz_frames(path: Path, lines: Iterable[str], note: Callable[[str, int], None]) -> Iterator[tuple[int, str]]:
    """Number of the first line and text of each frame; lines of white between frames are nothing."""
    stream, n_frames = enumerate(lines, start=1), 0
    at, line = next(stream, (0, ""))
    while line:
        if not line.strip():
            at, line = next(stream, (0, ""))
            continue
        if not line.strip().isdecimal():
            raise FormatError(
                f"{path}, line {at}: a frame begins with its number of atoms, found {line.strip()[:40]!r}. "
                f"{ZEROS if NUL in line else 'Correct the file.'}"
            )
        first, n_atoms, text = at, int(line), [line]
        for _, line in stream:
            text.append(line)
            if len(text) == n_atoms + 2:
                break
        is_cut = len(text) < n_atoms + 2 or xyz_numbers.ends_within(text)
        if is_cut and n_frames:
            note(ENDS_WITHIN.format(first, n_atoms), n_frames)
            return
        if is_cut:
            raise FormatError(
                f"{path}: the frame that begins in line {first} says {n_atoms} atoms, and the file ends before "
                "the last frame does. Restore or remake it."
            )
        at, line = next(stream, (0, ""))
        while line.lstrip().startswith("VEC"):
            text.append(line)
            at, line = next(stream, (0, ""))
        yield first, "".join(text)
        n_frames += 1


class _Lines(io.TextIOWrapper):
    """A text of which nobody reads line upon line beyond the end, as ASE does if told of a billion atoms."""

    _beyond = 0

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as in typeshed itself
        line = super().readline(size)
        self._beyond = 0 if line else self._beyond + 1
        if self._beyond > MAX_BEYOND:
            raise EOFError("it ends before the last frame does")
        return line


Given = _Lines | Lines | io.StringIO | str
"""What ASE is given to read."""


@contextmanager
def _opened(path: Path, kind: str, note: Callable[[str, int], None]) -> Iterator[Given]:
    """What ASE is given to read: lines where that is what it wants, else the name."""
    if (given := text_for_ase(path, kind)) is not None:
        text, missing, step = given
        if missing:
            note(missing, step)
        yield _Lines(io.BytesIO(text.encode()))
        return
    if not ioformats[kind].acceptsfd or ioformats[kind].isbinary:
        yield str(path)
        return
    with _Lines(open_with_compression(str(path), "rb"), "utf-8-sig") as lines:
        if kind == "lammps-dump-text":
            with open_with_compression(str(path), "rt") as again:
                n_lines, cut_off = whole_frames(again)
            if cut_off:
                note(CUT_OFF, cut_off)
                yield io.StringIO("".join(islice(lines, n_lines)))
                return
        if kind in BY_PLACE:
            yield io.StringIO(lines.read())
            return
        if kind in OF_VASP:
            of_dft = calculated(lines, kind, note) if learns(path, kind) else lines
            yield Lines(whole_steps_of_vasp(path, of_dft, kind, note), str(path))
            return
        yield lines
