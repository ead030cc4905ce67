"""What a script of LAMMPS may have that would be computed without the potential, or of other atoms than it names.

LAMMPS' own classes ask pair styles for energies and forces; a potential that a fix applies has no part in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from mlpot.engines.lammps_library import part, setting, styles

FIXES = {
    *("gcmc", "widom", "atom/swap", "mol/swap", "bond/swap", "neighbor/swap", "sgcmc", "hmc", "charge/regulation"),
    *("numdiff", "numdiff/virial", "alchemy", "adapt/fep"),
}
COMPUTES = {
    *("group/group", "born/matrix", "centroid/stress/atom", "pressure/cylinder", "pressure/alchemy", "hma"),
    "fep/ta",
    *("stress/mop", "stress/mop/profile", "stress/cartesian", "stress/cylinder", "stress/spherical"),
    *("pe/tally", "pe/mol/tally", "force/tally", "stress/tally", "heat/flux/tally", "heat/flux/virial/tally"),
}
"""Those that say that they are of pair styles (`pair`, `pair/local`, `fep`, `ti`) are not among them."""
HEAT = "heat/flux"
SAME_MASS, OTHER_MASS = 0.002, 0.2
"""Parts of a mass by which it may differ from that of an element, and from which on it is of another one."""


def check_styles(lmp: Any) -> None:
    """Raise ValueError if the script has a fix or a compute that asks pair styles, or is right for pairs alone.

    The flux of heat is Σ_i Σ_j r_ij (∂E_j/∂r_ji · v_i) (Fan et al., Phys. Rev. B 92, 094301, 2015). LAMMPS takes
    virials of atoms instead, which give the same where each energy is one of pairs.
    """
    for kind, refused, why in (
        ("fix", FIXES, "nothing that it accepts would be right"),
        ("compute", COMPUTES, "nothing that it tells would be right"),
    ):
        if wrong := sorted(set(styles(lmp, kind)) & refused):
            raise ValueError(
                f"{kind} {', '.join(wrong)} computes energies or forces by itself, of pair styles and without the "
                f"potential. Remove it: {why}."
            )
    if HEAT in styles(lmp, "compute"):
        raise ValueError(
            f"compute {HEAT} makes the flux of heat of the virials of atoms, which is right for potentials of "
            "pairs and wrong for this one, whose energies are of many atoms. Remove it; differences of "
            "temperature that `fix ehex` or `fix thermal/conductivity` keep up tell a conductivity without it."
        )


def check_settings(lmp: Any, fix: int, name: str) -> None:
    """Raise ValueError if the script wants only a part of the potential's numbers, or of the atoms that it needs.

    Args:
        lmp: the instance.
        fix: the address of the potential's fix.
        name: its ID.
    """
    one_cutoff = setting(part(lmp, "Comm"), "Comm", "mode") == 0
    all_ghosts = setting(part(lmp, "Comm"), "Comm", "group") == 0
    all_forces = setting(part(lmp, "Neighbor"), "Neighbor", "include") == 0
    for is_right, line, why in (
        (one_cutoff, "comm_modify mode multi", "keeps ghosts as far out as pairs of their types need, or less"),
        (all_ghosts, "comm_modify group", "keeps ghosts of one group alone, and the potential needs those of all"),
        (all_forces, "neigh_modify include", "clears the forces of one group alone, and those of others add up"),
        (setting(fix, "Fix", "energy"), f"fix_modify {name} energy no", "leaves the potential out of the energy"),
        (setting(fix, "Fix", "virial"), f"fix_modify {name} virial no", "leaves it out of the pressure"),
    ):
        if not is_right:
            raise ValueError(f"The script has `{line}`: LAMMPS then {why}. Remove this line.")


def check_masses(numbers: NDArray[np.int64], masses: NDArray[np.float64], elements: Sequence[int]) -> None:
    """Raise ValueError if a type has the mass of another element than the one that it stands for.

    Isotopes, and masses that are no element's, are left alone.

    Args:
        numbers: (n_types,) atomic numbers; 0 for types that the potential does not see.
        masses: (n_types,) u.
        elements: atomic numbers that the potential knows.
    """
    for kind, (z, mass) in enumerate(zip(numbers.tolist(), masses.tolist(), strict=True), 1):
        if z == 0 or abs(mass - atomic_masses[z]) <= OTHER_MASS * atomic_masses[z]:
            continue
        of = [
            chemical_symbols[e] for e in elements if abs(mass - atomic_masses[e]) <= SAME_MASS * atomic_masses[e]
        ]
        if of:
            raise ValueError(
                f"Type {kind} has mass {mass:.6g}, that of {of[0]}, and stands for {chemical_symbols[z]} in the "
                "potential's line. Write the elements in the order of the types, or correct the mass."
            )
