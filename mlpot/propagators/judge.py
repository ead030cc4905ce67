"""A propagator beside integration by a potential: errors against time, energy, and cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.data.frame import ASE_VELOCITY
from mlpot.data.h5md import content_hash
from mlpot.dynamics.batch import Batch
from mlpot.dynamics.lockstep import at_constant_energy
from mlpot.potential import Potential
from mlpot.propagators.learned import warn_of_unlearned
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.propagator_file import LEARNED
from mlpot.propagators.rollout import steps
from mlpot.propagators.trajectories import Trajectory, TrajectoryError

Floats = NDArray[np.float64]
USUAL_STEP = 0.5  # fs, of molecular dynamics with hydrogen
TIMED_STEPS = 20  # run at once: what begins and ends a run is not counted to a step
LEAST_TIME = 0.3  # seconds of the processor over which a cost is measured
FAR = 100.0  # Å from the middle, where a molecule has flown apart
OTHER_FORCES = 1e-3
"""eV/Å, by which forces of the same potential never differ, whatever the precision."""
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Row:
    """Errors after some calls, as root mean squares over starts; NaN where a structure has flown apart."""

    calls: int
    time_fs: float
    method: str
    positions: float  # Å, of a component
    velocities: float  # Å/fs, of a component
    energy: float  # meV/atom, of the total energy against that at the start


def judge(
    propagator: Propagator, trajectory: Trajectory, potential: Potential, *, n_starts: int = 50, n_calls: int = 50
) -> dict[str, Any]:
    """Errors of roll-outs against a trajectory, beside velocity Verlet at equal cost and at 0.5 fs.

    Equal cost: in the time of the processor that one call takes, the potential makes so many steps (at least one),
    and goes over the interval in these. All structures are moved at once in each case, in one batch.

    Args:
        propagator: of `load_propagator`.
        trajectory: of the same molecule, which the propagator has not learned, made by the potential.
        potential: that of the trajectory, for which there is compiled code. Of another one, rows have its errors
            too: `forces_apart` tells.
        n_starts: frames from which roll-outs begin, spread over the trajectory.
        n_calls: of each roll-out.

    Returns:
        JSON-able: interval, costs, rows; forces_apart, eV/Å, is NaN where the trajectory tells no forces.

    Raises:
        TrajectoryError: the trajectory is too short, or the propagator has learned it.
        StartError, ValueError: there is no compiled code for the potential; as `steps`.
    """
    check_not_learned(propagator, trajectory)
    stride = trajectory.stride(propagator.interval)
    starts = _starts(trajectory, stride, n_starts, n_calls)
    _warn_of_unlearned(propagator, trajectory, starts)
    batch = _batch(trajectory, starts, potential)
    apart = _forces_apart(batch, trajectory, starts)
    call = _seconds(_caller(propagator, trajectory, starts))
    step = _seconds(lambda: at_constant_energy(batch, 1e-3, TIMED_STEPS)) / TIMED_STEPS
    methods = {"propagator": steps(propagator, *_arrays(trajectory, starts))}
    for n, at in ((call / step, ": equal cost"), (propagator.interval / USUAL_STEP, "")):
        n_steps = max(1, round(n))
        name = f"potential, {n_steps} steps of {propagator.interval / n_steps:g} fs{at}"
        methods[name] = _integrated(_batch(trajectory, starts, potential), propagator.interval, n_steps)
    rows: list[Row] = []
    for name, moves in methods.items():
        rows += _rows(name, moves, trajectory, starts, stride, n_calls, batch)
    rows.sort(key=lambda row: row.calls)
    return {
        "interval_fs": propagator.interval,
        "starts": len(starts),
        "microseconds_per_call": 1e6 * call / len(starts),
        "microseconds_per_step": 1e6 * step / len(starts),
        "steps_in_a_call": call / step,
        "momentum": momentum_error(propagator, trajectory, starts, n_calls),
        "forces_apart": apart,
        "rows": [asdict(row) for row in rows],
    }


def check_not_learned(propagator: Propagator, trajectory: Trajectory) -> None:
    """Raise TrajectoryError where a propagator would be judged by what it learned, as far as its file tells."""
    learned = propagator.header.get("card", {}).get(LEARNED, [])
    if learned and content_hash(trajectory.path) in learned:
        raise TrajectoryError(
            f"{trajectory.path} was learned by the propagator, so its errors there would mean nothing. Give a "
            "trajectory that was not in data.trajectory."
        )


def _warn_of_unlearned(propagator: Propagator, trajectory: Trajectory, starts: NDArray[np.int64]) -> None:
    begun = trajectory.positions[starts], trajectory.velocities[starts]
    warn_of_unlearned(propagator.header.get("card", {}), trajectory.numbers, trajectory.masses, *begun)


def _forces_apart(batch: Batch, trajectory: Trajectory, starts: NDArray[np.int64]) -> float:
    if trajectory.forces is None:
        return math.nan
    return _rms(batch.found.forces - trajectory.forces[starts].reshape(-1, 3))


def as_json(found: Mapping[str, Any]) -> bytes:
    """What `judge` found, as a file; null stands for what is no number, which JSON does not know."""

    def known(value: Any) -> Any:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    rows = [{key: known(value) for key, value in row.items()} for row in found["rows"]]
    whole = {key: known(value) for key, value in found.items()} | {"rows": rows}
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _starts(trajectory: Trajectory, stride: int, n_starts: int, n_calls: int) -> NDArray[np.int64]:
    """Frames from which roll-outs of so many calls stay within the trajectory."""
    last = len(trajectory) - 1 - n_calls * stride
    if last < 0:
        most = (len(trajectory) - 1) // stride
        raise TrajectoryError(
            f"{trajectory.path} has {len(trajectory)} frames, too few for {n_calls} calls of "
            f"{stride * trajectory.spacing:g} fs. Ask for at most {most}, or give a longer trajectory."
        )
    return np.unique(np.linspace(0, last, n_starts).round().astype(np.int64))


def momentum_error(
    propagator: Propagator, trajectory: Trajectory, starts: NDArray[np.int64], n_calls: int
) -> float:
    """The largest change of the total momentum over roll-outs, over the largest Σ m |v| until then."""
    numbers, m, x, v = _arrays(trajectory, starts)
    begun = (m[..., None] * v).sum(1)
    size = (m * np.linalg.norm(v, axis=-1)).sum(1)
    worst = 0.0
    for _, (_, w) in zip(range(n_calls), steps(propagator, numbers, m, x, v), strict=False):
        size = np.maximum(size, (m * np.linalg.norm(w, axis=-1)).sum(1))  # a start may be at rest
        change = np.linalg.norm((m[..., None] * w).sum(1) - begun, axis=-1) / np.where(size == 0, 1, size)
        worst = float(np.maximum(worst, change).max())  # NaN if a structure has flown apart
    return worst


def _rows(
    name: str,
    moves: Iterator[tuple[Floats, Floats]],
    trajectory: Trajectory,
    starts: NDArray[np.int64],
    stride: int,
    n_calls: int,
    batch: Batch,
) -> Iterator[Row]:
    """Rows of one method; the batch serves to compute energies."""
    begun = total_energies(batch, trajectory.positions[starts], trajectory.velocities[starts])
    for k, (x, v) in zip(range(1, n_calls + 1), moves, strict=False):
        if k not in ROWS and k != n_calls:
            continue
        there = starts + k * stride
        drift = (total_energies(batch, x, v) - begun) / len(trajectory.numbers)
        yield Row(
            calls=k,
            time_fs=k * stride * trajectory.spacing,
            method=name,
            positions=_rms(x - trajectory.positions[there]),
            velocities=_rms(v - trajectory.velocities[there]),
            energy=1e3 * _rms(drift),
        )


def total_energies(batch: Batch, positions: Floats, velocities: Floats) -> Floats:
    """(n,) eV of structures that are put into a batch; NaN for one that has flown apart or fallen together."""
    finite = np.isfinite(positions).all((1, 2)) & np.isfinite(velocities).all((1, 2))
    near = finite & (np.abs(positions - positions.mean(1, keepdims=True)).max((1, 2)) < FAR)
    before = batch.atoms.positions.reshape(positions.shape)
    batch.atoms.positions[:] = np.where(near[:, None, None], positions, before).reshape(-1, 3)
    batch.compute()
    masses = batch.atoms.get_masses().reshape(positions.shape[:2])
    v = velocities / ASE_VELOCITY
    kinetic = 0.5 * (masses[..., None] * v * v).sum((1, 2))
    near[list(batch.broken)] = False
    return np.where(near, batch.found.energy + kinetic, np.nan)


def _arrays(trajectory: Trajectory, starts: NDArray[np.int64]) -> tuple[Any, ...]:
    """What `steps` takes, of structures of a trajectory."""
    shape = (len(starts), len(trajectory.numbers))
    kinds = np.broadcast_to(trajectory.numbers, shape), np.broadcast_to(trajectory.masses, shape)
    return (*(a.copy() for a in kinds), trajectory.positions[starts], trajectory.velocities[starts])


def _batch(trajectory: Trajectory, starts: NDArray[np.int64], potential: Potential) -> Batch:
    replicas = []
    for x, v in zip(trajectory.positions[starts], trajectory.velocities[starts], strict=True):
        replicas.append(Atoms(trajectory.numbers, positions=x, masses=trajectory.masses))
        replicas[-1].set_velocities(v / ASE_VELOCITY)
    return Batch(replicas, potential)


def _integrated(batch: Batch, interval: float, n_steps: int) -> Iterator[tuple[Floats, Floats]]:
    """Positions and velocities after one interval of so many steps, after two, and so on."""
    shape = (len(batch.replicas), -1, 3)
    while True:
        at_constant_energy(batch, interval / n_steps, n_steps)
        v = batch.atoms.get_velocities() * ASE_VELOCITY
        yield batch.atoms.positions.reshape(shape).copy(), v.reshape(shape)


def _caller(propagator: Propagator, trajectory: Trajectory, starts: NDArray[np.int64]) -> Callable[[], object]:
    """One call of the propagator for all structures, each time from the start."""
    arrays = _arrays(trajectory, starts)
    return lambda: next(steps(propagator, *arrays))


def _seconds(task: Callable[[], object]) -> float:
    """Of the processor, for one task, after one that is not counted."""
    task()
    n, began = 0, time.process_time()
    while (spent := time.process_time() - began) < LEAST_TIME:
        task()
        n += 1
    return spent / n


def _rms(errors: Floats) -> float:
    return float(np.sqrt(np.square(errors).mean()))
