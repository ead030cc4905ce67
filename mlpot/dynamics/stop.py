"""How a run ends before its time: by a guard, by a signal, by the clock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class MDStoppedError(ValueError):
    """A run ended early, whole on disk; `exit_code` is for the command."""

    exit_code = 75  # EX_TEMPFAIL: try again, with --continue


class BlowUpError(MDStoppedError):
    """A guard stopped a run; its files are whole up to the last good step."""

    exit_code = 3


class SignalledError(MDStoppedError):
    """A run was asked to stop by a signal."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number  # as shells count


class StopRequest:
    """The signal that came, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; a second interrupt ends the process there and then."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take signals as wishes to stop at the next step; those that are ignored, as under nohup, stay so.

    Python lets only the main thread handle signals: elsewhere nothing is changed.
    """
    request, before = StopRequest(), {}
    if threading.current_thread() is threading.main_thread():
        before = {s: h for s in SIGNALS if (h := signal.getsignal(s)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, request.take)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
