"""Acetylacetone and ethanol at GFN2-xTB: `python data/make_acetylacetone.py [WORKERS]`.

acetylacetone.h5 holds 50 structures to train on, acetylacetone_test.h5 100 of other trajectories: the enol along
Langevin dynamics at 300, 450 and 600 K. Both have the atoms H, C and O beside them. runs/ethanol_gfn2.h5 has the
structures of ethanol.h5 with labels of the same method, so that a potential of ethanol can be a start for
acetylacetone: energies of two methods differ by more than the molecules do. Some five minutes on one core.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from ase.optimize import LBFGS
from tblite.ase import TBLite

from mlpot.data.h5md import Reader
from mlpot.data.label import label
from mlpot.dynamics.snapshots import snapshots

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs"
TEMPERATURES = (300, 450, 600)
TRAIN, TEST = 50, 100

# The enol drawn flat, hydroxyl hydrogen between the oxygen atoms; GFN2-xTB relaxes it. Å.
ENOL = Atoms(
    "C5O2H8",
    [
        (-2.50, 0.05, 0.00), (-1.22, -0.70, 0.00), (0.00, 0.00, 0.00), (1.22, -0.70, 0.00), (2.50, 0.05, 0.00),
        (-1.25, -1.98, 0.00), (1.25, -1.98, 0.00), (0.35, -2.35, 0.00), (0.00, 1.08, 0.00),
        (-2.30, 1.12, 0.00), (-3.08, -0.21, 0.88), (-3.08, -0.21, -0.88),
        (2.30, 1.12, 0.00), (3.08, -0.21, 0.88), (3.08, -0.21, -0.88),
    ],
)  # fmt: skip


def enol() -> Atoms:
    """Acetylacetone at its minimum."""
    atoms = ENOL.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    LBFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    return atoms


def trajectory(atoms: Atoms, temperature: int, seed: int, frames: int) -> list[Atoms]:
    """Snapshots of dynamics with GFN2-xTB."""
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    return snapshots(atoms, temperature_K=temperature, seed=seed, n_frames=frames)


def structures(n: int, first_seed: int) -> list[Atoms]:
    """About a third of n from each temperature, then the atoms."""
    parts = np.array_split(np.arange(n), len(TEMPERATURES))
    frames = []
    for k, (temperature, part) in enumerate(zip(TEMPERATURES, parts, strict=True)):
        frames += trajectory(enol(), temperature, first_seed + k, len(part))
    return frames + [Atoms(symbol, info={"group": "isolated"}) for symbol in "HCO"]


def relabel_ethanol() -> list[Atoms]:
    """The structures of ethanol.h5 without their labels."""
    with Reader(HERE / "ethanol.h5") as reader:
        return [Atoms(a.numbers, a.positions, info={"group": a.info["group"]}) for a in reader.frames()]


def make(name: str, frames: list[Atoms], title: str, folder: Path) -> None:
    """Label one set."""
    sampled = RUNS / f"{name}_structures.extxyz"
    write(sampled, frames)
    report = label(
        sampled,
        folder / f"{name}.h5",
        calculator="tblite",
        workers=int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        card={"title": title, "licence": "CC0-1.0", "remake": "python data/make_acetylacetone.py"},
        overwrite=True,
    )
    print(name, report)


if __name__ == "__main__":
    RUNS.mkdir(exist_ok=True)
    dynamics = "along GFN2-xTB dynamics at 300, 450 and 600 K, labeled by GFN2-xTB"
    make("acetylacetone", structures(TRAIN, 0), f"Acetylacetone (enol) {dynamics}", HERE)
    make("acetylacetone_test", structures(TEST, 100), f"Acetylacetone (enol) {dynamics}: test set", HERE)
    make("ethanol_gfn2", relabel_ethanol(), f"Ethanol {dynamics}", RUNS)
