"""Silicon at PBE with stress, 8 to 16 atoms: `python data/make_silicon.py [WORKERS]`.

Diamond and lonsdaleite, strained and rattled, vacancies, and the isolated atom.
About 35 minutes on one core; interrupted, it goes on where it was when called again.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import write

from mlpot.data.label import label

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs"
RNG = np.random.default_rng(2026)
DIAMOND = bulk("Si", a=5.469, cubic=True)
DOUBLE = DIAMOND * (1, 1, 2)
LONSDALEITE = make_supercell(bulk("ZnS", "wurtzite", a=3.85, c=6.36), [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
LONSDALEITE.symbols = "Si8"


def strained(crystal: Atoms, group: str, strain: np.ndarray) -> Atoms:
    """The crystal with r -> r (1 + strain), a symmetric 3x3 matrix."""
    frame = crystal.copy()
    frame.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    frame.info["group"] = group
    return frame


def swollen(crystal: Atoms, group: str, volume: float) -> Atoms:
    """The crystal with its volume multiplied by 1 + volume."""
    return strained(crystal, group, np.eye(3) * (np.cbrt(1 + volume) - 1))


def rattled(crystal: Atoms, group: str, largest: float) -> Atoms:
    """Gaussian displacements of 0.02 Å to `largest`, volume within 6 %; no pair closer than 1.8 Å."""
    while True:
        frame = swollen(crystal, group, RNG.uniform(-0.06, 0.06))
        frame.positions += RNG.normal(scale=RNG.uniform(0.02, largest), size=(len(frame), 3))
        if frame.get_all_distances(mic=True)[np.triu_indices(len(frame), 1)].min() > 1.8:
            return frame


def vacancy() -> Atoms:
    """Fifteen atoms on the sites of sixteen, rattled."""
    frame = rattled(DOUBLE, "vacancy", 0.15)
    del frame[RNG.integers(16)]
    return frame


def strains() -> list[np.ndarray]:
    """Along z, orthorhombic, simple shear, and eight of no symmetry."""
    z, xy = np.diag([0, 0, 1]), np.diag([1, -1, 0])
    yz = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    along = [e * z for e in (-0.08, -0.06, -0.04, -0.02, 0.02, 0.04, 0.06, 0.08)]
    across = [e * xy for e in (0.015, 0.03, 0.045, 0.06)]
    shear = [e * yz for e in (0.01, 0.02, 0.03, 0.04, 0.05)]
    free = RNG.uniform(-0.05, 0.05, (8, 3, 3))
    return along + across + shear + list((free + free.transpose(0, 2, 1)) / 2)


def structures() -> list[Atoms]:
    """All frames, the isolated atom last."""
    return [
        *(swollen(DIAMOND, "strain", v) for v in np.linspace(-0.1, 0.1, 13)),
        *(strained(DIAMOND, "strain", s) for s in strains()),
        *(rattled(DIAMOND, "rattle", 0.3) for _ in range(44)),
        *(swollen(LONSDALEITE, "lonsdaleite", v) for v in np.linspace(-0.1, 0.1, 8)),
        *(strained(LONSDALEITE, "lonsdaleite", np.diag([0, 0, e])) for e in np.linspace(-0.06, 0.06, 7)),
        *(rattled(LONSDALEITE, "lonsdaleite", 0.1) for _ in range(11)),
        *(rattled(DOUBLE, "rattle", 0.2) for _ in range(5)),
        *(vacancy() for _ in range(7)),
        Atoms("Si", info={"group": "isolated"}),
    ]


if __name__ == "__main__":
    built = RUNS / "silicon_structures.extxyz"
    RUNS.mkdir(exist_ok=True)
    write(built, structures())
    report = label(
        built,
        HERE / "silicon.h5",
        calculator="gpaw",
        settings={"functional": "PBE", "cutoff": 300, "kpoint_density": 2.75, "smearing": 0.05},
        workers=int(sys.argv[1]) if len(sys.argv) > 1 else 1,
        card={
            "title": "Silicon, strained, rattled and with vacancies, in two crystal structures, labeled by PBE",
            "licence": "CC0-1.0",
            "remake": "python data/make_silicon.py",
            "groups": "strain, rattle, lonsdaleite, vacancy, isolated",
        },
        progress=lambda done, total: print(f"{done}/{total}", end="\r", flush=True),
    )
    print(report)
