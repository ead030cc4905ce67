"""The steps of a run: each is computed, checked and then recorded."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms

from mlpot.atomic_files import StorageError
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.data.sources.output import write_structures
from mlpot.dynamics.checkpoints import Checkpoint, Checkpoints
from mlpot.dynamics.ensembles import Ensemble, build_ensemble
from mlpot.dynamics.guards import NOT_CHECKED, WINDOW, Monitor
from mlpot.dynamics.log import Log, Observation, Pace, Slope, observe, resident_memory
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.states import State, identity
from mlpot.signals import BlowUpError, SignalledError, StoppedError, StopRequest

HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Progress:
    """The state of a run after its last valid step, as a checkpoint stores it."""

    stage: int
    step: int  # of the stage
    n_degrees: int
    state: State
    slope: Slope
    n_frames: int
    log_bytes: int


class Simulation:
    """A run, from its current state to its end.

    Args:
        recipe: of the whole run.
        atoms: with calculator and velocities, as the run begins or as they were at the checkpoint.
        rng: of the thermostats.
        checkpoints: of the run's folder; the run continues from the newest, if there is one.
        card: of the trajectory.
        ranges: of the training structures, from the model file.
        terms: settings that must be the same when the run is continued, JSON-able.
    """

    def __init__(
        self,
        recipe: MDRecipe,
        atoms: Atoms,
        rng: np.random.Generator,
        checkpoints: Checkpoints,
        *,
        card: dict[str, str],
        ranges: dict[str, Any],
        terms: dict[str, Any],
    ):
        self.recipe, self.plan, self.atoms, self.rng = recipe, recipe.plan(), atoms, rng
        self.warnings: dict[str, str] = {}
        self.tell: Callable[[int, int | None], None] | None = None
        self._checkpoints, self.card, self._ranges, self._terms = checkpoints, card, ranges, terms
        lengths = [stage.n_steps for stage in self.plan]
        times = [stage.n_steps * stage.timestep_fs for stage in self.plan]
        self._first_steps = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        self._first_times = np.concatenate([[0.0], np.cumsum(times)]).tolist()  # fs
        self.n_steps = self._first_steps[-1]
        newest = checkpoints.newest
        if newest is None:
            self._enter(0)
            self.progress = self._progress(0, Slope(), n_frames=0, log_bytes=0)
            self.save()
        else:
            self.progress = self._resume(newest)
        self.first = self.step

    def __enter__(self) -> Self:
        path, keep = self.recipe.output / "trajectory.h5", self.progress.n_frames or None
        with ExitStack() as files:
            self._trajectory = files.enter_context(
                TrajectoryWriter(path, card=self.card, keep=keep, overwrite=True)
            )
            self._log = files.enter_context(Log(self.recipe.output / "log.csv", keep=self.progress.log_bytes))
            self._files = files.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()  # frames and lines after the last checkpoint are cut off when the run continues

    # --- the state of the run ---

    @property
    def step(self) -> int:
        """Steps done, of the whole run."""
        return int(self._first_steps[self.progress.stage]) + self.progress.step

    @property
    def stage_began_ps(self) -> float:
        """When the stage that runs began."""
        return float(self._first_times[self.progress.stage]) / 1e3

    def time_fs(self, stage: int, step: int) -> float:
        """Simulated since the beginning of the run."""
        return float(self._first_times[stage]) + step * self.plan[stage].timestep_fs

    def _enter(self, stage: int, n_degrees: int | None = None) -> None:
        self._stage = stage
        self._ensemble: Ensemble = build_ensemble(self.atoms, self.plan[stage], self.rng, n_degrees)

    def _resume(self, checkpoint: Checkpoint) -> Progress:
        facts = checkpoint.facts
        self.warnings = facts["warnings"]
        self._enter(facts["stage"], facts["n_degrees"])
        state = State.stored(checkpoint.arrays, facts["rng"])
        state.put_back(self.atoms, self._ensemble, self.rng)
        slope = Slope(*facts["slope"])
        return self._progress(facts["step"], slope, n_frames=facts["n_frames"], log_bytes=facts["log_bytes"])

    def _progress(self, step: int, slope: Slope, *, n_frames: int, log_bytes: int) -> Progress:
        state = State.of(self.atoms, self._ensemble, self.rng)
        return Progress(self._stage, step, self._ensemble.n_degrees, state, slope, n_frames, log_bytes)

    # --- steps ---

    def run(self, stop: StopRequest) -> None:
        """Run all remaining stages.

        Raises:
            StoppedError: a guard, a signal or the clock ended the run; it is saved.
            StorageError: the run cannot be stored; the last checkpoint is whole.
        """
        self._began = self._saved = time.monotonic()
        self._pace = Pace(self.step)
        try:
            for stage in range(self.progress.stage, len(self.plan)):
                if stage != self._stage:
                    self._enter(stage)
                    self.progress = self._progress(
                        0, Slope(), n_frames=self.progress.n_frames, log_bytes=self.progress.log_bytes
                    )
                self._run_stage(stop)
        except (StorageError, BlowUpError):
            raise  # either nothing can be stored, or all is stored already
        except BaseException:
            self.save()
            raise
        self.save()

    def _run_stage(self, stop: StopRequest) -> None:
        stage = self.plan[self._stage]
        self._monitor = Monitor(stage, self.atoms, self._ensemble, self._ranges)
        self._monitor.warnings = self.warnings
        if self.step == 0 and self.progress.log_bytes == 0:
            self._monitor.check_slowly(self.atoms)
            self._count(0)
            self.save()
        while self.progress.step < stage.n_steps:
            self._stop_if_asked(stop)
            self._advance(stage)
            if time.monotonic() - self._saved >= self.recipe.checkpoint_s:
                self.save()
                self._check_disk()

    def _advance(self, stage: MDRecipe) -> None:
        step = self.progress.step + 1
        if stage.temperature_end_K is not None:
            self._ensemble.set_temperature(stage.temperature(step))
        try:
            self._ensemble.dynamics.step()
            self.atoms.get_forces()
            reason = self._monitor.stops(self.atoms, step)
            if reason is None and (self.step + 1) % WINDOW == 0:
                reason = self._monitor.check_slowly(self.atoms)
        except ValueError as error:  # of the calculator: positions not finite, or two atoms in one place
            self.atoms.calc.results = {}
            raise self._stopped_by_guard(str(error)) from error
        if reason is not None:
            raise self._stopped_by_guard(reason)
        self._count(step)

    def _count(self, step: int) -> None:
        """Record a valid step."""
        of_run, time_fs = int(self._first_steps[self._stage]) + step, self.time_fs(self._stage, step)
        slope = self.progress.slope
        if of_run % self.recipe.log_every == 0:
            slope = self._observe(step, of_run, time_fs)
            if self.tell is not None:
                self.tell(of_run, self.n_steps)
        if of_run % self.recipe.write_every == 0:
            self._trajectory.add(self.atoms, step=of_run, time=time_fs)
        self.progress = self._progress(step, slope, n_frames=self._trajectory.n_frames, log_bytes=self._log.size)

    def _observe(self, step: int, of_run: int, time_fs: float) -> Slope:
        stage, speed = self.plan[self._stage], self._pace.since_last(of_run)
        observed = observe(self.atoms, self._ensemble)
        slope = self.progress.slope.plus(time_fs / 1e6, observed["conserved_eV"] * 1e3 / len(self.atoms))
        nearest = self._monitor.nearest(self.atoms)
        self._log.add(
            Observation(
                step=of_run,
                time_ps=time_fs / 1e3,
                slope_meV_atom_ns=slope.value,
                target_K=math.nan if stage.ensemble == "nve" else stage.temperature(step),
                nearest_A=nearest if math.isfinite(nearest) else math.nan,
                **asdict(self._monitor.last if of_run % WINDOW == 0 else NOT_CHECKED),
                steps_per_s=speed,
                ns_per_day=speed * stage.timestep_fs * 86400 / 1e6,
                memory_MB=resident_memory(),
                **observed,
            )
        )
        return slope

    # --- checkpoints ---

    def save(self) -> None:
        """Write everything up to the last valid step to disk, and a checkpoint.

        Raises:
            StorageError: it cannot be written; the previous checkpoint is intact.
        """
        if self.progress.n_frames or self.progress.log_bytes:
            self._trajectory.commit()
            self._log.sync()
        progress = self.progress
        facts = {
            "stage": progress.stage,
            "step": progress.step,
            "n_degrees": progress.n_degrees,
            "n_frames": progress.n_frames,
            "log_bytes": progress.log_bytes,
            "slope": astuple(progress.slope),
            "rng": progress.state.rng,
            "warnings": self.warnings,
            "terms": self._terms,
            "card": self.card,
        }
        self._checkpoints.write(Checkpoint(facts, identity(self.atoms) | progress.state.arrays()))
        self._saved = time.monotonic()

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
        grown = sum((folder / name).stat().st_size for name in ("trajectory.h5", "log.csv"))
        needed = 2 * self._checkpoints.n_bytes + grown / max(1, self.step) * done / elapsed * ahead
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StoppedError(
                f"Step {self.step}: {folder} has {free} bytes free, and the next {ahead:.0f} s need {needed:.0f} "
                "(guards.disk). Make room, then go on with --continue."
            )

    def _stopped_by_guard(self, reason: str) -> BlowUpError:
        """Store the last valid state and the invalid one; returns the error."""
        bad, good = self.atoms, self.progress.state.frame(self.atoms)
        self.save()
        if self.step % self.recipe.write_every:
            self._trajectory.add(good, step=self.step, time=self.time_fs(self.progress.stage, self.progress.step))
        where = write_bad_frame(bad, self.recipe.output / "bad_frame.xyz")
        return BlowUpError(
            f"Step {self.step + 1}: {reason} The trajectory in {self.recipe.output} ends with the last good "
            f"frame; {where}. Either the atoms left what the potential knows, or the time step is too long."
        )


def write_bad_frame(atoms: Atoms, path: Path) -> str:
    """Write the finite parts of a frame; returns a clause that says where they are."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return "the bad frame has positions that are not finite"
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name, values in {"velocities": atoms.get_velocities(), "forces": atoms.calc.results.get("forces")}.items():
        if values is not None and np.isfinite(values).all():
            frame.set_array(name, values)
    write_structures(path, [frame], overwrite=True)
    return f"the bad frame is {path}"
