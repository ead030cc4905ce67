"""A lock, so that only one process writes into a folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlpot.atomic_files import cleaned_after_signals, storing

PATIENCE = 20.0  # seconds; who was forked looks every five whether its parent lives


class LockedError(ValueError):
    """Another process writes into the folder."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, and make it if it is not there; the lock of a dead process is taken over.

    The kernel releases a lock when its process ends. On a file system without locks, the file names its process
    instead.

    Raises:
        LockedError: another process has it, on this machine or another.
        StorageError: the folder cannot be written.
    """
    path = folder / ".lock"
    with storing(folder, 0):
        made = not folder.exists() or os.listdir(folder) == [path.name]  # left by a process that was killed
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        _take(file.fileno(), path)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        with cleaned_after_signals(lambda: _release(path, made)):
            try:
                yield
            finally:
                _release(path, made)


def _release(path: Path, made: bool) -> None:
    path.unlink(missing_ok=True)
    if made and path.parent.exists() and not any(path.parent.iterdir()):  # nothing was written into it
        path.parent.rmdir()


def _take(handle: int, path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Processes that a dead one had forked, such as those that read data, have its lock until they end.
            if not _is_dead(_owner(path)) or time.monotonic() > end:
                raise _refusal(path, _owner(path)) from None
            time.sleep(0.05)
        except OSError:  # this file system has no locks
            owner = _owner(path)
            if owner and not _is_dead(owner):
                raise _refusal(path, owner) from None
            break
    # The last owner may have removed the file between our opening and our locking it.
    if not path.exists() or path.stat().st_ino != os.fstat(handle).st_ino:
        raise _refusal(path, _owner(path))


def _owner(path: Path) -> dict[str, int | str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return dict(json.loads(text)) if text else {}


def _is_dead(owner: dict[str, int | str]) -> bool:
    """Whether a process of this machine is named that is there no more."""
    return bool(owner) and owner["host"] == socket.gethostname() and not _is_alive(owner["pid"])


def _is_alive(pid: int | str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refusal(path: Path, owner: dict[str, int | str]) -> LockedError:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return LockedError(
        f"{path.parent} is in use by {who}. Wait for it, stop it, or choose another output; if it cannot be "
        f"running any more, remove {path}."
    )
