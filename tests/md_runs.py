"""Runs of molecular dynamics for the tests: small, quick, compared to the bit."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpot import atomic_files
from mlpot.calculator import MLPotCalculator
from mlpot.data.h5md import Reader, journal
from mlpot.dynamics import log, run
from mlpot.dynamics.checkpoints import Checkpoints
from mlpot.dynamics.log import read_log
from mlpot.dynamics.recipe import MDRecipe
from mlpot.model_file import save_potential

CLOCKED = ("steps_per_s", "ns_per_day", "memory_MB")  # columns of the log that no two runs share


def prepare(folder: Path) -> None:
    """Models and structures."""
    from potentials import new_potential
    from structures import copper, ethanol

    for n_knots, name in ((None, "model"), (32, "native")):  # by the modules, and by the native call
        sizes = {"n_features": 8, "n_radial": 8, "n_interactions": 1, "n_knots": n_knots}
        save_potential(new_potential("schnet", repulsion=True, **sizes), folder / f"{name}.safetensors")
    for make in (copper, ethanol):
        atoms = make()
        atoms.info = {}
        atoms.write(folder / f"{make.__name__}.xyz")


@contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """A folder with a model and structures, for runs that draw nothing."""
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlpot.figures.md.plot_md", without_picture)
        yield folder


def at_call(n: int, do: Any, patch: pytest.MonkeyPatch) -> None:
    """Do something in the n-th calculation from now."""
    calculate = MLPotCalculator.calculate
    calls = 0

    def disturbed(self: MLPotCalculator, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            do()
        calculate(self, *arguments)

    patch.setattr(MLPotCalculator, "calculate", disturbed)


def without_picture(columns: Any, n_atoms: int, path: Path, *, title: str) -> None:
    """In place of `plot_md`, which takes longer than these runs."""


def md_recipe(folder: Path, **settings: Any) -> MDRecipe:
    """A short run in `folder`."""
    defaults = {
        "model": folder / "model.safetensors",
        "structure": folder / "copper.xyz",
        "output": folder / "run",
        "steps": 30,
        "log_every": 2,
        "write_every": 3,
    }
    return MDRecipe(**defaults | settings)


def frames_of(output: Path) -> dict[str, np.ndarray]:
    """Everything in a trajectory."""
    with Reader(output / "trajectory.h5") as reader:
        frames = list(reader.frames())
    return {
        "step": np.array([f.info["step"] for f in frames]),
        "time": np.array([f.info["time"] for f in frames]),
        "positions": np.array([f.positions for f in frames]),
        "velocities": np.array([f.get_velocities() for f in frames]),
        "cell": np.array([f.cell.array for f in frames]),
        "energy": np.array([f.get_potential_energy() for f in frames]),
        "forces": np.array([f.get_forces() for f in frames]),
    }


def assert_same_run(one: Path, other: Path) -> None:
    """Trajectories and logs are equal to the last bit."""
    for read in (frames_of, lambda of: read_log(of / "log.csv")):
        a, b = read(one), read(other)
        assert a.keys() == b.keys()
        for name in a:
            if name not in CLOCKED:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Fault:
    """What befalls the n-th write of a process, before it, after a part of it, or after all of it."""

    def __init__(self, n: int, part: float):
        self.n, self.part = n, part

    def strike(self) -> None:
        """Kill this process."""
        os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, write: Any) -> Any:
        """A function that writes, wrapped."""

        def faulty(*arguments: Any) -> Any:
            self.n -= 1
            if self.n != 0:
                return write(*arguments)
            if write is WRITE_ALL:
                file, content = arguments
                write(file, content[: int(self.part * len(content))])
            elif self.part > 0.5:
                write(*arguments)
            return self.strike()

        return faulty

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take hold of every way to the disk."""
        faulty = self(WRITE_ALL)
        for module in (atomic_files, journal, log):
            patch.setattr(module, "write_all", faulty)
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self(getattr(os, name)))


class FullDisk(Fault):
    """There is no room."""

    def strike(self) -> None:
        """Say so."""
        raise OSError(errno.ENOSPC, "No space left on device")


WRITE_ALL = atomic_files.write_all


def in_a_child(do: Callable[[], Any], killed: Fault | None) -> bool:
    """Do something in a process of its own, which may be killed; whether it reached the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if killed is not None:
                killed.install(pytest.MonkeyPatch())
            do()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed by itself"
    return not os.WIFSIGNALED(status)


def attempt(recipe: MDRecipe, killed: Fault | None, calls: float | None) -> bool:
    """Run or go on; see `in_a_child`. Without a fault it is killed at any moment after so many calculations."""

    def go_on() -> None:
        if calls is not None:
            at_call(int(calls), threading.Thread(target=kill_soon, daemon=True).start, pytest.MonkeyPatch())
        run.run_md(recipe, resume=True)

    return in_a_child(go_on, killed)


def kill_soon() -> None:
    """Kill this process while its main thread goes on."""
    for _ in range(random.randrange(20_000)):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def kill_until_through(
    go_on: Callable[[Fault | None, float | None], bool],
    saved: Callable[[], int],
    rng: random.Random,
    n_kills: int,
    *,
    writes: int,
    delays: tuple[float, float],
    first_write: int = 1,
) -> int:
    """Kill a run at random moments, half of them inside its writes, until it has reached its end; how often.

    Args:
        go_on: takes it on, killed inside a write or after so many steps; whether it reached the end.
        saved: how far what is on disk vouches for it, which never falls.
        rng: of the moments.
        n_kills: about how often.
        writes, first_write: a kill is inside one of these.
        delays: steps that a kill waits, at first: more and more, so that the run comes through.
    """
    kills = before = 0
    while True:
        inside = rng.random() < 0.5
        killed = Fault(rng.randrange(first_write, writes), rng.random()) if inside else None
        wait = rng.uniform(*delays) * (1 + kills / n_kills)
        ended = go_on(killed, None if inside else wait)
        assert saved() >= before
        before = saved()
        if ended:
            return kills
        kills += 1


def acknowledged(folder: Path) -> int:
    """Frames that the newest checkpoint vouches for; they are in the file, or in its journal."""
    newest = Checkpoints(folder).newest if folder.exists() else None
    n = 0 if newest is None else newest.facts["n_frames"]
    journal = folder / "trajectory.h5.journal"
    if n and not (journal.exists() and journal.stat().st_size):
        with Reader(folder / "trajectory.h5") as reader:
            assert len(reader) >= n
    return int(n)


def kill_run(folder: Path, output: Path, n_kills: int, seed: int) -> int:
    """Kill a run of 12 n_kills steps, at random moments and inside its writes, until it is through; how often."""
    recipe = md_recipe(folder, output=output, steps=12 * n_kills, checkpoint_s=0.02, ensemble="bussi")
    return kill_until_through(
        partial(attempt, recipe), lambda: acknowledged(output), random.Random(seed), n_kills,
        first_write=8, writes=120, delays=(1, 24),
    )  # fmt: skip
