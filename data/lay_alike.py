"""Ethanol of `ethanol.h5` with every molecule laid alike, as programs write that turn what they read.

    python data/lay_alike.py        # -> runs/data/ethanol_laid_alike.h5

Positions and forces of each frame are turned together, so that the heavy atoms C, C, O lie in one plane, C-C along
x. A network without built-in symmetry can learn nothing of rotations from such a set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from mlpot.data import h5md
from mlpot.data.sources.read import read_structures

HERE = Path(__file__).parent


def laid(atoms: Atoms) -> Atoms:
    """The frame with its first atom at the origin, the second along x, the third in the plane of x and y."""
    if len(atoms) < 3:
        return atoms
    a, b = atoms.positions[1] - atoms.positions[0], atoms.positions[2] - atoms.positions[0]
    x = a / np.linalg.norm(a)
    z = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
    turn = np.array([x, np.cross(z, x), z])
    forces = atoms.get_forces() @ turn.T
    atoms.positions = (atoms.positions - atoms.positions[0]) @ turn.T
    atoms.calc.results["forces"] = forces
    return atoms


def main() -> None:
    """Write the set."""
    frames = [laid(atoms) for atoms in read_structures(HERE / "ethanol.h5")]
    destination = Path("runs/data/ethanol_laid_alike.h5")
    destination.parent.mkdir(parents=True, exist_ok=True)
    h5md.write(destination, frames, card={"source": "ethanol.h5, molecules laid alike"}, overwrite=True)


if __name__ == "__main__":
    main()
