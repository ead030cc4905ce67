"""Whether the frames of a run determine a curve or a number, checked before it is drawn or stated."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlpot.dynamics.log import mean_and_error
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph

Floats = NDArray[np.float64]
WAVENUMBER = 33356.40952  # 1/cm in 1/fs
BOND = 1.25  # atoms closer than this part of the sum of their covalent radii are bonded
MARGIN = 1.25  # the frames must reach this many times the wavenumber of the fastest motion
LINES = 20  # widths of a line that must fit between zero and the fastest motion
INDEPENDENT = 50  # values of a distribution


def fastest_motion(frames: Sequence[Atoms]) -> tuple[float, str]:
    """Wavenumber in 1/cm and name of the fastest vibration: of a pair of bonded elements, or of an element.

    Of a stationary motion x, ⟨ẍ²⟩ / ⟨ẋ²⟩ = ∫ω² S(ω)dω / ∫S(ω)dω, the mean square of its frequencies, whatever the
    time between frames. Forces give ẍ; x is the length of a bond, or where an atom is. NaN without forces.
    """
    squares: dict[str, tuple[float, float]] = {}
    for atoms in frames:
        forces = None if atoms.calc is None else atoms.calc.results.get("forces")
        if forces is None:
            continue
        acceleration = forces / atoms.get_masses()[:, None] * units.fs**2
        velocity = atoms.get_velocities() * units.fs
        for name, a, v in _motions(atoms, acceleration, velocity):
            before = squares.get(name, (0.0, 0.0))
            squares[name] = (before[0] + float(np.square(a).sum()), before[1] + float(np.square(v).sum()))
    found = {name: math.sqrt(a / v) / (2 * math.pi) * WAVENUMBER for name, (a, v) in squares.items() if v > 0}
    fastest = max(found, key=lambda name: found[name], default="")
    return found.get(fastest, math.nan), fastest


def _motions(atoms: Atoms, acceleration: Floats, velocity: Floats) -> list[tuple[str, Floats, Floats]]:
    """Accelerations and velocities of each element, and along the bonds of each two."""
    z = atoms.numbers
    motions = [(chemical_symbols[k], acceleration[z == k], velocity[z == k]) for k in np.unique(z)]
    center, neighbor, vectors = _bonds(atoms)
    along = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    a, v = (np.einsum("ea,ea->e", x[neighbor] - x[center], along) for x in (acceleration, velocity))
    for first, second in {(int(i), int(j)) for i, j in zip(z[center], z[neighbor], strict=True) if i <= j}:
        mine = (z[center] == first) & (z[neighbor] == second)
        motions.append((f"{chemical_symbols[first]}-{chemical_symbols[second]}", a[mine], v[mine]))
    return motions


def _bonds(atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    radii = covalent_radii[atoms.numbers]
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, float(2 * BOND * radii.max()))
    center, neighbor = graph.edges.center.numpy(), graph.edges.neighbor.numpy()
    vectors = edge_vectors(graph).numpy()
    near = np.linalg.norm(vectors, axis=1) < BOND * (radii[center] + radii[neighbor])
    return center[near], neighbor[near], vectors[near]


def spectrum_obstacle(
    fastest: tuple[float, str], frame_fs: float, timestep_fs: float, n_segment: int
) -> str | None:
    """Why frames so far apart, in segments of so many, cannot show the vibrations; None if they can."""
    wavenumber, what = fastest
    if not math.isfinite(wavenumber):
        return "The frames have no forces, which tell how fast the fastest vibration is."
    reach = WAVENUMBER / (2 * frame_fs)
    if reach < MARGIN * wavenumber:
        needed = WAVENUMBER / (2 * MARGIN * wavenumber)
        steps = int(needed / timestep_fs)
        how = f"write_every: {steps}" if steps else f"timestep_fs: {needed:.2g} and write_every: 1"
        return (
            f"{what} moves at {wavenumber:.0f} 1/cm, and frames {frame_fs:g} fs apart show nothing above "
            f"{reach:.0f}: it would appear at a lower wavenumber. Frames at most {needed:.2g} fs apart are "
            f"needed ({how})."
        )
    width = 2 * WAVENUMBER / (frame_fs * n_segment)
    if width * LINES > wavenumber:
        needed = frame_fs / 1e3 * n_segment * width * LINES / wavenumber
        return f"The run is so short that lines are {width:.0f} 1/cm wide. Run {2.5 * needed:.2g} ps or longer."
    return None


def distribution_obstacle(values: Floats, what: str) -> str | None:
    """Why a series has too few independent values for a histogram; None if it has enough."""
    _, error = mean_and_error(values)
    if error is None:
        return f"{len(values)} lines of the log are too few for a distribution of the {what}. Run longer."
    n = (float(values.std()) / error) ** 2 if error > 0 else math.inf
    if n < INDEPENDENT:
        return (
            f"Successive values are alike: the log has some {n:.0f} independent values of the {what}, and "
            f"{INDEPENDENT} are needed for its distribution. Run longer."
        )
    return None


def diffusion_obstacle(atoms: Atoms) -> str | None:
    """Why nothing can diffuse in a structure; None if something may."""
    if not atoms.pbc.any():
        return "Nothing is periodic: a single cluster does not diffuse."
    if len(atoms) == 1 or is_one_molecule(atoms):
        return "The structure is one molecule, whose center of mass is held: its atoms do not diffuse."
    return None


def free_directions(atoms: Atoms) -> Floats:
    """(n, 3) orthonormal directions in which a structure is periodic, and its atoms may diffuse."""
    if not atoms.pbc.any():
        return np.eye(3)
    directions: Floats = np.linalg.qr(atoms.cell.array[atoms.pbc].T)[0].T
    return directions


def is_one_molecule(atoms: Atoms) -> bool:
    """Whether bonds connect all atoms, and no atom with its own image."""
    center, neighbor, vectors = _bonds(atoms)
    place: dict[int, Floats] = {0: np.zeros(3)}
    waiting = deque([0])
    order = np.argsort(center, kind="stable")
    starts = np.searchsorted(center[order], np.arange(len(atoms) + 1))
    while waiting:
        i = waiting.popleft()
        for e in order[starts[i] : starts[i + 1]]:
            j, there = int(neighbor[e]), place[i] + vectors[e]
            if j not in place:
                place[j] = there
                waiting.append(j)
            elif np.abs(place[j] - there).max() > 1e-6:
                return False  # bonded to its own image: an infinite network
    return len(place) == len(atoms)


def reach_of_pairs(atoms: Atoms) -> float:
    """Å, half the least height of the cell, beyond which a pair is counted with its images; infinite without."""
    heights = [
        abs(np.linalg.det(atoms.cell.array)) / np.linalg.norm(np.cross(*(atoms.cell.array[[k - 2, k - 1]])))
        for k in range(3)
        if atoms.pbc[k] and atoms.cell.rank == 3
    ]
    return min(heights, default=math.inf) / 2
