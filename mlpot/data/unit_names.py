"""Unit names as files write them ("kcal mol-1 Angstrom-1", "eV/Angstrom^3"), turned into house units."""

from __future__ import annotations

import re

from mlpot.data.errors import UnitsError
from mlpot.units import ENERGY, GPA, HARTREE, LENGTH, PRESSURE, TIME

# Dimension of a quantity in powers of (length, energy, time); amounts of substance must cancel.
DIMENSION = {
    "positions": (1, 0, 0, 0),
    "cell": (1, 0, 0, 0),
    "energy": (0, 1, 0, 0),
    "forces": (-1, 1, 0, 0),
    "stress": (-3, 1, 0, 0),
    "velocities": (1, 0, -1, 0),
    "time": (0, 0, 1, 0),
}
H5MD_UNITS = {
    "positions": "Angstrom",
    "cell": "Angstrom",
    "energy": "eV",
    "forces": "eV Angstrom-1",
    "stress": "eV Angstrom-3",
    "velocities": "Angstrom fs-1",
    "time": "fs",
    "masses": "u",
    "charges": "e",
}
"""The house units in the notation of H5MD's units module, as our files carry them."""

SINGLE = {
    "masses": {
        "u": 1.0,
        "amu": 1.0,
        "Da": 1.0,
        "dalton": 1.0,
        "g mol-1": 1.0,
        "g/mol": 1.0,
        "me": 5.48579909065e-4,
    },
    "charges": {"e": 1.0, "|e|": 1.0, "elementary_charge": 1.0},
}
"""Units of what is not made of lengths, energies and times; CODATA 2018."""

_SYMBOLS: dict[str, tuple[float, tuple[int, int, int, int]]] = {
    **{name: (factor, (1, 0, 0, 0)) for name, factor in LENGTH.items()},
    **{name: (factor, (0, 1, 0, 0)) for name, factor in ENERGY.items() if "/" not in name},
    **{name.split("/")[0]: (factor, (0, 1, 0, 1)) for name, factor in ENERGY.items() if "/mol" in name},
    **{name: (factor, (-3, 1, 0, 0)) for name, factor in PRESSURE.items() if "/" not in name},
    **{name: (factor, (0, 0, 1, 0)) for name, factor in TIME.items()},
    **{name: (GPA * factor, (-3, 1, 0, 0)) for name, factor in {"Pa": 1e-9, "kPa": 1e-6, "MPa": 1e-3}.items()},
    "atm": (GPA * 1.01325e-4, (-3, 1, 0, 0)),
    "mHa": (HARTREE / 1e3, (0, 1, 0, 0)),
    "mol": (1.0, (0, 0, 0, 1)),
}
_ALIASES = {
    "Angstrom": "angstrom", "Ang": "angstrom", "ang": "angstrom", "A": "angstrom", "Å": "angstrom",
    "Ångström": "angstrom", "ångström": "angstrom", "Bohr": "bohr", "nanometer": "nm", "nanometre": "nm",
    "picometer": "pm", "picometre": "pm",
    "Hartree": "hartree", "Ha": "hartree", "Eh": "hartree", "Rydberg": "rydberg", "Ry": "rydberg", "ev": "eV",
    "EV": "eV", "electronvolt": "eV", "kilojoule": "kJ", "kj": "kJ", "kilocalorie": "kcal", "mole": "mol",
    "kB": "kbar", "angs": "angstrom", "AA": "angstrom", "angström": "angstrom", "mhartree": "mHa", "mEh": "mHa",
    "millihartree": "mHa", "pascal": "Pa", "megapascal": "MPa", "gigapascal": "GPa", "atmosphere": "atm",
    "femtosecond": "fs", "picosecond": "ps",
}  # fmt: skip
"""Other spellings; each also with an s at its end, if it is a word."""
ATOMIC = {
    "energy": "hartree",
    "positions": "bohr",
    "cell": "bohr",
    "forces": "hartree/bohr",
    "stress": "hartree/bohr^3",
}
"""What atomic units are, by quantity."""
ATOMIC_NAMES = ("au", "a.u.", "a.u", "atomic units", "atomic_units", "atomic")
RAISED = str.maketrans("⁻¹²³", "-123", "{}")
_IN_ANY_CASE = {
    name.lower(): name for name in (*_SYMBOLS, *_ALIASES) if len(name) > 1 and not name.startswith(("m", "M"))
} | {"mol": "mol", "mole": "mole"}
"""KCAL and kcal are one unit. MeV and meV, MPa and mPa are two: what begins with M or m is as it is written."""
_TOKEN = re.compile(r"([A-Za-zÅåö]+)(?:\^|\*\*)?([+-]?\d+)?")


