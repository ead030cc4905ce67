"""Steps of a program's output: a structure, what was calculated of it, and by which method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from mlpot.data.errors import KeysError

SAME_PLACE = 2e-4  # Å: of a structure that is printed twice
SAME_ENERGY = 3e-5  # eV: found anew from the density of before
SAME_FORCES = 5e-3  # eV/Å
CUT_OFF = "the run was cut off, so its last step is left out"
NOT_REACHED = "its self-consistency did not converge"
ENDED = "the run ended in an error before the frame was complete"


class Lines(Iterator[str]):
    """The lines of an output, of which one can be given back to be looked at again."""

    def __init__(self, lines: Iterable[str]):
        self._lines, self._again = iter(lines), list[str]()

    def __next__(self) -> str:
        """The next line."""
        return self._again.pop() if self._again else next(self._lines)

    def give_back(self, line: str) -> None:
        """Have a line come again."""
        self._again.append(line)


@dataclass
class Step:
    """One structure, in eV and Å."""

    numbers: list[int]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64] | None = None
    pbc: list[bool] | None = None
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    method: str = ""
    """By which its energy was found, as far as the output says."""
    fault: str | None = None
    """Why it did not converge."""
    left_out: str | None = None
    """Why nobody gets it."""
    notes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    stress: NDArray[np.float64] | None = None
    constraints: list[Any] = field(default_factory=list)

    @property
    def is_labeled(self) -> bool:
        """Whether anything was calculated."""
        return self.energy is not None or self.forces is not None

    def atoms(self) -> Atoms:
        """The structure with its labels, as ASE's readers give it."""
        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc, info=dict(self.info))
        atoms.set_constraint(self.constraints)
        labels = {"energy": self.energy, "forces": self.forces, "stress": self.stress}
        labels = {key: value for key, value in labels.items() if value is not None}
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms

    def repeats(self, other: Step) -> bool:
        """Whether it says nothing that the step before it does not say, which programs print again at the end."""
        if self.fault or other.fault or self.numbers != other.numbers:
            return False
        if not np.allclose(_distances(self.positions), _distances(other.positions), rtol=0, atol=SAME_PLACE):
            return False
        if self.energy is None:
            return self.forces is None
        if other.energy is None or abs(self.energy - other.energy) > SAME_ENERGY or self.method != other.method:
            return False
        if self.forces is None:
            return True
        is_in_place = np.allclose(self.positions, other.positions, rtol=0, atol=SAME_PLACE)
        return (
            is_in_place
            and other.forces is not None
            and np.allclose(self.forces, other.forces, rtol=0, atol=SAME_FORCES)
        )


def _distances(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of all atoms from the first three and from the middle: the same however a structure is turned."""
    centers = np.vstack([positions[:3], positions.mean(axis=0, keepdims=True)])
    found: NDArray[np.float64] = np.linalg.norm(positions[:, None] - centers, axis=-1)
    return found


def whole_steps(steps: list[Step], has_ended: bool) -> list[Step]:
    """The steps that say something new, the last marked if it is cut off; bare ones if nothing else is there.

    Args:
        steps: as they stand in the output.
        has_ended: whether the output says that its run ended, be it in an error.
    """
    labeled = [step for step in steps if step.is_labeled]
    if not labeled:
        return steps[:1] if all(step.repeats(steps[0]) for step in steps) else steps
    kept: list[Step] = []
    for step in steps:
        if not step.is_labeled and (step is not steps[-1] or has_ended):
            continue
        if not kept or not step.repeats(kept[-1]):
            kept.append(step)
    last, before = kept[-1], kept[-2:-1]
    lacks_forces = bool(before) and before[0].forces is not None and last.forces is None
    if not has_ended and (lacks_forces or not last.is_labeled):
        last.left_out = CUT_OFF
    return kept


def numbered(
    path: Path,
    steps: Iterable[Step],
    wanted: slice,
    note: Callable[[str, int], None],
    labels: bool,
    faults: dict[int, str],
) -> Iterator[tuple[int, Atoms]]:
    """Structures of the steps that are wanted, with their numbers; `faults` is given those that did not converge.

    Raises:
        KeysError: labels are wanted, and the energies are of several methods.
    """
    chosen, first = range(*wanted.indices(2**62)), None
    for k, step in enumerate(steps):
        if k not in chosen:
            continue
        if step.left_out:
            note(step.left_out, k)
            continue
        if labels and step.energy is not None:
            first = first or (k, step.method)
            if step.method != first[1]:
                raise KeysError(
                    f"{path} has energies of several methods: frame {first[0]} of {first[1]}, frame {k} of "
                    f"{step.method}. A set is of one method. Take the frames of one: --index {first[0]}:{k} or "
                    f"--index {k}:."
                )
        for what in step.notes:
            note(what, k)
        if step.fault:
            faults[k] = step.fault
        yield k, step.atoms()
