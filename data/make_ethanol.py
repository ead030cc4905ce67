"""Ethanol at PBE/def2-SVP along GFN2-xTB dynamics at 300, 450 and 600 K: `python data/make_ethanol.py [WORKERS]`.

Twelve trajectories (3 temperatures x 2 conformers x 2 seeds) of 43 frames, 100 fs apart, and the atoms H, C, O.
Interrupted, it goes on where it was when called again. About 45 minutes on one core.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from tblite.ase import TBLite

from mlpot.data.label import label

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs"
TEMPERATURES = (300, 450, 600)
SPACING, FRAMES, EQUILIBRATION = 200, 43, 2000  # steps of 0.5 fs


def conformer(name: str) -> Atoms:
    """Ethanol with its hydroxyl group trans or gauche to the methyl group."""
    ethanol = molecule("CH3CH2OH")
    carbons = [a.index for a in ethanol if a.symbol == "C"]
    oxygen = next(a.index for a in ethanol if a.symbol == "O")
    methylene, methyl = sorted(carbons, key=lambda c: ethanol.get_distance(c, oxygen))
    hydrogens = [a.index for a in ethanol if a.symbol == "H"]
    hydroxyl = min(hydrogens, key=lambda h: ethanol.get_distance(h, oxygen))
    angle = {"trans": 180, "gauche": 60}[name]
    ethanol.set_dihedral(methyl, methylene, oxygen, hydroxyl, angle, indices=[hydroxyl])
    return ethanol


def trajectory(ethanol: Atoms, temperature: int, seed: int) -> list[Atoms]:
    """Snapshots of Langevin dynamics, centered on the origin."""
    rng = np.random.default_rng(seed)
    ethanol.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(ethanol, temperature, rng=rng)
    dynamics = Langevin(
        ethanol, 0.5 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, fixcm=False, rng=rng
    )
    dynamics.run(EQUILIBRATION)
    snapshots = []
    for _ in range(FRAMES):
        dynamics.run(SPACING)
        positions = ethanol.positions - ethanol.get_center_of_mass()
        snapshots.append(Atoms(ethanol.numbers, positions, info={"group": f"{temperature}K"}))
    return snapshots


def structures() -> list[Atoms]:
    """All trajectories, then the isolated atoms."""
    frames = []
    for seed, temperature in enumerate(t for t in TEMPERATURES for _ in range(2)):
        for name in ("trans", "gauche"):
            frames += trajectory(conformer(name), temperature, 2 * seed + (name == "gauche"))
    return frames + [Atoms(symbol, info={"group": "isolated"}) for symbol in "HCO"]


if __name__ == "__main__":
    sampled = RUNS / "ethanol_structures.extxyz"
    if not sampled.exists():
        RUNS.mkdir(exist_ok=True)
        write(sampled, structures())
    report = label(
        sampled,
        HERE / "ethanol.h5",
        calculator="pyscf",
        settings={"functional": "PBE", "basis": "def2-SVP", "grid_level": 2},
        workers=int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        card={
            "title": "Ethanol along GFN2-xTB dynamics at 300, 450 and 600 K, labeled by PBE/def2-SVP",
            "licence": "CC0-1.0",
            "remake": "python data/make_ethanol.py",
            "groups": "300K, 450K, 600K (172 frames each), isolated (H, C, O)",
        },
        progress=lambda done, total: print(f"{done}/{total}", end="\r", flush=True),
    )
    print(report)
