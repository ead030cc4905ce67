"""Trains the rungs of the ladder of symmetry on ethanol, each as `mlpot curve` does.

    python train/ladder.py                  # all rungs, three seeds -> runs/ladder/<rung>; goes on after a stop
    python train/ladder.py transformer painn --steps 0.5 --directory runs/ladder_0.5  # half the steps
    mlpot average runs/ladder/transformer runs/ladder/averaged --group octahedral      # another rung; no training
    mlpot curves runs/ladder/* --against schnet --output runs/ladders

First all rungs are trained with one seed, then with a second and a third: a ladder that was stopped is whole for
fewer seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlpot.recipes import load_recipe
from mlpot.signals import SignalledError
from mlpot.studies.curve import curve
from mlpot.training.recipe import Recipe

RECIPE = Path(__file__).with_suffix(".yaml")
SIZES = 25, 50, 100, 200

RUNGS = {
    "deepsets": "deepsets n_features=128 n_radial=50 epochs=6",
    "schnet": "schnet n_features=64 n_interactions=5 radial=bessel n_radial=8 epochs=7",
    "egnn": "egnn n_features=64 n_layers=2 n_radial=32 epochs=8",
    "painn": "painn n_features=64 n_interactions=3 n_radial=20 epochs=6",
    "ace_1": "ace n_features=64 max_degree=1 message_degree=1 n_neighbors=8 epochs=10 learning_rate=0.03",
    "ace_2": "ace n_features=64 max_degree=2 message_degree=2 n_neighbors=8 epochs=8",
    "ace_3": "ace n_features=64 max_degree=3 message_degree=2 n_neighbors=8 epochs=6 learning_rate=0.03",
    "se3_transformer": "se3_transformer n_features=16 n_interactions=2 max_degree=2 epochs=5 learning_rate=0.03",
    "transformer": "transformer n_features=32 n_layers=2 n_heads=4 epochs=7 augment=rotations learning_rate=0.02",
}
"""Backbone, its arguments, and what differs in training: about the same processor time for each."""
SECTIONS = {"epochs": "training", "augment": "training", "learning_rate": "optimizer"}


def overrides(rung: str, directory: Path, steps: float) -> list[str]:
    """What a rung changes in the recipe, as on the command line."""
    backbone, *words = RUNGS[rung].split()
    told = dict(word.split("=") for word in words)
    told["epochs"] = str(max(1, round(int(told["epochs"]) * steps)))
    own = [f"{SECTIONS.get(key, 'model.arguments')}.{key}={value}" for key, value in told.items()]
    return [f"model.backbone={backbone}", f"training.directory={directory / rung}", *own]


def train(rungs: list[str], given: argparse.Namespace) -> None:
    """All rungs with one seed, then with one more."""
    for n_seeds in range(1, given.seeds + 1):
        for rung in rungs:
            recipe = load_recipe(Recipe, RECIPE, overrides(rung, given.directory, given.steps))
            there = (given.directory / rung / "curve.json").is_file()
            curve(recipe, given.sizes, n_seeds, resume=there)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help=f"of {', '.join(RUNGS)}; all by default")
    parser.add_argument("--directory", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="so many times the steps: 0.5, 2")
    given = parser.parse_args()
    if unknown := set(given.rungs) - set(RUNGS):
        parser.error(f"{', '.join(sorted(unknown))}: no such rung. There are {', '.join(RUNGS)}.")
    try:
        train(given.rungs or list(RUNGS), given)
    except SignalledError as stopped:
        print("Stopped, and saved. Go on by the same command.", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
