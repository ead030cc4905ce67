"""Ethanol at PBE/def2-SVP along GFN2-xTB dynamics at 300, 450 and 600 K: `python data/make_ethanol.py [WORKERS]`.

Twelve trajectories (3 temperatures x 2 conformers x 2 seeds) of 43 frames, 100 fs apart, and the atoms H, C, O.
Interrupted, it goes on where it was when called again. About 45 minutes on one core.
"""

import sys
from pathlib import Path

from ase import Atoms
from ase.build import molecule
from ase.io import write
from tblite.ase import TBLite

from mlpot.data.label import label
from mlpot.dynamics.snapshots import snapshots

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs"
TEMPERATURES = (300, 450, 600)
FRAMES = 43


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
    """Snapshots of dynamics with GFN2-xTB."""
    ethanol.calc = TBLite(method="GFN2-xTB", verbosity=0)
    return snapshots(ethanol, temperature_K=temperature, seed=seed, n_frames=FRAMES)


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
