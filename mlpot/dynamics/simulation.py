"""The steps of a run: each is computed, checked and then recorded."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms

from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.data.sources.output import write_structures
from mlpot.dynamics.checkpoints import Checkpoint, Checkpoints
from mlpot.dynamics.course import Course
from mlpot.dynamics.ensembles import Ensemble, build_ensemble, check_plan, rest_after_noise
from mlpot.dynamics.guards import NOT_CHECKED, WINDOW, Monitor
from mlpot.dynamics.log import Kept, Log, Observation, Slope, observe, resident_memory
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.states import State, identity
from mlpot.signals import BlowUpError


@dataclass(frozen=True)
class Progress:
    """The state of a run after its last valid step, as a checkpoint stores it."""

    stage: int
    step: int  # of the stage
    n_degrees: int
    state: State
    slope: Slope
    n_frames: int
    log: Kept


class Simulation(Course):
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

    progress: Progress

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
        super().__init__(recipe, checkpoints)
        self.atoms, self.rng, self.card, self._ranges, self._terms = atoms, rng, card, ranges, terms
        self.warnings: dict[str, str] = {}
        check_plan(atoms, self.plan)
        newest = checkpoints.newest
        if newest is None:
            self._build(0)
            self.progress = self._progress(0, Slope(), n_frames=0, log=Kept())
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
            self._log = files.enter_context(Log(self.recipe.output / "log.csv", keep=self.progress.log))
            self._files = files.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()  # frames and lines after the last checkpoint are cut off when the run continues

    # --- the state of the run ---

    def _enter(self, stage: int) -> None:
        rest_after_noise(self.atoms, self.plan, stage)
        self._build(stage)
        self.progress = self._progress(0, Slope(), n_frames=self.progress.n_frames, log=self.progress.log)

    def _build(self, stage: int, n_degrees: int | None = None) -> None:
        self._stage = stage
        self._ensemble: Ensemble = build_ensemble(self.atoms, self.plan[stage], self.rng, n_degrees)
        self.warnings = self._ensemble.warnings | self.warnings

    def _resume(self, checkpoint: Checkpoint) -> Progress:
        facts = checkpoint.facts
        self.warnings = facts["warnings"]
        self._build(facts["stage"], facts["n_degrees"])
        state = State.stored(checkpoint.arrays, facts["rng"])
        state.put_back(self.atoms, self._ensemble, self.rng)
        slope, log = Slope(*facts["slope"]), Kept(facts["log_bytes"], facts.get("log_digest"))
        return self._progress(facts["step"], slope, n_frames=facts["n_frames"], log=log)

    def _progress(self, step: int, slope: Slope, *, n_frames: int, log: Kept) -> Progress:
        state = State.of(self.atoms, self._ensemble, self.rng)
        return Progress(self._stage, step, self._ensemble.n_degrees, state, slope, n_frames, log)

    # --- steps ---

    def _watch(self) -> None:
        self._monitor = Monitor(self.plan[self._stage], self.atoms, self._ensemble, self._ranges)
        self._monitor.warnings = self.warnings
        if self.step == 0 and self.progress.log.n_bytes == 0:
            self._monitor.check_slowly(self.atoms)
            self._count(0)
            self.save()

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
                self._ensemble.settle()
        except ValueError as error:  # of the calculator: positions not finite, or two atoms in one place
            self.atoms.calc.results = {}
            raise self._stopped_by_guard(str(error)) from error
        if reason is not None:
            raise self._stopped_by_guard(reason)
        self._count(step)

    def _count(self, step: int) -> None:
        """Record a valid step."""
        of_run, time_fs = self.step_in(self._stage, step), self.time_fs(self._stage, step)
        slope = self.progress.slope
        if of_run % self.recipe.log_every == 0:
            slope = self._observe(step, of_run, time_fs)
            if self.tell is not None:
                self.tell(of_run, self.n_steps)
        if of_run % self.recipe.write_every == 0:
            self._trajectory.add(self.atoms, step=of_run, time=time_fs)
        self.progress = self._progress(step, slope, n_frames=self._trajectory.n_frames, log=self._log.kept)

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
        """As of a course."""
        if self.progress.n_frames or self.progress.log.n_bytes:
            self._trajectory.commit()
            self._log.sync()
        progress = self.progress
        facts = {
            "stage": progress.stage,
            "step": progress.step,
            "n_degrees": progress.n_degrees,
            "n_frames": progress.n_frames,
            "log_bytes": progress.log.n_bytes,
            "log_digest": progress.log.digest,
            "slope": astuple(progress.slope),
            "rng": progress.state.rng,
            "warnings": self.warnings,
            "terms": self._terms,
            "card": self.card,
        }
        self._checkpoints.write(Checkpoint(facts, identity(self.atoms) | progress.state.arrays()))

    def _grown(self) -> list[Path]:
        return [self.recipe.output / name for name in ("trajectory.h5", "log.csv")]

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
