"""A new file to which HDF5 writes, and which a full disk does not bring down.

HDF5 keeps what it cannot write, tries again when its objects die and when the process ends, and crashes there.
So it never hears of a failure: the first one is kept, what HDF5 writes from then on stays in memory, and whoever
fills the file asks `check` between frames. Such a file is thrown away.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlpot.atomic_files import storing, write_all


class Sink:
    """A binary file for h5py's `fileobj` driver.

    Args:
        path: the file.
        wanted: the file that it shall become, which messages name.
        new: begin with an empty file.
    """

    def __init__(self, path: Path, wanted: Path, *, new: bool):
        self._wanted, self._place = wanted, 0
        self._error: OSError | None = None
        self._kept: dict[int, bytes] = {}  # after the error, by place
        self._file = path.open("w+b" if new else "r+b", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size

    def check(self) -> None:
        """Raise StorageError if something could not be written."""
        if self._error is not None:
            with storing(self._wanted, self._size):
                raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of any file."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """As of any file."""
        return self._place

    def read(self, size: int) -> bytes:
        """As of any file; h5py takes none without it for a file."""
        content = bytearray(size)
        return bytes(content[: self.readinto(memoryview(content))])

    def readinto(self, buffer: memoryview) -> int:
        """As of any file; after an error zeros, where HDF5 asks for another piece than it wrote."""
        kept = self._kept.get(self._place)
        if kept is not None and len(kept) == len(buffer):
            buffer[:] = kept
            n = len(kept)
        else:
            n = os.preadv(self._file.fileno(), [buffer], self._place)
        self._place += n
        return n

    def write(self, content: memoryview) -> int:
        """As of any file, but that it never fails."""
        if self._error is None:
            try:
                self._file.seek(self._place)
                write_all(self._file, content)
            except OSError as error:
                self._error = error
        if self._error is not None:
            self._kept[self._place] = bytes(content)
        self._place += len(content)
        self._size = max(self._size, self._place)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """As of any file, but that it never fails."""
        self._size = self._place if size is None else size
        if self._error is None:
            try:
                self._file.truncate(self._size)
            except OSError as error:
                self._error = error
        return self._size

    def flush(self) -> None:
        """Nothing: there is no buffer."""

    def close(self) -> None:
        """As of any file."""
        self._file.close()
