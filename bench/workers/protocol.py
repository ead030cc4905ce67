"""What every worker does: answer requests, one JSON object a line, about the package of its own environment.

A worker is `python serve_<package>.py VARIANT THREADS`. It builds a model of random weights and reads requests:

    {"do": "load", "path": "si216.extxyz"}          prepare a structure, neighbor list included
    {"do": "time", "calls": 5}                      seconds of each of 5 evaluations of energy and forces
    {"do": "forces"}                                energy and forces of what was loaded
    {"do": "energies", "path": "displaced.extxyz"}  energies of many structures
    {"do": "md", "path": ..., "steps": 100}         seconds of a Langevin run through ASE
    {"do": "ase", "path": ..., "calls": 5}          seconds of each of 5 calls of its calculator; atoms move
    {"do": "train", "path": ..., "steps": 5}        seconds of each of 5 optimizer steps on one batch
    {"do": "peak"}                                  greatest resident memory of this process so far, MiB
    {"do": "gemm"}                                  GFLOP/s of a float32 matrix product

"double": true in load, forces or energies asks for the same weights in float64.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

CUTOFF, N_FEATURES, N_INTERACTIONS, N_RADIAL = 5.0, 128, 3, 50  # of SchNet, in every package that has one
LEARNING_RATE, ENERGY_WEIGHT = 1e-4, 0.1
SHAKE = 0.002  # Å, standard deviation of the steps of `ase`: about those of MD

Answer = tuple[torch.Tensor, torch.Tensor]  # energy, eV; forces (n_atoms, 3), eV/Å


class Package(Protocol):
    """What a worker file supplies. Weights do not depend on `double`, so that both can be compared."""

    version: str

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        """A function that computes energy and forces with a list made before, and the number of edges."""

    def calculator(self) -> Calculator:
        """The package's own ASE calculator, in float32."""

    def training_step(self, batch: list[Atoms]) -> Callable[[], None]:
        """A function that takes one optimizer step with a loss on energies and forces."""


@runtime_checkable
class Noted(Protocol):
    """A package that says something of how it computes, which stands below the table."""

    note: str


def force_loss(energy: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
    """The loss against labels that are zero: what a step costs does not depend on them."""
    return ENERGY_WEIGHT * energy.square().mean() + forces.square().mean()


def frozen(model: torch.nn.Module) -> dict[bool, torch.nn.Module]:
    """Copies to be used and not trained, in float64 (True) and float32 (False)."""
    copies = {False: copy.deepcopy(model).float(), True: copy.deepcopy(model).double()}
    return {double: model.eval().requires_grad_(False) for double, model in copies.items()}


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """The same optimizer for every package."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)


class Worker:
    """Answers requests with one package."""

    def __init__(self, package: Package):
        self.package = package
        self.evaluate: Callable[[], Answer] | None = None
        self.steps: dict[str, Callable[[], None]] = {}
        self.simulation: tuple[str, Atoms, Langevin] | None = None
        self.shaken: dict[str, Atoms] = {}

    def hello(self) -> dict[str, Any]:
        told = {"version": self.package.version, "torch": torch.__version__, "threads": torch.get_num_threads()}
        return told | ({"note": self.package.note} if isinstance(self.package, Noted) else {})

    def load(self, path: str, double: bool = False) -> dict[str, Any]:
        atoms = read(path)
        self.evaluate, n_edges = self.package.evaluation(atoms, double)
        self.evaluate()
        return {"n_atoms": len(atoms), "n_edges": n_edges}

    def time(self, calls: int) -> list[float]:
        assert self.evaluate is not None
        return _seconds(self.evaluate, calls)

    def forces(self) -> dict[str, Any]:
        assert self.evaluate is not None
        energy, forces = self.evaluate()
        return {"energy": energy.double().sum().item(), "forces": forces.double().reshape(-1, 3).tolist()}

    def energies(self, path: str, double: bool = True) -> list[float]:
        return [self.package.evaluation(a, double)[0]()[0].double().sum().item() for a in read(path, ":")]

    def md(self, path: str, steps: int) -> float:
        """Each run starts from the same state: an untrained potential does not hold a molecule together."""
        atoms = read(path)
        if self.simulation is None or self.simulation[0] != path:
            moving = atoms.copy()
            moving.info["charge"] = 0
            moving.calc = self.package.calculator()
            langevin = Langevin(
                moving, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=np.random.default_rng(1)
            )
            self.simulation = (path, moving, langevin)
        _, moving, langevin = self.simulation
        moving.positions[:] = atoms.positions
        MaxwellBoltzmannDistribution(moving, temperature_K=300, rng=np.random.default_rng(0))
        langevin.run(5)
        start = time.perf_counter()
        langevin.run(steps)
        return time.perf_counter() - start

    def ase(self, path: str, calls: int) -> list[float]:
        """Energy and forces as ASE asks for them, what the package does about its list of neighbors included."""
        if path not in self.shaken:
            self.shaken[path] = read(path)
            self.shaken[path].calc = self.package.calculator()
        atoms, start, generator = self.shaken[path], read(path).positions, np.random.default_rng(0)

        def call() -> None:
            atoms.positions[:] = start + SHAKE * generator.standard_normal(start.shape)
            atoms.get_potential_energy()
            atoms.get_forces()

        return _seconds(call, calls)

    def train(self, path: str, steps: int) -> list[float]:
        if path not in self.steps:
            self.steps[path] = self.package.training_step(read(path, ":"))
            self.steps[path]()
        return _seconds(self.steps[path], steps)

    def peak(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def gemm(self, size: int = 1024) -> float:
        a, b = torch.randn(size, size), torch.randn(size, size)
        out = torch.empty_like(a)
        return 2e-9 * size**3 / min(_seconds(lambda: torch.mm(a, b, out=out), 20))


def _seconds(function: Callable[[], Any], calls: int) -> list[float]:
    """After one call that is not counted: others have used the caches since the last round."""
    function()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def serve(make: Callable[[str], Package]) -> None:
    """Answer on standard output until standard input ends; what packages print goes to standard error."""
    variant, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(make(variant))
            answer = {"answer": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:  # reported in the table, whatever it is
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
