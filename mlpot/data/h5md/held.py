"""Which atoms an H5MD file of another program says are held: the standard has no name for that."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from mlpot.data.constraints import Mask
from mlpot.data.errors import FormatError
from mlpot.data.sources.names import MAY_MOVE, looks_like


class Held:
    """The element of a particles group by whose name atoms are held or may move, if there is one.

    Args:
        group: of particles; its element is written once or for each frame, for atoms or for coordinates.
        where: the group in words.
        n_rows, n_atoms: of the group.
    """

    def __init__(self, group: h5py.Group, where: str, n_rows: int, n_atoms: int):
        self._where, self._n_atoms = where, n_atoms
        self._names = [name for name in group if looks_like("fixed", name)]
        found = [group[name] for name in self._names]
        self._elements = [e.get("value") if isinstance(e, h5py.Group) else e for e in found]
        self._once = [isinstance(e, h5py.Dataset) for e in found]
        self._n_rows = n_rows

    def __bool__(self) -> bool:
        return bool(self._names)

    def rows(self, rows: NDArray[np.integer]) -> Mask:
        """(n_rows, n_atoms, 3): True where a coordinate is held in ascending `rows`.

        Raises:
            FormatError: there are two such elements, or theirs are no truth values of atoms or coordinates.
        """
        if len(self._names) > 1:
            raise FormatError(
                f"{self._where} says twice which atoms are held, in {self._names}. Remove one of them."
            )
        name, dataset, n = self._names[0], self._elements[0], self._n_atoms
        before = () if self._once[0] else (self._n_rows,)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape not in ((*before, n), (*before, n, 3)):
            raise self._error(name)
        values = np.asarray(dataset[()] if self._once[0] else dataset[rows.min() : rows.max() + 1])
        # A shorter structure is padded with NaN where numbers are floats.
        if values.dtype.kind not in "biuf" or not (np.isin(values, (0, 1)) | (values != values)).all():
            raise self._error(name)
        held = (values == 0) if MAY_MOVE.search(name) else (values == 1)
        held = held[None] if self._once[0] else held[rows - rows.min()]
        return np.broadcast_to(held.reshape(len(held), n, -1), (len(rows), n, 3))

    def _error(self, name: str) -> FormatError:
        return FormatError(
            f"{self._where}/{name} seems to say which atoms are held, and has no 0 or 1 for each of "
            f"{self._n_atoms} atoms or each of their coordinates. Write it so, or rename it."
        )
