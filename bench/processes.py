"""What each of two processes takes to train, beside a single one with the same batches: processor time.

python bench/processes.py [--batch 1024] [--frames 10240] [--epochs 6]

Copies of the structures in data/ethanol.h5, SchNet of 64 features in float32, one thread; the shortest epoch
without the first, in which code is loaded. Of the thread that trains, and of the whole process, with the threads
of messages, which wait busily where processes have no core of their own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from lightning.pytorch import Callback

from mlpot.data.h5md import Reader, write
from mlpot.recipes import parse_recipe
from mlpot.training import outputs
from mlpot.training.fit import train
from mlpot.training.recipe import Recipe

ETHANOL = Path(__file__).parents[1] / "data/ethanol.h5"
RECIPE = """
data: {{train: {data}, validation: 32, workers: 0}}
model: {{backbone: schnet, arguments: {{n_features: 64, n_interactions: 3}}}}
training: {{directory: {run}, epochs: {epochs}, batch_size: {size}, progress: false, accelerator: cpu,
    devices: {n}, strategy: {strategy}}}
"""


class Watch(Callback):
    """Keeps a file with the least processor times of the training's epochs but the first."""

    def __init__(self, path: Path):
        self.path, self.seconds, self._began = path, np.full(2, np.inf), np.zeros(2)

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        """The clocks begin."""
        self._began = np.array([time.thread_time(), time.process_time()])

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        """Training of the epoch has ended."""
        if trainer.current_epoch > 0:
            spent = np.array([time.thread_time(), time.process_time()]) - self._began
            self.seconds = np.minimum(self.seconds, spent)
        np.savetxt(self.path.with_suffix(f".{trainer.global_rank}"), self.seconds)


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10240)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1024, help="structures in a step, of both together")
    parser.add_argument("--folder", type=Path, help="of the run of two, which starts this again")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("plot_parity", "plot_learning_curve"):
        setattr(outputs, name, lambda *arguments, **settings: None)
    with tempfile.TemporaryDirectory() as name:
        folder = asked.folder or Path(name)
        if not asked.folder:
            with Reader(ETHANOL) as reader:
                write(folder / "set.h5", islice(cycle(list(reader.frames())), asked.frames + 32), card={})
            sys.argv += ["--folder", str(folder)]
        for n in (2,) if asked.folder else (1, 2):
            settings = {"data": folder / "set.h5", "run": folder / str(n), "epochs": asked.epochs}
            strategy = "ddp" if n > 1 else "auto"
            text = RECIPE.format(**settings, size=asked.batch // n, n=n, strategy=strategy)
            train(parse_recipe(Recipe, text, ()), callbacks=[Watch(folder / f"of{n}")])
        if os.environ.get("LOCAL_RANK", "0") == "0":
            alone, *each = (np.loadtxt(folder / name) for name in ("of1.0", "of2.0", "of2.1"))
            for k, what in enumerate(("thread that trains", "process")):
                of_two = [one[k] for one in each]
                print(
                    f"an epoch, {what}: {alone[k]:.2f} s alone, {of_two[0]:.2f} and {of_two[1]:.2f} s, "
                    f"{alone[k] / max(of_two):.2f}x"
                )


if __name__ == "__main__":
    main()