def factor(quantity: str, unit: str) -> float:
    """Value of one `unit` in the house unit of `quantity`, a key of `DIMENSION`.

    Raises:
        UnitsError: the unit is unknown, or measures something else.
    """
    if quantity in SINGLE:
        if unit.strip() not in SINGLE[quantity]:
            raise UnitsError(
                f"{unit!r} is not a known unit of {quantity}: {', '.join(SINGLE[quantity])}. Give one of them."
            )
        return SINGLE[quantity][unit.strip()]
    above, below, dimension = 1.0, 1.0, [0, 0, 0, 0]
    for symbol, power in _powers(ATOMIC.get(quantity, unit) if unit.strip().lower() in ATOMIC_NAMES else unit):
        value, dims = _SYMBOLS[symbol]
        above, below = (above * value**power, below) if power > 0 else (above, below * value**-power)
        dimension = [d + power * e for d, e in zip(dimension, dims, strict=True)]
    if dimension[3] == 1:
        raise UnitsError(f"{unit!r} is an energy of a mole of something. If it is one mole, write {unit}/mol.")
    if tuple(dimension) != DIMENSION[quantity]:
        raise UnitsError(
            f"{unit!r} is not a unit of {quantity}, which is kept in {H5MD_UNITS[quantity]!r}. "
            f"Give the unit of {quantity}."
        )
    return above / below


def agreed_factor(where: str, quantity: str, written: str | None, given: str | None) -> float | None:
    """House units in one unit of a quantity, as a file writes it and as a user gives it; None if nobody says it.

    Raises:
        UnitsError: they contradict each other, or the file's unit is unknown and none is given.
    """
    mine = None if given is None else factor(quantity, given)
    if written is None:
        return mine
    try:
        value = factor(quantity, written)
    except UnitsError as error:
        if mine is None:
            known = f"--unit {quantity}={H5MD_UNITS[quantity].replace(' ', '*')!r}"
            raise UnitsError(f"{where}: {error} Or say which it is: {known}, or another.") from None
        return mine
    if mine is not None and mine != value:
        raise UnitsError(
            f"{where}: {quantity} is in {written!r} in the file, not in {given!r}. Leave out --unit "
            f"{quantity}; what is wrong in the file all the same, --correct changes."
        )
    return value


def _powers(unit: str) -> list[tuple[str, int]]:
    """The product of powers that a unit name spells."""
    plain = re.sub(r"[_\s]per[_\s]", "/", unit.translate(RAISED))  # kilojoules_per_mole, as OpenMM writes
    plain = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", plain)  # kcal/mol-A
    plain = re.sub(r"\ba_?0(?![\d.])|\bbohr[_ ]radius\b", "bohr", plain, flags=re.IGNORECASE)
    above, slash, below = plain.replace("(", " ").replace(")", " ").replace("·", " ").partition("/")
    if slash and not below.strip():
        raise UnitsError(f"{unit!r} ends with a slash. Write what it is divided by, or leave it out.")
    powers = []
    for sign, part in ((1, above), (-1, below.replace("/", " "))):
        for token in re.sub(r"(?<!\*)\*(?!\*)", " ", part).split():
            match = _TOKEN.fullmatch(token)
            symbol = _symbol(match[1]) if match else None
            if match is None or symbol not in _SYMBOLS:
                if re.search(r"atoms?$", token):
                    raise UnitsError(
                        f"{unit!r} is of each atom. Give the unit without it; --correct 'energy=eV*n_atoms' "
                        "multiplies an energy in eV an atom by the number of atoms."
                    )
                known = ", ".join(sorted(_SYMBOLS))
                raise UnitsError(f"Unknown unit {unit!r}. Known are products and powers of: {known}.")
            powers.append((symbol, sign * int(match[2] or 1)))
    return powers


def _symbol(name: str) -> str:
    """The symbol of a unit in any spelling, or the name as it is."""
    one = name.removesuffix("s")
    known = one if name not in _SYMBOLS and len(one) > 3 and (one in _SYMBOLS or one in _ALIASES) else name
    if known not in _SYMBOLS and known not in _ALIASES:
        both = (known, one) if len(one) > 3 else (known,)
        known = next((_IN_ANY_CASE[n.lower()] for n in both if n.lower() in _IN_ANY_CASE), known)
    return _ALIASES.get(known, known)
