"""What every race file does: train in the environment of its package, and judge what was trained.

    python race_<package>.py train VARIANT FOLDER EPOCHS SEED THREADS     from FOLDER/../{train,validation}.xyz
    python race_<package>.py judge VARIANT FOLDER STRUCTURES THREADS      writes FOLDER/predictions.npz

Structures have energies (eV) and forces (eV/Å) as `REF_energy` and `REF_forces`, and FOLDER/../references.json
has the energy of each element alone. `train` prints the learning curve as its last line: epochs and the error of
the validation structures as the package itself tells it, of forces, meV/Å.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from ase.io import read

CUTOFF, BATCH = 5.0, 5
ENERGY, FORCES = "REF_energy", "REF_forces"
Curve = list[tuple[int, float]]


class Racer(Protocol):
    """What a race file supplies."""

    def train(self, variant: str, folder: Path, epochs: int, seed: int) -> Curve:
        """Train for that many epochs, all of its schedule and its late stage within them."""

    def calculator(self, variant: str, folder: Path) -> Calculator:
        """Of the weights that the package itself would give to a user, in float32."""


def references(folder: Path) -> dict[int, float]:
    """Energies of isolated atoms, eV, by atomic number."""
    return {int(z): energy for z, energy in json.loads((folder.parent / "references.json").read_text()).items()}


def serve(racer: Racer) -> None:
    """Do what the command line says."""
    do, variant, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve()
    torch.set_num_threads(int(sys.argv[-1]))
    if do == "train":
        curve = racer.train(variant, folder, epochs=int(sys.argv[4]), seed=int(sys.argv[5]))
        print(json.dumps({"curve": curve}), flush=True)
        return
    calculator = racer.calculator(variant, folder)
    energies, forces = [], []
    for atoms in read(sys.argv[4], ":"):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    np.savez(folder / "predictions.npz", energies=np.array(energies), forces=np.concatenate(forces))
