"""Small training sets with an exact answer: ASE's effective-medium theory on copper and its alloys."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from structures import shaken

from mlpot.data import h5md
from mlpot.recipes import parse_recipe
from mlpot.training.recipe import Recipe

SMALL = """
data: {{train: {train}, validation: 4, workers: 0}}
model: {{backbone: {backbone}, arguments: {{cutoff: 4.0, n_features: 8, n_radial: 6}}}}
optimizer: {{learning_rate: 0.005, warmup_steps: 2}}
training: {{directory: {directory}, epochs: 3, batch_size: 3, progress: false}}
"""


def labeled(atoms: Atoms, *names: str) -> Atoms:
    """A copy with the named labels ("energy", "forces", "stress"; all by default) by EMT."""
    copy, atoms = atoms.copy(), atoms.copy()
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    labels: dict[str, Any] = {"energy": energy, "forces": forces}
    if atoms.pbc.all():
        labels["stress"] = atoms.get_stress()
    copy.calc = SinglePointCalculator(copy, **{k: v for k, v in labels.items() if not names or k in names})
    return copy


def crystals(n: int = 16, *names: str) -> list[Atoms]:
    """Strained, rattled cells of 2 to 4 atoms of copper and gold, all different, with labels."""
    frames = []
    for seed in range(n):
        atoms = _crystal(seed).copy()
        labels = {k: v for k, v in _crystal(seed).calc.results.items() if not names or k in names}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return frames


@cache
def _crystal(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.7) * (1, 1, 2 + seed % 3)
    atoms.symbols[seed % len(atoms)] = "Au"
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
    return labeled(shaken(atoms, seed=seed))


def free_atoms() -> list[Atoms]:
    """The free atoms of the crystals' elements; EMT sets their energies by its own zero."""
    return [labeled(Atoms(symbol), "energy") for symbol in ("Cu", "Au")]


def write(path: Path, frames: list[Atoms]) -> Path:
    """A set on disk."""
    h5md.write(path, frames, card={"level of theory": "EMT"}, overwrite=True)
    return path


def small_recipe(train: Path, directory: Path, *overrides: str, backbone: str = "deepsets") -> Recipe:
    """A recipe that takes a second."""
    text = SMALL.format(train=train, directory=directory, backbone=backbone)
    return parse_recipe(Recipe, text, overrides)
