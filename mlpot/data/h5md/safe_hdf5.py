"""The one door for HDF5 files: nothing is read of a file before all of it was found harmless.

A file can point to others (links, external storage, virtual datasets), ask for code (filters from plugins, types
that h5py takes for Python objects), or claim sizes that it does not have. The check reads metadata alone, follows
hard links alone, and so opens no other file.
"""

from __future__ import annotations

import errno
import math
import shlex
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5t, h5z

from mlpot.data.errors import DataError, FormatError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ENDINGS = (".h5", ".hdf5", ".h5md")
GROWTH = 0.2  # seconds for which a file may say that it is longer than it is
PATIENCE = 5.0  # seconds for which opening waits for a writer
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks say
MIN_NAME = 16  # bytes of a file that the name of an object takes at least, in the table of its group
MAX_DEPTH = 32
MAX_ATTRIBUTES = 256  # of one object
MAX_ATTRIBUTE = 2**24  # bytes
MAX_CHUNK = 2**27  # bytes; no honest file unpacks more at once
MAX_RATIO = 128  # of the bytes that a dataset claims to those of the file, above MAX_CHUNK
MAX_DEFLATED = 2**18  # bytes of a packed chunk that may be unpacked unseen: deflate grows them 1032 times at most
FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF)  # built in, and bounded
PLAIN = (h5t.INTEGER, h5t.FLOAT, h5t.STRING, h5t.ENUM, h5t.REFERENCE)


def open_checked(path: str | Path) -> h5py.File:
    """An HDF5 file opened for reading, after all of it was found harmless.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: not HDF5, damaged, or it reaches outside itself, needs plugins, or claims absurd sizes.
    """
    file = open_unchecked(path)
    try:
        check(file)
    except BaseException:
        file.close()
        raise
    return file


def open_unchecked(path: str | Path) -> h5py.File:
    """An HDF5 file opened for reading, of which only what `walk_groups` gives may be read.

    Raises:
        FileNotFoundError: there is no such file; FormatError: not HDF5, or damaged.
    """
    try:
        return _open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"There is no file {path}. Check the path.") from None
    except BlockingIOError:
        raise FormatError(
            f"{path} is open for writing in another program, which locks it. Read it when that has closed it, or "
            "a copy of it."
        ) from None
    except OSError as error:
        if not _begins_as_hdf5(Path(path)):
            raise FormatError(f"{path} is not H5MD. Convert it: {conversion(path)}") from None
        cure = "Restore or remake it; `mlpot data recover` takes out of it what is whole."
        if Path(f"{path}.journal").exists():
            cure = (
                "Its writer was killed while writing: continue with `mlpot md ... --continue`, which repairs it."
            )
        raise FormatError(f"{path} is not an HDF5 file, or is damaged: {error}. {cure}") from None


def conversion(path: str | Path) -> str:
    """The command that makes H5MD of a file of another format."""
    target = Path(path).with_name(f"{Path(path).stem}{'-converted' * (Path(path).suffix in ENDINGS)}.h5")
    return f"mlpot data convert {shlex.quote(str(path))} {shlex.quote(str(target))}"


def _begins_as_hdf5(path: Path) -> bool:
    """Whether a file is HDF5 by its first bytes, or by its name, as where those bytes are damaged."""
    if path.is_dir():
        return False
    if path.suffix in ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:  # opening it tells the reason
        return True


def check(file: h5py.File) -> None:
    """Check that an open file is harmless, or raise FormatError."""
    with naming_damage(file.filename):
        for _ in walk(file):
            pass


@contextmanager
def naming_damage(where: str) -> Iterator[None]:
    """Turn what HDF5, h5py and zip files raise on damaged bytes into a FormatError."""
    try:
        yield
    except DataError:
        raise
    except (
        *(OSError, RuntimeError, LookupError, ValueError, OverflowError, EOFError, TypeError, AttributeError),
        *(BadZipFile, zlib.error, MemoryError),
    ) as error:
        raise FormatError(f"{where} is damaged: {error}. Restore or remake the file.") from error


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
            if error.errno in NO_LOCKS:
                return h5py.File(path, "r", locking=False)
            if "truncated file" in str(error) and time.monotonic() < end - PATIENCE + GROWTH:
                time.sleep(0.01)  # while its writer makes it longer, it says so before it is
                continue
            if "open for" not in str(error):
                raise
            # Held open by another program, or left so when it was killed: whole up to its last flush.
            try:
                return h5py.File(path, "r", swmr=True)
            except OSError as again:
                if "truncated file" not in str(again) or time.monotonic() > end:
                    raise
                time.sleep(0.01)


