"""How much is done within a block, counted: a file made to keep a reader busy is stopped on any machine alike."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CALLS = 1_000_000
"""Of functions in Python and C, that a refusal may take; a bomb takes billions."""
MEGABYTES = 200


class TooMuchWorkError(BaseException):
    """A block does more than it may; no handler of errors takes it for a refusal."""


@contextmanager
def little_work(calls: int = CALLS, megabytes: int = MEGABYTES) -> Iterator[None]:
    """End the block by an error once it has called so many functions, or after it if it took so much memory."""
    left = calls

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            sys.setprofile(None)
            raise TooMuchWorkError(f"More than {calls} calls; now in {frame.f_code.co_qualname}.")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024 * megabytes
