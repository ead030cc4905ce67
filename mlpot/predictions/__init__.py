"""Energies, forces and stresses of many structures, computed in batches."""

from mlpot.predictions.batches import NotFiniteError
from mlpot.predictions.files import (
    Progress,
    ase_results,
    check_arguments,
    labeled,
    predict_file,
    predict_structures,
)

__all__ = [
    "NotFiniteError",
    "Progress",
    "ase_results",
    "check_arguments",
    "labeled",
    "predict_file",
    "predict_structures",
]
