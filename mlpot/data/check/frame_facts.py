"""What one frame tells: the numbers from which a training, `mlpot data info` and `mlpot data check` all count."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpot.data.frame import Frame

N_NUMBERS = 119  # atomic numbers, and 0
PLACES = 4  # decimals of Å to which two structures must agree to be the same


class FrameFacts(NamedTuple):
    """Counts and labels of one frame."""

    n_atoms: int
    counts: NDArray[np.int64]  # (N_NUMBERS,) atoms of each atomic number
    state: tuple[float, ...]  # total charge and spin, as far as they are known
    energy: float  # eV
    n_forces: int  # atoms with a force
    largest_force: float  # on an atom, eV/Å; zero without forces
    has_stress: bool  # one that a potential can learn
    is_isolated: bool  # one isolated atom, in the open or in a box
    reference: float  # its energy, eV; NaN of everything else, and of ions
    structure: int  # hash of the same atoms in the same places, wherever the structure stands

    @property
    def composition(self) -> int:
        """Hash of how many atoms there are of each element; in two charges they are two compositions."""
        return hash_of(self.counts, np.array(self.state))


def facts_of(frame: Frame) -> FrameFacts:
    """The facts of a frame."""
    known = np.isfinite(frame.forces).all(axis=1)
    state = state_of(frame)
    place = np.round(frame.positions - frame.positions[:1], PLACES) + 0.0  # + 0.0: no negative zeros
    cell = np.round(frame.cell, PLACES) + 0.0
    return FrameFacts(
        n_atoms=len(frame.numbers),
        counts=np.bincount(frame.numbers, minlength=N_NUMBERS).astype(np.int64),
        state=state,
        energy=frame.energy,
        n_forces=int(known.sum()),
        largest_force=float(np.linalg.norm(frame.forces[known], axis=1).max(initial=0.0)),
        has_stress=frame.has_stress,
        is_isolated=frame.is_isolated,
        reference=frame.reference_energy,
        structure=hash_of(frame.numbers.astype(np.int64), place, cell, frame.pbc, np.array(state)),
    )


def state_of(frame: Frame) -> tuple[float, ...]:
    """Total charge and spin, as far as they are known."""
    return tuple(value for value in (frame.charge, frame.spin) if np.isfinite(value))


def hash_of(*arrays: NDArray[Any]) -> int:
    """A number of 64 bits that differs where arrays do."""
    content = hashlib.blake2b(digest_size=8)
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(content.digest(), "little")
