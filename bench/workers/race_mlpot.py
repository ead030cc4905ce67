"""mlpot by its own command; the variant is a backbone with the settings of its preset, or the path of a recipe."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from ase.data import chemical_symbols
from race import BATCH, CUTOFF, Curve, references, serve

from mlpot import MLPotCalculator
from mlpot.models.presets import preset_of

FEW = 4  # epochs, of which a last part cannot be told
METRIC = "validation/forces_mae_meV_per_A"
COMMAND = str(Path(sys.executable).with_name("mlpot"))
LOSS = {
    "energy": 10, "forces": 1, "function": "huber", "energy_threshold": 1.0, "forces_threshold": 0.05,
    "final_energy": 100,
}  # fmt: skip


class MLPot:
    """See `race.Racer`."""

    def train(self, variant: str, folder: Path, epochs: int, seed: int) -> Curve:
        sets = folder.parent
        for name in ("train", "validation"):
            if not (sets / f"{name}.h5").exists():
                keys = ["--key", "energy=REF_energy", "--key", "forces=REF_forces"]
                keys += ["--unit", "energy=eV", "--unit", "forces=eV/Angstrom"]
                _run("data", "convert", sets / f"{name}.xyz", sets / f"{name}.h5", *keys)
        own = {chemical_symbols[z]: energy for z, energy in references(folder).items()}
        overrides = {
            "data.train": sets / "train.h5",
            "data.validation": sets / "validation.h5",
            "data.test": "null",
            "data.reference_energies": json.dumps(own),
            "training.directory": folder / "run",
            "training.epochs": epochs,
            "training.seed": seed,
        }
        if epochs < FEW:
            overrides["loss.final_energy"] = "null"
        words = [f"{key}={value}" for key, value in overrides.items()]
        _run("train", _recipe(variant, folder), *words, "--overwrite")
        with next((folder / "run").rglob("metrics.csv")).open() as file:  # of a committee, one member's
            rows = [row for row in csv.DictReader(file) if row[METRIC]]
        return [(int(row["epoch"]) + 1, float(row[METRIC])) for row in rows]

    def calculator(self, _variant: str, folder: Path) -> MLPotCalculator:
        return MLPotCalculator(folder / "run/model.safetensors")


def _recipe(variant: str, folder: Path) -> Path:
    if Path(variant).suffix == ".yaml":
        return Path(variant)
    preset = preset_of(variant)
    recipe = {
        "data": {"train": "given by the race"},
        "model": {"backbone": variant, "arguments": {"cutoff": CUTOFF, **preset.arguments}},
        "loss": LOSS,
        "optimizer": preset.optimizer,
        "training": {"batch_size": BATCH},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return folder / "recipe.yaml"


def _run(*words: object) -> None:
    subprocess.run([COMMAND, *map(str, words)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    serve(MLPot())
