"""Elements of atoms where a file has types, text, padding or nothing: the user is asked, nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from mlpot.data.errors import KeysError, LabelError

Numbers = NDArray[np.int64]
ATOMIC_NUMBERS = "Z"  # what a user says of types that are atomic numbers
CURE = (
    "Name them: --elements Si,O those of types 1, 2, ...; --elements 0=Na,1=Cl those of types by their numbers; "
    "--elements Z if the numbers are atomic numbers; --elements-from structure.xyz takes them from a file with "
    "the same atoms in the same order; in a run file of molecular dynamics, elements: Si,O."
)
CURE_WITHOUT_TYPES = (
    "Name them: --elements Si8O16 in the order of the atoms, or --elements-from structure.xyz, a file with the "
    "same atoms in the same order."
)


@dataclass(frozen=True)
class Elements:
    """The elements of atoms as a user gives them.

    Args:
        names: "Si,O" of types 1, 2, ...; "0=Na,1=Cl" of types by number; "Z" where types are atomic numbers. For
            atoms without types a formula in their order, or one element for all.
        numbers: (n_atoms,) atomic numbers of each atom.

    Raises:
        KeysError: a name is not that of an element.
    """

    names: str = ""
    numbers: ArrayLike | None = None
    _of_type: Mapping[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        named = "=" in self.names
        types: dict[int, int] = {}
        if self.names not in ("", ATOMIC_NUMBERS) and ("," in self.names or named or _symbol(self.names)):
            for k, part in enumerate(self.names.split(","), start=1):
                key, _, name = part.rpartition("=")
                if named != (key.strip().lstrip("-").isdigit()) or not _symbol(name):
                    raise KeysError(
                        f"{self.names!r} does not name elements: {part!r}. Write Si,O for types 1 and 2, or "
                        "0=Na,1=Cl for types by their numbers."
                    )
                types[int(key) if named else k] = _symbol(name)
        object.__setattr__(self, "_of_type", types)

    def of_types(self, where: str, types: NDArray[np.integer]) -> Numbers:
        """Atomic numbers of atoms of these types, in the same shape.

        Raises:
            KeysError: a type is not named, or is of two elements.
        """
        if self.names == ATOMIC_NUMBERS:
            return types.astype(np.int64)
        if self.numbers is not None:
            return self._of_atoms_with(where, types)
        present = np.unique(types).tolist()
        if not self.names or not self._of_type:
            ask_for_types(where, present, f"--elements {self.names} names no types. " if self.names else "")
        if absent := sorted(set(present) - set(self._of_type)):
            raise KeysError(f"{where} has atoms of type {absent}, which --elements {self.names} does not name.")
        return np.array([self._of_type[t] for t in present])[np.searchsorted(present, types)]

    def of_atoms(self, where: str, n_atoms: int) -> Numbers:
        """Atomic numbers of so many atoms of which no types are known.

        Raises:
            KeysError: other elements are named than there are atoms.
        """
        if self.numbers is not None:
            numbers = self._numbers()
        elif self.names and "=" not in self.names and self.names != ATOMIC_NUMBERS:
            numbers = np.array([atomic_numbers[s] for s in _formula(self.names)])
            numbers = np.full(n_atoms, numbers[0]) if len(numbers) == 1 else numbers
        else:
            raise KeysError(f"{where} does not say which elements its atoms are. {CURE_WITHOUT_TYPES}")
        if len(numbers) != n_atoms:
            raise KeysError(
                f"{where} has {n_atoms} atoms, but {len(numbers)} elements are given. Name one for each atom, "
                "in the order of the file."
            )
        return numbers

    def _numbers(self) -> Numbers:
        numbers = np.asarray(self.numbers)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not numbers.size or numbers.min() < 1:
            raise KeysError(f"{self.numbers!r} are not atomic numbers 1-118 of atoms, one for each. Correct them.")
        if numbers.max() > 118:
            raise KeysError(f"There is no element {numbers.max()}. Give atomic numbers 1-118.")
        return numbers.astype(np.int64)

    def _of_atoms_with(self, where: str, types: NDArray[np.integer]) -> Numbers:
        numbers = self.of_atoms(where, types.shape[-1])
        for kind in np.unique(types):
            mine = np.unique(np.broadcast_to(numbers, types.shape)[types == kind])
            if len(mine) > 1:
                both = " and ".join(chemical_symbols[z] for z in mine)
                raise KeysError(
                    f"{where}: atoms of type {kind} would be {both}. The atoms of the file named by "
                    "--elements-from have another order, or are other atoms."
                )
        return np.array(np.broadcast_to(numbers, types.shape))


def ask_for_types(where: str, types: Any, why: str = "") -> NoReturn:
    """Ask which elements the types are.

    Raises:
        KeysError: always.
    """
    shown = ", ".join(map(str, list(types)[:10]))
    raise KeysError(f"{where}: the atoms have types ({shown}), which are not elements. {why}{CURE}")


def numbers_of_text(where: str, words: NDArray[Any]) -> Numbers:
    """Atomic numbers of chemical symbols, text or bytes, in the same shape; 0 for an empty word.

    Raises:
        LabelError: a word is not a symbol.
    """
    flat = [word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in np.ravel(words)]
    known = {word: 0 if not word.strip() else _symbol(word) for word in set(flat)}
    if odd := sorted(word for word, number in known.items() if number == 0 and word.strip()):
        raise LabelError(f"{where} names {odd[:10]}, which are no chemical symbols such as C or Si. Correct them.")
    return np.array([known[word] for word in flat], dtype=np.int64).reshape(np.shape(words))


def is_padding(where: str, numbers: NDArray[np.integer], positions: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which entries of a frame are padding to the size of the largest frame: numbers 0 or −1 at the end.

    Raises:
        LabelError: such numbers belong to atoms, which then have types and not atomic numbers.
    """
    padding = np.isin(numbers, (0, -1))
    n = len(numbers) - int(np.argmin(padding[::-1])) if not padding.all() else 0
    rest = positions[padding]
    filled = rest.size == 0 or np.isnan(rest).all() or bool((rest == rest.ravel()[0]).all())
    if padding[:n].any() or not filled:
        raise LabelError(
            f"{where}: atoms with positions have the number {int(numbers[padding][0])}, so the numbers are types "
            "or damaged, not atomic numbers with padding. Write atomic numbers, or symbols as text."
        )
    return padding


def _symbol(word: str) -> int:
    """The atomic number of a symbol, 0 if it is none."""
    return int(atomic_numbers.get(word.strip(), 0))


def _formula(text: str) -> list[str]:
    """The symbols of a formula, in its order."""
    plain = text.replace(",", "")
    if not re.fullmatch(r"([A-Z][a-z]?\d*)+", plain):
        raise KeysError(f"{text!r} is not a formula such as Si8O16. Name the elements in the order of the atoms.")
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", plain)
    if odd := sorted({symbol for symbol, _ in parts if not _symbol(symbol)}):
        raise KeysError(f"{text!r} names {odd}, which are not elements. Write a formula such as Si8O16.")
    return [symbol for symbol, times in parts for _ in range(int(times or 1))]
