"""Pairs of frames from trajectories of one molecule, with what would make them lie refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlpot.data.frame import ASE_VELOCITY
from mlpot.data.h5md import Reader
from mlpot.propagators.frame_pairs import FramePairs

Floats = NDArray[np.float64]
SAME_TIME = 1e-3  # fs, of rounding in a file


class TrajectoryError(ValueError):
    """A trajectory that a propagator cannot learn from, or be judged by."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Frames of one molecule in the open, equally far apart in time."""

    path: str
    numbers: NDArray[np.int64]  # (n_atoms,)
    masses: Floats  # (n_atoms,) u
    positions: Floats  # (n_frames, n_atoms, 3) Å
    velocities: Floats  # (n_frames, n_atoms, 3) Å/fs
    spacing: float  # fs from frame to frame
    forces: Floats | None = None  # (n_frames, n_atoms, 3) eV/Å, where every frame tells them

    def __len__(self) -> int:
        return len(self.positions)

    def stride(self, interval: float) -> int:
        """Frames from one to the one an interval (fs) later.

        Raises:
            TrajectoryError: no frame is there, or the trajectory is too short.
        """
        n = round(interval / self.spacing)
        if n < 1 or abs(n * self.spacing - interval) > SAME_TIME:
            raise TrajectoryError(
                f"{self.path} has a frame every {self.spacing:g} fs, so none is {interval:g} fs after another. "
                "Give a multiple of that as interval, or write frames more often (write_every of mlpot md)."
            )
        if n >= len(self):
            raise TrajectoryError(
                f"{self.path} has {len(self)} frames, {self.spacing:g} fs apart: none is {interval:g} fs after "
                "another. Give a longer trajectory, or a shorter interval."
            )
        return n

    def pairs(self, interval: float, first: int = 0, last: int | None = None) -> FramePairs:
        """All pairs of frames among `first` to `last` (not included) that are an interval (fs) apart."""
        n, stop = self.stride(interval), len(self) if last is None else last
        begin, end = slice(first, max(first, stop - n)), slice(first + n, max(first + n, stop))
        shape = (max(0, stop - n - first), len(self.numbers))
        return FramePairs(
            np.broadcast_to(self.numbers, shape),
            np.zeros(shape),
            np.broadcast_to(self.masses, shape),
            self.positions[begin],
            self.velocities[begin],
            self.positions[end],
            self.velocities[end],
            interval,
        )


def read_trajectory(path: str | Path) -> Trajectory:
    """The frames of an H5MD file.

    Raises:
        FileNotFoundError, FormatError: as `Reader`.
        TrajectoryError: one frame, frames without velocities or times, of several structures, unequally far apart,
            periodic, or with atoms that are held; a run with a thermostat.
    """
    with Reader(path) as reader:
        frames, recipe = list(reader.frames()), reader.card.get("recipe")
    if kicked := _thermostats(recipe):
        raise TrajectoryError(
            f"{path} was run with {', '.join(kicked)}: heat comes and goes, and no start tells where a molecule "
            "will be. Give a run of mlpot md at constant energy (ensemble: nve)."
        )
    first = frames[0]
    if len(frames) < 2:
        raise TrajectoryError(
            f"{path} has one frame, and a motion needs two. Give a trajectory, as mlpot md writes."
        )
    for k, atoms in enumerate(frames):
        if problem := _problem(atoms, first):
            raise TrajectoryError(f"{path}, frame {k}: {problem}")
    times = np.array([atoms.info["time"] for atoms in frames])
    return Trajectory(
        str(path),
        first.numbers.astype(np.int64),
        first.get_masses(),
        np.stack([atoms.positions for atoms in frames]),
        np.stack([atoms.get_velocities() for atoms in frames]) * ASE_VELOCITY,
        _spacing(times, path),
        _forces(frames),
    )


def _forces(frames: Sequence[Atoms]) -> Floats | None:
    told = [atoms.calc.results for atoms in frames if atoms.calc is not None]
    found = [results["forces"] for results in told if "forces" in results]
    return np.stack(found) if len(found) == len(frames) else None


def _thermostats(recipe: str | None) -> list[str]:
    """Those of the stages of a run of mlpot md; none of what others wrote, which says nothing of them."""
    run = {} if recipe is None else json.loads(recipe)
    ensembles = {str(stage.get("ensemble") or run.get("ensemble", "nve")) for stage in run.get("stages") or [run]}
    return sorted(ensembles - {"nve"})


def read_trajectories(paths: str | Sequence[str]) -> list[Trajectory]:
    """`read_trajectory` of one or several files of the same molecule, perhaps in another order of time.

    Raises:
        TrajectoryError: as `read_trajectory`, or they differ in atoms, masses or spacing.
    """
    found = [read_trajectory(path) for path in ([paths] if isinstance(paths, str) else paths)]
    first = found[0]
    for other in found[1:]:
        same = np.array_equal(first.numbers, other.numbers) and np.array_equal(first.masses, other.masses)
        if not same:
            raise TrajectoryError(
                f"{other.path} has other atoms or masses than {first.path}, or another order of them. Give "
                "trajectories of one molecule."
            )
        if abs(first.spacing - other.spacing) > SAME_TIME:
            raise TrajectoryError(
                f"{other.path} has a frame every {other.spacing:g} fs, {first.path} every {first.spacing:g} fs. "
                "Give trajectories that were written equally often."
            )
    return found


def check_molecule(atoms: Atoms) -> str | None:
    """Why a structure can be no molecule that a propagator moves, and what to do."""
    if atoms.pbc.any():
        pbc = "".join("FT"[int(p)] for p in atoms.pbc)
        return (
            f"it is periodic (pbc {pbc}), and a propagator moves molecules in the open. Simulate periodic "
            "structures with mlpot md; of a molecule in a box, convert with --pbc FFF."
        )
    if atoms.constraints:
        return "some of its atoms are held, which a propagator would not know of. Give a run without constraints."
    if not atoms.has("momenta"):
        return "it has no velocities, from which a propagator starts. Give a trajectory as mlpot md writes."
    if len(atoms) < 2:
        return "it has a single atom, which flies straight on. Give a molecule."
    return None


def _problem(atoms: Atoms, first: Atoms) -> str | None:
    """Why a frame cannot be one of a trajectory that begins with another."""
    if problem := check_molecule(atoms):
        return problem
    if not np.array_equal(atoms.numbers, first.numbers):
        return "it has other atoms than the first, or another order. Give a trajectory of one molecule."
    if "time" not in atoms.info:
        return "it does not tell its time, so that the interval is unknown. Give a trajectory as mlpot md writes."
    return None


def _spacing(times: Floats, path: str | Path) -> float:
    """fs between frames; raise TrajectoryError where it changes."""
    steps = np.diff(times)
    usual = float(np.median(steps))
    if not (usual > 0 and np.abs(steps - usual).max() <= SAME_TIME):
        k = int(np.abs(steps - usual).argmax())
        raise TrajectoryError(
            f"{path}: from frame {k} to {k + 1} are {steps[k]:g} fs, elsewhere {usual:g} fs. A propagator has one "
            "interval: give a trajectory whose frames are equally far apart, or cut it there."
        )
    return usual
