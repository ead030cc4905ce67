"""Are the settings that a comparison of networks takes valid, and is there one for each network?"""

from __future__ import annotations

import pytest

from mlpot.models import BACKBONES
from mlpot.models.presets import FIRST, PRESETS, Preset, preset_of
from mlpot.training.backbone_arguments import checked_arguments
from mlpot.training.recipe import OptimizerSection


def test_every_network_has_a_preset_and_another_name_the_defaults() -> None:
    assert set(FIRST) <= set(PRESETS) == set(BACKBONES)
    assert preset_of("schnt") == Preset({}, {})  # whoever makes the network says that there is none


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_of_arguments_that_its_network_takes(name: str) -> None:
    preset = PRESETS[name]
    assert checked_arguments(name, preset.arguments).items() >= preset.arguments.items()
    assert OptimizerSection(**preset.optimizer).learning_rate == preset.optimizer["learning_rate"]
