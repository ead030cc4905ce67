"""Trains the rungs of the ladder of symmetry, each as `mlpot curve` does.

    python train/ladder.py                  # all rungs, three seeds -> runs/ladder/<rung>; goes on after a stop
    python train/ladder.py --data acac      # acetylacetone instead of ethanol -> runs/ladder_acac
    python train/ladder.py schnet ace_2 --data silicon --sizes 10 20 40 80 --steps 0.5  # -> runs/ladder_silicon
    python train/ladder.py transformer painn --steps 0.5 --directory runs/ladder_0.5  # half the steps
    mlpot average runs/ladder/transformer runs/ladder/averaged --group octahedral      # another rung; no training
    mlpot curves runs/ladder/* --against schnet --output runs/ladders

First all rungs are trained with one seed, then with a second and a third: a ladder that was stopped is whole for
fewer seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mlpot.recipes import load_recipe
from mlpot.signals import SignalledError
from mlpot.studies.curve import cost_of_epoch, curve
from mlpot.training.recipe import Recipe

SETS = {"ethanol": ("ladder", 8), "acac": ("ladder_acac", 12), "silicon": ("ladder_silicon", 16)}
"""By data: the name of the recipe beside this file and of the directory in runs/; neighbors of an atom."""
SIZES = 25, 50, 100, 200

RUNGS = {
    "deepsets": "deepsets n_features=128 n_radial=50 steps=240",
    "schnet": "schnet n_features=64 n_interactions=5 radial=bessel n_radial=8 steps=280",
    "egnn": "egnn n_features=64 n_layers=2 radial=bessel n_radial=8 steps=320",
    "painn": "painn n_features=64 n_interactions=3 n_radial=8 steps=240",
    "ace_1": "ace n_features=64 max_degree=1 message_degree=1 steps=400 learning_rate=0.03",
    "ace_2": "ace n_features=64 max_degree=2 message_degree=2 steps=320",
    "ace_3": "ace n_features=64 max_degree=3 message_degree=2 steps=240 learning_rate=0.03",
    "nequip": "nequip n_features=32 max_degree=2 n_interactions=3 radial_layers=[] n_knots=128 steps=280 "
    "learning_rate=0.03",
    "se3_transformer": "se3_transformer n_features=16 n_interactions=2 max_degree=2 steps=200 learning_rate=0.03",
    "transformer": "transformer n_features=32 n_layers=2 n_heads=4 steps=280 augment=rotations learning_rate=0.02",
}
"""Backbone, its arguments, and what differs in training: about the same processor time for each."""
DIVIDED = "ace", "nequip"
"""Backbones that divide their messages by the number of neighbors."""
SECTIONS = {"augment": "training", "learning_rate": "optimizer"}


def overrides(rung: str, n_neighbors: int) -> list[str]:
    """What a rung changes in the recipe, as on the command line, but for the steps."""
    backbone, *words = RUNGS[rung].split()
    told = dict(word.split("=") for word in words if not word.startswith("steps="))
    if backbone in DIVIDED:
        told["n_neighbors"] = str(n_neighbors)
    own = [f"{SECTIONS.get(key, 'model.arguments')}.{key}={value}" for key, value in told.items()]
    return [f"model.backbone={backbone}", *own]


def steps_of(rung: str) -> int:
    """Of all sizes."""
    return int(RUNGS[rung].rpartition("steps=")[2].split()[0])


def recipe_of(rung: str, given: argparse.Namespace) -> Recipe:
    """With as many epochs of the largest set as come nearest to the steps of the rung."""
    name, n_neighbors = SETS[given.data]
    path = Path(__file__).with_name(f"{name}.yaml")
    own = [*overrides(rung, n_neighbors), f"training.directory={given.directory / rung}", *given.change]
    recipe = load_recipe(Recipe, path, own)
    epochs = max(1, round(given.steps * steps_of(rung) / cost_of_epoch(recipe, max(given.sizes))))
    return load_recipe(Recipe, path, [*own, f"training.epochs={epochs}"])


def train(rungs: list[str], given: argparse.Namespace) -> None:
    """All rungs with one seed, then with one more."""
    for n_seeds in range(1, given.seeds + 1):
        for rung in rungs:
            there = (given.directory / rung / "curve.json").is_file()
            began = time.process_time()
            curve(recipe_of(rung, given), given.sizes, n_seeds, resume=there)
            print(f"{rung}, seed {n_seeds - 1}: {time.process_time() - began:.0f} s of the processor", flush=True)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help=f"of {', '.join(RUNGS)}; all by default")
    parser.add_argument("--data", choices=SETS, default="ethanol")
    parser.add_argument("--directory", type=Path, help="runs/ladder, runs/ladder_acac or runs/ladder_silicon")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="so many times the steps: 0.5, 2")
    parser.add_argument("--change", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe of each rung")
    given = parser.parse_args()
    given.directory = given.directory or Path("runs") / SETS[given.data][0]
    if unknown := set(given.rungs) - set(RUNGS):
        parser.error(f"{', '.join(sorted(unknown))}: no such rung. There are {', '.join(RUNGS)}.")
    try:
        train(given.rungs or list(RUNGS), given)
    except SignalledError as stopped:
        print("Stopped, and saved. Go on by the same command.", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
