"""Compile a function in a process of its own, while this one compiles another.

Numba compiles one function at a time in a process. The gradient of a loss takes about as long as energies and
forces, so a first training begins earlier where there is a second processor.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from numba.core.serialize import dumps

from mlpot.kernels.compiler import HOUSE, KernelCache
from mlpot.kernels.threads import processors

CHILD = "import pickle, sys; make, key, types = pickle.load(sys.stdin.buffer); make(key).compile(types)"
SEVERAL = "WORLD_SIZE"  # as launchers of trainings say it: as many processes compile side by side then
_running: dict[str, subprocess.Popen[bytes]] = {}  # by the file that each of them makes


def begin(make: Callable[[Any], Any], key: Any, arguments: Sequence[Any]) -> None:
    """Start to compile `make(key)` for such arguments, unless it is compiled already or would gain nothing.

    Args:
        make: a function of a module, that gives a compiled function; called again in the other process.
        key: what it takes.
        arguments: as the compiled function will be called with, of the same types.
    """
    dispatcher = make(key)
    types = tuple(map(dispatcher.typeof_pyval, arguments))
    cache: KernelCache = dispatcher._cache
    name = cache.file_name(types, dispatcher.targetctx.codegen())
    if types in dispatcher.overloads or name in _running or processors() < 2 or not sys.executable:
        return
    if int(os.environ.get(SEVERAL, "1")) > 1:
        return
    if cache.cache_path is None or cache.is_kept(name):
        return
    path = os.pathsep.join(filter(None, (str(HOUSE.parent), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # what fails there is compiled, and told of, here
        env=os.environ | {"PYTHONPATH": path},
    )
    _running[name] = process
    assert process.stdin is not None
    try:
        with process.stdin as stream:
            stream.write(dumps((make, key, types)))
    except BrokenPipeError:  # it ended at once
        process.wait()


def wait() -> None:
    """Until all that was begun is compiled; then it is in the cache."""
    for process in list(_running.values()):
        process.wait()


@atexit.register
def _end() -> None:
    """No process outlives the one that needs what it compiles."""
    for process in _running.values():
        process.kill()
        process.wait()


os.register_at_fork(after_in_child=_running.clear)
