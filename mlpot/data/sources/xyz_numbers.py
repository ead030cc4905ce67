"""Numbers, elements and columns of a frame in extxyz that readers take for others, or do not understand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ase.data import atomic_numbers

from mlpot.data.errors import FormatError
from mlpot.data.sources.names import LOOKS_LIKE, looks_like

NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE
)
SUSPECT = re.compile(r"\d[_,]\d|[^\x00-\x7f]|\d\.?[dD][+-]?\d")
"""What a frame with such numbers has: Python takes 1_0 for ten, and digits of any script; Fortran has 1D0."""
WRONG = {
    r"[^,]*\d,\d[^,]*": "it has a decimal comma: write a point",
    r".*_.*": "it has an underscore, which is left out by some readers and not by others: write the digits alone",
    r".*\*\*.*": "Fortran writes stars where a number does not fit: compute the frame anew, or remove it",
    r".*\d\.?[dD][+-]?\d+": "Fortran writes exponents with D: write E",
    r".*\d[+-]\d{3}": "Fortran leaves out the E before an exponent of three digits: write E",
    r".*[^\x00-\x7f].*": "it has signs or digits that are not ASCII: write 0 to 9 and a plain minus",
}  # fmt: skip
"""What a word that is no number looks like, and what to do."""
WRITTEN = 4  # digits behind the point, from which on a program wrote the numbers, each with as many
TEXT = "S"  # the kinds of columns that hold no number
LOGICAL = "L"
LABELS = [name for name in LOOKS_LIKE if name not in ("pbc", "fixed")]
BEHIND = "columns behind those that Properties names are not read"


def why_no_number(word: str) -> str:
    """What is wrong with a word where a number is meant; empty where it is one."""
    if NUMBER.fullmatch(word):
        return ""
    return next((why for form, why in WRONG.items() if re.fullmatch(form, word)), "write a number")


def check_comment(where: str, comment: Mapping[str, str]) -> None:
    """Refuse numbers of labels and cells that readers take for others: -470,5 for two, -4_70.5 for one.

    Raises:
        FormatError: there is one.
    """
    for key, value in comment.items():
        plain = value.strip("\"'{}[] ")
        if not SUSPECT.search(plain) or not (key == "Lattice" or any(looks_like(name, key) for name in LABELS)):
            continue
        words = plain.split()
        if len(words) == 1 and plain.count(",") > 1:  # numbers between commas
            words = plain.split(",")
        for word in (word.rstrip(",") for word in words):
            if re.match(r"[+\-−]?\d", word) and (why := why_no_number(word)):
                raise FormatError(f"{where}: {key} has {word!r}, which is no number: {why}.")


def ends_within(text: Sequence[str]) -> bool:
    """Whether the lines of a frame end within its last number: shorter than all others of its column, and no line.

    A program that is killed, or has no place left, may leave -0.2 of -0.25000000.
    """
    rows = [row.split() for row in text[2:]]
    if text[-1].endswith("\n") or len(rows) < 2 or not all(rows[:-1]):
        return False
    *others, last = rows
    if len({len(row) for row in others}) > 1 or len(last) != len(others[0]):
        return len(last) < min(map(len, others))
    if not NUMBER.fullmatch(last[-1]):
        return all(NUMBER.fullmatch(row[-1]) for row in others)
    digits = {_digits(row[-1]) for row in others}
    return len(digits) == 1 and max(digits)[0] >= WRITTEN and _digits(last[-1]) < max(digits)


def _digits(word: str) -> tuple[int, int]:
    """Digits behind the point, and of the exponent."""
    plain, _, exponent = word.lower().partition("e")
    return len(plain.partition(".")[2]), len(exponent.lstrip("+-"))


def kinds(columns: str) -> list[tuple[str, str]]:
    """Name and kind of each column that the value of Properties names."""
    parts = columns.split(":")
    found: list[tuple[str, str]] = []
    for name, kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        found += [(name, kind)] * (int(width) if width.isdecimal() else 1)
    return found


def check_rows(where: str, line: int, text: str, columns: str, *, thorough: bool) -> bool:
    """Refuse rows in which a reader takes one column for another, or two elements; True if some are longer.

    Args:
        where, line, text: the frame, and the number of its first line in the file.
        columns: the value of Properties.
        thorough: look at each number, as where a reader failed.

    Raises:
        FormatError: rows have words beyond the columns and differ in how many, so that some are shifted; a number
            is none; or the symbol of an atom is not that of its atomic number.
    """
    named = kinds(columns)
    rows = [row.split() for row in text.split("\n")[2:]]
    rows = rows[: int(text.split("\n", 1)[0])]
    widths = {len(row) for row in rows}
    if max(widths, default=0) > len(named) and len(widths) > 1:
        k = next(k for k, row in enumerate(rows) if len(row) > len(named))
        raise FormatError(
            f"{where}: line {line + 2 + k} has {len(rows[k])} words, and Properties names {len(named)} columns; "
            "other lines have other numbers of words. Write words without blanks in them, and all columns."
        )
    names = [name for name, _ in named]
    symbols, numbers = (names.index(n) if n in names else None for n in ("species", "Z"))
    thorough = thorough or bool(SUSPECT.search(text.split("\n", 2)[2]))
    if not thorough and (symbols is None or numbers is None):
        return max(widths, default=0) > len(named)
    for k, row in enumerate(rows):
        if symbols is not None and numbers is not None and len(row) > max(symbols, numbers):
            symbol, z = row[symbols], row[numbers]
            if symbol.capitalize() in atomic_numbers and str(atomic_numbers[symbol.capitalize()]) != z:
                raise FormatError(
                    f"{where}: line {line + 2 + k} says {symbol} in column species and {z} in column Z. "
                    "Correct one of them, or leave one column out."
                )
        for (name, kind), word in zip(named, row, strict=False):
            if thorough and kind not in (TEXT, LOGICAL) and (why := why_no_number(word)):
                raise FormatError(f"{where}: line {line + 2 + k} has {word!r} in column {name}: {why}.")
    return max(widths, default=0) > len(named)
