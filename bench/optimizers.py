r"""Optimizers at equal processor time, each with and without the closing solve: what do they reach on a test set?

    python bench/optimizers.py train/acac_ace.yaml --minutes 2 --seeds 3 training.committee=1 \
        "training.member_arguments=[]" training.own_validation=false

Each optimizer has one network of the recipe. An epoch is measured first, in processor time, so that other work on
the machine moves no figure; from it comes the number of epochs, over which the rate falls. Of several --rates the
first seed's validation error chooses one for all seeds. A training is then ended twice, without the solve and with
it, from one checkpoint. What has finished in the folder is kept, so that the command goes on after a stop. Writes
optimizers.json and optimizers.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from report import table

from mlpot.recipes import load_recipe
from mlpot.training import fit
from mlpot.training.epoch_time import measure_epoch
from mlpot.training.recipe import Recipe
from mlpot.training.run_directory import has_begun, has_finished

MEASURED = 12.0  # seconds
ERROR = "forces_rmse_meV_per_A"


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """What the command line says, and keys of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the processor, for the steps of a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon", "soap"])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.003, 0.01])
    parser.add_argument("--output", type=Path, default=Path("runs/optimizers"))
    return (given := parser.parse_intermixed_args()), given.overrides


class Entry:
    """One optimizer."""

    def __init__(self, name: str, given: argparse.Namespace, overrides: list[str]):
        self.name, self.given, self.overrides = name, given, overrides

    def recipe(self, folder: str, *own: str) -> Recipe:
        """Of a training in a folder of its own."""
        fixed = [f"optimizer.name={self.name}", f"training.directory={self.given.output / folder}"]
        return load_recipe(Recipe, self.given.recipe, [*self.overrides, *fixed, "training.progress=false", *own])

    def epochs(self) -> int:
        """That fill the minutes; measured once."""
        file = self.given.output / f"{self.name}.json"
        if not file.exists():
            found = measure_epoch(self.recipe(f"{self.name}_measured", "training.solve=false"), MEASURED)
            file.write_text(json.dumps(found.epoch * found.processor_share))
        return max(1, round(60 * self.given.minutes / json.loads(file.read_text())))

    def train(self, rate: float, seed: int, *, solve: bool) -> dict[str, Any]:
        """The metrics of a training; with the solve it goes on from the end of the one without."""
        folder = f"{self.name}_{rate:g}_seed_{seed}"
        own = f"training.epochs={self.epochs()}", f"optimizer.learning_rate={rate}", f"training.seed={seed}"
        recipe = self.recipe(folder + "_solved" * solve, *own, f"training.solve={str(solve).lower()}")
        directory = Path(recipe.training.directory)
        if not has_finished(directory):
            if solve and not has_begun(directory):
                self.train(rate, seed, solve=False)
                shutil.copytree(self.given.output / folder, directory)
                text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
                (directory / "recipe.yaml").write_text(text, encoding="utf-8")
            fit.train(recipe, resume=has_begun(directory))
        return json.loads((directory / "metrics.json").read_text(encoding="utf-8"))

    def run(self) -> dict[str, Any]:
        """Errors of all seeds at the rate that the first one chose."""
        began = time.process_time()
        chosen = {rate: self.train(rate, 0, solve=False)["validation"][ERROR] for rate in self.given.rates}
        rate = min(chosen, key=chosen.__getitem__)
        seeds = range(self.given.seeds)
        without, solved = ([self.train(rate, seed, solve=s) for seed in seeds] for s in (False, True))
        return {
            "epochs": self.epochs(),
            "rate": rate,
            "validation by rate": chosen,
            "validation": [m["validation"][ERROR] for m in without],
            "test": [m["test"][ERROR] for m in without],
            "solved validation": [m["validation"][ERROR] for m in solved],
            "solved test": [m["test"][ERROR] for m in solved],
            "accepted": [m["closing_solve"]["accepted"] for m in solved],
            "processor seconds of this call": time.process_time() - began,
        }


def _mean(errors: list[float]) -> str:
    return f"{np.mean(errors):.1f} ± {np.std(errors, ddof=1):.1f}" if len(errors) > 1 else f"{errors[0]:.1f}"


def main() -> None:
    given, overrides = arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for name in given.optimizers:
        found[name] = Entry(name, given, overrides).run()
        (given.output / "optimizers.json").write_text(json.dumps(found, indent=2))
        rows = [
            [name, f"{f['rate']:g}", str(f["epochs"]), _mean(f["test"]), _mean(f["solved test"]),
             f"{100 * (1 - np.mean(f['solved test']) / np.mean(f['test'])):.0f} %"]
            for name, f in found.items()
        ]  # fmt: skip
        head = ["optimizer", "rate", "epochs", "forces, meV/Å", "with the closing solve", "lower by"]
        (given.output / "optimizers.md").write_text(table(head, rows) + "\n")
        print(table(head, rows), flush=True)


if __name__ == "__main__":
    main()