def walk(file: h5py.File, lost: list[str] | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset of a file by its path, each found harmless; each group is entered once.

    Args:
        file: open.
        lost: takes the paths of what is too damaged to be looked at; without it, that is an error.

    Raises:
        FormatError: as `open_checked`.
    """
    for path, datasets in walk_groups(file, lost):
        for name, dataset in datasets.items():
            yield f"{path}/{name}", h5py.Dataset(dataset)


def walk_groups(
    file: h5py.File, lost: list[str] | None = None, within: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, h5d.DatasetID]]]:
    """Every group of a file by its path, with its datasets by name, all of them found harmless.

    Memory is that of one group and those around it, however many there are.

    Args:
        file: open.
        lost: takes the paths of what is too damaged to be looked at; without it, that is an error.
        within: names of subgroups that belong to the group around them, as "name/dataset".

    Raises:
        FormatError: as `open_checked`.
    """
    _check_attributes(f"{file.filename}:/", file.id)
    yield from _Walk(file, lost, within).enter("", file.id)


class _Walk:
    """What is remembered while the metadata of one file are read."""

    def __init__(self, file: h5py.File, lost: list[str] | None, within: Collection[str]):
        self._name, self._lost, self._within = file.filename, lost, within
        self._size = file.id.get_filesize()
        # Names are bytes of the file, so that a file with more of them than this goes in circles.
        self._names_left = self._size // MIN_NAME
        self._seen: set[int] = set()  # addresses of objects that have several names

    def enter(self, path: str, group: Any) -> Iterator[tuple[str, dict[str, h5d.DatasetID]]]:
        """The group, then those inside it."""
        datasets: dict[str, h5d.DatasetID] = {}
        inside: list[bytes] = []
        for key, name, member in self._members(path, group):
            if isinstance(member, h5d.DatasetID):
                datasets[name] = member
            elif name in self._within:
                own = self._members(f"{path}/{name}", member)
                datasets |= {f"{name}/{n}": d for _, n, d in own if isinstance(d, h5d.DatasetID)}
            else:
                inside.append(key)
        yield path, datasets
        for key in inside:
            yield from self.enter(f"{path}/{key.decode(errors='replace')}", h5g.open(group, key))

    def _members(self, path: str, group: Any) -> Iterator[tuple[bytes, str, Any]]:
        """Key, name and object of each dataset and of each group that was not seen, found harmless."""
        if path.count("/") >= MAX_DEPTH:
            raise FormatError(f"{self._name}:{path} is more than {MAX_DEPTH} groups in one another. Flatten it.")
        for key in group:
            name = key.decode(errors="replace")
            where = f"{self._name}:{path}/{name}"
            self._names_left -= 1
            if self._names_left < 0:
                raise FormatError(f"{where}: {self._size} bytes cannot hold so many names. Remake the file.")
            try:
                member = _member(where, group, key, self._seen, self._size)
            except (OSError, RuntimeError, LookupError):
                if self._lost is None:
                    raise
                self._lost.append(f"{path}/{name}")
                continue
            if member is not None:
                yield key, name, member


def _member(where: str, group: Any, key: bytes, seen: set[int], file_size: int) -> Any:
    """A dataset or a new group, found harmless."""
    if group.links.get_info(key).type != h5l.TYPE_HARD:
        raise FormatError(f"{where} is a link. Copy what it points to into the file.")
    info = h5o.get_info(group, key)
    new = info.addr not in seen
    if info.rc > 1:
        seen.add(info.addr)
    member = None
    if info.type == h5o.TYPE_DATASET:
        member = h5d.open(group, key)
        if new:
            _check_dataset(where, member, file_size)
    elif info.type == h5o.TYPE_GROUP and new:
        member = h5g.open(group, key)
    if new and member is not None:
        _check_attributes(where, member)
    return member


def _check_attributes(where: str, owner: Any) -> None:
    n = h5a.get_num_attrs(owner)
    if n > MAX_ATTRIBUTES:
        raise FormatError(f"{where} has {n} attributes, above {MAX_ATTRIBUTES}. Keep such notes in datasets.")
    for k in range(n):
        attribute = h5a.open(owner, index=k)
        kind = attribute.get_type()
        n_bytes = math.prod(attribute.get_space().get_simple_extent_dims() or ()) * kind.get_size()
        if n_bytes > MAX_ATTRIBUTE or not _plain(kind):
            raise FormatError(
                f"{where}: attribute {attribute.name.decode(errors='replace')!r} has {n_bytes} bytes of type "
                f"{_name(kind)}, expected at most {MAX_ATTRIBUTE} of text or numbers. Remove it."
            )


def _check_dataset(where: str, dataset: h5d.DatasetID, file_size: int) -> None:
    """Values are inside the file, of a plain type, unpacked by built-in code, and not absurdly many."""
    properties = dataset.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise FormatError(f"{where} keeps its values in other files. Copy them in (h5repack does).")
    kind, shape = dataset.get_type(), dataset.get_space().get_simple_extent_dims() or ()
    if not _plain(kind):
        raise FormatError(f"{where} holds values of type {_name(kind)}, expected numbers or text. Remove it.")
    claim = math.prod(shape) * kind.get_size()
    if claim > MAX_CHUNK + MAX_RATIO * file_size:
        raise FormatError(
            f"{where} claims {claim} bytes, shape {shape}, in a file of {file_size}. Remake it with its true size."
        )
    codes = [properties.get_filter(k) for k in range(properties.get_nfilters())]
    if foreign := [code for code, *_ in codes if code not in FILTERS]:
        raise FormatError(f"{where} is packed with the foreign HDF5 filter {foreign[0]}. Repack it with gzip.")
    if len({code for code, *_ in codes}) < len(codes) or any(max(f[2], default=0) > MAX_CHUNK for f in codes):
        raise FormatError(f"{where} is packed twice, or with absurd parameters. Repack it with gzip.")
    if properties.get_layout() == h5d.CHUNKED:
        chunk = math.prod(properties.get_chunk()) * kind.get_size()
        if chunk > MAX_CHUNK:
            raise FormatError(f"{where} has chunks of {chunk} bytes, above {MAX_CHUNK}. Repack it in less.")
        if any(code == h5z.FILTER_DEFLATE for code, *_ in codes):
            _check_deflated(where, dataset, chunk)


def _check_deflated(where: str, dataset: h5d.DatasetID, chunk: int) -> None:
    """HDF5 unpacks data far beyond the size of the chunk: a megabyte can become a gigabyte."""
    large: list[tuple[int, ...]] = []
    limit = chunk + chunk // 8 + 1024

    def visit(stored: Any) -> None:
        if stored.size > MAX_DEFLATED:
            large.append((stored.size, *stored.chunk_offset))

    dataset.chunk_iter(visit)
    for size, *offset in large:
        bomb = size > limit
        if not bomb:
            unpacker = zlib.decompressobj()
            bomb = len(unpacker.decompress(dataset.read_direct_chunk(tuple(offset))[1], limit)) >= limit
        if bomb:
            raise FormatError(f"{where} has a chunk of {chunk} bytes that unpacks to more. Remake the file.")


def _plain(kind: h5t.TypeID) -> bool:
    """Numbers, text and tables of them; h5py takes an opaque type for whatever Python type it names."""
    code = kind.get_class()
    if code == h5t.COMPOUND:
        return all(_plain(kind.get_member_type(k)) for k in range(kind.get_nmembers()))
    return _plain(kind.get_super()) if code in (h5t.ARRAY, h5t.VLEN) else code in PLAIN


def _name(kind: h5t.TypeID) -> str:
    return type(kind).__name__.removeprefix("Type").removesuffix("ID").lower()
