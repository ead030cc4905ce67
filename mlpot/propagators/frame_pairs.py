"""Pairs of frames that are one interval apart: what a propagator learns from, and is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FramePairs:
    """`n_pairs` pairs of structures of equally many particles.

    Lengths are in Å, masses in u and times in fs; those of the experiment with charged particles in its own units.
    """

    numbers: NDArray[np.int64]  # (n_pairs, n_atoms) atomic numbers; 0 for particles that are no atoms
    charges: Floats  # (n_pairs, n_atoms) e; 0 for atoms
    masses: Floats  # (n_pairs, n_atoms)
    positions: Floats  # (n_pairs, n_atoms, 3)
    velocities: Floats  # (n_pairs, n_atoms, 3)
    later_positions: Floats  # (n_pairs, n_atoms, 3)
    later_velocities: Floats  # (n_pairs, n_atoms, 3)
    interval: float

    def __len__(self) -> int:
        return len(self.numbers)

    def fingerprint(self) -> str:
        """SHA-256 of all that is in it."""
        digest = hashlib.sha256(repr(self.interval).encode())
        for name in ARRAYS:
            array = getattr(self, name)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __getitem__(self, chosen: slice | NDArray[np.integer]) -> FramePairs:
        return replace(self, **{name: getattr(self, name)[chosen] for name in ARRAYS})


ARRAYS = tuple(f.name for f in fields(FramePairs) if f.name != "interval")


def joined(parts: Sequence[FramePairs]) -> FramePairs:
    """Sets of the same interval and number of atoms as one."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS}
    return replace(parts[0], **arrays)
