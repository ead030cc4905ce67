"""Jobs for the workers of a Dask cluster: the one door to `distributed`.

Of Dask and Parsl, both tried with two workers of which one was killed, Dask was chosen: its scheduler is a program
with an address, which every queue can start and workers join and leave at any time, and the work of a dead worker
goes to another by itself. A Parsl run is set up by a Python program that starts its workers itself.
"""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

from mlpot.data.errors import DataError
from mlpot.data.quantum import MissingCodeError

SECONDS = 10  # until a scheduler that does not answer is given up


class ClusterError(DataError):
    """A cluster cannot be used: no scheduler answers, or it ends."""


class WorkerError(ClusterError):
    """A worker is not like this process: nothing that it computes can be used."""


class Lost(NamedTuple):
    """Stands for the result of a job whose workers died each time."""


LOST = Lost()


Job = tuple[Any, ...]
"""Arguments of a function that runs in a worker."""


@contextmanager
def cluster(address: str, *, packages: str, kept: str) -> Iterator[Cluster]:
    """The workers of a scheduler.

    Args:
        address: of a scheduler, as tcp://host:8786; dask://host:8786 is the same.
        packages: what pip installs here and on workers.
        kept: what an error leaves, for its message.

    Raises:
        ClusterError: no scheduler answers there.
        MissingCodeError: `distributed` is not installed here.
    """
    try:
        import distributed
    except ImportError:
        raise MissingCodeError(
            f'A cluster needs Dask, here and on its workers: pip install "{packages}".'
        ) from None
    address = address.replace("dask://", "tcp://", 1)
    try:
        client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address} ({error}). Start one with `dask scheduler`, and give the "
            "address that it prints."
        ) from None
    with _without_traces(), client:
        if not client.scheduler_info()["workers"]:
            warnings.warn(f"{address} has no worker yet: jobs wait for `dask worker {address}`.", stacklevel=3)
        yield Cluster(client, distributed, packages, kept)


@contextmanager
def _without_traces() -> Iterator[None]:
    """The client logs a traceback when the scheduler is gone, beside the error that says so."""
    log = logging.getLogger("distributed.client")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class Cluster:
    """Results of a function for many jobs; what a worker had begun when it died goes to another one.

    A job whose workers die each time has `LOST` as its result. Whatever a function raises in a worker ends all.

    Raises:
        ClusterError: the scheduler ends.
        WorkerError: a worker cannot run the function.
        DataError: as the function raises it.
    """

    def __init__(self, client: Any, distributed: Any, packages: str, kept: str):
        self._client, self._distributed, self._packages, self._kept = client, distributed, packages, kept

    @contextmanager
    def holding(self, value: object) -> Iterator[str]:
        """The name under which `held` finds a value in each worker, also in one that comes later.

        It is no argument of jobs, nor the result of one: workers waiting for what a dead one had may wait on.
        """

        plugin: Any = self._distributed.WorkerPlugin

        class Holding(plugin):  # type: ignore[misc]  # of a kind that is known where Dask is installed
            """Goes to each worker once."""

            def __init__(self, held: object):
                self.held = held

        name = f"mlpot-{uuid4()}"
        self._client.register_plugin(Holding(value), name=name)
        try:
            yield name
        finally:
            with suppress(
                OSError, TimeoutError, self._distributed.CancelledError
            ):  # of a scheduler that has ended
                self._client.unregister_worker_plugin(name)

    def as_done(self, function: Callable[..., Any], jobs: Iterable[Job], ahead: int) -> Iterator[tuple[Job, Any]]:
        """Jobs with their results, in order of completion.

        Args:
            function: of a module that workers have too.
            jobs: its arguments.
            ahead: jobs that the scheduler knows at a time, so that its memory is bounded.
        """
        waiting, lost = iter(jobs), []
        job_of: dict[str, Job] = {}

        def submit(job: Job) -> Any:
            future = self._submit(function, job)
            job_of[future.key] = job
            return future

        first = [submit(job) for job in islice(waiting, ahead)]
        running = self._distributed.as_completed(first, loop=self._client.loop, raise_errors=False)
        for future in running:
            job, result = job_of.pop(future.key), self._result(future)
            if result is LOST:
                lost.append(job)
            else:
                yield job, result
            running.update([submit(job) for job in islice(waiting, 1)])
        for job in lost:
            yield job, self._alone(function, job)

    def in_order(self, function: Callable[..., Any], jobs: Iterable[Job], ahead: int) -> Iterator[tuple[Job, Any]]:
        """As `as_done`, in the order of the jobs; results of at most `ahead` of them wait for those before."""
        rest = iter(jobs)
        waiting = deque((job, self._submit(function, job)) for job in islice(rest, ahead))
        while waiting:
            job, future = waiting.popleft()
            result = self._result(future)
            if result is LOST:
                for _, other in waiting:
                    other.exception()  # which comes when it is done
                result = self._alone(function, job)
            yield job, result
            waiting.extend((job, self._submit(function, job)) for job in islice(rest, 1))

    def _submit(self, function: Callable[..., Any], job: Job) -> Any:
        try:
            return self._client.submit(function, *job, pure=False)
        except Exception as error:  # which versions of Dask name otherwise
            if self._client.status == "running":
                raise
            raise self._ended() from error

    def _ended(self) -> ClusterError:
        return ClusterError(f"The scheduler ended, or the connection to it. {self._kept}")

    def _alone(self, function: Callable[..., Any], job: Job) -> Any:
        """Once more: Dask blames all that a dead worker had before it."""
        return self._result(self._submit(function, job))

    def _result(self, future: Any) -> Any:
        """Waits for it."""
        try:
            return future.result()
        except self._distributed.scheduler.KilledWorker:
            return LOST
        except (DataError, MissingCodeError):
            raise
        except (self._distributed.CancelledError, self._distributed.comm.CommClosedError):
            raise self._ended() from None
        except Exception as error:  # of any kind, as the worker raised it
            raise WorkerError(
                f"A worker could not begin ({type(error).__name__}: {error}). Workers need the Python packages "
                f'that are here: pip install "{self._packages}". {self._kept}'
            ) from error


def threads_of_worker() -> int:
    """How many jobs the worker that this runs in has at a time."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def held(name: str) -> Any:
    """What `Cluster.holding` gave the worker that this runs in."""
    from distributed import get_worker

    return get_worker().plugins[name].held
