"""Units and signs: the law of the house, tested sentence by sentence in `tests/test_conventions.py`.

Length Å, energy eV, force eV/Å, stress eV/Å³, mass u, time fs at the doors, temperature K.
Cell vectors are the ROWS of `cell` (as in ASE).
Edge e goes from its center i to its neighbor j:  r_e = r_j + S_e · cell − r_i.
Force F_i = −∂E/∂r_i.  Stress σ = +(1/V) ∂E/∂ε: positive when the crystal is stretched.
Voigt order xx, yy, zz, yz, xz, xy, and only at the ASE door.
An answer that does not exist (a stress without volume, a missing label) is NaN, never zero.

Nothing inside the house converts: files and foreign packages are converted at their door, with the
factors below (CODATA 2018; value of one named unit in the house unit).
"""

HARTREE = 27.211386245988  # eV
RYDBERG = HARTREE / 2  # eV
BOHR = 0.529177210903  # Å
KCAL_MOL = 0.043364104241800934  # eV
KJ_MOL = 0.010364269656262175  # eV
GPA = 0.006241509074460763  # eV/Å³
KBAR = GPA / 10  # eV/Å³
BAR = GPA / 1e4  # eV/Å³

LENGTH = {"angstrom": 1.0, "bohr": BOHR, "nm": 10.0, "pm": 0.01}
ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": HARTREE,
    "rydberg": RYDBERG,
    "kcal/mol": KCAL_MOL,
    "kJ/mol": KJ_MOL,
}
PRESSURE = {"eV/angstrom^3": 1.0, "GPa": GPA, "kbar": KBAR, "bar": BAR, "hartree/bohr^3": HARTREE / BOHR**3}
FORCE = {f"{e}/{x}": ENERGY[e] * LENGTH[x] ** -1 for e in ENERGY for x in LENGTH}
TIME = {"fs": 1.0, "ps": 1e3}  # fs

HOUSE_UNITS = {
    "positions": "angstrom",
    "cell": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3",
}
"""The unit in which each quantity is held in memory and in our files."""
