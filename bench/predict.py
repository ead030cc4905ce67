"""Structures per second that `mlpot predict` takes from one H5MD file to another, model loaded once a run.

python bench/predict.py [--structures 100000] [--threads 2]

Ethanol, an untrained SchNet of 64 features and 3 interactions in float32, as `make demo` trains it: reading, lists
of neighbors, energies, forces, checks and writing, by the clock and by processor time, and the greatest memory.
The first run warms up.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from mlpot.data.h5md import write
from mlpot.extrapolation import domain_of
from mlpot.model_file import save_potential
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.predictions import predict_file

RUNS = 3


def ethanols(n: int) -> Iterator[Atoms]:
    """Shaken molecules."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        yield atoms


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = {"cutoff": 5.0, "n_features": 64, "n_interactions": 3, "n_radial": 32}
        references = {1: -13.6, 6: -1030.0, 8: -2040.0}
        potential = Potential("schnet", backbone, reference_energies=references)
        cutoff, of_atoms, index = potential.cutoff, potential.atom_features, potential.element_index
        graphs = (build_graph(a.numbers, a.positions, a.cell.array, a.pbc, cutoff) for a in ethanols(100))
        potential.domain = domain_of(of_atoms, index, len(potential.elements), graphs)  # as a trained one has
        save_potential(potential, folder / "model")
        write(folder / "in.h5", ethanols(asked.structures), card={})
        for _ in range(RUNS):
            began, busy = time.monotonic(), time.process_time()
            predict_file(folder / "model", folder / "in.h5", folder / "out.h5", overwrite=True)
            n, wall, cpu = asked.structures, time.monotonic() - began, time.process_time() - busy
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(f"{n / wall:.0f} structures/s, {1e6 * cpu / n:.1f} us of processor time each, {memory:.0f} MiB")


if __name__ == "__main__":
    main()
