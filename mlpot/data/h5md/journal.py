"""A file that is always in the state of its last commit, even after a crash.

HDF5 writes in many small pieces, and a file whose writer dies among them is lost. Here HDF5 writes into memory:
`commit` puts the changed pages, with a checksum, behind a journal beside the file and syncs it; only then does the
file itself change. Whoever opens the file for writing after a crash copies the pages of the journal again,
which does no harm, and drops an unfinished record (a redo log: Mohan et al., ACM TODS 17, 94 (1992)).

While others read, holding the lock that HDF5 takes, the file stays as they opened it and commits wait in the
journal. So a reader sees a closed, complete HDF5 file at every moment.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlpot.atomic_files import storing, sync_folder, write_all

PAGE = 4096
PATIENCE = 2.0  # seconds for which closing waits for readers
MAX_WAITING = 2**26  # bytes of commits that may wait for readers, in memory
HEADER = struct.Struct("<IIQQ")  # checksum of all that follows, number of pages, sequence number, size of the file


class JournaledFile:
    """A binary file for h5py's `fileobj` driver, changed on disk by `commit` only.

    Args:
        path: the file; its journal is `<path>.journal`, there while something is to be redone.
        new: begin with an empty file, whatever is there.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, *, new: bool = False):
        self.path, self._place = path, 0
        self._changed: dict[int, bytearray] = {}  # since the last commit
        self._waiting: dict[int, bytes] = {}  # committed, not yet in the file
        self._sequence = 0
        journal = path.with_name(f"{path.name}.journal")
        with storing(path, PAGE):
            if new:
                journal.unlink(missing_ok=True)
            self._file = path.open("w+b" if new else "r+b", buffering=0)
            self._journal = journal.open("a+b", buffering=0)
            sync_folder(path.parent)
        try:
            self._redo()
        except BaseException:
            self.release()
            raise
        self.size = self._committed = os.fstat(self._file.fileno()).st_size

    # --- called by HDF5 ---

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        """As of any file."""
        return self._place

    def read(self, size: int) -> bytes:
        """As of any file."""
        length = min(size, max(0, self.size - self._place))
        content = b"".join(self._page(page)[start:stop] for page, start, stop in self._pages(length))
        self._place += length
        return content

    def readinto(self, buffer: memoryview) -> int:
        """As of any file."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def write(self, content: memoryview | bytes) -> int:
        """As of any file, but in memory."""
        done = 0
        for page, start, stop in self._pages(len(content)):
            if page not in self._changed:
                self._changed[page] = bytearray(self._page(page))
            self._changed[page][start:stop] = content[done : done + stop - start]
            done += stop - start
        self._place += done
        self.size = max(self.size, self._place)
        return done

    def truncate(self, size: int | None = None) -> int:
        """As of any file, but in memory."""
        self.size = self._place if size is None else size
        return self.size

    def flush(self) -> None:
        """Nothing: `commit` decides what is on disk."""

    # --- called by its owner ---

    def commit(self) -> None:
        """Have everything written so far on disk, all of it or, if this fails, nothing.

        Raises:
            StorageError: the disk has no space for the journal, or the file cannot be written.
        """
        pages = sorted(page for page in self._changed if page * PAGE < self.size)
        content = b"".join(bytes(self._changed[page]) for page in pages)
        self._sequence += 1
        body = (
            HEADER.pack(0, len(pages), self._sequence, self.size)[4:] + np.array(pages, "<u8").tobytes() + content
        )
        end = self._journal.seek(0, os.SEEK_END)
        with storing(self.path, len(body) + 4):
            try:
                write_all(self._journal, struct.pack("<I", zlib.crc32(body)) + body)
                os.fsync(self._journal.fileno())
            except OSError:
                self._journal.truncate(end)
                raise
        self._waiting |= {page: bytes(self._changed[page]) for page in pages}
        self._changed, self._committed = {}, self.size
        self._apply(wait=len(self._waiting) * PAGE <= MAX_WAITING)

    def close(self) -> None:
        """Close the file as it was committed; readers get a moment to close it."""
        end = time.monotonic() + PATIENCE
        try:
            while self._waiting and time.monotonic() < end:
                self._apply(wait=True)
                time.sleep(0.05 if self._waiting else 0)
            self._apply(wait=False)
            Path(self._journal.name).unlink()
        finally:
            self.release()

    def release(self) -> None:
        """Release the files as they are; whoever opens them next finds the last commit."""
        self._journal.close()
        self._file.close()

    # --- internals ---

    def _pages(self, length: int) -> Iterator[tuple[int, int, int]]:
        """The pages of the next `length` bytes, and the bytes of each."""
        place, end = self._place, self._place + length
        while place < end:
            page, start = divmod(place, PAGE)
            stop = min(PAGE, start + end - place)
            yield page, start, stop
            place += stop - start

    def _page(self, page: int) -> bytes | bytearray:
        held = self._changed.get(page) or self._waiting.get(page)
        return held or os.pread(self._file.fileno(), PAGE, page * PAGE).ljust(PAGE, b"\0")

    def _apply(self, *, wait: bool) -> None:
        """Bring the file to the last commit, unless someone reads it and waiting is allowed."""
        if not self._waiting:
            return
        locked = self._lock()
        if locked is False and wait:
            return
        with storing(self.path, len(self._waiting) * PAGE):
            self._put(self._waiting, self._committed)
            self._journal.truncate(0)
        if locked:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._waiting = {}

    def _lock(self) -> bool | None:
        """Keep readers out for a moment; False if one is in, None where the file system has no locks."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _put(self, pages: dict[int, bytes], size: int) -> None:
        for page in sorted(pages):
            self._file.seek(page * PAGE)
            write_all(self._file, pages[page][: size - page * PAGE])
        self._file.truncate(size)
        os.fsync(self._file.fileno())

    def _redo(self) -> None:
        """Bring the file to the last commit of a writer that died."""
        self._journal.seek(0)
        content = memoryview(self._journal.read())
        pages: dict[int, bytes] = {}
        size, place = None, 0
        while record := _record(content[place:], self._sequence):
            length, self._sequence, size, changed = record
            pages |= changed
            place += length
        with storing(self.path, len(pages) * PAGE):
            if size is not None:
                self._put({page: p for page, p in pages.items() if page * PAGE < size}, size)
            self._journal.truncate(0)


def _record(content: memoryview, sequence: int) -> tuple[int, int, int, dict[int, bytes]] | None:
    """Length, sequence number, size of the file and pages of the record at the start, if it is whole and later."""
    if len(content) < HEADER.size:
        return None
    checksum, n_pages, number, size = HEADER.unpack_from(content)
    length = HEADER.size + n_pages * (8 + PAGE)
    if len(content) < length or number <= sequence or zlib.crc32(content[4:length]) != checksum:
        return None
    pages = np.frombuffer(content, "<u8", n_pages, HEADER.size).tolist()
    first = HEADER.size + 8 * n_pages
    return (
        length,
        number,
        size,
        {p: bytes(content[first + k * PAGE : first + (k + 1) * PAGE]) for k, p in enumerate(pages)},
    )
