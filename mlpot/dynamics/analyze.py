"""Properties from a run: structure, diffusion, vibrations, and whether its temperatures are canonical."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from numpy.typing import NDArray

from mlpot.atomic_files import beside_results, check_folder, make_folder, write_whole
from mlpot.data.constraints import held_coordinates
from mlpot.data.h5md import Reader
from mlpot.dynamics.checkpoints import Checkpoints
from mlpot.dynamics.log import Drift, mean_and_error, of_stage, read_log, told_drift, with_error
from mlpot.dynamics.recipe import REPLICA, MDRecipe
from mlpot.dynamics.sampling import (
    WAVENUMBER,
    diffusion_obstacle,
    distribution_obstacle,
    fastest_motion,
    free_directions,
    reach_of_pairs,
    spectrum_obstacle,
)
from mlpot.figures.md import plot_analysis
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
MAX_BYTES = 2**28  # of positions in memory; of longer runs fewer frames are read
RDF_FRAMES = 200  # neighboring frames differ little
PICTURES = {
    "rdf": "Radial distribution",
    "msd": "Mean squared displacement",
    "spectrum": "Velocity spectrum",
    "temperature": "Distribution of the temperature",
    "energy": "Distribution of the energy",
    "conserved": "Conserved quantity",
}
DISTANCES = "density of distances, 1/Å"
"""In place of a radial distribution, which divides by the density of atoms in a volume."""
LEAST_REACH = 1.5  # Å, of a distribution of distances


class AnalysisError(ValueError):
    """A run is too short to analyze."""


@dataclass(frozen=True)
class Motion:
    """Frames at equal distances in time."""

    numbers: NDArray[np.int64]
    masses: Floats
    step_ps: float
    positions: Floats  # (n_frames, n_atoms, 3) Å, never wrapped
    velocities: Floats  # Å/fs
    frames: list[Atoms]  # some of them, evenly
    along: Floats = field(default_factory=lambda: np.eye(3))  # (n, 3) directions in which atoms may diffuse
    held: bool = False  # by atoms that are fixed, so that places are told without the center of mass


@dataclass(frozen=True)
class Diffusion:
    """A line through the mean squared displacement, from a tenth to a half of the longest lag."""

    A2_per_ps: float
    error: float | None  # standard, from blocks
    exponent: float  # of the squared displacement in time: 1 for diffusion, 0 at rest, 2 for straight flight

    @property
    def told(self) -> str:
        """The coefficient if the run determines it, else the reason why not."""
        how = f"squared displacement ~ t^{self.exponent:.2f}"
        if not 0.8 < self.exponent < 1.2:
            return f"none seen ({how}; of what diffuses it grows as t)"
        if self.error is None or self.error > 0.5 * abs(self.A2_per_ps):
            return f"not told by so short a run ({how}; its parts disagree or are too few). Run longer."
        return f"{with_error(self.A2_per_ps, self.error)} Å²/ps ({how})"


@dataclass(frozen=True)
class Analysis:
    """What `mlpot md analyze` finds, of the last stage of a run."""

    formula: str
    ensemble: str
    n_frames: int
    frame_ps: float
    from_ps: float
    temperature_K: float
    temperature_error: float | None
    temperature_std_K: float
    expected_std_K: float | None  # of a canonical ensemble with as many degrees of freedom
    drift: Drift | None
    diffusion: dict[str, Diffusion]  # by element; none for a single molecule
    curves: dict[str, dict[str, Curve]]  # by picture and line; none where the run does not determine them
    notes: dict[str, str]  # by picture: why it has no line, or where it ends
    labels: dict[str, str]  # by picture: its vertical axis, where that is another than usual


def analyze_md(run: Path, *, skip_ps: float = 0.0, r_max: float = 8.0, output: Path | None = None) -> Analysis:
    """Analyze a run, and write analysis.json and analysis.png.

    Args:
        run, skip_ps, r_max: as of `analysis_of`.
        output: another folder for the files.

    Raises:
        FileNotFoundError, AnalysisError: as `analysis_of`.
    """
    folder = run if output is None else output
    if output is not None or run.is_dir():
        check_folder(folder)
    analysis = analysis_of(run, skip_ps=skip_ps, r_max=r_max)
    _write(analysis, folder)
    return analysis


def analysis_of(run: Path, *, skip_ps: float = 0.0, r_max: float = 8.0) -> Analysis:
    """Analyze the last stage of a run, which may still be running.

    Args:
        run: folder of the run.
        skip_ps: left out at the beginning of the stage.
        r_max: Å, of the radial distribution.

    Raises:
        FileNotFoundError: there is no run in the folder.
        AnalysisError: it has too few frames.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"There is no folder {run}. Give that of a run of molecular dynamics.")
    with Reader(run / "trajectory.h5") as reader:
        recipe = MDRecipe.model_validate_json(reader.card["recipe"])
        stage, began = _last_stage(recipe, reader[-1].info["time"] / 1e3)
        motion = _motion(reader, began + skip_ps)
    n_degrees = _degrees(run) or 3 * len(motion.numbers)
    log = of_stage(read_log(run / "log.csv"), began + skip_ps)
    steady = stage.ensemble != "nve" and stage.temperature_end_K is None
    temperature, error = mean_and_error(log["temperature_K"])
    diffusing, curves, notes = _curves(motion, log, stage, steady, n_degrees, r_max)
    return Analysis(
        formula=motion.frames[0].get_chemical_formula(),
        ensemble=stage.ensemble,
        n_frames=len(motion.positions),
        frame_ps=motion.step_ps,
        from_ps=began + skip_ps,
        temperature_K=temperature,
        temperature_error=error,
        temperature_std_K=float(log["temperature_K"].std()),
        expected_std_K=stage.temperature_K * math.sqrt(2 / n_degrees) if steady else None,
        drift=told_drift(log["time_ps"], log["conserved_eV"], len(motion.numbers)),
        diffusion=diffusing,
        curves=curves,
        notes=notes,
        labels={} if motion.frames[0].pbc.all() else {"rdf": DISTANCES},
    )


