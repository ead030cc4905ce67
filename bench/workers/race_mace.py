"""mace-torch by its own command; the variant is the hidden irreps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mace.calculators import MACECalculator
from race import BATCH, CUTOFF, ENERGY, FORCES, Curve, references, serve

LATE = 0.75  # of the epochs, from where on energies count more


class MACE:
    """See `race.Racer`."""

    def train(self, variant: str, folder: Path, epochs: int, seed: int) -> Curve:
        options = {
            "name": "mace", "work_dir": folder, "seed": seed, "model": "MACE", "hidden_irreps": variant,
            "train_file": folder.parent / "train.xyz", "valid_file": folder.parent / "validation.xyz",
            "energy_key": ENERGY, "forces_key": FORCES, "E0s": references(folder), "r_max": CUTOFF,
            "batch_size": BATCH, "valid_batch_size": BATCH, "max_num_epochs": epochs, "device": "cpu",
            "default_dtype": "float32", "scaling": "rms_forces_scaling", "energy_weight": 1, "forces_weight": 100,
            "start_swa": max(1, round(LATE * epochs)), "swa_energy_weight": 100, "swa_forces_weight": 100,
            "ema_decay": 0.99, "scheduler_patience": max(1, epochs // 20), "patience": epochs,
            "eval_interval": max(1, epochs // 40), "lr": 0.01,
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("mace_run_train")), "--ema", "--swa", "--amsgrad"]
        command += [f"--{name}={value}" for name, value in options.items()]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder)
        (log,) = folder.glob("results/*_train.txt")
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        return [
            (row["epoch"] + 1, 1e3 * row["mae_f"])
            for row in rows
            if row["mode"] == "eval" and row.get("epoch") is not None
        ]

    def calculator(self, _variant: str, folder: Path) -> MACECalculator:
        late = folder / "mace_stagetwo.model"
        model = late if late.exists() else folder / "mace.model"
        return MACECalculator(model_paths=str(model), device="cpu", default_dtype="float32")


if __name__ == "__main__":
    serve(MACE())
