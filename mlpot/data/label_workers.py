"""One structure in, its label or the reason why it has none out; and processes of this machine that do it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms

from mlpot.data.quantum import Code, QuantumError, SettingsError


@dataclass(frozen=True)
class Outcome:
    """One line of the working file: energy in eV, forces in eV/Å, stress in eV/Å³."""

    frame: int
    energy: float | None = None
    forces: list[list[float]] | None = None
    stress: list[float] | None = None
    failure: str | None = None


def attempt(code: Code, frame: int, atoms: Atoms) -> Outcome:
    """Runs in a worker: the label of one structure, or why there is none."""
    try:
        with _own_folder():
            answer = code.compute(atoms)
        if not (np.isfinite(answer.energy) and np.isfinite(answer.forces).all()):
            raise QuantumError("energy or forces are not finite: do atoms coincide?")
    except Exception as error:  # the reason is kept with the structure, and the others continue
        return Outcome(frame, failure=f"{type(error).__name__}: {error}")
    stress = None if answer.stress is None else answer.stress.tolist()
    return Outcome(frame, float(answer.energy), answer.forces.tolist(), stress)


@contextmanager
def _own_folder() -> Iterator[None]:
    """An empty folder to work in, as codes leave files under names of their own and read what they find there."""
    with TemporaryDirectory(prefix="mlpot-label-", ignore_cleanup_errors=True) as folder, chdir(folder):
        yield


def in_processes(code: Code, frames: list[tuple[int, Atoms]], workers: int) -> Iterator[Outcome]:
    """Outcomes in order of completion; every worker is a pool of one, so that a crash costs only its frame."""
    if workers < 1:
        raise SettingsError(f"workers is {workers}. Give at least one.")
    jobs = iter(frames)
    idle = [_process() for _ in range(workers)]
    running: dict[Future[Outcome], tuple[ProcessPoolExecutor, int]] = {}
    try:
        while True:
            while idle and (job := next(jobs, None)) is not None:
                pool = idle.pop()
                running[pool.submit(attempt, code, *job)] = pool, job[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, frame = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    pool.shutdown()
                    idle.append(_process())
                    yield Outcome(frame, failure=f"{code.package} ended its process: a crash, or no memory left")
                else:
                    idle.append(pool)
                    yield future.result()
    finally:
        for pool in [*idle, *(pool for pool, _ in running.values())]:
            pool.shutdown(cancel_futures=True)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))
