"""One structure in, its label or the reason why it has none out; and processes of this machine that do it."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms

from mlpot.data.cluster import WorkerError
from mlpot.data.quantum import Code, MissingCodeError, QuantumError, SettingsError
from mlpot.signals import end_with_parent

KEPT = "What is labeled is kept: run this again."
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EROFS
GRACE = 1.0  # s until a worker whose parent was killed looks for it


@dataclass(frozen=True)
class Outcome:
    """One line of the working file: energy in eV, forces in eV/Å, stress in eV/Å³."""

    frame: int
    energy: float | None = None
    forces: list[list[float]] | None = None
    stress: list[float] | None = None
    failure: str | None = None


def attempt(code: Code, frame: int, atoms: Atoms) -> Outcome:
    """Runs in a worker: the label of one structure, or why there is none.

    Raises:
        MissingCodeError: the code does not load here, whatever the structure.
        WorkerError: there is no room for its files.
    """
    try:
        with _own_folder():
            answer = code.compute(atoms)
        if not (np.isfinite(answer.energy) and np.isfinite(answer.forces).all()):
            raise QuantumError("energy or forces are not finite: do atoms coincide?")
    except WorkerError:
        raise
    except ImportError as error:
        raise MissingCodeError(
            f"{code.package} does not load in a worker ({error}). Install what it needs there. {KEPT}"
        ) from error
    except Exception as error:  # the reason is kept with the structure, and the others continue
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise _no_room(error) from error
        return Outcome(frame, failure=f"{type(error).__name__}: {error}")
    stress = None if answer.stress is None else answer.stress.tolist()
    return Outcome(frame, float(answer.energy), answer.forces.tolist(), stress)


def _no_room(error: OSError) -> WorkerError:
    return WorkerError(
        f"A worker cannot write files ({error}). Make room there, or set TMPDIR to another folder. {KEPT}"
    )


@contextmanager
def _own_folder() -> Iterator[None]:
    """An empty folder to work in, as codes leave files under names of their own and read what they find there."""
    try:
        own = TemporaryDirectory(prefix="mlpot-label-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(error) from error
    with own as folder, chdir(folder):
        yield


def in_processes(code: Code, frames: list[tuple[int, Atoms]], workers: int) -> Iterator[Outcome]:
    """Outcomes in order of completion; a crash of a worker costs only the frame that it computes.

    Workers end at once when the caller wants no more, as after an interrupt, and soon after this process.

    Raises:
        MissingCodeError: the code does not load in a worker.
        WorkerError: a worker cannot start, or has no room for files.
    """
    if workers < 1:
        raise SettingsError(f"workers is {workers}. Give at least one.")
    jobs = iter(frames)
    running = [_Worker(code) for _ in range(min(workers, len(frames)))]
    try:
        running = [worker for worker in running if worker.begin(next(jobs, None))]
        while running:
            ready = wait([worker.pipe for worker in running])
            for worker in [one for one in running if one.pipe in ready]:
                outcome = worker.outcome()
                if outcome is not None:
                    yield outcome
                    running.remove(worker)
                    job = next(jobs, None)
                    if job is not None and not worker.process.is_alive():
                        worker.end()
                        worker = _Worker(code)
                    if worker.begin(job):
                        running.append(worker)
    finally:
        for worker in running:
            worker.end()


class _Worker:
    """A process that has one frame after another."""

    def __init__(self, code: Code):
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, code))
        self.process.start()
        other.close()  # so that its death is the end of the pipe
        self._package, self._frame, self._has_started = code.package, -1, False

    def begin(self, job: tuple[int, Atoms] | None) -> bool:
        """Compute a frame; or end, if there is none."""
        if job is None:
            self.end()
            return False
        self._frame = job[0]
        with suppress(OSError):  # of one that has died, which `outcome` finds
            self.pipe.send(job)
        return True

    def outcome(self) -> Outcome | None:
        """What came through the pipe; None if it says that it has started."""
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            return self._death()
        if isinstance(found, Exception):
            raise found
        self._has_started = True
        return found  # type: ignore[no-any-return]  # as `_serve` sends it

    def _death(self) -> Outcome:
        self.process.join()
        if not self._has_started:
            raise WorkerError(
                f"A worker ended before its first structure, with status {self.process.exitcode}: its reason "
                "stands above, or memory is short. A script that calls `label` needs the line `if __name__ == "
                f'"__main__":` before its work, as workers read the script too. {KEPT}'
            )
        return Outcome(self._frame, failure=f"{self._package} ended its process: a crash, or no memory left")

    def end(self) -> None:
        """At once, whatever it computes."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, code: Code) -> None:
    """Runs in a process of its own until it is killed, or the process that made it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all, and the first decides
    end_with_parent(GRACE)
    pipe.send(None)
    with suppress(EOFError):
        while True:
            try:
                outcome: Outcome | Exception = attempt(code, *pipe.recv())
            except (MissingCodeError, WorkerError) as error:
                outcome = error
            pipe.send(outcome)
