"""Backbones: pure functions of atomic numbers, edges and edge vectors that give atomic energies."""

from __future__ import annotations

from torch import nn

from mlpot.models.deepsets import DeepSets
from mlpot.models.egnn import EGNN
from mlpot.models.layers import choose
from mlpot.models.schnet import SchNet

BACKBONES: dict[str, type[nn.Module]] = {"schnet": SchNet, "egnn": EGNN, "deepsets": DeepSets}


def build_backbone(name: str, **arguments: object) -> nn.Module:
    """The backbone called `name`, with the keyword arguments of its class.

    Raises:
        ValueError: there is no such backbone.
        TypeError: it has no such argument.
    """
    return choose(BACKBONES, name, "backbone")(**arguments)
