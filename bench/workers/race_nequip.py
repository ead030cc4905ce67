"""NequIP by its own command; the variant is L_FEATURES_LAYERS, as 2_32_4."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import ModelFromCheckpoint
from nequip.utils.global_state import set_global_state
from race import BATCH, CUTOFF, ENERGY, FORCES, Curve, references, serve

METRIC = "val0_epoch/forces_mae"


class NequIP:
    """See `race.Racer`."""

    def train(self, variant: str, folder: Path, epochs: int, seed: int) -> Curve:
        (folder / "race.yaml").write_text(json.dumps(_config(variant, folder, epochs, seed)))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("nequip-train")), f"-cp={folder}", "-cn=race"]
        environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
        subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, stdout=sys.stderr, env=environment)
        (log,) = folder.glob("log/**/metrics.csv")
        with log.open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(METRIC)]
        return [(int(row["epoch"]) + 1, 1e3 * float(row[METRIC])) for row in rows]

    def calculator(self, _variant: str, folder: Path) -> NequIPCalculator:
        set_global_state()
        model = ModelFromCheckpoint(str(folder / "best.ckpt"))["sole_model"]
        transforms = [ChemicalSpeciesToAtomTypeMapper(_symbols(folder)), NeighborListTransform(CUTOFF)]
        return NequIPCalculator(model.eval(), device="cpu", transforms=transforms)


def _symbols(folder: Path) -> list[str]:
    return [chemical_symbols[z] for z in sorted(references(folder))]


def _config(variant: str, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    errors = {
        "_target_": "nequip.train.EnergyForceMetrics",
        "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
    }
    return {
        "run": ["train"],
        "data": _data(folder, _symbols(folder), seed),
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": epochs,
            "check_val_every_n_epoch": max(1, epochs // 40),
            "enable_progress_bar": False,
            "logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(folder / "log")},
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "monitor": "val0_epoch/weighted_sum",
                    "dirpath": str(folder),
                    "filename": "best",
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.999,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": errors,
            "train_metrics": errors,
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01, "amsgrad": True},
            "lr_scheduler": {
                "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": epochs},
                "interval": "epoch",
            },
            "model": _model(variant, folder, seed),
        },
        "global_options": {"allow_tf32": False},
    }


def _model(variant: str, folder: Path, seed: int) -> dict[str, Any]:
    max_degree, n_features, n_layers = map(int, variant.split("_"))
    return {
        "_target_": "nequip.model.NequIPGNNModel",
        "seed": seed,
        "model_dtype": "float32",
        "type_names": _symbols(folder),
        "r_max": CUTOFF,
        "num_layers": n_layers,
        "l_max": max_degree,
        "num_features": n_features,
        "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
        "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
        "per_type_energy_shifts": {chemical_symbols[z]: e for z, e in references(folder).items()},
    }


def _data(folder: Path, symbols: list[str], seed: int) -> dict[str, Any]:
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": BATCH}
    return {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": seed,
        "train_file_path": str(folder.parent / "train.xyz"),
        "val_file_path": str(folder.parent / "validation.xyz"),
        "ase_args": {"format": "extxyz"},
        "include_keys": [ENERGY, FORCES],
        "key_mapping": {ENERGY: "total_energy", FORCES: "forces"},
        "transforms": [
            {
                "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                "model_type_names": symbols,
            },
            {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": CUTOFF},
        ],
        "train_dataloader": loader | {"shuffle": True},
        "val_dataloader": loader,
        "stats_manager": {
            "_target_": "nequip.data.CommonDataStatisticsManager",
            "dataloader_kwargs": {"batch_size": BATCH},
            "type_names": symbols,
        },
    }


if __name__ == "__main__":
    serve(NequIP())
