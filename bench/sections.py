"""What is measured: contenders take turns in each round, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from contenders import (
    CONTENDERS,
    DIRECTIONS,
    EGNNS,
    MACES,
    PROJECT,
    THROUGH_ASE,
    Contender,
    Worker,
    WorkerError,
)
from systems import N_ATOMS, acetylacetones, batches, ethanol, system

MD_STEPS = 100
STENCIL = {-3: -1 / 60, -2: 3 / 20, -1: -3 / 4, 1: 3 / 4, 2: -3 / 20, 3: 1 / 60}  # of a first derivative
STEP = 1e-4  # Å, well within an interval between knots: third derivatives of a cubic spline jump there

Figures = dict[str, Any]


@dataclass
class Bench:
    """How a run is done."""

    folder: Path  # for structures, logs and results
    environments: Sequence[str]
    threads: int
    quick: bool
    longest: float  # seconds that one call may take
    model: Path | None  # a trained potential, for the drift
    load: float  # average of the last minute, before anything was run
    notes: list[str] = field(default_factory=list)  # what was left out, and why
    running: dict[Contender, Worker] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 7

    @property
    def per_turn(self) -> float:
        """Seconds that a contender computes in one round."""
        return 0.05 if self.quick else 0.3

    def note(self, contender: Contender, what: str) -> None:
        line = f"{contender.name}: {what}"
        if line not in self.notes:
            self.notes.append(line)

    def path(self, name: str, atoms: Atoms | list[Atoms]) -> str:
        """A structure as a file that workers read."""
        file = self.folder / f"structures/{name.replace(' ', '_')}.extxyz"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, atoms)
        return str(file)

    def system(self, n_atoms: int) -> str:
        """The file of the system of that many atoms."""
        if n_atoms not in self.files:
            self.files[n_atoms] = self.path(str(n_atoms), system(n_atoms))
        return self.files[n_atoms]

    def start(self, contender: Contender) -> Worker | None:
        """Its worker, or None and a note."""
        try:
            return Worker(contender, self.threads, self.folder / f"logs/{contender.environment}.txt")
        except WorkerError as error:
            self.note(contender, str(error))
            return None

    def workers(self, contenders: Sequence[Contender]) -> list[Worker]:
        """A worker for each contender that is installed and asked for, kept for later sections while it lives."""
        for contender in contenders:
            if contender.environment in self.environments and not self._lives(contender):
                worker = self.start(contender)
                if worker is not None:
                    self.running[contender] = worker
        return [self.running[c] for c in contenders if self._lives(c)]

    def _lives(self, contender: Contender) -> bool:
        return contender in self.running and self.running[contender].process.poll() is None

    def close(self) -> None:
        """End all workers."""
        for worker in self.running.values():
            worker.close()

    def in_turn(self, workers: Sequence[Worker], rounds: int, turn: Callable[[Worker], list[float]]) -> Figures:
        """Median and lowest seconds of each contender over all rounds; each round starts with another."""
        seconds: dict[str, list[float]] = {w.contender.name: [] for w in workers}
        failed: set[str] = set()
        for r in range(rounds):
            k = r % max(len(workers), 1)
            for worker in [*workers[k:], *workers[:k]]:
                name = worker.contender.name
                if name in failed:
                    continue
                try:
                    seconds[name] += turn(worker)
                except WorkerError as error:
                    failed.add(name)
                    self.note(worker.contender, str(error))
        return {n: {"median": statistics.median(t), "lowest": min(t)} for n, t in seconds.items() if t}


def energies(bench: Bench) -> Figures:
    """Seconds of energy and forces, list given, by number of atoms; and the machine's GFLOP/s."""
    sizes = N_ATOMS[:4] if bench.quick else N_ATOMS
    result: Figures = {"systems": {}, "gemm_gflops": []}
    per_atom: dict[str, float] = {}
    workers = bench.workers(CONTENDERS)
    result["versions"] = {w.contender.name: w.versions for w in workers}
    for n in sizes:
        path, fit, calls, n_edges = bench.system(n), [], {}, 0
        for worker in workers:
            once = _load(bench, worker, path, n, per_atom)
            if once is not None:
                fit.append(worker)
                n_edges = once["n_edges"]
                per_atom[worker.contender.name] = once["seconds"] / n
                calls[worker.contender.name] = max(1, min(100, round(bench.per_turn / once["seconds"])))
        times = bench.in_turn(
            fit,
            bench.rounds if n <= 1000 else min(bench.rounds, 3),
            lambda worker, calls=calls: worker.ask("time", calls=calls[worker.contender.name]),
        )
        result["systems"][str(n)] = {"n_edges": n_edges, "seconds": times}
        result["gemm_gflops"] += [w.ask("gemm") for w in workers if w.contender.name == "mlpot"]
    return result


