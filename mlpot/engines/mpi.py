"""Several processes: the door to MPI, how they share processors, and how all of them end when one cannot go on."""

from __future__ import annotations

import array
import ctypes
import os
import stat
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

if sys.platform == "linux":
    import fcntl
    import termios

LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
"""Variables in which those who start processes say how many they started."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables from which libraries take their number of threads when they are loaded."""
T = TypeVar("T")
Ints = NDArray[np.int64]
INSTALL = "Install them with pip install 'mlpot[lammps]'."


def world() -> Any:
    """All processes of this start, as a communicator of mpi4py.

    Raises:
        ValueError: MPI is not installed, or the processes do not know of each other.
    """
    # LAMMPS' library does not say where MPI is: it must be there before.
    own = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if own.exists():
        ctypes.CDLL(str(own), ctypes.RTLD_GLOBAL)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"LAMMPS needs mpi4py and mpich, and they do not load ({error}). {INSTALL}") from error
    comm = MPI.COMM_WORLD
    check_size(comm.Get_size(), os.environ)
    return comm


def check_size(n_ranks: int, environment: Any) -> None:
    """Raise ValueError if a launcher started several processes, each of which takes itself for all."""
    started = {name: int(environment[name]) for name in LAUNCHERS if environment.get(name, "").isdigit()}
    if n_ranks == 1 and (wrong := {name: n for name, n in started.items() if n > 1}):
        name, n = next(iter(wrong.items()))
        raise ValueError(
            f"{n} processes were started ({name}), but none sees the others: mpirun is of another MPI than "
            f"mpi4py. Start them with the one of this environment, {Path(sys.prefix) / 'bin' / 'mpirun'}."
        )


def share_processors(comm: Any) -> int:
    """Threads for this rank, as many as it asks for, but so that those of one machine never exceed its processors.

    To be called before the libraries that take threads are loaded.
    """
    from mpi4py import MPI

    ranks = comm.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
    try:
        n_processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        n_processors = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    most = max(1, n_processors // ranks)
    n_threads = min(most, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else most
    for name in THREADS:
        os.environ[name] = str(n_threads)
    return n_threads


def wait_until_read(stream: Any, seconds: float = 5.0) -> None:
    """Wait until the launcher took from a pipe what was written to it, at most for `seconds`.

    mpirun kills its processes when one of them aborts, and reads nothing more: what lies in the pipe is lost.
    """
    try:
        file = stream.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(file).st_mode)
    except (AttributeError, OSError):
        return  # a stream within this process
    if not is_pipe or sys.platform != "linux":
        return
    unread, deadline = array.array("i", [1]), time.monotonic() + seconds
    while unread[0] and time.monotonic() < deadline:
        fcntl.ioctl(file, termios.FIONREAD, unread)
        time.sleep(0.01)


def stop_all(comm: Any, reason: str, code: int, *, together: bool = False) -> NoReturn:
    """Tell why, and end every process.

    Args:
        comm: of the ranks that compute together.
        reason: for the user.
        code: that mpirun ends with.
        together: every rank of `comm` calls this with the same reason: one tells it.
    """
    from mpi4py import MPI

    n_ranks, rank = comm.Get_size(), comm.Get_rank()
    if not together or rank == 0:
        who = f" (rank {rank} of {n_ranks})" if n_ranks > 1 and not together else ""
        print(f"mlpot{who}: {reason}", file=sys.stderr, flush=True)
        wait_until_read(sys.stderr)
    if together:
        comm.Barrier()
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)  # where another rank's Abort came first, this one's may return


def together(comm: Any, step: Callable[[], T], last: Callable[[], None] = lambda: None) -> T:
    """What a step gives in which ranks do not meet; if it fails in one of them, all end with its reason.

    Args:
        comm: of the ranks that compute together, all of which call this.
        step: its errors are for the user.
        last: called before the end.
    """
    reason, found = "", None
    try:
        found = step()
    except Exception as error:
        reason = told(error)
    if any(reasons := comm.allgather(reason)):
        last()
        stop_all(comm, joined(reasons), 1, together=True)
    return found  # type: ignore[return-value]  # there where no rank has a reason


def greatest(comm: Any, *values: int) -> list[int]:
    """Each of the values where it is greatest of all ranks, which all call this."""
    from mpi4py import MPI

    found = np.array(values, np.int64)
    comm.Allreduce(found.copy(), found, op=MPI.MAX)
    return [int(value) for value in found]


def dealt(comm: Any, values: Ints, ranks: Ints) -> tuple[Ints, Ints]:
    """Send each value to a rank; what came, by the rank that it came from, and those ranks."""
    n_ranks = comm.Get_size()
    counts, coming = np.bincount(ranks, minlength=n_ranks), np.empty(n_ranks, np.int64)
    comm.Alltoall(counts, coming)
    out = np.empty(int(coming.sum()), np.int64)
    ordered = np.ascontiguousarray(values[np.argsort(ranks, kind="stable")])
    comm.Alltoallv([ordered, counts], [out, coming])
    return out, np.repeat(np.arange(n_ranks), coming)


def repeated(comm: Any, values: Ints) -> int:
    """The greatest of the positive values of all ranks that is there more than once, 0 if none is."""
    met = np.sort(dealt(comm, values, values % comm.Get_size())[0])
    return greatest(comm, int(met[1:][met[1:] == met[:-1]].max(initial=0)))[0]


def told(error: BaseException) -> str:
    """For the user; with the way to it if it is no fault of theirs."""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    theirs = isinstance(error, ValueError | OSError)
    return f"{error}" if theirs else "".join(traceback.format_exception(error))


def joined(reasons: Sequence[str]) -> str:
    """Of all ranks, each once."""
    return " ".join(dict.fromkeys(text for text in reasons if text))
