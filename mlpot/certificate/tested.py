"""The ASE calculator under test, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlpot.calculator import MLPotCalculator
from mlpot.model_file import load_potential
from mlpot.potential import Potential

FAR = 60.0  # Å, a distance at which two atoms do not interact
ALONG = np.array([2.0, -1.0, 2.0]) / 3  # direction of pairs, along no axis
LONGEST_CUTOFF = 20.0  # Å, the longest cutoff that bisection looks for


class Answer(NamedTuple):
    """Energy, forces and stress that a calculator returns."""

    energy: float  # eV
    forces: NDArray[np.float64]  # (n_atoms, 3) eV/Å
    stress: NDArray[np.float64]  # (3, 3) eV/Å³; NaN without volume, or where the calculator refuses that of a slab


@dataclass(frozen=True)
class CalculatorUnderTest:
    """A calculator under test."""

    name: str
    make: Callable[[], Any]  # a new ASE calculator
    elements: tuple[int, ...]
    single: bool = False  # computes in float32
    exact: CalculatorUnderTest | None = None  # the same weights in float64, if `single`
    known_cutoff: float | None = None  # Å
    references: Mapping[int, float] = field(default_factory=dict)  # eV of each free atom
    potential: Potential | None = None
    load: Callable[[], object] | None = None  # reads the potential from its file once more
    runs: dict[Any, Any] = field(
        default_factory=dict, compare=False, repr=False
    )  # cached runs of dynamics, shared by checks

    @cached_property
    def calculator(self) -> Any:
        """The one calculator that computes every structure, as in a user's script."""
        return self.make()

    @property
    def imported(self) -> bool:
        """Whether the function is that of another package: what it gives is no promise of ours."""
        return self.potential is not None and "imported" in self.potential.header.get("card", {})

    @property
    def double(self) -> CalculatorUnderTest:
        """The same weights in float64 where known, for differences of energies."""
        return self.exact or self

    def __call__(self, atoms: Atoms, calculator: Any = None) -> Answer:
        """Energy, forces and stress of a copy of a structure."""
        atoms = atoms.copy()
        atoms.set_constraint()
        atoms.calc = self.calculator if calculator is None else calculator
        return answer(atoms)

    def energy(self, atoms: Atoms) -> float:
        """eV."""
        atoms = atoms.copy()
        atoms.calc = self.calculator
        return float(atoms.get_potential_energy())

    @cached_property
    def has_stress(self) -> bool:
        """Whether the calculator implements stress."""
        return "stress" in self.calculator.implemented_properties

    def cutoff(self, a: int, b: int) -> float | None:
        """Distance (Å) beyond which two atoms do not interact; None if they always do.

        An unknown cutoff is found by bisection of a dimer.
        """
        if self.known_cutoff is not None:
            return self.known_cutoff
        far = self.energy(pair(a, b, FAR))
        if not np.isfinite(far):
            raise FloatingPointError(f"The energy of two atoms {FAR:g} Å apart is {far}.")

        def interact(r: float) -> bool:
            out = self(pair(a, b, r))
            return out.energy != far or bool(out.forces.any())

        grid = np.arange(1.0, LONGEST_CUTOFF + 0.25, 0.25)
        interacting = [r for r in grid if interact(r)]
        if not interacting or interacting[-1] == grid[-1]:
            return None
        near, beyond = interacting[-1], interacting[-1] + 0.25
        for _ in range(50):
            middle = (near + beyond) / 2
            near, beyond = (middle, beyond) if interact(middle) else (near, middle)
        return float(beyond)


def answer(atoms: Atoms) -> Answer:
    """Results of the calculator that is attached to the structure."""
    energy = float(atoms.get_potential_energy())
    forces = np.array(atoms.get_forces(apply_constraint=False), dtype=np.float64)
    none = Answer(energy, forces, np.full((3, 3), np.nan))
    if not (atoms.pbc.any() and "stress" in atoms.calc.implemented_properties):
        return none
    try:  # of slabs and wires there need be none
        return none._replace(stress=np.array(atoms.get_stress(voigt=False, apply_constraint=False)))
    except Exception:  # calculators of other packages raise errors of any kind
        if atoms.pbc.all():
            raise
        return none


def pair(a: int, b: int, distance: float) -> Atoms:
    """Two atoms in vacuum, along no axis."""
    return Atoms([a, b], [(0, 0, 0), distance * ALONG])


def of_model(
    path: str | Path, *, device: str = "cpu", dtype: torch.dtype | str | None = None
) -> CalculatorUnderTest:
    """The potential in a file, as it is deployed; errors as `load_potential`."""
    load = partial(load_potential, path, device=device, dtype=dtype)
    return replace(of_potential(load(), name=Path(path).name, device=device), load=load)


def of_potential(potential: Potential, *, name: str = "potential", device: str = "cpu") -> CalculatorUnderTest:
    """A potential in its own type."""
    single = potential.dtype == torch.float32
    return CalculatorUnderTest(
        name=name,
        make=lambda: MLPotCalculator(potential, device=device, extrapolation_grade=None),
        elements=potential.elements,
        single=single,
        exact=of_potential(deepcopy(potential).double(), name=name, device=device) if single else None,
        known_cutoff=potential.cutoff,
        references=dict(zip(potential.elements, potential.reference.tolist(), strict=True)),
        potential=potential,
    )


def of_calculator(where: str, elements: tuple[int, ...], *, single: bool = False) -> CalculatorUnderTest:
    """An ASE calculator of any package.

    Args:
        where: module:name, of a calculator or of what makes one when called without arguments.
        elements: atomic numbers of the structures it is given.
        single: it computes in float32.

    Raises:
        ValueError: there is no such module or name.
    """
    try:
        if ":" not in where:
            raise ValueError("it names no calculator of the module")
        found = EntryPoint(name="calculator", value=where, group="mlpot").load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"There is no calculator {where} ({error}). Give module:name, the module importable from here."
        ) from error
    is_instance = not isinstance(found, type) and callable(getattr(found, "get_property", None))
    return CalculatorUnderTest(where, (lambda: deepcopy(found)) if is_instance else found, elements, single)
