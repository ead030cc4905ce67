"""The ASE door: a potential as an ASE calculator."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Real
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from mlpot.equivariance import warn_of_rotations
from mlpot.extrapolation import OUTSIDE, untold_sums
from mlpot.forces import (
    device_obstacle,
    native_call_of,
    periodic_directions,
    predict,
    predict_and_grade,
    predict_atoms,
    volumes,
)
from mlpot.graph import AtomGraph, Edges, Properties
from mlpot.model_file import own_potential
from mlpot.models import COMMITTEE
from mlpot.neighbors import SkinList
from mlpot.other_keywords import refused_keywords
from mlpot.potential import Potential
from mlpot.repeated_forces import RepeatedForces
from mlpot.watched import Watch, warn_of_state

_MADE_ANEW: dict[str, Any] = {"_sent": None, "_repeated": None, "_seen": None, "_members": []}
"""What belongs to a device, and not to a file of a calculator."""
SPREADS = ["energy_std", "forces_std", "stress_std"]
"""Results of a committee alone."""
NO_SPREAD = (
    "{} is the spread of a committee, and this potential is one network. Train several: training.committee=4."
)


def _no_atoms(given: Any) -> str:
    """What to say of a calculation of something that is no structure."""
    return (
        f"A calculator computes ASE's Atoms, and this is of type {type(given).__name__}. Set atoms.calc to the "
        "calculator, or give it the structure: calculator.get_property('energy', atoms)."
    )


ARGUMENTS = ("potential", "device", "dtype", "skin", "cuda_graph", "extrapolation_grade")


def _check_grade(grade: Any) -> None:
    is_number = isinstance(grade, Real) and not isinstance(grade, bool | np.bool_)
    if grade is not None and not (is_number and grade >= 0):
        raise ValueError(f"extrapolation_grade = {str(grade)[:40]}: give a number, 0 or above, or None.")


def no_stress(atoms: Atoms) -> str:
    """Why a structure has no stress, and what to do."""
    pbc = "".join("FT"[int(p)] for p in atoms.pbc)
    if not atoms.pbc.any():
        return (
            f"There is no stress without a periodic direction (pbc {pbc}): a molecule has no volume. If the "
            "structure is a crystal, a slab or a wire, give it its cell and set atoms.pbc."
        )
    lengths = ", ".join(f"{length:.4g}" for length in atoms.cell.lengths())
    axes = tuple(int(axis) for axis in np.flatnonzero(~atoms.pbc))
    what = f"Add vacuum: atoms.center(vacuum=10, axis={axes})" if axes else "Correct the cell"
    return (
        f"A stress is that of the cell's volume, and with edges of {lengths} Å (pbc {pbc}) there is none. {what}."
    )


class MLPotCalculator(Calculator):
    """Energy, forces and stress of ASE structures from a trained potential.

    Of a committee, `get_property("forces_std", atoms)` has the standard deviations of the members' forces,
    (n_atoms, 3) eV/Å, as `np.std` takes them; likewise `energy_std`, eV, and `stress_std`, (6,) eV/Å³ in Voigt's
    order. They cost another calculation, are made only when one of them is asked for, and are in `results` then.

    Args:
        potential: a potential, of which a copy is used, or the path of its file.
        device: where it computes.
        dtype: torch.float32, torch.float64 or their names; that of the potential by default.
        skin: Å; the neighbor list is rebuilt when an atom moved half of it.
        cuda_graph: on a CUDA device compute structures of the same atoms, from the second on, by one CUDA graph,
            so that small ones do not wait for calls of kernels. It was not yet run on a card.
        extrapolation_grade: warn, once, when an atom's `extrapolation_grade` is above it; None never warns. It is
            looked at where the structure is another, not the next of a trajectory, and in one of
            `extrapolation.BETWEEN` calculations.

    Raises:
        TypeError: no potential is given, or an argument that another package's calculator has: it says ours.
        ValueError: a CUDA graph is wanted of what no kernel of Triton computes, says why; a skin or a grade is
            negative or no number.

    Raises (on calculation):
        UnknownElementError: an element the potential was not made for.
        ValueError: positions or cell are not finite, or two atoms are in one place.
        PropertyNotImplementedError: stress without a periodic direction, or with a cell without a volume; spread
            of a potential that is no committee.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "energies", "stresses"]  # noqa: RUF012

    def __init__(
        self,
        potential: Potential | str | Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        skin: float = 0.5,
        cuda_graph: bool = False,
        extrapolation_grade: float | None = OUTSIDE,
        **others: Any,
    ):
        if others:
            raise TypeError(refused_keywords(others, ARGUMENTS))
        if potential is None:
            raise TypeError(
                "A potential or the path of its file is needed, as the first argument of MLPotCalculator."
            )
        super().__init__()
        self.potential, self.device = own_potential(potential, device, dtype), device
        warn_of_rotations(self.potential)
        if self.potential.backbone_name == COMMITTEE:
            self.implemented_properties = [*self.implemented_properties, *SPREADS]
        self._members: list[Potential] = []  # made when first asked for
        if cuda_graph and (obstacle := device_obstacle(self.potential)) is not None:
            raise ValueError(f"No CUDA graph can compute this potential: {obstacle}. Leave cuda_graph out.")
        _check_grade(extrapolation_grade)
        advice = "; MLPotCalculator(..., extrapolation_grade=None) never says it."
        is_silent = self.potential.domain is None and not untold_sums(self.potential.header)
        self._watch = Watch(None if is_silent else extrapolation_grade, advice)
        self._tells_state = extrapolation_grade is not None
        self._repeats = cuda_graph
        self._repeated: RepeatedForces | None = None
        self._seen: Tensor | None = None  # atomic numbers of the last structure that was computed without it
        self.neighbors = SkinList(self.potential.cutoff, skin)
        self._sent: tuple[Edges, AtomGraph] | None = None  # the last list, and its copy on another device
        self._lock = (os.getpid(), RLock())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | _MADE_ANEW

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = (os.getpid(), RLock())

    def set(self, **parameters: Any) -> dict[str, Any]:
        """ASE's way to change parameters, of which there are none that a calculator could change once it is made.

        Raises:
            ValueError: one is given.
        """
        if parameters:
            raise ValueError(
                f"{', '.join(parameters)} cannot be changed in a calculator. Make another one: "
                "MLPotCalculator(potential, dtype=..., skin=...)."
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What changed since the last calculation, to the bit; ASE's comparison takes longer than a molecule."""
        old = self.atoms
        if old is None or len(old) != len(atoms):
            return list(all_changes)
        pairs = {
            "positions": (old.positions, atoms.positions),
            "numbers": (old.numbers, atoms.numbers),
            "cell": (old.cell.array, atoms.cell.array),
            "pbc": (old.pbc, atoms.pbc),
        }
        return [name for name, (before, now) in pairs.items() if not (before == now).all()]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE. After an error there are none."""
        self.results = {}
        if not isinstance(self.atoms if atoms is None else atoms, Atoms):
            raise TypeError(_no_atoms(atoms))
        super().calculate(atoms, properties, system_changes)
        a = self.atoms
        if self._tells_state and (a.info or "initial_charges" in a.arrays):
            self._tells_state = not warn_of_state(a, self._watch.advice, stacklevel=3)
        graph = self._graph()
        out = self._predicted(graph).to("cpu")
        energy = out.energy.item()
        results = {"energy": energy, "free_energy": energy, "forces": out.forces.numpy()}
        has_volume = bool(a.pbc.any()) and bool(volumes(graph.cell, graph.pbc).isfinite())
        if has_volume:
            results["stress"] = full_3x3_to_voigt_6_stress(out.stress[0].numpy())
        if {"energies", "stresses"} & set(properties):
            atomic = predict_atoms(self.potential, self._graph(wide=False)).to("cpu")
            results["energies"] = atomic.energies.numpy()
            if has_volume:
                onto = periodic_directions(graph).cpu()
                stresses = onto @ atomic.virials @ onto / a.get_volume()
                results["stresses"] = full_3x3_to_voigt_6_stress(stresses.numpy())
        if set(SPREADS) & set(properties):
            results |= self._spread(graph, has_volume)
        self.results = results

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As of any calculator, one thread at a time; without a stress, the error tells why and what to do."""
        if self._lock[0] != os.getpid():  # after a fork another thread of the parent may hold it for ever
            self._lock = (os.getpid(), RLock())
        try:
            with self._lock[1]:  # else a thread may be given the results of another's structure
                if atoms is not None and not isinstance(atoms, Atoms):
                    raise TypeError(_no_atoms(atoms))
                return super().get_property(name, atoms, allow_calculation)
        except PropertyNotImplementedError as error:
            asked = self.atoms if atoms is None else atoms
            if name in SPREADS and name not in self.implemented_properties:
                raise PropertyNotImplementedError(NO_SPREAD.format(name)) from error
            if "stress" not in str(name) or asked is None:
                raise
            raise PropertyNotImplementedError(no_stress(asked)) from error

    def _spread(self, graph: AtomGraph, has_volume: bool) -> dict[str, Any]:
        """Standard deviations of what the members of a committee predict."""
        self._members = self._members or self.potential.members()
        found = [predict(member, graph).to("cpu") for member in self._members]
        spread = {
            "energy_std": float(np.std([out.energy.item() for out in found])),
            "forces_std": np.std([out.forces.numpy() for out in found], axis=0),
        }
        if has_volume:
            stresses = [full_3x3_to_voigt_6_stress(out.stress[0].numpy()) for out in found]
            spread["stress_std"] = np.std(stresses, axis=0)
        return spread

    def _predicted(self, graph: AtomGraph) -> Properties:
        """As `predict`."""
        if self._watch.wants(graph):
            self._watch.compare(self.potential, [self.atoms.numbers])
            out = predict_and_grade(self.potential, graph)
            self._watch.tell(out.extrapolation_grade, lambda k: f"An atom of {self.atoms.get_chemical_formula()}")
            return out
        if not self._repeats or graph.n_atoms == 0:
            return predict(self.potential, graph)
        if self._repeated is not None and self._repeated.fits(graph):
            return self._repeated(graph)
        if self._seen is not None and torch.equal(self._seen, graph.numbers):
            self._repeated = RepeatedForces(self.potential, graph)
            return self._repeated(graph)
        self._seen = graph.numbers
        return predict(self.potential, graph)

    def _graph(self, wide: bool = True) -> AtomGraph:
        """The structure with its edges; with those in the skin too where what computes skips them.

        To another device goes a list that still holds once, and then positions alone.
        """
        a = self.atoms
        skips = native_call_of(self.potential) is not None or device_obstacle(self.potential) is None
        find = self.neighbors.wide if wide and skips else self.neighbors.graph
        graph = find(a.numbers, a.positions, a.cell.array, a.pbc)
        if torch.device(self.device).type == "cpu":
            return graph
        if self._sent is None or self._sent[0] is not graph.edges:
            self._sent = graph.edges, graph.to(self.device)
        return replace(self._sent[1], positions=graph.positions.to(self.device))
