"""Writing that survives: whole files in one step, and a full disk told by name.

Where outputs go, for all commands: the folder of a file must be there, so that a slip in a path is told before
anything is computed (`check_place`); a folder that is an output itself is made (`check_folder`, `make_folder`).
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from types import FrameType
from typing import Any

REPORTS = (".json", ".html", ".htm")  # endings
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StorageError(ValueError):
    """Something cannot be stored; what was stored before is whole."""


class PictureWarning(UserWarning):
    """A picture beside results was not drawn."""


def path_of(given: Any, what: str) -> Path:
    """The path that a program gives.

    Args:
        given: text or a path.
        what: of which file, with its article, for errors.

    Raises:
        TypeError: something else, such as an open file, a list, or the object that the file is to hold.
        FileNotFoundError: empty text, which Python takes for the folder where a program runs.
    """
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise TypeError(
            f"The path of {what} is needed, and this is of type {type(given).__name__}. Give it as text or as "
            "pathlib.Path."
        )
    if os.fspath(given) == "":
        raise FileNotFoundError(f"The path of {what} is empty. Give one.")
    return Path(given)


@contextmanager
def beside_results(path: str | Path) -> Iterator[None]:
    """Draw a picture of results that are written already: one that fails is a warning, and loses nothing."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        warnings.warn(f"There is no new {path}, and all else is written: {error}", PictureWarning, stacklevel=3)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that holds, at every moment and after every crash, all of the old or all of the new content.

    Raises:
        StorageError: it cannot be written.
    """
    path = _followed(path)
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


def _followed(path: Path) -> Path:
    """The file that a symbolic link names, which is written in place of the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """An unbuffered file may take a part of what it is given, up to where the disk is full."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


@contextmanager
def storing(path: Path, n_bytes: int) -> Iterator[None]:
    """Tell of failures to write `n_bytes` to `path` in words.

    Raises:
        StorageError: in place of an OSError, or of SQLite's own.
    """
    try:
        yield
    except sqlite3.OperationalError as error:  # "database or disk is full", "disk I/O error", ...
        raise StorageError(
            f"{path} cannot be written: SQLite says {str(error)!r}, and {_free(path)} bytes are free. Make room "
            "or choose another folder, then give the same command."
        ) from error
    except OSError as error:
        if error.errno in FULL:
            what = f"cannot grow by {n_bytes} bytes" if n_bytes else "cannot grow"
            raise StorageError(
                f"{path} {what}: {error.strerror}, {_free(path)} bytes are free. What was saved before is whole. "
                "Make room, then go on: a simulation with --continue, a training with --resume, else by the same "
                "command."
            ) from error
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. Choose a folder that can be written."
        ) from error


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


@contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Where to make a file, of which nobody knows, that takes the place of `path` if nothing failed.

    It has the name of `path` in a folder of its own, as there are writers that go by the ending.

    Args:
        path: the file.
        overwrite: replace what is there at the end; else a file that came into being meanwhile stays, and the new
            one has a name of its own.

    Raises:
        StorageError: the folder cannot be written.
        FileExistsError: there is one now, and it is not to be replaced.
    """
    path = _followed(Path(path))
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        with storing(path, temporary.stat().st_size):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            placed = path if overwrite else _placed(temporary, path)
            if overwrite:
                os.replace(temporary, path)
            sync_folder(path.parent)
    if placed != path:
        raise FileExistsError(
            f"{path} was written by another command meanwhile, and stays as it is. What this one wrote is "
            f"{placed}."
        )


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside an output, which is gone at the end, after an error, and after SIGTERM and SIGHUP.

    Raises:
        StorageError: the folder of the output cannot be written.
    """
    with storing(path, 0):
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    with folder as name, cleaned_after_signals(lambda: shutil.rmtree(name, ignore_errors=True)):
        yield Path(name)


class _Cleaning:
    """Cleans up, and then ends the process as the signal does without it."""

    def __init__(self, clean: Callable[[], None], before: Any):
        self._clean, self._before, self._owner = clean, before, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._owner:  # else a process that was forked, whose parent goes on
            self._clean()
        if isinstance(self._before, _Cleaning):
            self._before(number, frame)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextmanager
def cleaned_after_signals(clean: Callable[[], None]) -> Iterator[None]:
    """Call `clean` where SIGTERM or SIGHUP ends the process, of which Python itself would hear nothing.

    Where something else listens to a signal, that decides what happens; only the main thread can listen.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if handler == signal.SIG_DFL or isinstance(handler, _Cleaning):
                before[number] = signal.signal(number, _Cleaning(clean, handler))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _placed(temporary: Path, path: Path) -> Path:
    """The name that a file got: `path`, or else the first with -2, -3, ... before its ending that nobody has."""
    others = (path.with_name(f"{path.stem}-{k}{path.suffix}") for k in count(2))
    for name in chain([path], others):
        try:
            os.link(temporary, name)  # of two processes one gets it, and it is whole from the beginning
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if name.exists():
                continue
            os.replace(temporary, name)
        return name
    raise AssertionError


def check_place(path: str | Path, *, overwrite: bool = True) -> None:
    """Raise what would stop a file from being written, before its content is computed.

    Raises:
        FileExistsError: there is one, and it is not to be replaced.
        FileNotFoundError: its folder is not there.
        IsADirectoryError: it is a folder.
        StorageError: its folder is a file or cannot be written, or the name is one of a device.
    """
    path = _followed(Path(path))
    if path.is_symlink():
        raise StorageError(f"{path} is a symbolic link that leads back to itself. Remove it, or choose another.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the name of a file.")
    if not path.parent.exists():
        raise FileNotFoundError(f"There is no folder {path.parent} for {path.name}. Make it, or choose another.")
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} is a file, so that {path.name} cannot be in it. Choose another place.")
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is no regular file. Choose another name.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another name, or overwrite it: --overwrite.")
    with storing(path, 0):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        os.close(handle)
        os.unlink(name)


def check_reports(*paths: Path | None) -> None:
    """`check_place` for reports that are given; they replace what is there, so it must be one by its ending.

    Raises:
        StorageError: an ending is another, perhaps that of the data.
    """
    for path in paths:
        if path is not None:
            if path.suffix.lower() not in REPORTS:
                raise StorageError(f"{path} would be a report: let its name end in {' or '.join(REPORTS)}.")
            check_place(path)


def make_folder(path: str | Path) -> None:
    """Make a folder that is an output, and what it stands in.

    Raises:
        StorageError: it is a file or in one, or cannot be made.
    """
    with storing(Path(path), 0):
        Path(path).mkdir(parents=True, exist_ok=True)


def check_folder(path: str | Path) -> None:
    """Raise what would stop files from being written into a folder, which need not be there, before computing.

    Raises:
        StorageError: it is a file or in one, or cannot be written.
    """
    there = Path(path)
    with storing(there, 0):
        while not there.exists() and there != there.parent:
            there = there.parent
    check_place(there / "output")
