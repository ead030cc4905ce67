"""How well a potential conserves energy: drift over 20 ps, and the error's fall when the time step is halved.

    python bench/nve.py runs/rmd17_ethanol_schnet/model.safetensors data/ethanol.h5        # some minutes
    python bench/nve.py runs/rmd17_ethanol_schnet/model.safetensors data/ethanol.h5 1000   # drift over so many ps

The error is the standard deviation of the total energy, which velocity Verlet makes of second order in the step,
so that halving it divides the error by 4. The runs that are compared start from the same states and are short:
after some hundred fs trajectories with different steps are different trajectories.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from mlpot.dynamics.recipe import MDRecipe
from mlpot.dynamics.run import MDSummary, run_md


def run(
    model: str, structure: str, timestep_fs: float, time_ps: float, seed: int = 0
) -> tuple[MDSummary, np.ndarray]:
    """The summary and the total energies, eV, of a run at constant energy."""
    with TemporaryDirectory() as folder:
        recipe = MDRecipe(
            model=Path(model),
            structure=Path(structure),
            ensemble="nve",
            timestep_fs=timestep_fs,
            time_ps=time_ps,
            seed=seed,
            log_every=1 if time_ps <= 20 else 100,
            write_every=2000,
            output=Path(folder) / "md",
        )
        summary = run_md(recipe)
        log = np.genfromtxt(Path(folder) / "md/log.csv", delimiter=",", names=True)
        return summary, log["total_eV"]


def main() -> None:
    model, structure, *long_ps = sys.argv[1:]
    torch.set_num_threads(1)  # a small molecule is bound by calls, not by arithmetic
    if long_ps:
        tell_drift(model, structure, float(long_ps[0]))
        return
    errors = {}
    for step in (0.25, 0.5, 1.0):
        energies = [run(model, structure, step, 0.2, seed)[1] for seed in range(10)]
        errors[step] = np.sqrt(np.mean([e.var() for e in energies]))
    for step in (0.25, 0.5):
        print(f"error at {2 * step} fs / error at {step} fs: {errors[2 * step] / errors[step]:.2f}")
    tell_drift(model, structure, 20.0)


def tell_drift(model: str, structure: str, time_ps: float) -> None:
    """Print it, of a run at steps of 0.5 fs."""
    summary, _ = run(model, structure, 0.5, time_ps)
    assert summary.drift is not None
    slope, error = summary.drift.slope, summary.drift.slope_error
    print(f"drift over {time_ps:g} ps at 0.5 fs: {slope:.3f} ± {error:.3f} meV/atom/ns")
    print(f"{summary.steps_per_s:.0f} steps/s")


if __name__ == "__main__":
    main()
