"""Charged particles in the open: the N-body experiment of Fuchs 2020 and Satorras 2021, made anew from a seed.

Five particles of charges ±1 and of mass 1 move by Coulomb's law for 5000 steps. A propagator is given positions
and velocities of one frame, and foretells the positions of a later frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpot.propagators.frame_pairs import FramePairs

Floats = NDArray[np.float64]

N_PARTICLES = 5
STEP = 0.001  # in units of time of the experiment, in which charge, mass and Coulomb's constant are 1
LARGEST_FORCE = 0.1 / STEP  # of a component; particles that meet would leave with any speed
SPEED = 0.5  # at the start
EVERY = 100  # steps from frame to frame
SAVED_FRAMES = 49  # of a published trajectory of 5000 steps
PUBLISHED_SEED = 43
N_JUDGED = 2_000  # trajectories of the validation set, and of the test set
CHUNK = 512  # trajectories whose arrays stay in the processor's cache


def published_sets(
    n_train: int = 3_000, *, first: int = 30, last: int = 40, seed: int = PUBLISHED_SEED
) -> dict[str, FramePairs]:
    """The sets "train", "validation" and "test" of Satorras 2021, section 5.1, in units of the experiment.

    Random numbers are drawn in the order of the published program (`generate_dataset.py --num-train 3000
    --seed 43`), so that the trajectories are its own but for rounding. Free flight x + v·t,
    with one t fitted to the training set, has a mean squared error of 0.0820 on the test set (paper: 0.0819).

    Args:
        n_train: training trajectories; 2000 for validation and 2000 for the test are drawn after them.
        first: frame that is given to a propagator, 0 to 48.
        last: frame that it foretells, after the first.
        seed: of the random numbers.

    Raises:
        ValueError: no trajectory, or frames that are not there.
    """
    if n_train < 1:
        raise ValueError(f"{n_train} training trajectories are asked for. Ask for at least one.")
    if not 0 <= first < last < SAVED_FRAMES:
        most = SAVED_FRAMES - 1
        raise ValueError(
            f"Frames {first} and {last} are asked for. Give two of 0 to {most}, the earlier one first."
        )
    random = np.random.RandomState(seed)
    sizes = {"train": n_train, "validation": N_JUDGED, "test": N_JUDGED}
    return {name: pairs_of_frames(*starts(random, n), first=first, last=last) for name, n in sizes.items()}


def starts(random: np.random.RandomState, n: int) -> tuple[Floats, Floats, Floats]:
    """Charges (n, n_particles), positions and velocities (n, n_particles, 3) at the start, in published order."""
    charges = np.empty((n, N_PARTICLES))
    positions, velocities = np.empty((2, n, N_PARTICLES, 3))
    for k in range(n):
        charges[k] = random.choice([-1.0, 0.0, 1.0], size=N_PARTICLES, p=[0.5, 0.0, 0.5])
        positions[k] = random.randn(3, N_PARTICLES).T
        directions = random.randn(3, N_PARTICLES)
        velocities[k] = (directions * SPEED / np.sqrt((directions**2).sum(0))).T
        random.randn(2, SAVED_FRAMES, 3, N_PARTICLES)  # noise of the published program, whose size is zero
    return charges, positions, velocities


def pairs_of_frames(
    charges: Floats, positions: Floats, velocities: Floats, *, first: int, last: int
) -> FramePairs:
    """Move trajectories from their start to frame `last`; frame k is what is there after (k + 1) · 100 steps.

    Args:
        charges: (n, n_particles).
        positions: (n, n_particles, 3) at the start.
        velocities: (n, n_particles, 3) at the start.
        first: frame that is kept.
        last: frame that is kept, and ends the trajectories.
    """
    kept = []
    for k in range(0, len(charges), CHUNK):
        part = slice(k, k + CHUNK)
        kept.append(_frames(charges[part], positions[part], velocities[part], (first, last)))
    x0, v0, x1, v1 = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    nothing = np.zeros(charges.shape, dtype=np.int64)
    interval = (last - first) * EVERY * STEP
    return FramePairs(nothing, charges, np.ones(charges.shape), x0, v0, x1, v1, interval)


def _frames(charges: Floats, positions: Floats, velocities: Floats, frames: tuple[int, ...]) -> list[Floats]:
    """Positions and velocities of each frame; leapfrog v += F·dt, x += v·dt, with trajectories innermost."""
    x, v = (np.ascontiguousarray(a.transpose(1, 2, 0)) for a in (positions, velocities))
    q = np.ascontiguousarray(charges.T)
    kept = []
    v += STEP * coulomb_forces(q, x)
    for step in range(1, (frames[-1] + 1) * EVERY + 1):
        x += STEP * v
        if step % EVERY == 0 and step // EVERY - 1 in frames:
            kept += [a.transpose(2, 0, 1).copy() for a in (x, v)]
        v += STEP * coulomb_forces(q, x)
    return kept


def coulomb_forces(charges: Floats, positions: Floats) -> Floats:
    """Forces F_i = Σ_j q_i q_j (x_i − x_j) / |x_i − x_j|³, each component cut at 100 as published.

    Sums are taken in a fixed order, one operation at a time: a seed gives the same trajectories everywhere.

    Args:
        charges: (n_particles, n).
        positions: (n_particles, 3, n).

    Returns:
        (n_particles, 3, n).
    """
    forces = np.zeros_like(positions)
    for i in range(len(charges)):
        for j in range(i + 1, len(charges)):
            apart = positions[i] - positions[j]
            squared = apart[0] * apart[0] + apart[1] * apart[1] + apart[2] * apart[2]
            apart *= charges[i] * charges[j] / (squared * np.sqrt(squared))
            forces[i] += apart
            forces[j] -= apart
    return np.clip(forces, -LARGEST_FORCE, LARGEST_FORCE, out=forces)
