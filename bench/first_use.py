"""Seconds that compiling takes when a network is first used, or first trained, each with an empty cache.

    python bench/first_use.py [BACKBONE ...]

What a second process takes, which finds all compiled, is subtracted. By the clock, as two processes compile for a
training; so nothing else may run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CHILD = """
import sys, time, torch
from ase.build import bulk
from mlpot.forces import predict
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
torch.set_num_threads(1)
atoms, training = bulk("Si", cubic=True), sys.argv[2] == "training"
graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
potential, start = Potential(sys.argv[1], {}, reference_energies={14: 0.0}), time.perf_counter()
out = predict(potential if training else potential.freeze(), graph, training=training)
if training:
    out.forces.square().sum().backward()
print(time.perf_counter() - start)
"""


def seconds(backbone: str, purpose: str, cache: str) -> float:
    """Of use or training in a new process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", CHILD, backbone, purpose]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def main() -> None:
    """Print a line for each backbone."""
    print(f"{'':10}{'use, s':>10}{'training':>10}")
    for backbone in sys.argv[1:] or ("schnet", "egnn", "ace"):
        taken = []
        for purpose in ("use", "training"):
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = (seconds(backbone, purpose, cache) for _ in range(2))
            taken.append(cold - warm)
        print(f"{backbone:10}{taken[0]:10.1f}{taken[1]:10.1f}", flush=True)


if __name__ == "__main__":
    main()
