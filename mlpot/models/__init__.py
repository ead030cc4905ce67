"""Backbones: pure functions of atomic numbers, edges and edge vectors that give atomic energies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from mlpot.models.ace import ACE
from mlpot.models.backbone import Backbone
from mlpot.models.deepsets import DeepSets
from mlpot.models.egnn import EGNN
from mlpot.models.layers import choose
from mlpot.models.mace import MACE
from mlpot.models.painn import PaiNN
from mlpot.models.schnet import SchNet

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "ace": ACE,
    "mace": MACE,
    "painn": PaiNN,
    "schnet": SchNet,
    "egnn": EGNN,
    "deepsets": DeepSets,
}
DEFAULT = "schnet"  # of a recipe that names none
LIMITS = {"cutoff": 100.0, "n_features": 4096, "n_radial": 1024, "n_knots": 8192, "n_neighbors": 1000.0}
MAX_ARGUMENT = 64  # of all others, such as the number of layers
"""What is larger is a slip of the pen, or a file made to fill the memory."""
MAY_BE_ZERO = {"message_degree"}


def build_backbone(name: str, *, elements: Sequence[int] = (), **arguments: object) -> Backbone:
    """The backbone called `name`, with the keyword arguments of its class.

    Args:
        name: in `BACKBONES`.
        elements: atomic numbers of the potential, for a class that has weights by element.
        arguments: of the class.

    Raises:
        ValueError: there is no such backbone, or an argument is absurd.
        TypeError: it has no such argument.
    """
    for key, value in arguments.items():
        limit = LIMITS.get(key, MAX_ARGUMENT)
        if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value <= limit:
            if key in MAY_BE_ZERO and value == 0:
                continue
            raise ValueError(f"{key} is {str(value)[:20]}, expected above 0 and at most {limit:g}. Correct it.")
    backbone: Callable[..., Backbone] = choose(BACKBONES, name, "backbone")
    if "elements" in inspect.signature(backbone).parameters:
        return backbone(elements=tuple(elements), **arguments)
    return backbone(**arguments)


def former_arguments(name: str, arguments: dict[str, object], format_version: int) -> dict[str, object]:
    """What the arguments in a model file of an older format are called and mean today."""
    if format_version == 1 and name == "schnet":  # filters were on edges unless the arguments said otherwise
        return {"n_knots": None, **arguments}
    return arguments
