"""The networks that are lists of stages, by the names that recipes and model files give them."""

from __future__ import annotations

from mlpot.models.ace import ACE
from mlpot.models.egnn import EGNN
from mlpot.models.mace import MACE
from mlpot.models.nequip import NequIP
from mlpot.models.painn import PaiNN
from mlpot.models.schnet import SchNet
from mlpot.stages.network import StagedNetwork

NETWORKS: dict[str, type[StagedNetwork]] = {
    "ace": ACE,
    "mace": MACE,
    "nequip": NequIP,
    "painn": PaiNN,
    "schnet": SchNet,
    "egnn": EGNN,
}
