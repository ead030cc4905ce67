"""What was read of a source, and what was left out and why: counted, so that nothing goes without a word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from mlpot.data.frame import Frame

LABELS = {"energy": "energies", "forces": "forces", "stress": "stresses"}


@dataclass
class Report:
    """An account of one pass over a source."""

    path: str
    n_frames: int = 0
    n_labels: Counter[str] = field(default_factory=Counter)
    """Frames with each label."""
    n_held: int = 0
    """Atoms whose force is not to be learnt."""
    notes: dict[str, list[int]] = field(default_factory=dict)
    """What happened, in words: of how many frames, and the first of them."""

    def note(self, what: str, frame: int) -> None:
        """Count that something was left out, replaced or chosen in a frame of the file."""
        self.notes.setdefault(what, [0, frame])[0] += 1

    def count(self, atoms: Atoms) -> None:
        """Count a frame that is handed on."""
        self.n_frames += 1
        self.n_labels.update(() if atoms.calc is None else LABELS.keys() & atoms.calc.results.keys())
        if atoms.has("force_mask"):
            self.n_held += int((~atoms.arrays["force_mask"]).sum())

    def count_record(self, frame: Frame) -> None:
        """Count a frame that is handed on as a record."""
        self.n_frames += 1
        there: dict[str, Any] = {
            "energy": frame.energy,
            "forces": frame.forces.ravel(),
            "stress": frame.stress.ravel(),
        }
        self.n_labels.update(key for key, value in there.items() if bool(np.isfinite(value).any()))

    def lines(self) -> list[str]:
        """The account in sentences: first what was read, then every note."""
        labels = [f"{self.n_labels[key]} {plural}" for key, plural in LABELS.items() if self.n_labels[key]]
        held = [f"{self.n_held} forces masked, of atoms that were held"] if self.n_held else []
        told = ", ".join([*labels, *held]) or "no labels"
        return [
            f"Read {_frames(self.n_frames)} of {self.path}: {told}.",
            *(f"{what} ({_frames(n)}, the first is {k})." for what, (n, k) in self.notes.items()),
        ]


def _frames(n: int) -> str:
    return f"{n} frame" if n == 1 else f"{n} frames"
