"""Bounds that stop a run in LAMMPS, checked by each rank for its own atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpot.engines.local_atoms import LocalGraph

Floats = NDArray[np.float64]


@dataclass
class LocalGuards:
    """What stops a run; None turns a guard off."""

    max_force: float | None = 100.0  # eV/Å

    def reason(self, local: LocalGraph, energy: float, forces: Floats) -> str | None:
        """Why all ranks must stop, None if nothing is wrong."""
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            return "The energy or a force is not finite: atoms may be far closer than any in training."
        return None
