"""How a run ends before its time: by a guard, by a signal, by the clock."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class StoppedError(ValueError):
    """A run ended early, whole on disk; `exit_code` is for the command."""

    exit_code = 75  # EX_TEMPFAIL: try again, going on


class BlowUpError(StoppedError):
    """A guard stopped a run of molecular dynamics; its files are whole up to the last good step."""

    exit_code = 3


class SignalledError(StoppedError):
    """A run was asked to stop by a signal."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number  # as shells count


class SignalledAtOnce(BaseException):
    """A signal came where nothing is to be saved."""


class StopRequest:
    """The signal that came, if any.

    Args:
        at_once: raise SignalledAtOnce when it comes, wherever that is; may be set as a run goes on.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self.at_once = at_once

    def take(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; a second interrupt ends the process there and then."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)
        if self.at_once:
            raise SignalledAtOnce

    def listen(self) -> dict[signal.Signals, Any]:
        """Take signals from now on, but those that are ignored, as under nohup; what took them before.

        Python lets only the main thread handle signals: elsewhere nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            return {}
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        return {number: signal.signal(number, self.take) for number in heard}


@contextmanager
def stop_request(*, at_once: bool = False) -> Iterator[StopRequest]:
    """Take signals as wishes to stop at the next step, or see `StopRequest`."""
    request = StopRequest(at_once=at_once)
    before = request.listen()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(period: float = 5.0) -> None:
    """Kill this process a few seconds after its parent has died, even while it waits for others."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
