"""What a trajectory costs: processor time of the same steps with frames at the default interval, and without.

    python bench/writing.py runs/rmd17_ethanol_schnet/model.safetensors data/ethanol.h5

Time is that of the processor, user's and system's, and not the clock's, so that a busy machine may be asked.
Everything else is as usual: the log, and a checkpoint with every frame on disk each ten seconds.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import run_md

STEPS, ROUNDS = 40_000, 5


def seconds(model: str, structure: str, write_every: int) -> float:
    """Of processor time that a run takes."""
    with TemporaryDirectory() as folder:
        recipe = MDRecipe(
            model=Path(model),
            structure=Path(structure),
            steps=STEPS,
            write_every=write_every,
            output=Path(folder) / "md",
        )
        began = time.process_time()
        run_md(recipe)
        return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)  # a small molecule is bound by calls, not by arithmetic
    default = MDRecipe.model_fields["write_every"].default
    costs = []
    for _ in range(ROUNDS):
        without, written = (seconds(*sys.argv[1:3], every) for every in (STEPS, default))
        costs.append(written / without - 1)
        print(f"{1e6 * without / STEPS:.0f} µs a step, {1e6 * written / STEPS:.0f} with frames: {costs[-1]:+.1%}")
    error = np.std(costs, ddof=1) / ROUNDS**0.5
    print(f"a frame every {default} steps costs {np.mean(costs):.1%} ± {error:.1%}")


if __name__ == "__main__":
    main()
