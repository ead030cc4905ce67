"""The layout of mlpot's H5MD files.

/h5md                                     version 1.1, author, creator, modules/units
/particles/<boundary>/                    one group per number of atoms and boundary: atoms_9, atoms_8_ppp
    species, position, box/edges          each {step, time, value}; velocity, forces, force_mask where any
    mass, charge, fixed, fixed_center     likewise; fixed: coordinates that are held; fixed_center: that of mass is
/observables/<boundary>/energy, stress    stress in the Voigt order of ASE; also weight, of a frame in the loss
    total_charge, total_spin              as the source had them, where any; no potential of mlpot sees them
    energy_std; forces_std of particles   of predictions by a committee: standard deviations over its members
/parameters/mlpot/index                   (n_frames, 3): particles group, row in it, family of each frame
/parameters/mlpot/groups, families        the names behind the numbers of the index; `card` holds the card

Forces are an element named `forces` and not `force`: MDAnalysis refuses a file whose `force` is not in one of
the units it knows, and eV/Å is not among them. ZnH5MD reads both names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

VERSION = (1, 1)  # of H5MD
INDEX = "parameters/mlpot/index"
GROUPS = "parameters/mlpot/groups"
FAMILIES = "parameters/mlpot/families"
CARD = "parameters/mlpot/card"
NAME_LENGTH = 128  # bytes of a name of a group or family


@dataclass(frozen=True)
class Column:
    """One dataset of a particles group."""

    path: str  # "{}" stands for the name of the group
    tail: tuple[int, ...]  # shape of one frame; -1 is the number of atoms
    dtype: str
    fill: Any  # what a frame without this column holds
    quantity: str | None = None  # key of `unit.H5MD_UNITS`
    origin: str | None = None  # where ZnH5MD puts it

    def shape(self, n_atoms: int) -> tuple[int, ...]:
        """Shape of one frame of `n_atoms` atoms."""
        return tuple(n_atoms if size == -1 else size for size in self.tail)


NAN = float("nan")
COLUMNS = {
    "position": Column("particles/{}/position", (-1, 3), "f8", NAN, "positions", "atoms"),
    "species": Column("particles/{}/species", (-1,), "u1", 0, None, "atoms"),
    "edges": Column("particles/{}/box/edges", (3, 3), "f8", 0.0, "cell", "atoms"),
    "velocity": Column("particles/{}/velocity", (-1, 3), "f8", NAN, "velocities", "arrays"),
    "forces": Column("particles/{}/forces", (-1, 3), "f8", NAN, "forces", "calc"),
    "force_mask": Column("particles/{}/force_mask", (-1,), "?", True, None, "arrays"),
    "mass": Column("particles/{}/mass", (-1,), "f8", NAN, "masses", "arrays"),
    "charge": Column("particles/{}/charge", (-1,), "f8", NAN, "charges", "arrays"),
    "fixed": Column("particles/{}/fixed", (-1, 3), "?", False, None, "arrays"),
    "fixed_center": Column("particles/{}/fixed_center", (), "?", False, None, "info"),
    "forces_std": Column("particles/{}/forces_std", (-1, 3), "f8", NAN, "forces", "calc"),
    "energy": Column("observables/{}/energy", (), "f8", NAN, "energy", "calc"),
    "stress": Column("observables/{}/stress", (6,), "f8", NAN, "stress", "calc"),
    "energy_std": Column("observables/{}/energy_std", (), "f8", NAN, "energy", "calc"),
    "total_charge": Column("observables/{}/total_charge", (), "f8", NAN, None, "info"),
    "total_spin": Column("observables/{}/total_spin", (), "f8", NAN, None, "info"),
    "weight": Column("observables/{}/weight", (), "f8", NAN, None, "info"),
}


def group_name(n_atoms: int, pbc: np.ndarray) -> str:
    """The particles group of a frame: H5MD fixes the boundary for a group, MDAnalysis the number of atoms."""
    return f"atoms_{n_atoms}" + ("_" + "".join("np"[int(p)] for p in pbc) if any(pbc) else "")
