"""A race of packages on one split of a user's data, each for equally many minutes: which errs least?

    python bench/accuracy.py TRAIN TEST --minutes 10 --references H=-13.568 C=-1026.854 O=-2037.797
    python bench/accuracy.py TRAIN TEST --minutes 60 --references ... --contenders mlpot:ace mace:64x0e

TRAIN and TEST are files that ASE reads. One after another, each package trains in the environment that
`make bench-setup` made for it, by its own command, on the same structures, in float32, with averaged weights.

The clock runs from the start of a process to its end, imports and the writing of the model included. Short
trainings of one and of three epochs tell what an epoch and all else take (a first one fills caches and compiles,
which a user pays once); from these comes the number of epochs that fill the minutes, so that every schedule, and
every late stage with its own weights, ends within them. The weights are those that a package gives to its user;
each package chooses them by the validation structures. One function judges all on TEST. A race on a busy machine
means nothing: the processor time of each training is told beside its minutes.

Writes race.json, race.md and race.png into the folder after each contender; --resume goes on with a race that was
stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import read, write
from contenders import PROJECT, WorkerError, interpreter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report import table

CONTENDERS = (
    "mlpot:ace", "mlpot:schnet", "mace:64x0e", "mace:128x0e+128x1o", "nequip:1_64_4", "nequip:2_32_4"
)  # fmt: skip
MEASURED = 1, 1, 3  # epochs of the short trainings, of which the first fills caches and compiles
BUSY = 0.5  # load before a training beyond which it says nothing
OFF = 0.1  # part of the minutes by which a training may miss them
Result = dict[str, Any]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each contender")
    parser.add_argument("--validation", type=int, default=50, help="structures of TRAIN that choose the weights")
    parser.add_argument("--references", nargs="+", required=True, metavar="H=-13.6", help="isolated atoms, eV")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, metavar="PACKAGE:VARIANT")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=PROJECT / "runs/race")
    parser.add_argument("--resume", action="store_true", help="keep what has finished in the folder")
    given = parser.parse_args()
    if wrong := [c for c in given.contenders if c.partition(":")[0] not in ("mlpot", "mace", "nequip")]:
        parser.error(
            f"no race file for {', '.join(wrong)}; write mlpot:BACKBONE, mace:IRREPS or nequip:L_FEATURES_LAYERS"
        )
    if given.output.exists() and not given.resume:
        parser.error(f"{given.output} exists; --resume goes on, or name another --output")
    return given


def split(given: argparse.Namespace) -> None:
    """Write the structures of all contenders, and the energies of isolated atoms."""
    given.output.mkdir(parents=True, exist_ok=True)
    pool, test = read(given.train, ":"), read(given.test, ":")
    order = np.random.default_rng(given.seed).permutation(len(pool))
    chosen = {"validation": order[: given.validation], "train": order[given.validation :]}
    for name, own in chosen.items():
        write(given.output / f"{name}.xyz", [labeled(pool[k]) for k in sorted(own)])
    write(given.output / "test.xyz", [labeled(atoms) for atoms in test])
    references = {atomic_numbers[s]: float(e) for s, _, e in (r.partition("=") for r in given.references)}
    (given.output / "references.json").write_text(json.dumps(references))


def labeled(atoms: Atoms) -> Atoms:
    """A structure with its labels under names that ASE leaves alone."""
    out = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell if atoms.pbc.any() else None, pbc=atoms.pbc)
    out.info["REF_energy"] = atoms.get_potential_energy()
    out.arrays["REF_forces"] = atoms.get_forces()
    return out


class Entry:
    """A contender in its folder."""

    def __init__(self, contender: str, given: argparse.Namespace):
        self.package, _, self.variant = contender.partition(":")
        self.given, self.name = given, contender.replace("/", "_").replace(":", "_")
        self.python = interpreter(self.package)
        self.script = PROJECT / f"bench/workers/race_{self.package}.py"

    def run(self) -> Result:
        """Measure, train, judge."""
        _, once, more = (self.train(n, f"{self.name}_{n}_epochs")[0] for n in MEASURED)
        epoch = max((more - once) / (MEASURED[2] - MEASURED[1]), 1e-3)
        epochs = max(1, int((60 * self.given.minutes - (once - epoch)) / epoch))
        load = os.getloadavg()[0]
        seconds, processor, curve = self.train(epochs, self.name)
        return {
            "epochs": epochs,
            "minutes": seconds / 60,
            "processor_minutes": processor / 60,
            "busy": load > BUSY + self.given.threads,
            "curve": [[n * epoch / 60, error] for n, error in curve],
            **self.judge(),
        }

    def train(self, epochs: int, name: str) -> tuple[float, float, list[tuple[int, float]]]:
        """Wall and processor seconds from start to end, and the learning curve."""
        folder = self.given.output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        out = self.call("train", folder, str(epochs), str(self.given.seed))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, processor, json.loads(out.splitlines()[-1])["curve"]

    def judge(self) -> Result:
        """Errors on the test structures, meV and meV/Å."""
        folder, file = self.given.output / self.name, self.given.output / "test.xyz"
        self.call("judge", folder, str(file))
        frames, found = read(file, ":"), np.load(folder / "predictions.npz")
        energy = 1e3 * (found["energies"] - [atoms.info["REF_energy"] for atoms in frames])
        forces = 1e3 * (found["forces"] - np.concatenate([atoms.arrays["REF_forces"] for atoms in frames]))
        errors = {"energy_meV": energy, "forces_meV_per_A": forces}
        kinds = {"mae": lambda e: np.abs(e).mean(), "rmse": lambda e: np.sqrt(np.square(e).mean())}
        return {f"{of}_{kind}": float(f(e)) for of, e in errors.items() for kind, f in kinds.items()}

    def call(self, do: str, folder: Path, *words: str) -> str:
        """What its race file prints.

        Raises:
            WorkerError: it failed; its log says why.
        """
        threads = str(self.given.threads)
        variables = os.environ | {"OMP_NUM_THREADS": threads, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        if self.package == "mlpot":
            variables["PYTHONPATH"] = str(PROJECT)
        with (folder / "log.txt").open("a") as log:
            command = [self.python, str(self.script), do, self.variant, str(folder), *words, threads]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, env=variables, text=True)
        if done.returncode:
            raise WorkerError(f"status {done.returncode}, see {log.name}")
        return done.stdout


def markdown(results: dict[str, Result], given: argparse.Namespace) -> str:
    """Errors of all, least first."""
    done = {name: r for name, r in results.items() if "epochs" in r}
    ranked = sorted(done.items(), key=lambda item: item[1]["forces_meV_per_A_rmse"])
    figures = ("forces_meV_per_A_rmse", "forces_meV_per_A_mae", "energy_meV_rmse", "minutes", "processor_minutes")
    rows = [
        [name, *(f"{r[f]:.2f}" for f in figures), str(r["epochs"]), _doubts(r, given.minutes)]
        for name, r in ranked
    ]
    header = ["", "forces RMSE, meV/Å", "MAE", "energy RMSE, meV", "minutes", "of processor", "epochs", ""]
    failed = [f"- {name}: {r['failed']}" for name, r in results.items() if "failed" in r]
    what = f"{given.minutes:g} minutes, {given.threads} threads, seed {given.seed}, {given.test.name}"
    return "\n\n".join([what, table(header, rows), *(["\n".join(failed)] if failed else [])]) + "\n"


def _doubts(result: Result, minutes: float) -> str:
    """Why a row says little: others computed beside it, or the machine had another pace before."""
    told = ["busy machine"] if result["busy"] else []
    if abs(result["minutes"] / minutes - 1) > OFF:
        told.append("another pace than when epochs were timed")
    return "; ".join(told)


def draw(results: dict[str, Result], path: Path) -> None:
    """Errors of validation structures against minutes, as each package tells them."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlabel="minutes", ylabel="validation forces MAE, meV/Å", yscale="log")
    axes.grid(alpha=0.3, which="both")
    for name, result in results.items():
        if result.get("curve"):
            axes.plot(*zip(*result["curve"], strict=True), label=name)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Race, and write after each contender."""
    given = arguments()
    file = given.output / "race.json"
    results: dict[str, Result] = json.loads(file.read_text()) if file.exists() else {}
    if not (given.output / "test.xyz").exists():
        split(given)
    for contender in given.contenders:
        if "epochs" in results.get(contender, {}):
            continue
        print(f"{contender} ...", flush=True)
        try:
            results[contender] = Entry(contender, given).run()
        except WorkerError as error:
            results[contender] = {"failed": str(error)}
        file.write_text(json.dumps(results, indent=1))
        (given.output / "race.md").write_text(markdown(results, given))
        draw(results, given.output / "race.png")
    print((given.output / "race.md").read_text())


if __name__ == "__main__":
    main()
