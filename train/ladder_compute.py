"""Error against steps of training, from ladders of `ladder.py` that differ in --steps.

    python train/ladder_compute.py runs/ladder_0.5 runs/ladder runs/ladder_2 --size 200

Prints the forces MAE of each rung that all ladders have, and the slope of log error against log steps. At a given
network, time and arithmetic are steps times a constant: the slope is that of the error against compute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mlpot.studies.curve_summary import TARGETED
from mlpot.studies.power_law import fit
from mlpot.studies.several import FINISHED

Found = dict[int, dict[int, float]]


def errors_of(ladders: list[Path], rung: str, size: int) -> Found:
    """Error by steps and seed."""
    found: Found = {}
    for ladder in ladders:
        for p in json.loads((ladder / rung / "curve.json").read_text(encoding="utf-8"))["points"]:
            if p["size"] == size and p["state"] == FINISHED:
                found.setdefault(p["steps_or_frames"], {})[p["seed"]] = p["test"][TARGETED]
    return found


def main() -> None:
    """Print a line for each rung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ladders", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=200, help="number of training structures")
    given = parser.parse_args()
    first, *others = ({path.parent.name for path in ladder.glob("*/curve.json")} for ladder in given.ladders)
    for rung in sorted(first.intersection(*others)):
        found = errors_of(given.ladders, rung, given.size)
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
        steps = sorted(found)
        law = fit(steps, np.array([[found[n][k] for n in steps] for k in seeds]))
        told = ", ".join(f"{n}: {np.mean([found[n][k] for k in seeds]):.1f}" for n in steps)
        low, high = law.interval
        print(
            f"{rung}, {given.size} structures, {len(seeds)} seeds; meV/Å by steps: {told}; "
            f"slope {law.slope:.2f} ± {law.standard_error:.2f} (95 %: {low:.2f} to {high:.2f})"
        )


if __name__ == "__main__":
    main()
