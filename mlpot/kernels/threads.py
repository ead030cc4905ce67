"""Shares of compiled loops for PyTorch's number of threads.

Loops are compiled for one thread, and threads take shares of the atoms: Numba's own threads would spin beside
PyTorch's, and its pools are not safe to use from several.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

T = TypeVar("T")

ONE_THREAD = 500_000  # edges × channels below which waking threads costs more than it saves
MOST_THREADS = os.cpu_count() or 1


def block_size(n_atoms: int) -> int:
    """Atoms of a block, within which two neighbors are met once: whatever the number of threads, so that it does
    not change a sum; few enough for their rows to stay in the second cache, and blocks enough for some threads."""
    if n_atoms <= 96:
        return n_atoms
    n_blocks = 2 * math.ceil(max(n_atoms / 192, min(8, n_atoms / 128)) / 2)
    return math.ceil(n_atoms / n_blocks)


def shares(begin: NDArray[np.int64], n_features: int, block: int = 1) -> list[tuple[int, int]]:
    """First and last atom (or interval) of each thread, with about as many edges for each.

    Args:
        begin: (n + 1,) where the edges of each atom begin.
        n_features: channels of an edge.
        block: atoms that no two threads share.
    """
    n_threads = min(torch.get_num_threads(), MOST_THREADS)
    if n_threads == 1 or begin[-1] * n_features < ONE_THREAD:
        return [(0, len(begin) - 1)]
    ends = np.searchsorted(begin, np.linspace(0, begin[-1], n_threads + 1))
    ends = (ends + block // 2) // block * block
    ends[0], ends[-1] = 0, len(begin) - 1
    return list(pairwise(ends.tolist()))


def take(free: list[T]) -> T | None:
    """One of those that nobody uses, in one step, so that no two threads take the same."""
    try:
        return free.pop()
    except IndexError:
        return None


def run(loop: Callable[..., None], parts: list[tuple[int, int]], *arguments: Any) -> None:
    """loop(begin, end, *arguments) for every share, at the same time; the first on this thread."""
    if len(parts) == 1:
        loop(*parts[0], *arguments)
        return
    threads, one_at_a_time = _threads()
    _openmp_rests()
    with one_at_a_time:  # shares may wait for each other, so none may be left without a thread
        running = [threads.submit(loop, *part, *arguments) for part in parts[1:]]
        loop(*parts[0], *arguments)
        for thread in running:
            thread.result()


@cache
def _threads() -> tuple[ThreadPoolExecutor, Lock]:
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="mlpot"), Lock()


@cache
def _pause() -> Callable[[int], int] | None:
    """OpenMP's omp_pause_resource_all (OpenMP 5.0, section 3.6), if PyTorch brings a library that has it."""
    library = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    return ctypes.CDLL(str(library)).omp_pause_resource_all if library.exists() else None


def _openmp_rests() -> None:
    """PyTorch's threads wait for more work in a busy loop, for milliseconds and on the cores that ours need."""
    if pause := _pause():
        pause(1)


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork
