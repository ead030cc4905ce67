"""Speed on a CUDA device: energy and forces, steps of molecular dynamics, training steps; `make gpu` runs it.

Networks by Triton's kernels stand beside the same networks in eager PyTorch, SchNet as it is usually written, with
filters on every edge. Nothing new begins after --seconds. Results go to --output as JSON and as a table, with
date, card and versions. Without a CUDA device nothing is measured: every kernel of these networks is compiled for
compute capability 9.0, as of an H200, and what each takes stands in a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from mlpot.calculator import MLPotCalculator
from mlpot.forces import Executor, computed_by, device_obstacle, predict
from mlpot.graph import collate, edge_vectors
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.version import __version__

CUTOFF = 5.0
NETWORKS: dict[str, tuple[str, dict[str, Any], Executor]] = {
    "SchNet": ("schnet", {}, "gpu"),
    "SchNet, eager": ("schnet", {"n_knots": None}, "definition"),
    "ACE": ("ace", {}, "gpu"),
    "ACE, eager": ("ace", {}, "definition"),
    "PaiNN": ("painn", {}, "gpu"),
    "PaiNN, eager": ("painn", {}, "definition"),
    "EGNN, eager": ("egnn", {}, "definition"),
}
REPEATS = {
    8: (1, 1, 1),
    64: (2, 2, 2),
    1000: (5, 5, 5),
    8000: (10, 10, 10),
    27000: (15, 15, 15),
    100_000: (20, 25, 25),
}
LEAST, MOST = 3, 20  # calls of a measurement


class Clock:
    """Seconds of calls on a device, and whether there is time for more."""

    def __init__(self, device: torch.device, seconds: float):
        self.device, self.ends = device, time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.ends

    def median(self, call: Callable[[], object]) -> float:
        """Median of some calls, after two that may compile."""
        times: list[float] = []
        for k in range(2 + MOST):
            begun = self._now()
            call()
            times.append(self._now() - begun)
            if k >= 2 + LEAST and (self.is_over or sum(times[2:]) > 2.0):
                break
        return median(times[2:])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def silicon(n_atoms: int, seed: int = 0) -> Atoms:
    """A periodic crystal, displaced at random."""
    atoms = bulk("Si", cubic=True) * REPEATS[n_atoms]
    atoms.rattle(0.05, seed=seed)
    return atoms


def made(name: str, device: torch.device) -> Potential:
    """An untrained potential in float32."""
    torch.manual_seed(0)
    backbone, arguments, _ = NETWORKS[name]
    return Potential(backbone, {"cutoff": CUTOFF, **arguments}, reference_energies={14: 0.0}).to(device)


def energies(potential: Potential, executor: Executor, n_atoms: int, clock: Clock) -> float:
    """Seconds of energy and forces with the list given."""
    atoms = silicon(n_atoms)
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF).to(clock.device)
    frozen = potential.freeze()
    return clock.median(lambda: predict(frozen, graph, executor=executor))


def dynamics(potential: Potential, executor: Executor, n_atoms: int, clock: Clock) -> float | str:
    """Seconds of a step of molecular dynamics through ASE, the neighbor list included."""
    if (executor == "gpu") != (device_obstacle(potential) is None):
        return "-"  # a calculator takes the fastest executor
    atoms = silicon(n_atoms)
    atoms.calc = MLPotCalculator(potential, device=str(clock.device))
    verlet = VelocityVerlet(atoms, 0.1 * units.fs)
    return clock.median(lambda: verlet.run(1))


def replayed(potential: Potential, executor: Executor, n_atoms: int, clock: Clock) -> float | str:
    """As `dynamics`, where all kernels of energy and forces are one CUDA graph."""
    if executor != "gpu" or clock.device.type != "cuda":
        return "-"
    atoms = silicon(n_atoms)
    atoms.calc = MLPotCalculator(potential, device=str(clock.device), cuda_graph=True)
    verlet = VelocityVerlet(atoms, 0.1 * units.fs)
    return clock.median(lambda: verlet.run(1))


def training(potential: Potential, executor: Executor, n_atoms: int, clock: Clock) -> float:
    """Seconds of an optimizer step on eight crystals, with a loss on energies and forces."""
    graphs = [build_graph(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in _crystals(n_atoms)]
    graph, weights = collate(graphs).to(clock.device), list(potential.train().requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)

    def step() -> None:
        out = predict(potential, graph, training=True, executor=executor)
        optimizer.zero_grad()
        (out.energy.square().mean() + out.forces.square().mean()).backward(inputs=weights)
        optimizer.step()

    return clock.median(step)


def _crystals(n_atoms: int) -> Iterator[Atoms]:
    return (silicon(n_atoms, seed) for seed in range(8))


def measured(clock: Clock, sizes: list[int]) -> dict[str, dict[str, Any]]:
    """Seconds by measurement and network; words where one failed or time was over. Small systems come first."""
    plans = [("energy and forces", energies, n) for n in sizes]
    plans += [("step of dynamics", dynamics, n) for n in sizes[:2]]
    plans += [("training step on 8 x", training, min(64, sizes[0]))]
    plans = sorted(plans, key=lambda plan: plan[2])
    plans += [("step of dynamics by one CUDA graph", replayed, n) for n in sizes[:2]]  # last: it has never run
    results: dict[str, dict[str, Any]] = {}
    for what, function, n_atoms in plans:
        row = results.setdefault(f"{what} {n_atoms} atoms", {})
        for name in NETWORKS:
            if clock.is_over:
                row[name] = "no time left"
                continue
            try:
                row[name] = function(made(name, clock.device), NETWORKS[name][2], n_atoms, clock)
            except torch.cuda.OutOfMemoryError:
                row[name] = "out of memory"
                torch.cuda.empty_cache()
            except RuntimeError as error:
                row[name] = str(error).partition("\n")[0]
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Milliseconds as a table."""
    lines = ["| ms | " + " | ".join(NETWORKS) + " |", "|---" * (len(NETWORKS) + 1) + "|"]
    for what, row in results.items():
        cells = [f"{1e3 * value:.3g}" if isinstance(value, float) else value for value in row.values()]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compiled() -> str:
    """What compiling takes, as a table: all kernels that a training needs, for compute capability 9.0."""
    lines = [
        "| network | kernels | s to compile | most registers | most bytes of a thread in memory |",
        "|---" * 5 + "|",
    ]
    for name, (_, _, executor) in NETWORKS.items():
        if executor == "gpu":
            begun, codes = time.perf_counter(), kernels_of(made(name, torch.device("cpu")).backbone)
            took, use = time.perf_counter() - begun, [resources(code) for code in codes]
            most = [max(numbers) for numbers in zip(*use, strict=True)]
            lines.append(f"| {name} | {len(codes)} | {took:.0f} | {most[0]} | {most[1]} |")
    return "\n".join(lines)


class NoCard:
    """Stands for a driver, so that Triton compiles as it would for a card that is not there."""

    def get_current_target(self) -> Any:
        """An H200."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The first."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The usual one."""
        return 0


def kernels_of(network: Any) -> list[bytes]:
    """Machine code of every kernel that a network launches for a loss on energies and forces."""
    import triton

    from mlpot.gpu import driver, neighbor_sum, products

    codes: dict[object, bytes] = {}

    def launch(kernel: Any, grid: Sequence[int], *arguments: Any, **constants: Any) -> None:
        key = kernel.__name__, tuple(constants.items())
        if key not in codes:
            codes[key] = kernel.warmup(*arguments, grid=grid, **constants, num_warps=4).asm["cubin"]

    atoms = silicon(8)
    graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    vectors = edge_vectors(graph).float().requires_grad_()
    launched = neighbor_sum.launch
    neighbor_sum.launch = products.launch = launch
    triton.runtime.driver.set_active(NoCard())
    try:
        b = driver.DeviceOutputs(network, fixed=False)(graph.numbers, graph.edges, vectors)
        (gradient,) = torch.autograd.grad(b.sum(), vectors, create_graph=True)
        (b.sum() + gradient.square().sum()).backward()
    finally:
        neighbor_sum.launch = products.launch = launched
    return list(codes.values())


def resources(code: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes that did not fit into them."""
    import triton

    with NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(code)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, spilled = (max(map(int, re.findall(rf"{what}:(\d+)", told))) for what in ("REG", "STACK"))
    return registers, spilled


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=420.0, help="nothing new begins after so long")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 8000, 100_000], choices=sorted(REPEATS))
    parser.add_argument("--output", type=Path, default=Path("runs/gpu.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "There is no CUDA device here, so nothing is measured. Kernels compiled for an H200:",
            compiled(),
            sep="\n",
        )
        return
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    facts = {"date": date.today().isoformat(), "device": where, "torch": torch.__version__, "mlpot": __version__}
    facts |= {f"{name} computed by": computed_by(made(name, device)) for name in NETWORKS}
    results = measured(Clock(device, options.seconds), options.sizes)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"facts": facts, "seconds": results}, indent=2))
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), table(results), sep="\n\n")


if __name__ == "__main__":
    main()
