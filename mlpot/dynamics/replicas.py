"""Many runs in one batch: each is computed, guarded and recorded as it would be alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.dynamics.batch import Batch, Found
from mlpot.dynamics.checkpoints import Checkpoint, Checkpoints
from mlpot.dynamics.course import Course
from mlpot.dynamics.ensembles import Ensemble, build_ensemble, check_plan, rest_after_noise
from mlpot.dynamics.guards import NOT_CHECKED, WINDOW, Monitor
from mlpot.dynamics.lockstep import Lockstep
from mlpot.dynamics.log import Kept, Log, Observation, Slope, observe, resident_memory
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.replica_guards import Watch
from mlpot.dynamics.simulation import write_bad_frame
from mlpot.dynamics.start import StartError
from mlpot.dynamics.states import State, identical, identity
from mlpot.potential import Potential
from mlpot.signals import BlowUpError


@dataclass
class Replica:
    """A run among others."""

    recipe: MDRecipe  # of this run alone
    atoms: Atoms
    rng: np.random.Generator
    card: dict[str, str]
    n_degrees: int | None = None  # None before they are counted
    slope: Slope = field(default_factory=Slope)
    warnings: dict[str, str] = field(default_factory=dict)
    n_frames: int = 0
    log: Kept = field(default_factory=Kept)
    stopped: str | None = None  # why a guard stopped it
    ended: tuple[int, int] | None = None  # stage and step of the last valid step of one that was stopped


@dataclass(frozen=True)
class Moment:
    """Everything that steps change, of all replicas that run, copied."""

    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    cells: NDArray[np.float64]
    integrators: list[dict[str, Any]]
    rngs: list[dict[str, Any]]


@dataclass(frozen=True)
class BatchProgress:
    """A batch after its last valid step."""

    stage: int
    step: int  # of the stage
    moment: Moment


class Replicas(Course):
    """A batch of runs, from their current state to their end.

    Args:
        recipe: of the batch.
        replicas: as they begin, with velocities; taken from the checkpoint if there is one.
        checkpoints: of the batch's folder.
        potential: which compiled code computes.
        ranges: of the training structures, from the model file.
        terms: settings that must be the same when the batch is continued, JSON-able.

    Raises:
        StartError: these structures do not run in one batch.
    """

    progress: BatchProgress

    def __init__(
        self,
        recipe: MDRecipe,
        replicas: Sequence[Replica],
        checkpoints: Checkpoints,
        potential: Potential,
        *,
        ranges: dict[str, Any],
        terms: dict[str, Any],
    ):
        super().__init__(recipe, checkpoints)
        self.replicas, self._potential, self._ranges, self._terms = list(replicas), potential, ranges, terms
        self._ends: dict[int, State] = {}  # of replicas that were stopped
        newest = checkpoints.newest
        if newest is None:
            self._gather()
            self._build(0)
            self.progress = self._moment(0)
            self.save()
        else:
            self._resume(newest)
        self.first = self.step

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._trajectories, self._logs = {}, {}
            for k in self.running:
                replica = self.replicas[k]
                folder, frames = replica.recipe.output, replica.n_frames or None
                folder.mkdir(parents=True, exist_ok=True)
                self._trajectories[k] = files.enter_context(
                    TrajectoryWriter(folder / "trajectory.h5", card=replica.card, keep=frames, overwrite=True)
                )
                self._logs[k] = files.enter_context(Log(folder / "log.csv", keep=replica.log))
            self._files = files.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()  # what is behind the last checkpoint is cut off when the batch continues

    # --- the state of the batch ---

    @property
    def running(self) -> list[int]:
        """The numbers of the replicas that no guard stopped."""
        return [k for k, replica in enumerate(self.replicas) if replica.stopped is None]

    def _gather(self) -> None:
        """Put the replicas that run into a batch."""
        self._batch = Batch([self.replicas[k].atoms for k in self.running], self._potential)

    def _enter(self, stage: int) -> None:
        for k in self.running:
            self.replicas[k].n_degrees, self.replicas[k].slope = None, Slope()
            rest_after_noise(self.replicas[k].atoms, self.plan, stage)
        self._build(stage)
        self.progress = self._moment(0)

    def _build(self, stage: int) -> None:
        self._stage, self._ensembles = stage, dict[int, Ensemble]()
        for k in self.running:
            own = self.replicas[k]
            try:
                check_plan(own.atoms, self.plan)
                self._ensembles[k] = build_ensemble(own.atoms, self.plan[stage], own.rng, own.n_degrees)
            except StartError as error:
                raise StartError(f"Replica {k}: {error}") from error
            own.n_degrees = self._ensembles[k].n_degrees
            own.warnings = self._ensembles[k].warnings | own.warnings
        self._couple()

    def _couple(self) -> None:
        generators = [self.replicas[k].rng for k in self.running]
        self._lockstep = Lockstep(self._batch, self.plan[self._stage], list(self._ensembles.values()), generators)

    def _resume(self, checkpoint: Checkpoint) -> None:
        states: list[State] = []
        for k, facts in enumerate(checkpoint.facts["replicas"]):
            own = self.replicas[k]
            arrays = {n.partition("/")[2]: a for n, a in checkpoint.arrays.items() if n.startswith(f"{k}/")}
            own.atoms, own.slope, own.warnings = identical(arrays), Slope(*facts["slope"]), facts["warnings"]
            own.n_degrees, own.n_frames = facts["n_degrees"], facts["n_frames"]
            own.log = Kept(facts["log_bytes"], facts.get("log_digest"))
            own.stopped, own.ended = facts["stopped"], facts["ended"] and tuple(facts["ended"])
            states.append(State.stored(arrays, facts["rng"]))
            if own.stopped is not None:
                self._ends[k] = states[k]
        if not self.running:
            raise BlowUpError(
                f"Guards stopped all {len(self.replicas)} replicas before, and none can go on. Begin anew with "
                "other guards, another start or a shorter time step (--overwrite). The first: "
                f"{self.replicas[0].stopped}"
            )
        self._gather()
        self._build(checkpoint.facts["stage"])
        for k in self.running:
            states[k].put_back(self.replicas[k].atoms, self._ensembles[k], self.replicas[k].rng)
        self._batch.compute()
        self._couple()
        self.progress = self._moment(checkpoint.facts["step"])

    def _moment(self, step: int) -> BatchProgress:
        atoms, running = self._batch.atoms, self.running
        integrators = [State.of_integrator(self._ensembles[k]) for k in running]
        rngs = [dict(self.replicas[k].rng.bit_generator.state) for k in running]
        cells = self._batch.cells.copy()
        moment = Moment(atoms.positions.copy(), atoms.arrays["momenta"].copy(), cells, integrators, rngs)
        return BatchProgress(self._stage, step, moment)

    def _state(self, place: int, results: dict[str, Any]) -> State:
        """After the last valid step, of a replica by its place in the batch."""
        moment, own = self.progress.moment, self._batch.own
        return State(
            own(moment.positions, place),
            own(moment.momenta, place),
            moment.cells[place],
            moment.integrators[place],
            moment.rngs[place],
            results,
        )

    # --- steps ---

    def _watch(self) -> None:
        stage = self.plan[self._stage]
        self._monitors = {
            k: Monitor(stage, self.replicas[k].atoms, self._ensembles[k], self._ranges) for k in self.running
        }
        for k, monitor in self._monitors.items():
            monitor.warnings = self.replicas[k].warnings
        self._guard()
        if self.step == 0 and not any(replica.log.n_bytes for replica in self.replicas):
            for k, monitor in self._monitors.items():
                monitor.check_slowly(self.replicas[k].atoms)
            self._count(0)
            self.save()

    def _guard(self) -> None:
        self._all = Watch(self._batch, list(self._monitors.values()), list(self._ensembles.values()))

    def _advance(self, stage: MDRecipe) -> None:
        step = self.progress.step + 1
        if stage.temperature_end_K is not None:
            self._lockstep.set_temperature(stage.temperature(step))
        before = self._batch.found
        self._lockstep.step()
        found = self._all.stops(step)
        if (self.step + 1) % WINDOW == 0:
            for place, k in enumerate(self.running):
                if place not in found:
                    reason = self._monitors[k].check_slowly(self.replicas[k].atoms)
                    found |= {} if reason is None else {place: reason}
                    self._ensembles[k].settle()
        if found:
            self._stop(found, before)
        self._count(step)

    def _count(self, step: int) -> None:
        """Record a valid step."""
        of_run, time_fs = self.step_in(self._stage, step), self.time_fs(self._stage, step)
        if of_run % self.recipe.log_every == 0:
            self._observe(step, of_run, time_fs)
            if self.tell is not None:
                self.tell(of_run, self.n_steps)
        if of_run % self.recipe.write_every == 0:
            for k in self.running:
                self._trajectories[k].add(self.replicas[k].atoms, step=of_run, time=time_fs)
        self.progress = self._moment(step)
        for k in self.running:
            own = self.replicas[k]
            own.n_frames, own.log = self._trajectories[k].n_frames, self._logs[k].kept

    def _observe(self, step: int, of_run: int, time_fs: float) -> None:
        stage, speed, memory = self.plan[self._stage], self._pace.since_last(of_run), resident_memory()
        for k, listed in zip(self.running, self._all.nearest().tolist(), strict=True):
            own, monitor = self.replicas[k], self._monitors[k]
            observed = observe(own.atoms, self._ensembles[k])
            own.slope = own.slope.plus(time_fs / 1e6, observed["conserved_eV"] * 1e3 / len(own.atoms))
            nearest = monitor.nearest(own.atoms, listed)
            self._logs[k].add(
                Observation(
                    step=of_run,
                    time_ps=time_fs / 1e3,
                    slope_meV_atom_ns=own.slope.value,
                    target_K=math.nan if stage.ensemble == "nve" else stage.temperature(step),
                    nearest_A=nearest if math.isfinite(nearest) else math.nan,
                    **asdict(monitor.last if of_run % WINDOW == 0 else NOT_CHECKED),
                    steps_per_s=speed,
                    ns_per_day=speed * stage.timestep_fs * 86400 / 1e6,
                    memory_MB=memory,
                    **observed,
                )
            )

    # --- checkpoints ---

    def save(self) -> None:
        """As of a course."""
        running, facts, arrays = self.running, [], dict[str, NDArray[Any]]()
        for k, own in enumerate(self.replicas):
            state = self._ends[k] if own.stopped is not None else self._state(running.index(k), {})
            if own.stopped is None and (own.n_frames or own.log.n_bytes):
                self._trajectories[k].commit()
                self._logs[k].sync()
            facts.append({
                "n_degrees": own.n_degrees,
                "n_frames": own.n_frames,
                "log_bytes": own.log.n_bytes,
                "log_digest": own.log.digest,
                "slope": astuple(own.slope),
                "rng": state.rng,
                "warnings": own.warnings,
                "stopped": own.stopped,
                "ended": own.ended,
            })  # fmt: skip
            arrays |= {f"{k}/{name}": array for name, array in (identity(own.atoms) | state.arrays()).items()}
        at = {"stage": self.progress.stage, "step": self.progress.step, "replicas": facts, "terms": self._terms}
        self._checkpoints.write(Checkpoint(at, arrays))

    def _grown(self) -> list[Path]:
        of = [self.replicas[k].recipe.output for k in self.running]
        return [folder / name for folder in of for name in ("trajectory.h5", "log.csv")]

    # --- early ends ---

    def _stop(self, found: dict[int, str], before: Found) -> None:
        """Store the last valid state of replicas and the invalid one, and go on with the others."""
        running = self.running
        for place, reason in found.items():
            k = running[place]
            own, state, last = (
                self.replicas[k],
                self._state(place, self._batch.results(place, before)),
                self.progress,
            )
            if self.step % self.recipe.write_every:
                self._trajectories[k].add(
                    state.frame(own.atoms), step=self.step, time=self.time_fs(last.stage, last.step)
                )
            self._trajectories[k].commit()
            own.n_frames = self._trajectories[k].n_frames
            folder = own.recipe.output
            where = write_bad_frame(own.atoms, folder / "bad_frame.xyz")
            own.stopped = (
                f"Step {self.step + 1}: {reason} The trajectory in {folder} ends with the last good frame; "
                f"{where}. Either the atoms left what the potential knows, or the time step is too long."
            )
            own.ended, self._ends[k] = (last.stage, last.step), state
            state.place(own.atoms)
            del self._ensembles[k], self._monitors[k]
        if not self.running:
            self.save()
            raise BlowUpError(f"All {len(self.replicas)} replicas were stopped; the last: {own.stopped}")
        self._gather()
        self._couple()
        self._guard()
