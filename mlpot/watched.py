"""Whoever asks for many calculations is told, once, of a structure unlike the training set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlpot.data.sources.names import KNOWN
from mlpot.extrapolation import BETWEEN, OUTSIDE, outside_words, tells_energy, untold_sums, untold_words
from mlpot.forces import predict, predict_and_grade
from mlpot.graph import AtomGraph, Properties
from mlpot.potential import Potential

Structure = tuple[Tensor, Tensor, Tensor]
"""Atomic numbers (n_atoms,), positions (n_atoms, 3) Å and cells (n_graphs, 3, 3) Å."""
JUMP, STRETCH = 0.1, 0.01  # Å of an atom, and part of a cell, that no step of dynamics moves or changes


def has_jumped(before: Structure, now: Structure) -> bool:
    """Whether a structure is another than before, and not the next of a trajectory."""
    (numbers, positions, cell), (new_numbers, new_positions, new_cell) = before, now
    if numbers is not new_numbers and not torch.equal(numbers, new_numbers):  # of one list they are one array
        return True
    if cell is not new_cell and (
        cell.shape != new_cell.shape or bool((new_cell - cell).abs().max() > STRETCH * cell.abs().max())
    ):
        return True
    return bool(((new_positions - positions).abs() > JUMP).any())


def unseen_state(atoms: Atoms) -> str:
    """A total charge or an open shell that a structure carries, in words; empty if there is none."""
    charge, spin = _said(atoms, "charge"), _said(atoms, "spin")
    if charge is None and "initial_charges" in atoms.arrays:
        charge = _number(atoms.arrays["initial_charges"].sum())
    told = [f"a total charge of {charge:g}"] if charge else []
    told += [f"a spin of {spin:g}"] if spin not in (None, 0, 1) else []
    return " and ".join(told)


def warn_of_state(atoms: Atoms, advice: str = ".", stacklevel: int = 2) -> bool:
    """Warn of a total charge or an open shell that a structure carries; whether there was one.

    Args:
        advice: how not to be told, the end of a sentence.
        stacklevel: as of warnings.warn, for a caller of this.
    """
    told = unseen_state(atoms)
    if told:
        warnings.warn(
            f"The structure carries {told}, which potentials of mlpot cannot see: energy and forces are of "
            f"whatever charge and spin the training set had. This is said once{advice}",
            stacklevel=stacklevel + 1,
        )
    return bool(told)


def _said(atoms: Atoms, quantity: str) -> float | None:
    """The charge or spin under the names that files of data have for it; None where none says a number."""
    info = atoms.info
    return next((n for name in KNOWN[quantity] if name in info and (n := _number(info[name])) is not None), None)


def _number(value: Any) -> float | None:
    """To two digits, of which partial charges sum to zero; None of what is no number, nor says one in words."""
    try:
        if not isinstance(value, int | float):
            (value,) = np.ravel(value)  # readers and networks give arrays of one
        return round(float(value), 2) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


class Watch:
    """Looks at extrapolation grades of the first calculation, of one in `BETWEEN`, and of what moved by a jump.

    Args:
        limit: the grade above which it warns; None never warns.
        advice: how not to be told, the end of a sentence.
    """

    def __init__(self, limit: float | None = OUTSIDE, advice: str = "."):
        self._limit, self.advice = limit, advice
        self._calls, self._next = 0, 1
        self._last: Structure | None = None
        self._compares = False  # there are compositions to tell of, and none was met
        self._untold_is_said = False

    def wants(self, graph: AtomGraph | None = None) -> bool:
        """Whether to look at this calculation; by its structure, or by how many there were alone."""
        if self._limit is None and not self._compares:
            return False
        self._calls += 1
        now = None if graph is None else (graph.numbers, graph.positions, graph.cell)
        jumped = now is not None and (self._last is None or has_jumped(self._last, now))
        self._last = now
        if not (jumped or self._calls >= self._next):
            return False
        self._next = self._calls + BETWEEN
        return True

    def compare(self, potential: Potential, numbers: Iterable[Sequence[int]]) -> None:
        """Warn, once, of a structure whose energy the compositions of the training set do not tell.

        Args:
            potential: with the header of its file.
            numbers: atomic numbers of each structure.
        """
        self._compares = bool(untold_sums(potential.header)) and not self._untold_is_said
        if not self._compares:
            return
        for own in numbers:
            if not tells_energy(potential.header, own):
                self._compares, self._untold_is_said = False, True
                words = untold_words(Atoms(numbers=own).get_chemical_formula())
                warnings.warn(f"{words} This is said once{self.advice}", stacklevel=4)
                return

    def tell(self, grades: Tensor | None, name: Callable[[int], str]) -> None:
        """Warn, once, if one of the grades (n,) is above the limit.

        Args:
            grades: of structures or of atoms; None where the potential cannot tell.
            name: what is told of the one with the highest grade, such as "An atom of system 3".
        """
        if self._limit is None or grades is None or not len(grades) or not float(grades.max()) > self._limit:
            return
        worst, self._limit = int(grades.argmax()), None
        told = outside_words(name(worst), float(grades[worst]))
        warnings.warn(f"{told} This is said once{self.advice}", stacklevel=3)


def predict_watched(
    potential: Potential, graph: AtomGraph, watch: Watch, name: Callable[[int], str]
) -> Properties:
    """As `predict`, with a look at extrapolation grades where the watch wants one.

    Args:
        potential, graph: as there.
        watch: of the door by which the structures come.
        name: of a structure of the graph, as of `Watch.tell`.
    """
    if not watch.wants(graph):
        return predict(potential, graph)
    watch.compare(potential, (graph.numbers[graph.batch == k].tolist() for k in range(graph.n_graphs)))
    out = predict_and_grade(potential, graph)
    watch.tell(out.extrapolation_grade, name)
    return out
