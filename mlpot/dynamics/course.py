"""The course of a run: its stages one after another, until the end, a signal, the clock or a full disk."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from mlpot.atomic_files import StorageError
from mlpot.dynamics.checkpoints import Checkpoints
from mlpot.dynamics.log import Pace
from mlpot.dynamics.recipe import MDRecipe
from mlpot.signals import BlowUpError, SignalledError, StoppedError, StopRequest

HOUR = 3600.0  # seconds
SAVING = 0.05  # part of the time, at most, that goes into checkpoints


class Place(Protocol):
    """Where a run is, after its last valid step."""

    @property
    def stage(self) -> int: ...

    @property
    def step(self) -> int:
        """Of the stage."""
        ...


class Course(ABC):
    """What leads a run through its stages; subclasses compute and record the steps.

    Args:
        recipe: of the whole run.
        checkpoints: of the run's folder.
    """

    progress: Place
    first: int  # step at which this process began
    _stage: int  # that was entered last

    def __init__(self, recipe: MDRecipe, checkpoints: Checkpoints):
        self.recipe, self.plan, self._checkpoints = recipe, recipe.plan(), checkpoints
        self.tell: Callable[[int, int | None], None] | None = None
        lengths = [stage.n_steps for stage in self.plan]
        times = [stage.n_steps * stage.timestep_fs for stage in self.plan]
        self._first_steps = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        self._first_times = np.concatenate([[0.0], np.cumsum(times)]).tolist()  # fs
        self.n_steps = self._first_steps[-1]

    # --- of a subclass ---

    @abstractmethod
    def save(self) -> None:
        """Write everything up to the last valid step to disk, and a checkpoint.

        Raises:
            StorageError: it cannot be written; the previous checkpoint is intact.
        """

    @abstractmethod
    def _enter(self, stage: int) -> None:
        """Begin a stage with the atoms as they are."""

    @abstractmethod
    def _watch(self) -> None:
        """Begin to guard the stage that was entered, and record the very first state."""

    @abstractmethod
    def _advance(self, stage: MDRecipe) -> None:
        """Compute, check and record one step."""

    @abstractmethod
    def _grown(self) -> list[Path]:
        """The files that grow with the run."""

    # --- where the run is ---

    @property
    def step(self) -> int:
        """Steps done, of the whole run."""
        return self.step_in(self.progress.stage, self.progress.step)

    @property
    def stage_began_ps(self) -> float:
        """When the stage that runs began."""
        return float(self._first_times[self.progress.stage]) / 1e3

    def step_in(self, stage: int, step: int) -> int:
        """The number in the whole run of a step of a stage."""
        return int(self._first_steps[stage]) + step

    def time_fs(self, stage: int, step: int) -> float:
        """Simulated since the beginning of the run."""
        return float(self._first_times[stage]) + step * self.plan[stage].timestep_fs

    # --- steps ---

    def run(self, stop: StopRequest) -> None:
        """Run all remaining stages.

        Raises:
            StoppedError: a guard, a signal or the clock ended the run; it is saved.
            StorageError: the run cannot be stored; the last checkpoint is whole.
        """
        self._began = self._saved = time.monotonic()
        self._pace, self._rest = Pace(self.step), 0.0
        try:
            for stage in range(self.progress.stage, len(self.plan)):
                if stage != self._stage:
                    self._enter(stage)
                self._run_stage(stop)
        except (StorageError, BlowUpError):
            raise  # either nothing can be stored, or all is stored already
        except BaseException:
            self._save()
            raise
        self._save()

    def _run_stage(self, stop: StopRequest) -> None:
        stage = self.plan[self._stage]
        self._watch()
        while self.progress.step < stage.n_steps:
            self._stop_if_asked(stop)
            self._advance(stage)
            if time.monotonic() - self._saved >= self._interval():
                self._save()
                self._check_disk()

    def _interval(self) -> float:
        """Seconds from one checkpoint to the next; none where the user wants each of them."""
        return max(self.recipe.checkpoint_s, self._rest) if self.recipe.checkpoint_s else 0.0

    def _save(self) -> None:
        began = time.monotonic()
        self.save()
        self._saved = time.monotonic()
        self._rest = (self._saved - began) / SAVING

    # --- early ends ---

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if stop.signal is not None:
            raise SignalledError(
                f"Step {self.step}: stopped by {stop.signal.name} and saved. Go on with --continue.", stop.signal
            )
        limit = self.recipe.wall_time_s
        if limit is not None and time.monotonic() - self._began > limit:
            raise StoppedError(f"Step {self.step}: the wall time of {limit:g} s is over. Go on with --continue.")

    def _check_disk(self) -> None:
        """Stop while the disk still has space for two checkpoints and the output of the next hour."""
        if not self.recipe.guards.disk:
            return
        elapsed = time.monotonic() - self._began
        done = max(1, self.step - self.first)
        ahead = min(HOUR, elapsed * (self.n_steps - self.step) / done)
        folder = self.recipe.output
        grown = sum(path.stat().st_size for path in self._grown())
        needed = 2 * self._checkpoints.n_bytes + grown / max(1, self.step) * done / elapsed * ahead
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StoppedError(
                f"Step {self.step}: {folder} has {free} bytes free, and the next {ahead:.0f} s need {needed:.0f} "
                "(guards.disk). Make room, then go on with --continue."
            )
