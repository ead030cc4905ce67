"""Structures of an output joined with the energies and gradients that are printed after each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpot.data.sources.steps import NOT_REACHED, Step

SAME_ENERGY = 1e-3  # eV, within which an energy printed again is that of the same structure
SAME_PLACE = 1e-3  # Å
NO_STRUCTURE = "an energy of which no coordinates are printed left out, behind this frame"
SEVERAL = "several energies are printed behind it, of which nothing says which is its own"


@dataclass
class Collected:
    """What was read so far: steps, and the parts of the present one."""

    steps: list[Step] = field(default_factory=list)
    step: Step | None = None
    state: dict[str, Any] = field(default_factory=dict)
    """Charge and multiplicity."""
    fails: bool = False
    """Whether a failure was printed that concerns the next energy."""
    _pending: tuple[str, float, bool] | None = None  # an energy without a structure: method, eV, failure

    def take_structure(self, numbers: list[int], positions: NDArray[np.float64]) -> None:
        """Take a structure in Å; one that is printed before the present one was computed replaces it."""
        self._lose()
        if self.step is not None and self.step.is_labeled:
            self.finish()
        self.step = Step(numbers, positions, pbc=[False] * 3)

    def take_energy(self, method: str, energy: float) -> None:
        """Take an energy, eV; one of a further method replaces that before, a second one makes both doubtful."""
        failed, self.fails = self.fails, False
        step = self.step
        if step is not None and step.forces is not None:
            if step.energy is not None and abs(step.energy - energy) < SAME_ENERGY:
                return
            self.finish()
        if self.step is None:
            self._lose()
            self._pending = method, energy, failed
            return
        if (
            self.step.method == method
            and not self.step.fault
            and not np.isclose(self.step.energy or 0.0, energy, rtol=0, atol=SAME_ENERGY)
        ):
            self.step.left_out = SEVERAL
        self.step.energy, self.step.method = energy, method
        self.step.fault = NOT_REACHED if failed else None

    def take_forces(
        self, forces: NDArray[np.float64], numbers: list[int] | None = None, positions: Any = None
    ) -> None:
        """Take forces, eV/Å, with the structure that they are of if the table of forces has it."""
        if self.step is not None and len(forces) < len(self.step.numbers):
            return  # the file ends within them
        if positions is not None and (self.step is None or not self._is_present(positions)):
            pending, self._pending = self._pending, None
            self.finish()
            self.step = Step(list(numbers or []), positions, pbc=[False] * 3)
            if pending is not None:
                self.step.method, self.step.energy = pending[0], pending[1]
                self.step.fault = NOT_REACHED if pending[2] else None
        if self.step is not None and len(forces) == len(self.step.numbers):
            self.step.forces = forces

    def finish(self) -> list[Step]:
        """Put the present step to the others, which come back."""
        self._lose()
        if self.step is not None:
            self.step.info = dict(self.state)
            self.steps.append(self.step)
        self.step = None
        return self.steps

    def _is_present(self, positions: NDArray[np.float64]) -> bool:
        step = self.step
        return (
            step is not None
            and np.shape(step.positions) == np.shape(positions)
            and np.allclose(step.positions, positions, rtol=0, atol=SAME_PLACE)
        )

    def _lose(self) -> None:
        if self._pending is not None and self.steps:
            self.steps[-1].notes.append(NO_STRUCTURE)
        self._pending = None
