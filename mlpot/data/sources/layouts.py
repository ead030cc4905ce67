"""Where public data sets keep their arrays, and in which units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """Under which names, and in which units, a data set keeps its arrays."""

    keys: Mapping[str, str]  # a leading minus turns a gradient into a force
    units: Mapping[str, str] = field(default_factory=dict)  # by quantity
    family: str | None = None  # dataset or "/" for the name of the HDF5 group
    nan_is_missing: bool = False  # the authors write NaN for what was not calculated
    name: str = ""  # where it was recognized by the names in a file, and not given
    group: str = ""  # a part of the names of its groups, where the names of its arrays are anybody's
    periodic: bool = False  # a cell is that of a structure periodic in three directions, with vectors in columns


EV = {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}
LAYOUTS = {
    # A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)
    "rmd17": Layout(
        {"numbers": "nuclear_charges", "positions": "coords", "energy": "energies", "forces": "forces"},
        {"positions": "Angstrom", "energy": "kcal/mol", "forces": "kcal/mol/Angstrom"},
    ),
    # S. Chmiela et al., Sci. Adv. 3, e1603015 (2017); the units stand in the file as r_unit and e_unit
    "sgdml": Layout(
        {"numbers": "z", "positions": "R", "energy": "E", "forces": "F", "cell": "lattice"}, periodic=True
    ),
    # J. S. Smith et al., Sci. Data 7, 134 (2020)
    "ani1x": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "coordinates",
            "energy": "wb97x_dz.energy",
            "forces": "wb97x_dz.forces",
        },
        {"positions": "Angstrom", "energy": "hartree", "forces": "hartree/Angstrom"},
        family="/",
        nan_is_missing=True,
    ),
    # P. Eastman et al., Sci. Data 10, 11 (2023); dft_total_gradient is +dE/dr
    "spice": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "conformations",
            "energy": "dft_total_energy",
            "forces": "-dft_total_gradient",
        },
        {"positions": "bohr", "energy": "hartree", "forces": "hartree/bohr"},
        family="subset",
    ),
    # I. Batatia et al., MACE: one group per frame in groups config_batch_*; labels of newer files in properties/
    "mace": Layout(
        {
            "numbers": "atomic_numbers",
            "positions": "positions",
            "energy": "energy",
            "forces": "forces",
            "stress": "stress",
            "virial": "virials",
            "cell": "cell",
            "pbc": "pbc",
        },
        EV,
        family="config_type",
        group="config_",
    ),
    # J. Hoja et al., QM7-X, Sci. Data 8, 43 (2021): one group per conformation
    "qm7x": Layout(
        {"numbers": "atNUM", "positions": "atXYZ", "energy": "ePBE0+MBD", "forces": "totFOR"},
        {"positions": "Angstrom", "energy": "eV", "forces": "eV/Angstrom"},
    ),
    # D. Anstine, R. Zubatyuk, O. Isayev, AIMNet2: one group per number of atoms
    "aimnet2": Layout({"numbers": "numbers", "positions": "coord", "energy": "energy", "forces": "forces"}, EV),
}
