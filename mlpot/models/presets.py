"""Sizes, losses and optimizers with which networks stood well in trainings, where a user names no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A network with the settings of its training."""

    arguments: dict[str, Any]  # of the backbone
    optimizer: dict[str, Any]  # section of a recipe


_MUON = {"name": "muon", "learning_rate": 0.01, "final_fraction": 1e-3}
_SLOWER = {**_MUON, "learning_rate": 3e-3}

PRESETS = {
    "deepsets": Preset({"n_features": 128, "radial": "bessel", "n_radial": 8}, _MUON),
    "schnet": Preset({"n_features": 64, "n_interactions": 5, "radial": "bessel", "n_radial": 8}, _MUON),
    "egnn": Preset({"n_features": 64, "n_layers": 4, "radial": "bessel", "n_radial": 8}, _SLOWER),
    "painn": Preset({"n_features": 64, "n_interactions": 3, "n_radial": 8}, _MUON),
    "transformer": Preset({}, _MUON),
    "se3_transformer": Preset({}, _MUON),
    "ace": Preset({"preset": "default", "message_degree": 1}, _MUON),
    "nequip": Preset(
        {"n_features": 32, "max_degree": 2, "n_interactions": 4, "radial_layers": [], "n_knots": 128}, _MUON
    ),
    "mace": Preset(
        {"n_features": 64, "max_degree": 3, "message_degree": 1, "correlation": 3, "n_knots": 128}, _MUON
    ),
}
"""By backbone, with few radial functions: with 20, PaiNN errs by half as much again as with 8, and falls into
holes where atoms are a tenth nearer than in training."""

LOSS: dict[str, Any] = {
    "energy": 10.0,
    "forces": 1.0,
    "stress": 100.0,
    "function": "huber",
    "energy_threshold": 1.0,
    "forces_threshold": 0.05,
    "stress_threshold": 0.1,
}
"""Of molecules and crystals alike: with equal weights errors of energies, some meV/atom, would count for nothing
beside those of forces, some 10 meV/Å, and so would those of stresses."""
FIRST = ("schnet", "painn", "ace")
"""Backbones to begin a comparison with: distances, vectors, tensors."""


def preset_of(backbone: str) -> Preset:
    """That of a backbone; of what is none, one that leaves all to defaults."""
    return PRESETS.get(backbone, Preset({}, {}))
