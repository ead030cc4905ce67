"""Sizes and optimizers with which each network stood well in trainings, where a user names no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A network with the settings of its training."""

    arguments: dict[str, Any]  # of the backbone
    optimizer: dict[str, Any]  # section of a recipe


_ADAMW = {"name": "adamw", "learning_rate": 2e-3}
_SLOWER = {"name": "adamw", "learning_rate": 1e-3}
_MUON = {"name": "muon", "learning_rate": 0.01, "final_fraction": 1e-3}

PRESETS = {
    "deepsets": Preset({"n_features": 128, "n_radial": 50}, _SLOWER),
    "schnet": Preset({"n_features": 64, "n_interactions": 5, "radial": "bessel", "n_radial": 8}, _ADAMW),
    "egnn": Preset({"n_features": 64, "n_layers": 4, "n_radial": 32}, _SLOWER),
    "painn": Preset({"n_features": 64, "n_interactions": 3, "n_radial": 20}, _ADAMW),
    "ace": Preset({"preset": "default", "message_degree": 1}, _MUON),
    "nequip": Preset(
        {"n_features": 32, "max_degree": 2, "n_interactions": 4, "radial_layers": [], "n_knots": 128}, _MUON
    ),
    "mace": Preset(
        {"n_features": 64, "max_degree": 3, "message_degree": 1, "correlation": 3, "n_knots": 128}, _MUON
    ),
}
"""By backbone; of one that is not here, nobody has tried any, and defaults stand."""

FIRST = ("schnet", "painn", "ace")
"""Backbones to begin a comparison with: distances, vectors, tensors."""


def preset_of(backbone: str) -> Preset:
    """That of a backbone, or one that leaves all to defaults."""
    return PRESETS.get(backbone, Preset({}, {}))
