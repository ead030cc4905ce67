"""Is a unit the same in every spelling that people type, and refused where two units have it?"""

from __future__ import annotations

import pytest

from mlpot.data.errors import UnitsError
from mlpot.data.unit_names import factor
from mlpot.units import BOHR, GPA, HARTREE, KBAR, KCAL_MOL, KJ_MOL

SPELLED = {
    ("stress", GPA): ["GPa", "Gpa", "GPA", "gpa", "gigapascal", "gigapascals"],
    ("stress", GPA / 1e3): ["MPa", "megapascal"],
    ("stress", GPA / 1e6): ["kPa", "KPA"],
    ("stress", GPA / 1e9): ["Pa", "pascal", "Pascals", "PA"],
    ("stress", 1.01325e-4 * GPA): ["atm", "ATM", "atmosphere"],
    ("stress", KBAR): ["kbar", "KBAR", "kB", "Kbar"],
    ("stress", HARTREE / BOHR**3): ["au", "a.u.", "Atomic units", "Ha/bohr^3", "HARTREE/BOHR**3", "Eh/a0^3"],
    ("forces", HARTREE / BOHR): ["au", "a.u.", "hartree/bohr", "Eh/a0", "Ha/a_0", "Eh/Bohr radius"],
    ("forces", HARTREE / BOHR / 1e3): ["mHa/bohr", "mEh/a0", "millihartree/bohr"],
    ("forces", KJ_MOL / 10): ["kJ/mol/nm", "kJ/mol-nm", "KJ/MOL/NM", "kJ mol^{-1} nm^{-1}", "kJ/(mol nm)"],
    ("forces", KCAL_MOL): ["kcal/mol-A", "KCAL/MOL/ANGSTROM", "Kcal/mol/AA", "kcal mol⁻¹ Å⁻¹"],
    ("energy", HARTREE): ["HARTREE", "ha", "HA", "a.u.", "au", "EH"],
    ("energy", KJ_MOL): ["KJ/mol", "kj/mol", "KJ/MOL"],
    ("positions", BOHR): ["a0", "a_0", "bohr_radius", "BOHR", "au", "atomic units"],
    ("cell", BOHR): ["a.u.", "A0"],
    ("positions", 1.0): ["angs", "AA", "ANGSTROM", "ångström", "angström"],
}  # fmt: skip


@pytest.mark.parametrize(("quantity", "value"), SPELLED)
def test_a_unit_is_the_same_in_every_spelling(quantity: str, value: float) -> None:
    for name in SPELLED[quantity, value]:
        assert factor(quantity, name) == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("name", ["MEV", "MeV", "mPA", "mPa", "MHA", "Mbar", "a", "K"])
def test_a_spelling_of_two_units_is_refused(name: str) -> None:
    with pytest.raises(UnitsError, match="Unknown unit"):
        factor("stress" if name.endswith(("A", "a", "r")) else "energy", name)


@pytest.mark.parametrize(
    ("quantity", "name", "told"),
    [
        ("energy", "kcal", "write kcal/mol"),
        ("energy", "eV/atom", r"of each atom.*n_atoms"),
        ("energy", "kcal/mol/atoms", r"of each atom.*n_atoms"),
        ("stress", "MPa/", "ends with a slash"),
        ("velocities", "au", "Unknown unit"),
    ],
)
def test_what_is_no_unit_is_refused_with_what_to_write(quantity: str, name: str, told: str) -> None:
    with pytest.raises(UnitsError, match=told):
        factor(quantity, name)
