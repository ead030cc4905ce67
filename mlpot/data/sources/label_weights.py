"""Weights of single labels in a file, as MACE and janus write them: of 0 where a label is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlpot.data.errors import LabelError

LABEL_WEIGHT = re.compile(r"(?:.*_)?(energy|forces?|stress|virials?)_weights?", re.IGNORECASE)
"""Names of the weight of one label: energy_weight, config_forces_weight, ..."""
NOT_USED = (
    "{} not used, as all labels of a frame have one weight; --key weight={} takes these numbers as that, and a "
    "recipe's loss weighs energy, forces and stress"
)
NOT_THERE = "{} left out, as {} is 0"


def label_weights(where: str, pool: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """By name of a weight: its label ("energy", "forces", "stress", "virial"), and whether it is 0 or 1.

    Args:
        where: names file and frame in errors.
        pool: everything that a structure carries, by name.

    Raises:
        LabelError: a weight is not a finite number of at least 0.
    """
    found = {}
    for name, value in pool.items():
        match = LABEL_WEIGHT.fullmatch(name)
        if match is None or value is None:
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "iufb" or not (np.isfinite(array) & (array >= 0)).all():
            raise LabelError(f"{where}: {name} is {value!r}, expected a finite number of at least 0. Correct it.")
        label = match[1].lower()
        found[name] = {"force": "forces", "virials": "virial"}.get(label, label), bool((array == 1).all())
    return found


def has_no_weight(value: Any) -> bool:
    """Whether a weight says that its label is not there."""
    return bool(np.size(value)) and not np.asarray(value).any()
