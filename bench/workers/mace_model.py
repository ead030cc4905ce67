"""The MACE that `serve_mace` and `serve_symmetrix` compute."""

from __future__ import annotations

import numpy as np
import torch
from e3nn import o3
from mace import modules
from protocol import CUTOFF

ELEMENTS = [1, 6, 8, 14]


def scale_shift_mace(variant: str) -> torch.nn.Module:
    """MACE of random weights; the variant is its hidden irreps."""
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(variant),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(ELEMENTS)),
        avg_num_neighbors=20.0,
        atomic_numbers=ELEMENTS,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
