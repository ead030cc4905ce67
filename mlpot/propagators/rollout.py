"""Roll-outs: a propagator applied to what it gave, again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from mlpot.calculator import MLPotCalculator
from mlpot.data.frame import ASE_VELOCITY
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.potential import Potential
from mlpot.propagators.learned import warn_of_unlearned
from mlpot.propagators.propagator import Propagator
from mlpot.propagators.trajectories import TrajectoryError, check_molecule

Floats = NDArray[np.float64]


APART = (
    "Call {k} of {n}: the molecule has flown apart; {path} has the frames before. The propagator has left what it "
    "learned: train it on more trajectories, or make fewer calls."
)


class RollOutError(ValueError):
    """A roll-out left what the propagator has learned: what it gives is no longer a number, or has flown apart."""


def steps(
    propagator: Propagator, numbers: NDArray[np.int64], masses: Floats, positions: Floats, velocities: Floats
) -> Iterator[tuple[Floats, Floats]]:
    """Positions and velocities after one interval, two, and so on, without end.

    Args:
        propagator: computes in its own type.
        numbers: (n, n_atoms) of structures that are moved at once.
        masses: (n, n_atoms) u.
        positions: (n, n_atoms, 3) Å.
        velocities: (n, n_atoms, 3) Å/fs.

    Raises:
        ValueError: it foretells no velocities, or does not know an element.
    """
    if not propagator.network.tells_velocities:
        raise ValueError(
            "The propagator was trained with model.velocities: given, and foretells positions alone: it cannot go "
            "on from there. Train one with model.velocities: updated."
        )
    classes = propagator.classes(torch.as_tensor(numbers))
    m, x, v = (torch.as_tensor(a, dtype=propagator.dtype) for a in (masses, positions, velocities))
    return _moved(propagator, classes, m, x, v)


def _moved(
    propagator: Propagator, classes: Tensor, m: Tensor, x: Tensor, v: Tensor
) -> Iterator[tuple[Floats, Floats]]:
    """A generator of its own, so that what `steps` refuses is refused before anything is written."""
    while True:
        x, v = propagator(classes, torch.zeros_like(m), m, x, v)
        yield x.numpy().astype(np.float64), v.numpy().astype(np.float64)


def roll_out(
    propagator: Propagator,
    atoms: Atoms,
    path: str | Path,
    n_calls: int,
    *,
    potential: Potential | None = None,
    overwrite: bool = False,
) -> list[float]:
    """Write a roll-out from a structure with velocities as a trajectory, its start included.

    Args:
        propagator: of `load_propagator`.
        atoms: a molecule in the open, with velocities.
        path: H5MD file to write.
        n_calls: of the propagator.
        potential: gives energies and forces of the frames.
        overwrite: replace an existing file.

    Returns total energies, eV, of all frames; none without a potential.

    Raises:
        TrajectoryError, FileExistsError: the structure is none that a propagator moves; the file is there.
        RollOutError: a frame is not finite, or far larger than the start; those before are written.
    """
    if problem := check_molecule(atoms):
        raise TrajectoryError(f"The structure cannot be propagated: {problem}")
    masses, energies = atoms.get_masses(), list[float]()
    largest = 10 * (1 + np.ptp(atoms.positions, axis=0).max())
    v = atoms.get_velocities() * ASE_VELOCITY
    moves = steps(propagator, *(a[None] for a in (atoms.numbers, masses, atoms.positions, v)))
    warn_of_unlearned(propagator.header.get("card", {}), atoms.numbers, masses, atoms.positions[None], v[None])
    frame = Atoms(atoms.numbers, positions=atoms.positions, masses=masses, momenta=atoms.get_momenta())
    if potential is not None:
        frame.calc = MLPotCalculator(potential)
        frame.get_forces()  # before anything is written: it may not know an element
    card = {"made by": "mlpot propagate run", "interval": f"{propagator.interval:g} fs"}
    with TrajectoryWriter(path, card=card, overwrite=overwrite) as writer:
        for k in range(n_calls + 1):
            if k:
                x, v = (a[0] for a in next(moves))
                if not np.isfinite(x).all() or np.ptp(x, axis=0).max() > largest:
                    raise RollOutError(APART.format(k=k, n=n_calls, path=path))
                frame.positions = x
                frame.set_velocities(v / ASE_VELOCITY)
            if frame.calc is not None:
                frame.get_forces()
                energies.append(float(frame.get_total_energy()))
            writer.add(frame, step=k, time=k * propagator.interval)
    return energies
