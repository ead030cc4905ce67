"""Labels by workers of a Dask cluster: the one door to `distributed`.

Of Dask and Parsl, both tried with two workers of which one was killed, Dask was chosen: its scheduler is a program
with an address, which every queue can start and workers join and leave at any time, and the work of a dead worker
goes to another by itself. A Parsl run is set up by a Python program that starts its workers itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ase import Atoms

from mlpot.data.errors import LabelError
from mlpot.data.label_workers import Outcome, attempt
from mlpot.data.quantum import Code, MissingCodeError, version

AHEAD = 1000  # structures that the scheduler knows at a time, so that its memory is bounded
SECONDS = 10  # until a scheduler that does not answer is given up


class WorkerError(LabelError):
    """A worker is not like this process: nothing that it computes can be used."""


def on_cluster(code: Code, frames: list[tuple[int, Atoms]], address: str) -> Iterator[Outcome]:
    """Outcomes in order of completion; what a worker had begun when it died goes to another one.

    A structure whose workers die each time has that as its reason.

    Args:
        code: with its settings; workers must have the same version of it.
        frames: with their numbers.
        address: of a scheduler, as tcp://host:8786; dask://host:8786 is the same.

    Raises:
        LabelError: no scheduler answers there, or it ends.
        WorkerError: a worker has no mlpot, another version of the code, or several threads.
        MissingCodeError: `distributed` is not installed here, or a worker has not the code.
    """
    try:
        import distributed
    except ImportError:
        raise MissingCodeError(
            'Labels on a cluster need Dask, here and on its workers: pip install "mlpot[dask]".'
        ) from None
    address = address.replace("dask://", "tcp://", 1)
    try:
        client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise LabelError(
            f"No Dask scheduler answers at {address} ({error}). Start one with `dask scheduler`, and give the "
            "address that it prints."
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(
                f"{address} has no worker yet: structures wait for `dask worker {address}`.", stacklevel=2
            )
        yield from _gathered(client, code, frames, distributed)


def _gathered(client: Any, code: Code, frames: list[tuple[int, Atoms]], distributed: Any) -> Iterator[Outcome]:
    jobs, own, lost = iter(frames), version(code), []
    job_of: dict[str, tuple[int, Atoms]] = {}

    def submit(job: tuple[int, Atoms]) -> Any:
        future = client.submit(_elsewhere, code, own, *job, pure=False)
        job_of[future.key] = job
        return future

    first = [submit(job) for job in islice(jobs, AHEAD)]
    running = distributed.as_completed(first, loop=client.loop, with_results=True, raise_errors=False)
    for future, result in running:
        job = job_of.pop(future.key)
        if future.status == "finished":
            yield result
        elif isinstance(error := _reason(future), distributed.scheduler.KilledWorker):
            lost.append(job)
        else:
            raise _told(error)
        running.update([submit(job) for job in islice(jobs, 1)])
    for job in lost:  # Dask blames all that a dead worker had before it: each is tried once more, alone
        future = submit(job)
        error = future.exception()  # waits for it
        if error is None:
            yield future.result()
        elif isinstance(error, distributed.scheduler.KilledWorker):
            yield Outcome(job[0], failure="each worker that computed it died: a crash, or no memory left")
        else:
            raise _told(error)


def _reason(future: Any) -> BaseException:
    """Why there is no result."""
    if future.status == "error":
        return future.exception()
    return LabelError(f"The scheduler ended ({future.status}). What is labeled is kept: run this again.")


def _told(error: BaseException) -> BaseException:
    """What stops the run, in words."""
    if isinstance(error, LabelError | MissingCodeError):
        return error
    return WorkerError(
        f"A worker could not begin ({type(error).__name__}: {error}). Workers need the Python packages that are "
        'here: pip install "mlpot[dask,label]". What is labeled is kept.'
    )


def _elsewhere(code: Code, expected: str, frame: int, atoms: Atoms) -> Outcome:
    """Runs in a worker of the cluster."""
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads != 1:
        raise WorkerError(
            f"A worker has {threads} threads, and quantum-chemistry codes are not made for two calculations in "
            "one process. Start workers with `dask worker --nthreads 1 --nworkers N`. What is labeled is kept."
        )
    if (own := version(code)) != expected:
        raise WorkerError(
            f"A worker has {code.package} {own}, and this process {expected}: labels of one set are of one "
            "version. Install the same on all. What is labeled is kept."
        )
    return attempt(code, frame, atoms)
