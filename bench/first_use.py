"""Processor seconds that compiling takes when a network is first used and first trained, in new processes.

    python bench/first_use.py [BACKBONE ...]

The cache of compiled loops is empty before the first of two processes; what the second takes is subtracted.
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
atoms = bulk("Si", cubic=True)
graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
for training in (False, True):
    potential, start = Potential(sys.argv[1], {}, reference_energies={14: 0.0}), time.process_time()
    out = predict(potential if training else potential.freeze(), graph, training=training)
    if training:
        out.forces.square().sum().backward()
    print(time.process_time() - start)
"""


def seconds(backbone: str, cache: str) -> tuple[float, float]:
    """Of use and of training, in a new process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", CHILD, backbone]
    use, training = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout.split()
    return float(use), float(training)


def main() -> None:
    """Print a line for each backbone."""
    print(f"{'':10}{'use, s':>10}{'training':>10}{'both':>10}")
    for backbone in sys.argv[1:] or ("schnet", "egnn", "ace"):
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (seconds(backbone, cache) for _ in range(2))
        use, training = (a - b for a, b in zip(cold, warm, strict=True))
        print(f"{backbone:10}{use:10.1f}{training:10.1f}{use + training:10.1f}", flush=True)


if __name__ == "__main__":
    main()
