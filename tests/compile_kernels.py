"""Compiles the kernels of use and of training before the tests, once for all of their processes.

Each type of numbers is compiled by a process of its own, which does nothing else.
"""

from __future__ import annotations

import subprocess
import sys

import torch
from structures import ethanol, graph_of

from mlpot.forces import predict
from mlpot.potential import Potential

BACKBONES = ("schnet", "egnn")
"""Those whose stages, together, are of every kind."""
REFERENCES = {1: 0.0, 6: 0.0, 8: 0.0}


def compile_kernels(dtype: torch.dtype) -> None:
    """Energies, forces and the gradient of a loss in this type, compared with autograd."""
    torch.set_num_threads(1)
    for backbone in BACKBONES:
        torch.manual_seed(0)
        potential = Potential(backbone, {"cutoff": 4.0, "n_features": 16}, reference_energies=REFERENCES).to(dtype)
        graph = graph_of(ethanol(), potential.cutoff)
        forces = predict(potential, graph, training=True).forces
        torch.autograd.grad(forces.square().sum(), list(potential.parameters()), allow_unused=True)
        potential.freeze()
        found, expected = (predict(potential, graph, native=native).forces for native in (True, False))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        compile_kernels(getattr(torch, sys.argv[1]))
    else:
        commands = ([sys.executable, __file__, dtype] for dtype in ("float32", "float64"))
        processes = [subprocess.Popen(command) for command in commands]
        sys.exit(max(process.wait() for process in processes))
