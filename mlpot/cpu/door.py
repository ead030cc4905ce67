"""The one door to compiled code: Numba takes a second to import, so it comes when the first network is run."""

from __future__ import annotations

from types import ModuleType


def compiled_code() -> ModuleType:
    """`cpu.executor`, imported when it is first needed."""
    from mlpot.cpu import executor

    return executor
