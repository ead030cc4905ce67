"""A set of a million frames: how soon it opens, how fast it is read, what `mlpot data check` takes.

python bench/million.py million.h5 [n_frames]

The file is made if it is not there: trajectories of ethanol as a network of springs, in contact with a heat bath,
a thousand frames each, 2.5 fs apart. Speeds are given per second of one process's own time too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mlpot.data import h5md

LENGTH, MADE_AT_ONCE = 1000, 100  # frames of a trajectory, trajectories
N_READ, WINDOW, BLOCK = 100_000, 1024, 16  # frames; of a window and of what lies together in it, as in training
STIFFNESS = [(1.6, 30.0), (2.7, 6.0), (9.0, 0.3)]  # up to this distance (Å) springs are so stiff (eV/Å²)
TEMPERATURE, STEP, FRICTION = 400.0, 0.5 * units.fs, 0.02 / units.fs

ETHANOL = molecule("CH3CH2OH")
FROM, TO = np.triu_indices(len(ETHANOL), 1)
REST = ETHANOL.get_all_distances()[FROM, TO]
K = np.array([next(k for r, k in STIFFNESS if rest < r) for rest in REST])


def springs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (n,) eV and forces (n, n_atoms, 3) eV/Å."""
    vectors = x[:, TO] - x[:, FROM]
    r = np.linalg.norm(vectors, axis=-1)
    pull = (K * (r - REST) / r)[..., None] * vectors
    forces = np.zeros_like(x)
    np.add.at(forces, (slice(None), FROM), pull)
    np.add.at(forces, (slice(None), TO), -pull)
    return (K * (r - REST) ** 2).sum(axis=-1) / 2 - 4200.0, forces


def frames(n: int) -> Iterator[Atoms]:
    """Trajectories one after the other; the integrator is that of B. Leimkuhler and C. Matthews, BAOAB."""
    rng, m = np.random.default_rng(0), ETHANOL.get_masses()[:, None]
    width, kept = np.sqrt(units.kB * TEMPERATURE / m), np.exp(-FRICTION * STEP)
    for _ in range(n // (LENGTH * MADE_AT_ONCE)):
        x = np.repeat(ETHANOL.positions[None], MADE_AT_ONCE, axis=0)
        v, seen = width * rng.normal(size=x.shape), []
        energies, forces = springs(x)
        for step in range(5 * (LENGTH + 40)):
            v += STEP / 2 * forces / m
            x = x + STEP / 2 * v
            v = kept * v + np.sqrt(1 - kept**2) * width * rng.normal(size=x.shape)
            x = x + STEP / 2 * v
            energies, forces = springs(x)
            v += STEP / 2 * forces / m
            if step >= 200 and step % 5 == 4:
                seen.append((x, energies, forces))
        for k in range(MADE_AT_ONCE):
            for positions, energy, force in seen:
                atoms = Atoms(ETHANOL.numbers, positions[k])
                atoms.calc = SinglePointCalculator(atoms, energy=float(energy[k]), forces=force[k])
                yield atoms


def timed(what: str, do: Callable[[], Any], n: int = 0) -> None:
    """Print the seconds that something takes, or its speed."""
    began, own = time.perf_counter(), time.process_time()
    do()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    told = f"{seconds:.2f} s" if not n else f"{n / seconds:.0f} frames/s, {n / own:.0f} in a second of its own"
    print(f"{what}: {told}", flush=True)


def main(path: Path, n: int) -> None:
    """Make the file if it is not there; measure."""
    if not path.exists():
        h5md.write(path, frames(n), card={"level of theory": "springs"})
    opened: list[h5md.Reader] = []
    timed("open, and the number of frames", lambda: (opened.append(h5md.Reader(path)), len(opened[0])))
    timed("the first frame", lambda: opened[0][n // 2])
    order = np.arange(min(N_READ, n))
    parts = [order[k : k + WINDOW] for k in range(0, len(order), WINDOW)]
    timed("in order", lambda: [opened[0].columns(part) for part in parts], len(order))
    rng = np.random.default_rng(0)
    order = (rng.permutation(np.arange(0, n, BLOCK))[:, None] + np.arange(BLOCK)).ravel()[: len(order)]
    parts = [rng.permutation(order[k : k + WINDOW]) for k in range(0, len(order), WINDOW)]
    timed("in random windows", lambda: [opened[0].columns(part) for part in parts], len(order))
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")
    command = [sys.executable, "-c", "from mlpot.cli.main import main; main()", "data", "check", str(path)]
    timed("mlpot data check", lambda: subprocess.run(command, check=True))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"of its own {used.ru_utime + used.ru_stime:.0f} s, {used.ru_maxrss / 1024:.0f} MB at most")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