def _load(bench: Bench, worker: Worker, path: str, n: int, per_atom: dict[str, float]) -> Figures | None:
    """Edges of a system and the seconds of one call, or None and a note if it is too large for this contender."""
    contender = worker.contender
    expected = per_atom.get(contender.name, 0.0) * n
    if n > contender.largest:
        bench.note(contender, f"not run beyond {contender.largest} atoms")
        return None
    if expected > bench.longest and contender.environment != "mlpot":
        bench.note(contender, f"{n} atoms would take about {expected:.0f} s a call, more than {bench.longest} s")
        return None
    try:
        n_edges = worker.ask("load", path=path)["n_edges"]
        return {"n_edges": n_edges, "seconds": worker.ask("time", calls=1)[0]}
    except WorkerError as error:
        bench.note(contender, f"{n} atoms: {error}")
        return None


def fidelity(bench: Bench) -> Figures:
    """Force errors, eV/Å: against float64 as usually written, and against differences of the energy."""
    structures = {n: bench.system(n) for n in ((9,) if bench.quick else (9, 27, 216))}
    displaced, atoms = _displaced()
    path = bench.path("displaced", displaced)
    result: Figures = {}
    workers = bench.workers(CONTENDERS)
    plain = {w.contender.environment: w for w in workers if w.contender.variant == "plain"}
    for worker in workers:
        name = worker.contender.name
        try:
            reference = plain.get(worker.contender.environment, worker)
            result[name] = {
                str(n): _deviation(worker, reference, structure) for n, structure in structures.items()
            }
            result[name]["differences"] = _difference_error(worker, path, structures[9], atoms)
        except WorkerError as error:
            bench.note(worker.contender, f"fidelity: {error}")
    return result


def _forces(worker: Worker, path: str, double: bool) -> np.ndarray:
    worker.ask("load", path=path, double=double)
    return np.array(worker.ask("forces")["forces"])


def _deviation(worker: Worker, reference: Worker, path: str) -> Figures:
    exact = _forces(reference, path, True)
    return {
        "greatest_force": np.abs(exact).max(),
        "float32": np.abs(_forces(worker, path, False) - exact).max(),
        "float64": np.abs(_forces(worker, path, True) - exact).max(),
    }


def _displaced() -> tuple[list[Atoms], tuple[int, ...]]:
    """Ethanol with single coordinates of three atoms moved, and which atoms."""
    frames, atoms = [], (0, 2, 8)
    for i in atoms:
        for axis in range(3):
            for k in STENCIL:
                frame = ethanol()
                frame.positions[i, axis] += k * STEP
                frames.append(frame)
    return frames, atoms


def _difference_error(worker: Worker, displaced: str, path: str, atoms: tuple[int, ...]) -> float:
    energy = np.array(worker.ask("energies", path=displaced)).reshape(len(atoms), 3, len(STENCIL))
    slope = energy @ np.array(list(STENCIL.values())) / STEP
    return float(np.abs(_forces(worker, path, True)[list(atoms)] + slope).max())


def md(bench: Bench) -> Figures:
    """Steps per second of ethanol in ASE's Langevin loop."""
    path = bench.system(9)
    steps = 20 if bench.quick else MD_STEPS
    workers = bench.workers(CONTENDERS)
    seconds = bench.in_turn(workers, bench.rounds, lambda w: [w.ask("md", path=path, steps=steps) / steps])
    return {name: {"steps_per_s": 1 / t["median"]} for name, t in seconds.items()}


def training(bench: Bench) -> Figures:
    """Seconds of an optimizer step with a loss on forces."""
    result: Figures = {}
    workers = bench.workers([c for c in CONTENDERS if c.trains])
    for name, batch in batches().items():
        path, steps = bench.path(name, batch), 1 if bench.quick else 4
        result[name] = bench.in_turn(
            workers, bench.rounds, lambda w, path=path, steps=steps: w.ask("train", path=path, steps=steps)
        )
    return result


def mace(bench: Bench) -> Figures:
    """Seconds of an optimizer step of MACE, ours and mace-torch's, on five molecules as a recipe takes them."""
    path, steps = bench.path("5 acetylacetones", acetylacetones()), 1 if bench.quick else 4
    return bench.in_turn(bench.workers(MACES), bench.rounds, lambda w: w.ask("train", path=path, steps=steps))


