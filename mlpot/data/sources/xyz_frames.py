"""What ASE does not see in a frame of an xyz file: absent positions, isotopes, a boundary, half a stress."""

from __future__ import annotations

import re
from collections.abc import Mapping

import ase.io.extxyz
import numpy as np
from ase import Atoms

from mlpot.data.errors import FormatError, KeysError
from mlpot.data.sources.reading import boundary_of
from mlpot.data.sources.shapes import NO_VALUE
from mlpot.data.sources.xyz_numbers import check_comment, check_rows

ISOTOPES = {"D": 2.014, "T": 3.016}  # u, of hydrogen
ISOTOPES_READ = "D and T are hydrogen, with masses of 2.014 and 3.016 u"
PLAIN = {"species": 0, "pos": 1}
"""First column of each quantity where the comment says nothing."""
UNSAID = "species:S:1:pos:R:3"
COLUMNS = re.compile(r"""\bProperties\s*=\s*["']?([^\s"']+)""", re.IGNORECASE)

NAMES = ("Properties", "Lattice", "pbc")
"""Keys that ASE knows as they are written here alone; GPUMD and others write them in any case."""
UNNAMED = "columns behind the positions are not read, as no Properties= in the comment names them"

MATRICES = ("Lattice", "stress", "virial")
"""What ASE takes as nine numbers."""
OF_FRAME = {"energy", "free_energy", "stress"}
"""ASE's names of results that are of a frame, and not of its atoms."""
SIX = "_voigt"
"""Follows the name of a matrix that is given by six."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?|[+-]?(?:nan|inf)"

PBC_DIGITS = re.compile(r"""(?:^|\s)pbc\s*=\s*["']?([01]{3})["']?(?:\s|$)""")
"""A boundary in three digits."""

NESTED = re.compile(r"""(=\s*)"?(?:_JSON\s+)?\[\[([^][]*)\]\s*,?\s*\[([^][]*)\]\s*,?\s*\[([^][]*)\]\]"?""")
"""A matrix in rows, as newer writers of extxyz have it, of which ASE reads nine numbers in a row alone."""

KEYS = re.compile(r"""(?:^|\s)([A-Za-z_][\w-]*)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|[^\s"'\[{]+)""")
"""Each key of a comment, and its value."""


def columns(text: str) -> Mapping[str, int]:
    """The first column of each quantity of the atoms of a frame, by its name in the comment."""
    comment = text.split("\n", 2)[1]
    match = COLUMNS.search(comment)
    if match is None:
        return PLAIN
    parts, at, found = match[1].split(":"), 0, {}
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        found[name] = at
        at += int(width) if width.isdecimal() else 1
    return found


def with_names(text: str) -> str:
    """The text of a frame with ASE's keys as ASE writes them, where another case stands alone, out of quotes."""
    count, comment, *rest = text.split("\n", 2)
    comment = re.sub(r"""(^|\s)(["'])([A-Za-z_][\w-]*)\2(\s*=)""", r"\1\3\4", comment)
    comment = NESTED.sub(lambda found: f'{found[1]}"{" ".join(found.groups()[1:]).replace(",", " ")}"', comment)
    for name in NAMES:
        if not re.search(rf"(?:^|\s){name}\s*=", comment):
            comment = re.sub(rf"(^|\s){name}(\s*=)", rf"\1{name}\2", comment, count=1, flags=re.IGNORECASE)
    return "\n".join([count, comment, *rest])


def has_unnamed(text: str, columns: Mapping[str, int]) -> bool:
    """Whether the first atom of a frame has more numbers than a symbol and a position, and nothing names them."""
    row = (text.split("\n", 3)[2:3] or [""])[0]
    return columns is PLAIN and len(row.split()) > 4 and not row.lstrip().startswith("VEC")


def check_keys(where: str, text: str) -> None:
    """Refuse a comment that says one thing twice, of which ASE takes the last.

    Raises:
        FormatError: a key stands there with two values.
    """
    said: dict[str, str] = {}
    for key, value in KEYS.findall(text.split("\n", 2)[1]):
        if said.setdefault(key, value) != value:
            raise FormatError(f"{where}: {key} is {said[key]} and {value} in one comment. Leave the right one.")


def check_numbers(where: str, line: int, text: str, *, thorough: bool = False) -> bool:
    """Refuse what readers take for other numbers, columns or elements; True if rows are longer than Properties.

    Raises:
        FormatError: as `check_comment` and `check_rows`.
    """
    comment = text.split("\n", 2)[1]
    check_comment(where, dict(KEYS.findall(comment)))
    match = COLUMNS.search(comment)
    return check_rows(where, line, text, match[1] if match else UNSAID, thorough=thorough) and match is not None


def with_matrices(where: str, text: str) -> str:
    """The text of a frame with six numbers of a stress or virial under a name of their own.

    ASE refuses these names with fewer than nine numbers, and extxyz does not say in which order six stand: under
    another name they are a question, as any label under a name that is not ASE's.

    Raises:
        FormatError: a matrix has neither nine numbers nor these six.
    """
    count, comment, *rest = text.split("\n", 2)
    for key, value in KEYS.findall(comment):
        n = len(re.findall(NUMBER, value))
        if key not in MATRICES or n == 9:
            continue
        if key != "Lattice" and value.strip("\"' ").lower() in NO_VALUE:
            nine = '"' + " ".join(["nan"] * 9) + '"'
            comment = comment.replace(f"{key}={value}", f"{key}={nine}", 1)
            continue
        if n != 6 or key == "Lattice":
            what = '"ax ay az bx by bz cx cy cz" in Å' if key == "Lattice" else '"xx xy xz yx yy yz zx zy zz"'
            raise FormatError(f"{where}: {key} has {n} numbers, not nine. Write them all: {key}={what}.")
        comment = re.sub(rf"(^|\s){key}(\s*=)", rf"\1{key}{SIX}\2", comment)
    return "\n".join([count, comment, *rest])


def check_positions(where: str, columns: Mapping[str, int]) -> None:
    """Refuse a frame without positions, of which ASE makes zeros.

    Raises:
        FormatError: no column has them.
    """
    if not columns.keys() & {"pos", "positions"}:
        raise FormatError(
            f"{where}: there are no positions (pos) among the Properties {', '.join(columns)}. Write Cartesian "
            "positions in Å as pos:R:3; ASE's Atoms(..., scaled_positions=...) makes them of fractions."
        )


def without_isotopes(text: str, columns: Mapping[str, int]) -> tuple[str, dict[int, float]]:
    """The text with H for D and T, and the masses of these atoms in u by their number."""
    place = columns.get("species")
    if place is None or not re.search(r"(?:^|\s)[DT]\s", text):
        return text, {}
    lines, masses = text.split("\n"), {}
    for k, line in enumerate(lines[2 : 2 + int(lines[0])]):
        words = line.split()
        if len(words) > place and words[place] in ISOTOPES:
            masses[k] = ISOTOPES[words[place]]
            words[place] = "H"
            lines[2 + k] = " ".join(words)
    return "\n".join(lines), masses


def set_masses(atoms: Atoms, masses: Mapping[int, float]) -> None:
    """Give isotopes their masses, unless the file has masses."""
    if not atoms.has("masses"):
        all_masses = atoms.get_masses()
        all_masses[list(masses)] = list(masses.values())
        atoms.set_masses(all_masses)


def keep_columns(atoms: Atoms, columns: Mapping[str, int]) -> None:
    """Put back columns of the atoms that ASE takes for results of the frame, as their names are of such."""
    for name in OF_FRAME & columns.keys():
        if atoms.calc is not None and name in atoms.calc.results:
            atoms.set_array(name, np.asarray(atoms.calc.results.pop(name)))


def keep_comment(where: str, atoms: Atoms, text: str) -> None:
    """Put back a boundary written as TTF, of which ASE makes TTT, and a stress of which it took one half.

    Raises:
        KeysError: the boundary is none.
    """
    comment = text.split("\n", 2)[1]
    has_stress = atoms.calc is not None and "stress" in atoms.calc.results
    if not ("pbc" in comment or (has_stress and "stress" in comment)):
        return
    said = ase.io.extxyz.key_val_str_to_dict(comment)
    if digits := PBC_DIGITS.search(comment):  # ASE makes a number of 110
        said["pbc"] = digits[1]
    if isinstance(said.get("pbc"), str):
        try:
            atoms.pbc = boundary_of(said["pbc"])
        except KeysError as error:
            raise KeysError(f"{where}: pbc: {error}") from error
    stress = said.get("stress")
    if has_stress and np.shape(stress) == (3, 3) and not np.array_equal(stress, stress.T):
        atoms.calc.results["stress"] = stress.T  # ASE reads columns
