"""What was read of a source, and what was left out and why: counted, so that nothing goes without a word."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from mlpot.data.constraints import lost_constraints
from mlpot.data.errors import LeftOutWarning
from mlpot.data.frame import Frame
from mlpot.data.h5md.block import Series

WORDS = {
    "energy": ("energy", "energies"),
    "forces": ("set of forces", "sets of forces"),
    "stress": ("stress", "stresses"),
    "velocities": ("set of velocities", "sets of velocities"),
}
MOST_NAMES = 12  # listed
MODEL = "model sha256"
"""Entry of the card of a file whose labels a potential computed: MD, predictions, and what is made of these."""
KEPT_IN_INFO = "model_sha256"
"""The same in the `info` of a structure, which formats of ASE keep."""
SHOWN = 10  # frames that are named in a sentence

PER_ATOM = "energies", "stresses"
"""ASE's names of parts of the energy and the stress, one for each atom."""


def of_potential(*cards: Mapping[str, str]) -> dict[str, str]:
    """What a card of data says of the potentials that computed labels in the sources with these cards."""
    made = dict.fromkeys(card[MODEL] for card in cards if MODEL in card)
    return {MODEL: ", ".join(made)} if made else {}


@dataclass
class Report:
    """An account of one pass over a source."""

    path: str
    labels: bool = True
    """Whether labels were wanted, and not structures alone."""
    wanted: range = field(default=range(2**62), compare=False)
    """Numbers of the frames that are asked for: readers that go over the others too note nothing of them."""
    n_frames: int = 0
    n_labels: Counter[str] = field(default_factory=Counter)
    """Frames with each label, or velocities."""
    states: dict[str, Counter[float]] = field(default_factory=lambda: {"charge": Counter(), "spin": Counter()})
    """Frames of each total charge and spin."""
    n_held: int = 0
    """Atoms whose force is not to be learned."""
    notes: dict[str, list[int]] = field(default_factory=dict)
    """What happened, in words: in how many frames, and the first of them."""

    scales: dict[str, float] = field(default_factory=dict, compare=False)
    """House units in one unit of the source, by quantity, of the frame that was read last."""
    unused: Counter[str] = field(default_factory=Counter)
    """Names in the file that are nothing which is kept, and how many frames have them."""

    potential: str | None = None
    """Hash of the potential that computed the labels, as far as the file says."""

    groups: list[str] = field(default_factory=list)
    """Groups of a file that hold structures under other names than those that are read, and what they lack."""
    n_groups: int = 0

    def leave_out_group(self, name: str, lacks: str) -> None:
        """Count a group of a file whose structures are not read."""
        self.n_groups += 1
        if len(self.groups) < SHOWN:
            self.groups.append(f"{name}, which has no {lacks}")

    def note(self, what: str, frame: int) -> None:
        """Count that something was left out, replaced or chosen in a frame of the file, if it is asked for."""
        if frame in self.wanted:
            self._note(what, frame)

    def _note(self, what: str, frame: int) -> None:
        frames = self.notes.setdefault(what, [0])
        frames[0] += 1
        if len(frames) <= SHOWN:
            frames.append(frame)

    def note_constraints(self, atoms: Atoms, format: str, frame: int) -> None:
        """Note the constraints of a structure that the format it is written in cannot hold."""
        if lost := lost_constraints(atoms, format):
            self._note(f"constraints left out ({lost}), which {format} cannot hold", frame)

    def count(self, atoms: Atoms) -> None:
        """Count a frame that is handed on."""
        self.n_frames += 1
        self.n_labels.update(() if atoms.calc is None else WORDS.keys() & atoms.calc.results.keys())
        if atoms.has("momenta"):
            self.n_labels["velocities"] += 1
        for name, values in self.states.items():
            if name in atoms.info:
                values[float(atoms.info[name])] += 1
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
        for name, value in (("charge", frame.charge), ("spin", frame.spin)):
            if np.isfinite(value):
                self.states[name][value] += 1

    def count_series(self, series: Series) -> None:
        """Count frames that are handed on column by column."""
        self.n_frames += len(series)
        for block in series.blocks:
            for word in WORDS:
                values = block.columns.get("velocity" if word == "velocities" else word)
                if values is not None:
                    there = int((~np.isnan(values)).reshape(len(block), -1).all(axis=1).sum())
                    self.n_labels.update({word: there} if there else {})
            for name, counted in self.states.items():
                state = block.columns.get(f"total_{name}", np.empty(0))
                counted.update(state[np.isfinite(state)].tolist())
            if "force_mask" in block.columns:
                self.n_held += int((~block.columns["force_mask"]).sum())

    def add(self, other: Report) -> None:
        """Count what was read besides."""
        self.n_frames += other.n_frames
        self.n_held += other.n_held
        self.n_labels.update(other.n_labels)
        self.unused.update(other.unused)
        self.groups += other.groups[: SHOWN - len(self.groups)]
        self.n_groups += other.n_groups
        for name, values in other.states.items():
            self.states[name].update(values)
        for what, (n, *shown) in other.notes.items():
            frames = self.notes.setdefault(what, [0])
            frames[0] += n
            frames += shown[: SHOWN + 1 - len(frames)]

    def warn(self) -> None:
        """Tell the notes to a program, as a command prints them."""
        if notes := self._note_lines():
            warnings.warn(f"{self.path}: {' '.join(notes)}", LeftOutWarning, stacklevel=3)

    def _of_potential(self) -> list[str]:
        if not (self.potential and self.labels and self.n_labels.keys() & {"energy", "forces", "stress"}):
            return []
        return [
            f"Its labels, or some, are those of a potential ({MODEL} {self.potential[:12]}), and not of a "
            "reference method; mlpot data label computes those."
        ]

    def _note_lines(self) -> list[str]:
        return [f"{what} ({_frames(n)}: {_listed(n, shown)})." for what, (n, *shown) in self.notes.items()]

    def lines(self) -> list[str]:
        """The account in sentences: first what was read, then every note."""
        told = [_counted(n, *words) for key, words in WORDS.items() if (n := self.n_labels[key])]
        if self.n_held:
            told.append(f"{_counted(self.n_held, 'force', 'forces')} masked, of atoms that were held")
        states = [
            f"{name} {_state(values)}, which potentials of mlpot cannot see"
            for name, values in self.states.items()
            if values.keys() - {0.0, 1.0} or len(values) > 1 or (name == "charge" and 1.0 in values)
        ]
        lines = [
            f"Read {_frames(self.n_frames)} of {self.path}: {', '.join(told) or 'no labels'}."
            if told or self.labels
            else f"Read {_frames(self.n_frames)} of {self.path}.",
            *self._note_lines(),
            *(f"{line[0].upper()}{line[1:]}." for line in states),
            *self._of_potential(),
        ]
        if self.groups:
            more = f"; and {self.n_groups - len(self.groups)} more" if self.n_groups > len(self.groups) else ""
            lines.append(
                f"NOT READ, as other names are: group {'; '.join(self.groups)}{more}. Read them by --key into a "
                "set of their own, and mlpot data merge."
            )
        if self.unused:
            read = Counter({name: min(n, self.n_frames) for name, n in self.unused.items()})  # of whole files
            most = read.most_common(MOST_NAMES)
            more = f" and {len(self.unused) - len(most)} more" if len(self.unused) > len(most) else ""
            lines.append(f"Not kept: {', '.join(f'{_clear(name)} ({_frames(n)})' for name, n in most)}{more}.")
        return lines


def _clear(name: str) -> str:
    """A name of a source, explained where it looks like that of a label."""
    return f"{name} of single atoms" if name in PER_ATOM else name


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _listed(n: int, shown: list[int]) -> str:
    return ", ".join(map(str, shown)) + (", ..." if n > len(shown) else "")


def _frames(n: int) -> str:
    return _counted(n, "frame", "frames")


def _state(values: Counter[float]) -> str:
    return ", ".join(f"{value:g} in {_frames(n)}" for value, n in sorted(values.items()))
