"""Frames into H5MD files: streamed, chunked, compressed, checksummed, absent or complete."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.atomic_files import check_place, replacing, storing
from mlpot.data.constraints import other_constraints
from mlpot.data.errors import FormatError, LabelError, LeftOutWarning
from mlpot.data.frame import Columns, columns_of, family
from mlpot.data.h5md.block import Series, joined
from mlpot.data.h5md.layout import (
    CARD,
    COLUMNS,
    FAMILIES,
    GROUPS,
    INDEX,
    NAME_LENGTH,
    VERSION,
    group_name,
)
from mlpot.data.h5md.safe_hdf5 import open_checked
from mlpot.data.h5md.sink import Sink
from mlpot.data.unit_names import H5MD_UNITS
from mlpot.version import __version__

BUFFER = 2**23  # bytes held before they are written
BUFFER_OF_COLUMNS = 2**21  # the same, of columns
CHUNK = 2**13  # bytes of a chunk: small, so that a random frame unpacks little besides itself
CLOCKS = ("step", "time")
Part = Iterable[Atoms] | Series
PACK: dict[str, Any] = {"compression": "lzf", "shuffle": True, "fletcher32": True}


def write(path: str | Path, frames: Iterable[Atoms], *, card: Mapping[str, str], overwrite: bool = False) -> None:
    """Write frames to a new H5MD file, which is absent until it is complete.

    Args:
        path: the new file.
        frames: structures with energy (eV), forces (eV/Å) and stress (eV/Å³) in their calculators, each optional;
            `force_mask` in `arrays`, `group`, `step` and `time` (fs) in `info`, momenta, each optional.
        card: what the data are: level of theory, source, licence, how to remake.
        overwrite: replace an existing file.

    Raises:
        FileExistsError, FileNotFoundError, StorageError: as `check_place`.
        LabelError: a frame has a value that is not finite or not of the right shape, or there are no frames.
    """
    write_parts(path, [frames], card=card, overwrite=overwrite)


def write_parts(
    path: str | Path,
    parts: Iterable[Iterable[Atoms] | Series],
    *,
    card: Mapping[str, str],
    overwrite: bool = False,
) -> int:
    """As `write`, of frames that come in parts, as structures or column by column; their number."""
    check_place(path, overwrite=overwrite)
    with replacing(path, overwrite=overwrite) as temporary:
        with _opened(temporary, Path(path), new=True) as (file, sink):
            found(file, card)
            n_frames = 0
            with _Behind(file) as columns:
                for part in parts:
                    sink.check()
                    if isinstance(part, Series):
                        columns.take(part)
                        continue
                    columns.finish()
                    n_frames += extend(file, _watched(part, sink))
                columns.finish()
            n_frames += columns.n_written
        if n_frames == 0:
            raise LabelError(f"No frames to write to {path}. Check the source and the selection of frames.")
    return n_frames


class _Behind:
    """Writes columns in a thread of its own while the next are made, by compiled code above all."""

    def __init__(self, file: h5py.File):
        self._file, self._held = file, list[Series]()
        self.n_written = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlpot-write")
        self._writing: Future[int] | None = None

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()  # after an error too, as the file is closed then

    def take(self, series: Series) -> None:
        """Write some frames soon, after those before them; errors of these come here too."""
        self._held.append(series)
        if sum(held.n_bytes for held in self._held) > BUFFER_OF_COLUMNS:
            self._begin()

    def finish(self) -> None:
        """Write all that was taken."""
        self._begin()
        self._wait()

    def _begin(self) -> None:
        self._wait()
        if self._held:
            self._writing = self._thread.submit(extend_columns, self._file, joined(self._held))
            self._held = []

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.n_written += writing.result()


def append(path: str | Path, frames: Iterable[Atoms]) -> None:
    """Add frames to the end of a file of ours, which stays as it was until all of them are in.

    The file is copied each time: append in blocks.

    Raises:
        FormatError: the file was not written by mlpot, or is damaged.
        LabelError: as for `write`.
    """
    with open_checked(path) as file:
        if INDEX not in file:
            raise FormatError(f"{path} was not written by mlpot, so nothing is appended. Convert it first.")
        if file.swmr_mode:
            raise FormatError(
                f"{path} is open for writing, or its writer was killed. Wait for it, or rescue the frames: "
                "write(new, Reader(path).frames(), card={...})."
            )
    with replacing(path) as temporary:
        with storing(Path(path), Path(path).stat().st_size):
            shutil.copyfile(path, temporary)
        with _opened(temporary, Path(path), new=False) as (file, sink):
            extend(file, _watched(frames, sink))


@contextmanager
def _opened(path: Path, wanted: Path, *, new: bool) -> Iterator[tuple[h5py.File, Sink]]:
    """A file that is filled, and thrown away if that fails.

    Raises:
        StorageError: something could not be written.
    """
    with closing(Sink(path, wanted, new=new)) as sink:
        try:
            with h5py.File(cast("BinaryIO", sink), "w" if new else "r+", libver=("v110", "v110")) as file:
                yield file, sink
        except (OSError, RuntimeError, ValueError, KeyError):  # as what HDF5 reads back may be lost
            sink.check()
            raise
        sink.check()


def _watched(frames: Iterable[Atoms], sink: Sink) -> Iterator[Atoms]:
    for atoms in frames:
        sink.check()
        yield atoms


def found(file: h5py.File, card: Mapping[str, str]) -> None:
    """Give an empty file what every H5MD file has, and the empty tables of ours."""
    root = file.create_group("h5md")
    root.attrs["version"] = np.array(VERSION)
    root.create_group("author").attrs["name"] = card.get("author", "N/A")
    root["author"].attrs["email"] = "N/A"
    creator = root.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "mlpot", __version__
    root.create_group("modules/units").attrs["version"] = np.array((1, 0))
    file.create_group("particles")
    _table(file, INDEX, (3,), "i4")
    for names in (GROUPS, FAMILIES):
        _table(file, names, (), h5py.string_dtype("utf-8", NAME_LENGTH))
    notes = file.create_group(CARD)
    for key, value in card.items():
        notes.attrs[str(key)] = str(value)


def _table(
    file: h5py.File, path: str, tail: tuple[int, ...], dtype: Any, length: int = 0, fill: Any = None
) -> h5py.Dataset:
    """An empty dataset that grows along its first axis."""
    rows = int(np.clip(CHUNK // (np.dtype(dtype).itemsize * max(1, int(np.prod(tail)))), 8, 1024))
    return file.create_dataset(
        path,
        shape=(length, *tail),
        maxshape=(None, *tail),
        dtype=dtype,
        chunks=(rows, *tail),
        fillvalue=fill,
        **PACK,
    )


def extend(file: h5py.File, frames: Iterable[Atoms]) -> int:
    """Write frames behind those that are there; the number written."""
    names = _names(file)
    rows = [file[f"particles/{name}/species/value"].shape[0] for name in names[GROUPS]]
    start = int(file[INDEX].shape[0])
    buffers: dict[int, list[Columns]] = {}
    index: list[tuple[int, int, int]] = []
    held, told = 0, set[str]()
    for frame, atoms in enumerate(frames, start=start):
        if new := set(other_constraints(atoms)) - told:
            told |= new
            warnings.warn(
                f"Constraints {', '.join(sorted(new))} are not kept in H5MD, from frame {frame} on; FixAtoms, "
                "FixCartesian and FixCom are.", LeftOutWarning, stacklevel=2,
            )  # fmt: skip
        columns = {"step": np.array(float(frame)), "time": np.array(np.nan), **columns_of(atoms, frame)}
        name = group_name(len(atoms), atoms.pbc)
        group = _number(names[GROUPS], name)
        if group == len(rows):
            rows.append(0)
            _create_group(file, name, len(atoms), atoms.pbc)
        label = family(atoms)
        index.append((group, rows[group], -1 if label is None else _number(names[FAMILIES], label)))
        rows[group] += 1
        buffers.setdefault(group, []).append(columns)
        held += sum(column.nbytes for column in columns.values())
        if held > BUFFER:
            _flush(file, names, buffers, index)
            buffers, index, held = {}, [], 0
    _flush(file, names, buffers, index)
    return int(file[INDEX].shape[0]) - start


def extend_columns(file: h5py.File, series: Series) -> int:
    """Write frames behind those that are there, column by column; the number written.

    Frames without a time are numbered by their places in the file.
    """
    names, start = _names(file), int(file[INDEX].shape[0])
    index = np.empty((len(series), 3), dtype=np.int32)
    for block in series.blocks:
        n_atoms = block.columns["position"].shape[1]
        name = group_name(n_atoms, block.pbc)
        group = _number(names[GROUPS], name)
        if f"particles/{name}" not in file:
            _create_group(file, name, n_atoms, block.pbc)
        first = file[f"particles/{name}/position/value"].shape[0]
        families = [-1 if label is None else _number(names[FAMILIES], label) for label in block.families]
        index[block.places] = np.stack(
            [np.full(len(block), group), np.arange(first, first + len(block)), families], axis=1
        )
        time = block.columns.get("time", np.full(len(block), np.nan))
        step = np.where(np.isnan(time), start + block.places, block.columns.get("step", 0))
        _write_columns(file, name, n_atoms, block.columns | {"step": step, "time": time})
    _name_and_index(file, names, index)
    return len(series)


def _names(file: h5py.File) -> dict[str, dict[str, int]]:
    """Groups and families with their numbers."""
    return {key: {n.decode(): k for k, n in enumerate(file[key][:])} for key in (GROUPS, FAMILIES)}


def _number(names: dict[str, int], name: str) -> int:
    """The number of a name, a new one if it is new."""
    return names.setdefault(_short(name), len(names))


def _short(name: str) -> str:
    """A name that fits, and is that of no other name: of a long one the beginning, and a hash of all of it."""
    if len(name.encode()) <= NAME_LENGTH:
        return name
    kept = name.encode()[: NAME_LENGTH - 20].decode(errors="ignore")
    short = f"{kept}... {hashlib.blake2b(name.encode(), digest_size=6).hexdigest()}"
    warnings.warn(
        f"A family has a name of more than {NAME_LENGTH} bytes. It is called {short!r}.",
        LeftOutWarning,
        stacklevel=2,
    )
    return short


def _create_group(file: h5py.File, name: str, n_atoms: int, pbc: NDArray[np.bool_]) -> None:
    box = file.create_group(f"particles/{name}/box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if p else "none" for p in pbc]
    _table(file, f"particles/{name}/position/step", (), "i8", fill=0)
    _table(file, f"particles/{name}/position/time", (), "f8", fill=np.nan).attrs["unit"] = H5MD_UNITS["time"]
    for key in ("position", "species", "edges"):
        _create_column(file, name, key, n_atoms, 0)


def _create_column(file: h5py.File, group: str, key: str, n_atoms: int, length: int) -> None:
    """A column with as many empty rows as its group has frames, sharing step and time with the positions."""
    column = COLUMNS[key]
    path = column.path.format(group)
    values = _table(file, f"{path}/value", column.shape(n_atoms), column.dtype, length, column.fill)
    if column.quantity is not None:
        values.attrs["unit"] = H5MD_UNITS[column.quantity]
    file[path].attrs["ASE_ENTRY_ORIGIN"] = column.origin
    for clock in CLOCKS:
        if clock not in file[path]:
            file[path][clock] = file[f"particles/{group}/position/{clock}"]


def _flush(
    file: h5py.File,
    names: dict[str, dict[str, int]],
    buffers: dict[int, list[Columns]],
    index: list[tuple[int, int, int]],
) -> None:
    groups = list(names[GROUPS])
    for group, block in buffers.items():
        _write_block(file, groups[group], block)
    _name_and_index(file, names, np.array(index, dtype=np.int32).reshape(-1, 3))


def _name_and_index(file: h5py.File, names: dict[str, dict[str, int]], index: NDArray[np.int32]) -> None:
    """Add new names of groups and families, and rows of the index."""
    for key in (GROUPS, FAMILIES):
        new = [name.encode() for name in list(names[key])[file[key].shape[0] :]]
        _grow(file[key], np.array(new, dtype=file[key].dtype))
    _grow(file[INDEX], index)


def _write_block(file: h5py.File, group: str, block: list[Columns]) -> None:
    """Write frames of one particles group."""
    n_atoms = len(block[0]["species"])
    columns = {clock: np.array([columns[clock] for columns in block]) for clock in CLOCKS}
    for key, column in COLUMNS.items():
        if any(key in columns for columns in block):
            empty = np.full(column.shape(n_atoms), column.fill, dtype=column.dtype)
            columns[key] = np.stack([columns.get(key, empty) for columns in block])
    _write_columns(file, group, n_atoms, columns)


def _write_columns(file: h5py.File, group: str, n_atoms: int, columns: Columns) -> None:
    """Write columns (n, ...) of frames of one particles group; a column appears with the first that have it."""
    length = file[f"particles/{group}/position/value"].shape[0]
    for clock in CLOCKS:
        _grow(file[f"particles/{group}/position/{clock}"], columns[clock])
    for key, column in COLUMNS.items():
        path = column.path.format(group)
        if path not in file:
            if key not in columns:
                continue
            _create_column(file, group, key, n_atoms, length)
        values = columns.get(key)
        if values is None:
            values = np.full((len(columns["step"]), *column.shape(n_atoms)), column.fill, dtype=column.dtype)
        _grow(file[f"{path}/value"], values)


def _grow(dataset: h5py.Dataset, values: NDArray[Any]) -> None:
    if len(values):
        start = dataset.shape[0]
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values
