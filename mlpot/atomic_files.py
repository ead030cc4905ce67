"""Writing that survives: whole files in one step, and a full disk told by name."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(ValueError):
    """Something cannot be stored; what was stored before is whole."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that holds, at every moment and after every crash, all of the old or all of the new content.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    with storing(path, len(content)):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(file: io.FileIO, content: bytes) -> None:
    """An unbuffered file may take a part of what it is given, up to where the disk is full."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


@contextmanager
def storing(path: Path, n_bytes: int) -> Iterator[None]:
    """Tell of failures to write `n_bytes` to `path` in words.

    Raises:
        StorageError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            free = shutil.disk_usage(path.parent).free
            raise StorageError(
                f"{path} cannot grow by {n_bytes} bytes: {error.strerror}, {free} bytes are free. What was saved "
                "before is whole. Make room, then go on: a simulation with --continue, else by the same command."
            ) from error
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder that can be written."
        ) from error
