"""Under which names files keep quantities, and the questions to ask where another name could be meant."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from mlpot.data.errors import DataError, KeysError, UnitsError

OF = (
    r"(?![_-]a$)([_-](hartree|ha|eh|au|m?ev|ry(dberg)?|kcal\w*|kj\w*|mol|bohr|ang(strom)?|a|nm|kbar|kb|gpa|bar"
    r"|per_?atom|dft|ref|qm|tot(al)?))+$"
)
"""Units and sources that may follow the letter of a quantity, as in E_per_atom_Ry or F_eV_A."""
LOOKS_LIKE = {
    "energy": r"^e$|energ|^ener$|(^|[^a-z])e_?tot(al)?$|toten|^e_?(dft|ref|pot|0)$|^(dft|ref)_e$|^(pe|epot)$"
    rf"|^u_?0$|^(e|en|e_?tot|e_?pot){OF}",
    "forces": rf"force|grad(ient)?s?$|^f$|_f$|^(dft|ref)_f$|^f{OF}",
    "stress": rf"stress|(press|pressure)_?(tensor|matrix)|^((dft|ref)_)?(press|pressure)({OF}|$)",
    "virial": r"virial",
    "cell": r"^((super|unit|sim(ulation)?|periodic|crystal)_?)?(cell|box|lattice)"
    r"(_?(vec(tor)?s?|matrix|tensor|par(am(eter)?)?s?|sizes?|len(gth)?s?|dim(ension)?s?|edges?|const(ant)?s?|abc|[abc]"
    r"|ang(strom)?|bohr|au|nm))?$|^h_?(matrix|mat)$|^(cryst1|abc|dimensions)$",
    "pbc": r"^(pbcs?|periodic(ity)?|is_periodic|boundar(y|ies)(_?conditions?)?|bcs?)$",
    "charge": r"charge|^q_?(tot(al)?|mol)?$",
    "spin": r"spin|multiplicity|^mult$|^(n_?)?unpaired(_?electrons?)?$|^uhf$",
    "fixed": r"^((is|atom|atoms)_?)?(fix(ed)?|frozen?|freeze|constrained|held|immobile)(_?(atoms?|mask|flags?))?$"
    r"|^((is|atom|atoms)_?)?(mov(e|able)|mobile|relax(ed)?|free|unfrozen|selective_?dynamics)(_?(atoms?|mask|flags?))?$",
}
"""What the name of a quantity looks like, in whatever case."""
KNOWN = {
    "energy": ("energy",),
    "forces": ("forces",),
    "stress": ("stress",),
    "virial": ("virial",),
    "cell": (),
    "pbc": (),
    "charge": ("charge", "total_charge"),
    "spin": ("spin", "total_spin", "multiplicity", "spin_multiplicity"),
    "fixed": (),
}
"""Names that are taken for a quantity without a question, the likeliest first."""
NO_LABEL = re.compile(
    r"weight|sigma|tol(erance)?s?$|units?$|cut|(^|_)(std|stdev|var(iance)?|err(or)?s?|mae|rmse|uncertaint(y|ies))($|_)"
    r"|threshold|smearing|fermi|kinetic|ekin|zero_?point|zpe|mask|(^|_)(id|idx|index|count|step|source|method)$"
    r"|^n_|^has_|^is_|scale|shift|polari[sz]|density|state"
    r"|mulliken|l(oe|o|ö)wdin|hirshfeld|bader|(^|_)(nbo|npa|mbis|cm5|r?esp|ddec6?|partial|atomic)(_|$)",
    re.IGNORECASE,
)
"""Names that hold a word such as "energy" and are none: weights, widths, tolerances, cutoffs, other energies,
charges of single atoms."""
UNIT = {
    "positions": "Angstrom",
    "energy": "eV",
    "forces": "eV/Angstrom",
    "stress": "eV/Angstrom^3",
    "virial": "eV",
    "cell": "Angstrom",
}
"""What most files are in, as an example in a question; it is never taken unasked."""
ENERGIES = {
    "kcal/mol": r"kcal", "kJ/mol": r"kj", "meV": r"(^|[_-])mev($|[_-])",
    "hartree": r"hartree|(^|[_-])(ha|eh|au)($|[_-])",
    "Ry": r"rydberg|(^|[_-])ry($|[_-])", "eV": r"(^|[_-])ev($|[_-])",
}  # fmt: skip
"""Units of energies, and how names spell them."""
LENGTHS = {"bohr": r"bohr|(^|[_-])au($|[_-])", "nm": r"(^|[_-])nm($|[_-])", "Angstrom": r"ang|(^|[_-])a($|[_-])"}
"""The same of lengths."""
MEASURED_IN = {"virial": "energy", "cell": "positions"}
"""The quantity whose unit another quantity is in."""
NONE = "none"  # the answer that a file has no such quantity
MOST_NAMES = 40  # listed in a message


@dataclass
class Questions:
    """Questions that a file leaves open, collected over its frames and asked in one message."""

    path: str
    said: tuple[str, ...] = ()
    """Options that the user gave already."""
    labels: bool = True
    """Whether labels are wanted: a set is converted, structures without labels are exported."""
    asked: dict[str, dict[str, int]] = field(default_factory=dict)
    """Quantity, names that could hold it with the likeliest first, and the first frame of each."""
    unknown_units: dict[str, str] = field(default_factory=dict)
    """Quantity, and the name under which it is kept in an unknown unit."""
    said_units: dict[str, str] = field(default_factory=dict)
    """Quantity, and its unit as the file says it."""
    likely_units: dict[str, str] = field(default_factory=dict)
    """Quantity, and the unit to propose, where the file shows its program; empty where it says the unit."""
    unknown_boundary: int | None = None
    """The first frame with a cell of which nothing says which directions are periodic."""

    def ask(self, quantity: str, names: list[str], frame: int) -> None:
        """Note that one of these names could be the quantity."""
        known = self.asked.setdefault(quantity, {})
        for name in names:
            known.setdefault(name, frame)

    def __bool__(self) -> bool:
        return bool(self.asked or self.unknown_units or self.unknown_boundary is not None)

    def error(self) -> DataError:
        """All questions with the options that answer them."""
        lines, options = [], []
        for quantity, found in self.asked.items():
            first, *others = found
            answer = self._answer(quantity, first)
            options.append(answer)
            rest = [self._answer(quantity, name) for name in others] + [f"--key {quantity}={NONE}"]
            names = " or ".join(repr(name) for name in found)
            verb = "Are" if quantity == "forces" else "Is"
            asks = f"{verb} the {quantity} {names}"
            if quantity == "fixed":
                asks = f"Does {names} say which atoms are held"
            lines.append(f"  {asks} (frame {found[first]})? {answer}, otherwise {' or '.join(rest)}")
        for quantity, name in self.unknown_units.items():
            said, usual = self.said_units.get(quantity), UNIT[quantity]
            options.append(f"--unit {quantity}={shlex.quote(said or self._unit(quantity, name))}")
            lines.append(
                f"  In which unit is {name!r}? It is not one of ASE's names. {options[-1]}, or another"
                if said is None
                else f"  Is {name!r} in {said}, as the file says? {options[-1]}, otherwise "
                f"--unit {quantity}={usual}"
            )
        if self.unknown_boundary is not None and "pbc" not in self.asked:
            options.append("--pbc TTT")
            lines.append(
                f"  In which directions is frame {self.unknown_boundary} periodic? --pbc TTT, TTF, or FFF"
            )
        verb, target = ("convert", "set.h5") if self.labels else ("export", "structures.xyz")
        command = " ".join([f"mlpot data {verb}", shlex.quote(self.path), target, *self.said, *options])
        kind = KeysError if self.asked or self.unknown_boundary is not None else UnitsError
        return kind(
            "\n".join(
                [f"{self.path} leaves these questions open, and nothing is guessed:", *lines]
                + ["If the first answers are right (units are examples, yours may differ):", f"  {command}"]
            )
        )

    def _answer(self, quantity: str, name: str) -> str:
        if quantity in OPPOSITE and OPPOSITE[quantity].search(name):
            name = f"-{name}"  # of gradients and pressures the sign is opposite, and what moves is not fixed
        known = name in KNOWN[quantity] or quantity not in UNIT
        likely = "" if known else self._unit(quantity, name)
        unit = likely and f" --unit {quantity}={likely}"
        if quantity == "energy" and PER_ATOM.search(name):
            unit += f" --correct 'energy={likely or UNIT[quantity]}*n_atoms'"
        return f"--key {quantity}={shlex.quote(name)}{unit}"

    def _unit(self, quantity: str, name: str) -> str:
        return self.likely_units.get(quantity, example_unit(quantity, name))


def example_unit(quantity: str, name: str) -> str:
    """A unit to propose: that which a name such as stress_kbar or forces_kcal_mol_A spells, or the usual one."""
    energy, length = (
        next((unit for unit, words in spelled.items() if re.search(words, name, re.IGNORECASE)), "")
        for spelled in (ENERGIES, LENGTHS)
    )
    if quantity == "stress":
        pressure = re.search(r"(?:^|[_([-])(kbar|kb|gpa|bar)(?:$|[])_-])", name, re.IGNORECASE)
        unit = pressure and pressure[1].lower()
        return {"kbar": "kbar", "kb": "kbar", "gpa": "GPa", "bar": "bar", None: UNIT["stress"]}[unit]
    if quantity in ("positions", "cell"):
        return length or UNIT[quantity]
    if quantity == "forces":
        usual = "bohr" if energy == "hartree" else "Angstrom"
        return f"{energy or 'eV'}/{length or usual}"
    return energy or UNIT[quantity]


PER_ATOM = re.compile(r"per_?n?_?atom|/n?_?atom|_pa$", re.IGNORECASE)
"""Names of a quantity divided by the number of atoms, which are no rivals of the quantity itself."""


DERIVED = re.compile(
    r"formation|atomi[sz]ation|binding|interaction|cohesive|adsorption|dispersion|hull|correction$|(^|_)corr$",
    re.IGNORECASE,
)
"""Names of energies beside the total one, which are proposed last."""
MAY_MOVE = re.compile(r"mov|mobile|relax|free|unfrozen|selective", re.IGNORECASE)
"""Names of what is true of atoms that are not fixed."""
OPPOSITE = {
    "forces": re.compile("grad", re.IGNORECASE),
    "stress": re.compile(r"^(?!.*stress).*press", re.IGNORECASE),
    "fixed": MAY_MOVE,
}
"""Names of what has the opposite sign of a quantity."""


def looks_like(quantity: str, name: str) -> bool:
    """Whether a name could be that of a quantity."""
    is_like = bool(re.search(LOOKS_LIKE[quantity], name, re.IGNORECASE))
    return is_like and (quantity == "fixed" or not NO_LABEL.search(name))