def directions(bench: Bench) -> Figures:
    """Seconds of energy and forces, list given: ACE, MACE of mlpot and of mace-torch, and the SchNet of others."""
    workers = bench.workers(DIRECTIONS)
    result: Figures = {"systems": {}, "gemm_gflops": [w.ask("gemm") for w in workers[:1]]}
    for n in N_ATOMS[:4]:
        fit = [w for w in workers if _load(bench, w, bench.system(n), n, {}) is not None]
        result["systems"][str(n)] = _timed(bench, fit, n, "time")
    path, steps = bench.system(9), 20 if bench.quick else MD_STEPS
    seconds = bench.in_turn(workers[:1], bench.rounds, lambda w: [w.ask("md", path=path, steps=steps) / steps])
    result["steps_per_s"] = {name: 1 / t["median"] for name, t in seconds.items()}
    return result


def through_ase(bench: Bench) -> Figures:
    """Seconds of energy and forces by each package's own calculator, atoms moved before each call."""
    workers = bench.workers(THROUGH_ASE)
    return {str(n): _timed(bench, workers, n, "ase", path=bench.system(n)) for n in N_ATOMS[:4]}


def _timed(bench: Bench, workers: Sequence[Worker], n: int, do: str, **request: Any) -> Figures:
    """Medians of as many calls a turn as fit into it."""
    calls: dict[str, int] = {}
    for worker in workers:
        try:
            once = worker.ask(do, calls=1, **request)[0]
            calls[worker.contender.name] = max(1, min(100, round(bench.per_turn / once)))
        except WorkerError as error:
            bench.note(worker.contender, f"{n} atoms: {error}")
    able = [w for w in workers if w.contender.name in calls]
    return bench.in_turn(able, bench.rounds, lambda w: w.ask(do, calls=calls[w.contender.name], **request))


def memory(bench: Bench) -> Figures:
    """Peak resident memory, MiB, of a fresh process after energy and forces of one system."""
    result: Figures = {}
    for contender in CONTENDERS:
        if contender.environment not in bench.environments:
            continue
        for n in [n for n in ((1000,) if bench.quick else N_ATOMS[3:]) if n <= contender.largest]:
            worker = bench.start(contender)
            if worker is None:
                break
            try:
                worker.ask("load", path=bench.system(n))  # and one evaluation
                result.setdefault(contender.name, {})[str(n)] = worker.ask("peak")
            except WorkerError as error:
                bench.note(contender, f"memory, {n} atoms: {error}")
            finally:
                worker.close()
    return result


def egnn(bench: Bench) -> Figures:
    """Seconds of energy and forces of EGNN, and how far its forces are from those of the plain one in float64."""
    n = 216 if bench.quick else 1000
    path = bench.system(n)
    workers = bench.workers(EGNNS)
    plain = {w.contender.variant: w for w in workers if w.contender.variant.endswith("-plain")}
    deviation = {
        w.contender.name: _deviation(w, plain[w.contender.variant.removesuffix("-plain") + "-plain"], path)
        for w in workers
    }
    for worker in workers:
        worker.ask("load", path=str(path), double=False)  # the deviations were those of float64 last
    times = bench.in_turn(workers, bench.rounds, lambda w: w.ask("time", calls=1))
    return {"n_atoms": n, "seconds": times, "deviation": deviation}


def nve(bench: Bench) -> Figures:
    """What `nve.py` prints of a trained potential: drift, and the fall of the error with the time step."""
    if bench.model is None:
        bench.notes.append("not measured: give a trained potential of ethanol as --model")
        return {"model": None, "lines": []}
    command = [sys.executable, str(PROJECT / "bench/nve.py"), str(bench.model), str(PROJECT / "data/ethanol.h5")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"model": str(bench.model), "lines": run.stdout.splitlines()}


SECTIONS = {
    f.__name__: f for f in (memory, energies, fidelity, md, training, directions, through_ase, mace, egnn, nve)
}


def measure(bench: Bench, name: str) -> Figures:
    """The figures of one section, with how it was taken."""
    bench.notes, start = [], time.time()
    try:
        figures = SECTIONS[name](bench)
    except WorkerError as error:
        figures = {}
        bench.notes.append(f"nothing measured: {error}")
    return {
        "figures": figures,
        "notes": bench.notes,
        "threads": bench.threads,
        "load": bench.load,
        "quick": bench.quick,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(start)),
        "seconds": round(time.time() - start),
    }
