"""Shares of compiled loops for PyTorch's number of threads.

Loops are compiled for one thread, and threads take shares of the atoms: Numba's own threads would spin beside
PyTorch's, and its pools are not safe to use from several.
"""

from __future__ import annotations

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

from mlpot.kernels import loops
from mlpot.torch_settings import openmp_rests

T = TypeVar("T")

ONE_THREAD = 500_000  # edges × channels below which waking threads costs more than it saves
MOST_THREADS = os.cpu_count() or 1


def processors() -> int:
    """How many this process may use at a time: those of its affinity, and of the time that its cgroup gives."""
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        own = os.cpu_count() or 1
    return max(1, min(own, quota(Path("/"))))


@cache
def quota(root: Path) -> int:
    """Processors' worth of time, rounded up, that cgroups (version 2 or 1) give this process and those above it.

    Args:
        root: "/", below which proc and sys are.
    """
    found = [MOST_THREADS]
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        own = Path(path.strip().lstrip("/"))
        for group in (own, *own.parents):
            for mount in ("sys/fs/cgroup", f"sys/fs/cgroup/{kinds}", "sys/fs/cgroup/unified"):
                found += _quota_of(root / mount / group)
    return min(found)


def _quota_of(group: Path) -> list[int]:
    allowed = " ".join(_lines(group / "cpu.max")).split()
    if not allowed:
        allowed = [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    if len(allowed) != 2 or allowed[0] in ("max", "-1"):
        return []
    return [max(1, math.ceil(int(allowed[0]) / int(allowed[1])))]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


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
    n_threads = min(torch.get_num_threads(), processors(), MOST_THREADS)
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
    """loop(begin, end, *arguments) for every share, at the same time; the first on this thread.

    Subnormal numbers are zero in all of them, see `subnormals`.
    """
    if len(parts) == 1:
        loops.subnormals.flushed(loop, *parts[0], *arguments)
        return
    threads, one_at_a_time = _threads()
    openmp_rests()
    with one_at_a_time:  # shares may wait for each other, so none may be left without a thread
        running = [threads.submit(loops.subnormals.flushed, loop, *part, *arguments) for part in parts[1:]]
        loops.subnormals.flushed(loop, *parts[0], *arguments)
        for thread in running:
            thread.result()


@cache
def _threads() -> tuple[ThreadPoolExecutor, Lock]:
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="mlpot"), Lock()


# Threads do not survive a fork, and a child that waited for those of its parent would wait for ever. Ours are made
# anew; those of OpenMP are ended before the fork by `torch_settings`, which is imported before any of this.
os.register_at_fork(after_in_child=_threads.cache_clear)
