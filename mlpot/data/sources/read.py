"""The one reader: every command sees the same frames of a file, whatever its format, and tells the same of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.io.formats import ioformats

from mlpot.atomic_files import path_of
from mlpot.data import stress_labels
from mlpot.data.elements import Elements
from mlpot.data.errors import DataError, FormatError, KeysError, LabelError
from mlpot.data.frame import Frame, columns_of, family, frame_of_columns
from mlpot.data.h5md.read import BLOCK, Reader
from mlpot.data.h5md.safe_hdf5 import naming_damage, open_unchecked
from mlpot.data.sources import dpdata_files, lammps
from mlpot.data.sources.ase_files import BY_ENDING, RAW, READABLE, ase_kind, read_with_ase, texts_of_xyz
from mlpot.data.sources.consistency import check_structure, check_symmetry
from mlpot.data.sources.cp2k import is_cp2k, read_cp2k
from mlpot.data.sources.datasets import read_datasets
from mlpot.data.sources.deepmd import is_deepmd, read_deepmd
from mlpot.data.sources.interpret import Interpreter
from mlpot.data.sources.ipi import is_ipi, read_ipi
from mlpot.data.sources.layouts import LAYOUTS
from mlpot.data.sources.names import NONE, Questions
from mlpot.data.sources.programs import kind_by_content, origin
from mlpot.data.sources.reading import Reading, boundary_of, index_of
from mlpot.data.sources.report import MODEL, Report
from mlpot.data.sources.schnetpack import is_schnetpack, read_schnetpack
from mlpot.data.sources.unconverged import converged
from mlpot.data.stress_labels import IN_PLANE

H5MD_ENDINGS = (".h5", ".hdf5", ".h5md")
LIKELY = ("extxyz", "vasp-out", "vasp-xml", "gaussian-out", "orca-output", "espresso-out", "aims-output",
          "lammps-dump-text", "dpdata:cp2k/output", "traj", "db", "json", "npz", "hdf5", "deepmd")  # fmt: skip
NAME_IT = f"Name its format, as in --format extxyz, or another: {', '.join(LIKELY)}."
MORE = 1000  # frames that are read after the first that leaves a question, for all questions in one message
ASE_KEYS = {"energy", "forces", "stress", "virial", "group", "cell", "pbc", "charge", "spin", "weight", "fixed"}
NAN_MISSING = "{} left out, as it is NaN throughout"

Numbered = Iterator[tuple[int, Atoms]]
"""Frames with their numbers in the file."""


class NoStructureError(FormatError):
    """A file has fewer structures."""


class Source:
    """A file of structures of any kind, and how it is to be read; each pass over it makes a new report.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | Path, reading: Reading | None = None):
        self.path, self.reading = path_of(path, "a file of structures"), reading or Reading()
        self.report = Report(str(path))
        if not self.path.exists():
            raise FileNotFoundError(f"There is no file {path}. Check the path.")
        if not (self.path.is_file() or self.path.is_dir()):  # who opens a pipe without a writer waits for ever
            raise FormatError(f"{path} is a pipe or a device, and a file is read more than once. Store it first.")

    @cached_property
    def kind(self) -> str:
        """The format: "h5md", "npz", "hdf5", one of `LAYOUTS`, of `FORMATS` or of ASE.

        Raises:
            FormatError: neither the user nor the file says.
        """
        kind = self.reading.format or kind_of(self.path)
        if kind not in ("h5md", *FORMATS, *ioformats):
            near = get_close_matches(kind, [*READABLE, *FORMATS], n=3)
            known = ", ".join(near or LIKELY)
            raise FormatError(f"There is no format {kind!r}. {'Nearest' if near else 'There are'}: {known}.")
        if self.reading.cell is not None and kind != "cp2k-xyz":
            raise KeysError(
                f"{self.path} is of format {kind}, and --cell is for trajectories of CP2K. A cell that the file "
                "has under a name of its own: --key cell=NAME."
            )
        return kind

    @cached_property
    def card(self) -> dict[str, str]:
        """What the file says the data are."""
        if self.kind != "h5md":
            return {}
        with self.reader() as reader:
            return reader.card

    @property
    def n_frames(self) -> int | None:
        """Frames in the file, where they need not be read to be counted."""
        if self.kind != "h5md":
            return None
        with self.reader() as reader:
            return len(range(len(reader))[self.reading.wanted])

    @property
    def in_columns(self) -> bool:
        """Whether its frames can be taken column by column, as the file has them, with `reader`."""
        reading = self.reading
        as_they_are = reading.pbc is None and not reading.keys and (reading.wanted.step or 1) > 0
        return self.kind == "h5md" and as_they_are

    def numbered(self, start: int = 0, stop: int | None = None, step: int = 1) -> Numbered:
        """Frames with their numbers in the file, in house units, streamed; of those that `reading` takes, a slice.

        Raises:
            KeysError: questions are open, or a key is not there; UnitsError: a unit is unknown or of another
            quantity; LabelError: a value is not finite or has the wrong shape; FormatError: damaged.
        """
        self.report = Report(str(self.path), self.reading.labels)
        wanted = self._slice(start, stop, step)
        k = None
        boundary = None if self.reading.pbc is None else boundary_of(self.reading.pbc)
        for k, atoms in self._read(wanted):
            if boundary is not None:
                atoms.pbc = boundary
            check_structure(f"{self.path}, frame {k}", atoms.positions, atoms.cell.array, atoms.pbc)
            if self.kind != "h5md" and self.reading.labels:
                self._finish(k, atoms)
            self.report.count(atoms)
            yield k, atoms
        if k is None and wanted.start == 0 < wanted.stop and self.kind in ioformats:
            raise FormatError(
                f"{self.path} has no frame that is found in it as {self.kind}. {origin(self.path)} If it is in "
                "another format, name that with --format."
            )

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Atoms]:
        """The frames alone."""
        return (atoms for _, atoms in self.numbered(start, stop, step))

    def telling_lost_constraints(self, structures: Iterable[Atoms], format: str) -> Iterator[Atoms]:
        """Structures as they come, counted in the report where the format they go to cannot hold a constraint."""
        for k, atoms in enumerate(structures):
            self.report.note_constraints(atoms, format, k)
            yield atoms

    def records(self, step: int = 1) -> Iterator[tuple[int, Frame]]:
        """Every `step`-th frame as a record, with its number in the file."""
        if self.kind == "h5md":
            self.report = Report(str(self.path), self.reading.labels)
            yield from self._h5md_records(step)
            return
        for k, atoms in self.numbered(step=step):
            yield k, frame_of_columns(columns_of(atoms, k), atoms.pbc, family(atoms))

    def _h5md_records(self, step: int) -> Iterator[tuple[int, Frame]]:
        with self.reader() as reader:
            chosen = range(len(reader))[self.reading.wanted][::step]
            for start in range(0, len(chosen), BLOCK):
                block = chosen[start : start + BLOCK]
                for k, frame in zip(block, reader.columns(block), strict=True):
                    check_structure(f"{self.path}, frame {k}", frame.positions, frame.cell, frame.pbc)
                    self.report.count_record(frame)
                    yield k, frame
            self._note_volumes(reader)

    def _note_volumes(self, reader: Reader) -> None:
        for k, what in reader.of_stresses:
            self.report.note(what, k)

    def _slice(self, start: int, stop: int | None, step: int) -> slice:
        """A slice of what `reading` takes as a slice of the file."""
        wanted = self.reading.wanted
        if any(
            part is not None and part < 0 for part in (wanted.start, wanted.stop, wanted.step, start, stop, step)
        ):
            chosen = range(self._count())[wanted][start:stop:step]
        else:
            chosen = range(2**62)[wanted][start:stop:step]
        if chosen.step < 0:
            raise FormatError(f"Frames are read forwards, so the step of {self.reading.index!r} must be positive.")
        self.report.wanted = range(chosen.start, max(chosen.start, chosen.stop), chosen.step)
        return slice(self.report.wanted.start, self.report.wanted.stop, chosen.step)

    def _count(self) -> int:
        """Frames in the file, converged or not, whatever they hold."""
        if self.kind == "h5md":
            with self.reader() as reader:
                return len(reader)
        if self.kind in ("xyz", "extxyz"):
            with closing(texts_of_xyz(self.path)) as texts:
                return sum(1 for _ in texts)
        if self.kind in FORMATS:
            return sum(1 for _ in FORMATS[self.kind](self.path, self.kind, self.reading, Report(str(self.path))))
        return sum(1 for _ in read_with_ase(self.path, self.kind))

    def _read(self, wanted: slice) -> Numbered:
        if self.kind == "h5md":
            yield from self._h5md(wanted)
        elif self.kind in FORMATS:
            frames = FORMATS[self.kind](self.path, self.kind, self.reading, self.report)
            yield from islice(frames, wanted.start, wanted.stop, wanted.step)
        else:
            yield from self._ase(wanted)

    def _h5md(self, wanted: slice) -> Numbered:
        with self.reader() as reader:
            chosen = range(len(reader))[wanted]
            yield from zip(chosen, reader.frames(chosen.start, chosen.stop, chosen.step), strict=True)
            self._note_volumes(reader)

    def reader(self) -> Reader:
        """Of an H5MD file, with what the user says of it."""
        said = self.reading
        units, elements = said.units, said.elements
        reader = Reader(
            self.path, units=units, elements=elements, keys=said.keys, said=said.options, labels=said.labels
        )
        self.report.unused |= dict.fromkeys(reader.unread, len(reader))
        self.report.scales, self.report.potential = self.report.scales | reader.scales, reader.card.get(MODEL)
        return reader

    def _ase_atoms(self, wanted: slice) -> Numbered:
        """What ASE reads, but with true elements, and without frames that did not converge."""
        faults: dict[int, str] = {}
        frames = read_with_ase(self.path, self.kind, wanted, self.report.note, self.reading.labels, faults)
        if self.kind in lammps.KINDS:
            said = self.reading
            frames = lammps.lammps_frames(
                self.path, self.kind, frames, said.elements, said.units, self.report.note, said.pbc
            )
        elif self.reading.elements is not None:
            raise KeysError(f"{self.path} is of format {self.kind}, which names elements. Leave out --elements.")
        if self.reading.labels and not self.reading.keep_unconverged:
            frames = converged(self.path, self.kind, frames, self.report.note, faults)
        return frames

    def _ase(self, wanted: slice) -> Numbered:
        reading = self.reading
        if unknown := set(reading.keys) - ASE_KEYS:
            raise KeysError(f"{sorted(unknown)} cannot be named in ASE's formats. Correct --key.")
        if self.kind not in RAW and reading.units:
            raise KeysError(
                f"{self.path} is of format {self.kind}, whose numbers ASE turns into eV and Å as it reads them. "
                "Leave out --unit; what is wrong with them all the same, --correct changes."
            )
        questions = Questions(str(self.path), reading.options, reading.labels)
        interpreter = Interpreter(str(self.path), reading, self.report, questions)
        n_more = 0
        for k, atoms in self._ase_atoms(wanted):
            clean = interpreter.structure(k, atoms)
            if not questions:
                yield k, clean
            elif (n_more := n_more + 1) > MORE:
                break
        if questions:
            raise questions.error()
        absent = {key for key, name in reading.keys.items() if name != NONE} - interpreter.found
        if interpreter.names and absent:
            raise KeysError(
                f"{self.path} has nothing named {[reading.keys[key] for key in sorted(absent)]}. It has "
                f"{sorted(interpreter.names)}. Correct --key."
            )

    def _finish(self, k: int, atoms: Atoms) -> None:
        """Leave out labels that no structure of this kind can have; check the others."""
        results = {} if atoms.calc is None else atoms.calc.results
        for key in [key for key in results if np.size(results[key]) and np.isnan(results[key]).all()]:
            if not self.reading.nan_is_missing:
                raise LabelError(
                    f"{self.path}: Frame {k}: {key} is not finite: it is NaN throughout. If NaN stands for what "
                    "was not calculated: --nan-is-missing."
                )
            self.report.note(NAN_MISSING.format(key), k)
            del results[key]
        if "stress" in results:
            stress = np.asarray(results["stress"], dtype=float)
            if what := stress_labels.told(stress, atoms.pbc, atoms.cell.array):
                self.report.note(what, k)
                if what != IN_PLANE:
                    del results["stress"]
        if atoms.calc is not None and not results:
            atoms.calc = None
        if "stress" in results and np.shape(results["stress"]) == (3, 3):
            check_symmetry(f"{self.path}, frame {k}", np.asarray(results["stress"], dtype=float))
        try:
            columns_of(atoms, k)
        except LabelError as error:
            raise LabelError(f"{self.path}: {error}") from error


FORMATS: dict[str, Callable[[Path, str, Reading, Report], Numbered]] = {
    "deepmd": read_deepmd,
    "cp2k-xyz": read_cp2k,
    "ipi-xyz": read_ipi,
    "schnetpack": read_schnetpack,
    **dict.fromkeys(dpdata_files.KINDS, dpdata_files.read_dpdata),
    **dict.fromkeys(("npz", "hdf5", *LAYOUTS), read_datasets),
}
"""Readers of what ASE does not read: all frames with their numbers, in house units."""


def kind_of(path: Path) -> str:
    """The format that the content, or else the name, of a file shows.

    Raises:
        FormatError: none.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise FormatError(f"{path} is empty. Restore or remake it.")
    if path.is_file() and h5py.is_hdf5(path):
        with naming_damage(str(path)), open_unchecked(path) as file:
            return "h5md" if file.id.links.exists(b"h5md") else "hdf5"
    if path.suffix in H5MD_ENDINGS and path.is_file():
        return "h5md"  # damaged: whoever opens it says how
    if path.suffix == ".npz":
        return "npz"
    if is_deepmd(path):
        return "deepmd"
    if is_cp2k(path):
        return "cp2k-xyz"
    if is_ipi(path):
        return "ipi-xyz"
    kind = ase_kind(path)
    if kind == "db" and path.is_file() and is_schnetpack(path):
        return "schnetpack"
    # ASE takes these for the formats of their endings.
    program = dpdata_files.by_dpdata(path) if kind in ("", "gaussian-out", "espresso-out") else ""
    found = kind_by_content(path) if kind in BY_ENDING or kind not in READABLE else ""
    kind = program or found or kind
    if not kind:
        raise FormatError(f"{path} shows no format that ASE knows. {origin(path) or NAME_IT}")
    return kind


def as_source(file: str | Path | Source, *, labels: bool = True) -> Source:
    """A source, read by the conventions of its format if only a path is given."""
    return file if isinstance(file, Source) else Source(file, Reading(labels=labels))


def read(file: str | Path, index: str | int | slice = ":") -> list[Atoms]:
    """The structures of a file of any kind, in Å, with labels (eV, eV/Å, eV/Å³) as results of their calculators.

    Args:
        file: what `mlpot data convert` takes without options.
        index: slice of the frames, such as "::10" or "-1", slice(0, 5) or -1; always a list comes back.

    Raises:
        FileNotFoundError: there is no such file; DataError: it is damaged, unknown, or a label makes no sense.
    """
    frames = [*(source := Source(file, Reading(index=index_of(index)))).frames()]
    source.report.warn()
    return frames


def read_structures(path: str | Path, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Atoms]:
    """The structures of a slice of a file, streamed, without labels but with all else that they carry.

    Raises:
        FileNotFoundError: there is no such file; FormatError: its format is unknown, or it is damaged.
    """
    yield from as_source(path, labels=False).frames(start, stop, step)


def read_structure(path: str | Path, index: int = 0, elements: Elements | None = None, *notes: list[str]) -> Atoms:
    """One structure of a file, counted from the end if negative; `elements` of its types, if it has types alone.

    Raises:
        FileNotFoundError, FormatError: as `read_structures`, or the file has no such structure.
    """
    source = Source(path, Reading(index=str(index), labels=False, elements=elements))
    for atoms in source.frames():
        for told in notes:  # what was chosen or left out
            told += source.report.notes
        return atoms
    raise NoStructureError(f"{path} has no structure {index}. Give an index that is there.")


def has_structure(path: str | Path, index: int, elements: Elements | None = None) -> bool:
    """Whether a file has so many structures, be this one readable or not."""
    try:
        read_structure(path, index, elements)
    except DataError as error:
        return not isinstance(error, NoStructureError)
    return True


def named_elements(names: str | None, file: str | Path | None) -> Elements | None:
    """Elements as a user names them, or as those of the first structure of another file; None if neither is given.

    Raises:
        KeysError: both are given, or a name is none; FileNotFoundError, FormatError: as `read_structures`.
    """
    if names is not None and file is not None:
        raise KeysError("Give either --elements or --elements-from, not both.")
    if file is not None:
        return Elements(numbers=read_structure(file).numbers)
    return None if names is None else Elements(names)