def _degrees(run: Path) -> int | None:
    """Degrees of freedom, from the checkpoint of a run or of the batch whose replica it is."""
    newest = Checkpoints(run).newest
    if newest is None and run.resolve().name.startswith(REPLICA):
        newest = Checkpoints(run.resolve().parent).newest
        own = None if newest is None else newest.facts["replicas"][int(run.resolve().name.removeprefix(REPLICA))]
    else:
        own = None if newest is None else newest.facts
    return None if own is None else int(own["n_degrees"])


def _curves(
    motion: Motion, log: dict[str, Floats], stage: MDRecipe, steady: bool, n_degrees: int, r_max: float
) -> tuple[dict[str, Diffusion], dict[str, dict[str, Curve]], dict[str, str]]:
    """Diffusion, lines by picture, and the reason where a picture has none."""
    atoms, energy = motion.frames[-1], log["potential_eV"] / len(motion.numbers)
    pairs, notes = _pairs(motion.frames, r_max)
    diffusing: dict[str, Diffusion] = {}
    curves: dict[str, dict[str, Curve]] = {panel: {} for panel in PICTURES} | {"rdf": pairs}
    if (still := diffusion_obstacle(atoms)) is not None:
        notes["msd"] = still
    else:
        lags, displacements = mean_squared_displacements(motion)
        curves["msd"] = {name: (lags, msd) for name, msd in displacements.items()}
        diffusing = {name: diffusion(motion, name, lags, msd) for name, msd in displacements.items()}
    fastest, frame_fs = fastest_motion(motion.frames[:: max(1, len(motion.frames) // 50)]), 1e3 * motion.step_ps
    n_segment = _segment(len(motion.positions))
    if (blind := spectrum_obstacle(fastest, frame_fs, stage.timestep_fs, n_segment)) is not None:
        notes["spectrum"] = blind
    else:
        lines = velocity_spectrum(motion)
        shown = next(iter(lines.values()))[0] < 2 * fastest[0]
        curves["spectrum"] = {name: (x[shown], y[shown]) for name, (x, y) in lines.items()}
        notes["spectrum"] = f"Lines are {2 * WAVENUMBER / (frame_fs * n_segment):.0f} 1/cm wide."
    target = stage.temperature_K if steady else None
    if (few := distribution_obstacle(log["temperature_K"], "temperature")) is not None:
        notes["temperature"] = few
    else:
        curves["temperature"] = _temperatures(log["temperature_K"], target, n_degrees)
    if (few := distribution_obstacle(energy, "potential energy")) is not None:
        notes["energy"] = few
    else:
        curves["energy"] = {"potential": _histogram(1e3 * (energy - energy.mean()))}
    curves["conserved"] = {"conserved": (log["time_ps"], log["conserved_eV"] / len(motion.numbers))}
    if not np.isfinite(log["conserved_eV"]).any():
        notes["conserved"] = "This ensemble conserves no energy."
    return diffusing, curves, notes


def _pairs(frames: list[Atoms], r_max: float) -> tuple[dict[str, Curve], dict[str, str]]:
    """Distributions of distances as far as the cell allows, and where they end."""
    reach, told = reach_of_pairs(frames[-1]), []
    if reach < LEAST_REACH:
        return {}, {"rdf": f"Half the cell is {reach:.2f} Å: atoms see their own images first. Repeat the cell."}
    if not frames[-1].pbc.all():
        told.append(f"Without a volume there is no radial distribution: this is the {DISTANCES}.")
    if reach < r_max:
        r_max = reach
        told.append(f"Shown to {reach:.2f} Å, half the cell, beyond which each pair comes with its images.")
    return radial_distribution(frames, r_max), {"rdf": " ".join(told)} if told else {}


def radial_distribution(frames: list[Atoms], r_max: float, *, width: float = 0.05) -> dict[str, Curve]:
    """g(r) of each pair of elements; without three periodic directions, the density of distances a pair, 1/Å."""
    numbers, bins = frames[0].numbers, np.arange(0.0, r_max + width, width)
    r, shells = bins[:-1] + width / 2, 4 / 3 * np.pi * np.diff(bins**3)
    sums = {pair: np.zeros(len(r)) for pair in combinations_with_replacement(np.unique(numbers).tolist(), 2)}
    for atoms in frames:
        graph = build_graph(numbers, atoms.positions, atoms.cell.array, atoms.pbc, r_max)
        z_i, z_j = numbers[graph.edges.center.numpy()], numbers[graph.edges.neighbor.numpy()]
        distance = edge_vectors(graph).norm(dim=1).numpy()
        for (a, b), total in sums.items():
            n_pairs = (numbers == a).sum() * ((numbers == b).sum() - (0 if atoms.pbc.all() else a == b))
            shell = shells / atoms.get_volume() if atoms.pbc.all() else width
            if n_pairs:
                total += np.histogram(distance[(z_i == a) & (z_j == b)], bins)[0] / (n_pairs * shell)
    return {
        f"{chemical_symbols[a]}-{chemical_symbols[b]}": (r, total / len(frames))
        for (a, b), total in sums.items()
        if total.any()
    }


def mean_squared_displacements(motion: Motion) -> tuple[Floats, dict[str, Floats]]:
    """Lags in ps, and for each element the mean over its atoms and all times of |r(t + lag) − r(t)|², Å².

    The center of mass is held where no atom is; r lies in the plane of a slab, or along a wire. By Fourier
    transforms: Kneller et al., Comput. Phys. Commun. 91, 191 (1995).
    """
    n = len(motion.positions)
    center = np.einsum("tia,i->ta", motion.positions, motion.masses / motion.masses.sum())
    r = (motion.positions - (0 if motion.held else center[:, None])) @ motion.along.T
    r -= r.mean(axis=0)
    spectrum = np.fft.rfft(r, 2 * n, axis=0)
    correlation = np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=2), 2 * n, axis=0)[:n]
    square = np.square(r).sum(axis=2)
    both = 2 * square.sum(axis=0) - np.cumsum(
        np.concatenate([np.zeros_like(square[:1]), square[:-1] + square[:0:-1]]), axis=0
    )
    msd = (both - 2 * correlation) / (n - np.arange(n))[:, None]
    msd[0] = 0.0
    n_lags = max(2, n // 2)
    lags = motion.step_ps * np.arange(n_lags, dtype=np.float64)
    return lags, {
        chemical_symbols[z]: msd[:n_lags, motion.numbers == z].mean(axis=1) for z in np.unique(motion.numbers)
    }


def diffusion(motion: Motion, symbol: str, lags: Floats, msd: Floats, *, n_blocks: int = 4) -> Diffusion:
    """The diffusion coefficient of an element by Einstein's relation, its error from parts of the run."""
    value, exponent = _einstein(lags, msd, len(motion.along))
    error, length = None, len(motion.positions) // n_blocks
    if length >= 40:
        values = []
        for k in range(n_blocks):
            part = slice(k * length, (k + 1) * length)
            block = replace(
                motion, positions=motion.positions[part], velocities=motion.velocities[part], frames=[]
            )
            times, displacements = mean_squared_displacements(block)
            values.append(_einstein(times, displacements[symbol], len(motion.along))[0])
        error = float(np.std(values, ddof=1)) / math.sqrt(n_blocks)
    return Diffusion(value, error, exponent)


def _einstein(lags: Floats, msd: Floats, n_directions: int) -> tuple[float, float]:
    """The slope over twice the number of directions, and the exponent, from a fifth of these lags on."""
    first = max(1, len(lags) // 5)
    t, d = lags[first:], msd[first:]
    if len(t) < 2 or not (d > 0).all():
        return math.nan, math.nan
    return float(np.polyfit(t, d, 1)[0] / (2 * n_directions)), float(np.polyfit(np.log(t), np.log(d), 1)[0])


def velocity_spectrum(motion: Motion, *, n_segments: int = 4) -> dict[str, Curve]:
    """Power of the mass-weighted velocities against wavenumber in 1/cm, each curve of area one.

    It is a mean over segments that overlap by half, with Hann's window (Welch, IEEE Trans. Audio 15, 70 (1967)).
    """
    weighted = motion.velocities * np.sqrt(motion.masses)[:, None]
    length = _segment(len(weighted), n_segments)
    window = np.hanning(length + 2)[1:-1, None, None]
    starts = range(0, len(weighted) - length + 1, max(1, length // 2))
    power = np.mean(
        [np.abs(np.fft.rfft(weighted[s : s + length] * window, axis=0)) ** 2 for s in starts], axis=0
    ).sum(axis=2)
    wavenumber = WAVENUMBER * np.fft.rfftfreq(length, 1e3 * motion.step_ps).astype(np.float64)
    curves = {chemical_symbols[z]: power[:, motion.numbers == z].sum(axis=1) for z in np.unique(motion.numbers)}
    area = sum(curves.values()).sum() * (wavenumber[1] - wavenumber[0])
    return {name: (wavenumber, curve / area) for name, curve in curves.items()}


def _segment(n_frames: int, n_segments: int = 4) -> int:
    """Frames of each of the segments that overlap by half."""
    return max(2, 2 * n_frames // (n_segments + 1))


def _last_stage(recipe: MDRecipe, end_ps: float) -> tuple[MDRecipe, float]:
    """The stage that ran last, and when it began."""
    began = 0.0
    for stage in recipe.plan()[:-1]:
        ends = began + stage.n_steps * stage.timestep_fs / 1e3
        if ends > end_ps - 1e-9:
            return stage, began
        began = ends
    return recipe.plan()[-1], began


def _motion(reader: Reader, from_ps: float) -> Motion:
    """The frames of a trajectory from a time on, thinned if they would fill the memory."""
    last = reader[-1]
    stride = max(1, math.ceil(len(reader) * len(last) * 48 / MAX_BYTES))
    times, positions, velocities, some = [], [], [], []
    for atoms in reader.frames(step=stride):
        time_ps = atoms.info["time"] / 1e3
        if time_ps >= from_ps - 1e-9:
            times.append(time_ps)
            positions.append(atoms.positions)
            velocities.append(atoms.get_velocities() * units.fs)
            some.append(atoms)
            if len(some) > 2 * RDF_FRAMES:
                some = some[::2]
    if len(times) < 8:
        raise AnalysisError(
            f"{reader.path} has {len(times)} frames from {from_ps:g} ps on, 8 are needed. Continue the run."
        )
    steps = np.diff(times)
    step_ps = float(np.median(steps))
    if uneven := np.flatnonzero(np.abs(steps - step_ps) > 1e-3 * step_ps).tolist():
        if uneven[0] != len(steps) - 1:
            raise AnalysisError(
                f"{reader.path} has frames {step_ps:g} ps apart, and at {times[uneven[0]]:g} ps the next one is "
                f"{steps[uneven[0]]:g} ps later. Analyze the part behind it (--skip-ps), or another file."
            )
        positions, velocities = positions[:-1], velocities[:-1]  # a guard adds the last good frame, at any step
    told = (
        np.array(positions),
        np.array(velocities),
        some,
        free_directions(last),
        bool(held_coordinates(last).any()),
    )
    return Motion(last.numbers, last.get_masses(), step_ps, *told)


def _temperatures(temperature: Floats, target_K: float | None, n_degrees: int) -> dict[str, Curve]:
    """The distribution of the temperature, beside the canonical one where the ensemble has one."""
    curves = {"run": _histogram(temperature)}
    if target_K is not None:
        t = np.linspace(temperature.min(), temperature.max(), 200)
        shape = n_degrees / 2
        log_density = shape * np.log(shape * t / target_K) - np.log(t) - shape * t / target_K - math.lgamma(shape)
        curves["canonical"] = (t, np.exp(log_density))
    return curves


def _histogram(values: Floats) -> Curve:
    n_bins = int(np.clip(math.sqrt(len(values)), 5, 60))
    density, edges = np.histogram(values, n_bins, density=True)
    return (edges[1:] + edges[:-1]) / 2, density


def _write(analysis: Analysis, folder: Path) -> None:
    make_folder(folder)
    table = asdict(analysis)
    table["curves"] = {
        panel: {name: [x.tolist(), y.tolist()] for name, (x, y) in lines.items()}
        for panel, lines in analysis.curves.items()
    }
    write_whole(folder / "analysis.json", (json.dumps(table) + "\n").encode())
    title, path = f"{analysis.formula}, {analysis.ensemble}", folder / "analysis.png"
    with beside_results(path):
        plot_analysis(analysis.curves, path, notes=analysis.notes, labels=analysis.labels, title=title)
