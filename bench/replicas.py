"""Steps per second of replicas in one batch against runs one after another, by processor time.

python bench/replicas.py [--replicas 64] [--ensembles nve langevin bussi nose-hoover]

Ethanol, an untrained SchNet of 64 features and 3 interactions in float32, one thread; the files of a run are
written, its picture is not. Start and end are left out: a short run is subtracted from a long one, after one that
warms up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ase.build import molecule

from mlpot.dynamics import summary
from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import run_md
from mlpot.dynamics.run_replicas import run_replicas
from mlpot.model_file import save_potential
from mlpot.potential import Potential

FREE = {"min_distance": 0.2, "max_force": None, "temperature": None, "energy": None, "escape_A": None}
"""Guards for a potential that knows nothing."""
SHORT, LONG, LONG_BATCH = 20, 1020, 320  # steps


def seconds_per_step(run: Callable[[MDRecipe], Any], recipe: MDRecipe, n_steps: int) -> float:
    """Processor time of a step in the middle of a run."""
    taken = []
    for steps in (SHORT, SHORT, n_steps):
        began = time.process_time()
        run(recipe.model_copy(update={"steps": steps, "overwrite": True}))
        taken.append(time.process_time() - began)
    return (taken[2] - taken[1]) / (n_steps - SHORT)


def main() -> None:
    """Print a line for each ensemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--ensembles", nargs="+", default=["nve", "langevin", "bussi", "nose-hoover"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    summary.plot_md = lambda *arguments, **settings: None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = {"cutoff": 5.0, "n_features": 64, "n_interactions": 3}
        references = {1: -13.6, 6: -1030.0, 8: -2040.0}
        save_potential(
            Potential("schnet", backbone, reference_energies=references, repulsion=True), folder / "model"
        )
        molecule("CH3CH2OH").write(folder / "ethanol.xyz")
        for ensemble in asked.ensembles:
            recipe = MDRecipe(
                model=folder / "model",
                structure=folder / "ethanol.xyz",
                ensemble=ensemble,
                dtype="float32",
                guards=FREE,
                checkpoint_s=3600,
                output=folder / ensemble,
            )
            alone = seconds_per_step(run_md, recipe, LONG)
            batch = recipe.model_copy(update={"replicas": asked.replicas, "output": folder / f"{ensemble}_batch"})
            together = seconds_per_step(run_replicas, batch, LONG_BATCH)
            ratio = asked.replicas * alone / together
            print(
                f"{ensemble}: alone {1e6 * alone:.0f} us a step, all together {1e6 * together:.0f}, {ratio:.2f}x"
            )


if __name__ == "__main__":
    main()
