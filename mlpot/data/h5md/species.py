"""What the species of an H5MD file stand for: atomic numbers, names, types, or nothing."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mlpot.data.elements import CURE_WITHOUT_TYPES, Elements, ask_for_types, numbers_of_text
from mlpot.data.errors import FormatError, KeysError

FIRST = 1024  # frames whose types are shown in a question


class Species:
    """The atomic numbers of a particles group, which many programs do not write.

    Args:
        group: of particles.
        each: what the file keeps for each frame, if it does.
        where: the group in words.
        n_atoms: of a frame.
        creator: the program that wrote the file, if its species are something of its own.
        elements: of the atoms or their types, as the user says.

    Raises:
        KeysError: nothing says which elements there are; FormatError: what should say it is none.
    """

    def __init__(
        self,
        group: h5py.Group,
        each: h5py.Dataset | None,
        where: str,
        n_atoms: int,
        creator: str | None,
        elements: Elements | None,
    ):
        self._where, self._creator = where, creator
        self._meaning: NDArray[np.int64] | Elements | None = None
        self.once: NDArray[np.uint8] | None = None
        """(n_atoms,) atomic numbers, if they are the same in every frame."""
        fixed = group.get("species")
        species = fixed if isinstance(fixed, h5py.Dataset) else each
        if species is None or (elements is not None and elements.numbers is not None):
            if elements is None:
                raise KeysError(f"{where} does not say which elements its atoms are. {CURE_WITHOUT_TYPES}")
            _check_order(group, where)
            z = elements.of_atoms(where, n_atoms)
            if species is not None and species.dtype.kind in "iu":
                elements.of_types(where, np.atleast_2d(species[()]))
        else:
            self._meaning = self._of(species, elements)
            if species is not fixed:
                return
            z = self.numbers(fixed[:])
        if z.shape != (n_atoms,) or z.dtype.kind not in "iu" or z.min() < 1 or z.max() > 118:
            raise FormatError(
                f"{where} needs {n_atoms} atomic numbers 1-118, got shape {z.shape} of {z.dtype}. "
                "Name the elements (--elements or --elements-from)."
            )
        self.once = z.astype(np.uint8)

    def numbers(self, species: NDArray[Any]) -> NDArray[Any]:
        """Atomic numbers of species as the file has them, in the same shape; 0 of what has none."""
        if species.dtype.kind in "OSU":
            return numbers_of_text(f"{self._where}/species", species)
        if isinstance(self._meaning, Elements):
            return self._meaning.of_types(self._where, species)
        if self._meaning is None:
            return species
        known = (species >= 0) & (species < len(self._meaning))
        return np.where(known, self._meaning[np.where(known, species, 0)], 0)

    def _of(self, species: h5py.Dataset, elements: Elements | None) -> NDArray[np.int64] | Elements | None:
        """What species stand for: atomic numbers (None), names in the order of an enumeration, or types.

        H5MD leaves the meaning to the writer: LAMMPS writes its types, ESPResSo its own.
        """
        if elements is not None:
            return elements
        if named := h5py.check_enum_dtype(species.dtype):
            size = max(named.values()) + 1
            if not 0 <= min(named.values()) <= size <= 2**16:
                raise FormatError(f"{self._where}: the enumeration of species is absurd. Remake the file.")
            numbers = np.zeros(size, dtype=np.int64)
            numbers[list(named.values())] = numbers_of_text(f"{self._where}/species", np.array(list(named)))
            return numbers
        if self._creator is not None and species.dtype.kind in "iu":
            present = np.unique(species[:FIRST]).tolist()
            ask_for_types(f"{self._where} (written by {self._creator or 'an unknown program'})", present)
        return None


def _check_order(group: h5py.Group, where: str) -> None:
    """Atoms that are named by their places must keep them."""
    ids = group.get("id/value", group.get("id"))
    if isinstance(ids, h5py.Dataset) and (np.diff(np.atleast_2d(ids[()]).astype(np.int64)) <= 0).any():
        raise KeysError(
            f"{where}: the atoms change their order from frame to frame (id), so those of another file "
            "do not fit. Name the elements of the types (--elements), or write the dump sorted."
        )
