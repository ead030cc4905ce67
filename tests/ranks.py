"""What each of several processes has of a structure, and potentials for them."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from potentials import new_potential
from scipy.spatial import cKDTree
from structures import ELEMENTS, REFERENCES

from mlpot.engines.local_atoms import Box
from mlpot.potential import Potential
from mlpot.terms.core_repulsion import TrainingLimits

LIMITS = TrainingLimits({(8, 14): 1.7}, {8: 3.0, 14: 3.0})
SIZES = {"schnet": {"n_knots": 32}, "painn": {"n_interactions": 2}}


def potential_of(variant: str, *, nuclei: bool) -> Potential:
    if variant in ("painn", "ace"):
        torch.manual_seed(0)
        scale = dict.fromkeys(ELEMENTS, 0.8)
        arguments = {"cutoff": 4.0, **SIZES.get(variant, {})}
        potential = Potential(
            variant, arguments, reference_energies=REFERENCES, energy_scale=scale, repulsion=nuclei
        ).double()
    else:
        potential = new_potential(variant, repulsion=nuclei, **SIZES.get(variant, {}))
    potential.freeze()
    if nuclei:
        potential.add_core_repulsion(LIMITS)
    return potential


def of_process(
    atoms: Atoms, own: NDArray[np.bool_], reach: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Positions and indices of own atoms and then of all images within reach of them; how many are own."""
    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = (atoms.positions[None] + (cells @ atoms.cell.array)[:, None]).reshape(-1, 3)
    index, home = np.tile(np.arange(len(atoms)), len(cells)), np.repeat((cells == 0).all(1), len(atoms))
    mine = home & own[index]
    near = cKDTree(positions[mine]).query(positions)[0] < reach
    taken = np.concatenate([np.flatnonzero(mine), np.flatnonzero(near & ~mine)])
    return positions[taken], index[taken], int(mine.sum())


def box_of(atoms: Atoms) -> Box:
    return Box(np.zeros(3), atoms.cell.array, atoms.pbc)
