"""The bounds that stop a run, checked after every step, before it is recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import NDArray

from mlpot.dynamics.recipe import Guards, MDRecipe
from mlpot.forces import extrapolation_grade
from mlpot.graph import edge_vectors
from mlpot.neighbors import build_graph

if TYPE_CHECKING:  # it brings ASE's integrators and optimizers, half a second that ranks of LAMMPS need not wait
    from mlpot.dynamics.ensembles import Ensemble

Floats = NDArray[np.float64]
WINDOW = 100  # steps over which the energy is compared
NEAR = 1.5  # the neighbor list reaches this multiple of the sum of the largest covalent radii
COORDINATION = 0.3  # warn when the mean number of neighbors changes by this fraction between two checks
STRONG_FORCE = 3.0  # warn when a force exceeds this multiple of the greatest force in training

FAR = 2.0  # warn when one atom's extrapolation grade exceeds this
MANY_FAR = 0.01  # warn when this fraction of the atoms, and at least two, have a grade above 1
NO_DOMAIN = "The model file holds no statistics of its training: guards.extrapolation_grade has no effect."

ONLY_TRAINING = Guards(min_distance=None, min_trained_distance=1.0)


class Distances:
    """The closest pairs, searched again only when atoms have moved so far that a pair may be too close.

    Args:
        numbers: (n_atoms,) atomic numbers.
        least: (119, 119) Å, the distance that a pair of elements must keep.
    """

    def __init__(self, numbers: NDArray[np.int64], least: Floats):
        self._numbers, self.least = numbers, least
        present = np.unique(numbers)
        self._most = least[np.ix_(present, present)].max()
        self.reach = max(2 * NEAR * covalent_radii[present].max(), self._most + 0.5)
        self._clear: tuple[float, Floats, Floats] | None = (
            None  # smallest excess distance (Å), positions and cell at the last search
        )

    def too_close(self, atoms: Atoms) -> str | None:
        """A sentence about the pair that is too close, None if there is none."""
        if self._is_clear(atoms):
            return None
        center, neighbor, distance = self._pairs(atoms)
        z = self._numbers
        excess = distance - self.least[z[center], z[neighbor]]
        least = min(float(excess.min(initial=np.inf)), self.reach - self._most)
        if least >= 0:
            self._clear = (least, atoms.positions.copy(), atoms.cell.array.copy())
            return None
        e = int(excess.argmin())
        i, j = int(center[e]), int(neighbor[e])
        return (
            f"Atoms {i} ({chemical_symbols[z[i]]}) and {j} ({chemical_symbols[z[j]]}) are {distance[e]:.3f} Å "
            f"apart, closer than {self.least[z[i], z[j]]:.3f} Å"
        )

    def _is_clear(self, atoms: Atoms) -> bool:
        """Whether no pair can have come too close since the last search.

        A strain of the cell shrinks no distance by more than its least singular value s; atoms move by at most u
        beside it: d' ≥ s d − 2 u.
        """
        if self._clear is None:
            return False
        excess, positions, cell = self._clear
        shrunk = 1.0
        if not np.array_equal(cell, atoms.cell.array):
            if not atoms.pbc.all():
                return False
            strain = np.linalg.solve(cell, atoms.cell.array)
            positions = positions @ strain
            shrunk = min(1.0, float(np.linalg.svd(strain, compute_uv=False).min()))
        moved = math.sqrt(np.square(atoms.positions - positions).sum(axis=1).max())
        return 2 * moved < shrunk * excess - (1 - shrunk) * self._most

    def nearest(self, atoms: Atoms) -> float:
        """The shortest distance, Å; infinite if no pair is near."""
        return float(self._pairs(atoms)[2].min(initial=np.inf))

    def _pairs(self, atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        graph = build_graph(self._numbers, atoms.positions, atoms.cell.array, atoms.pbc, float(self.reach))
        return graph.edges.center.numpy(), graph.edges.neighbor.numpy(), edge_vectors(graph).norm(dim=1).numpy()


def least_distances(guards: Guards, trained: Mapping[str, float]) -> Floats:
    """(119, 119) Å; `trained` are the shortest distances in training, such as {"C-H": 1.02}."""
    radii = np.pad(covalent_radii, (0, max(0, 119 - len(covalent_radii))))[:119]
    least: Floats = (guards.min_distance or 0.0) * (radii[:, None] + radii)
    for pair, distance in trained.items():
        i, j = (atomic_numbers[symbol] for symbol in pair.split("-"))
        least[i, j] = least[j, i] = max(least[i, j], (guards.min_trained_distance or 0.0) * distance)
    return least


@dataclass(frozen=True)
class SlowChecks:
    """Values that are computed every `WINDOW` steps only; NaN where they are not known."""

    neighbors: float  # mean number of neighbors of an atom
    extrapolation_grade: float  # the highest of all atoms


NOT_CHECKED = SlowChecks(math.nan, math.nan)


@dataclass(frozen=True)
class Bounds:
    """Values within which a monitor neither stops a run nor notes anything, before the next `WINDOW` of steps."""

    apart: Floats  # (119, 119) Å, at least, of atoms of two elements
    force: float  # eV/Å, of an atom
    kinetic: float  # eV
    energy: float  # eV, from which the conserved quantity
    change: float  # eV at most; infinite where it is not guarded
    escape: float  # Å from the center of mass


class Monitor:
    """The guards of one stage of a run.

    Args:
        stage: its guards and temperature.
        atoms: at its beginning.
        ensemble: which runs.
        ranges: of the training structures, from the model file; {} if it has none.
    """

    def __init__(self, stage: MDRecipe, atoms: Atoms, ensemble: Ensemble, ranges: Mapping[str, Any]):
        self._guards, self._ensemble = stage.guards, ensemble
        distances = ranges.get("nearest_distance_A", {})
        self._distances = Distances(atoms.numbers, least_distances(stage.guards, distances))
        self._seen = Distances(atoms.numbers, least_distances(ONLY_TRAINING, distances))
        trained = ranges.get("largest_force_component_eV_per_A")
        self._trained_force = trained or math.inf
        factor = stage.guards.max_trained_force if trained else stage.guards.max_force
        self._max_force = math.inf if factor is None else factor * (trained or 1.0)
        half_kT = units.kB / 2
        begun = atoms.get_kinetic_energy() / (ensemble.n_degrees * half_kT)
        warmest = max(stage.temperature_K, stage.temperature_end_K or 0.0, begun)
        sigma = warmest * math.sqrt(2 / ensemble.n_degrees)
        self._max_temperature = (stage.guards.temperature or math.inf) * warmest + 6 * sigma
        self._thermal = ensemble.n_degrees * half_kT * warmest
        self._per_ps = max(1, round(1000 / stage.timestep_fs))
        self._energy, self._volume = math.nan, math.nan
        self.last = NOT_CHECKED
        self.warnings: dict[str, str] = {}
        self._set_references(atoms, 0)

    def stops(self, atoms: Atoms, step: int) -> str | None:
        """The reason to stop after `step` steps of the stage, None if there is none."""
        results = atoms.calc.results
        if not (math.isfinite(results["energy"]) and np.isfinite(results["forces"]).all()):
            return "The energy or a force is not finite."
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.get_momenta()).all()):
            return "A position or velocity is not finite."
        close = self._distances.too_close(atoms)
        found = (
            (close and f"{close} (guards.min_distance, guards.min_trained_distance).")
            or self._strong_force(results["forces"])
            or self._heat(atoms)
            or self._energy_jump(atoms)
            or self._volume_jump(atoms)
            or self._escape(atoms)
        )
        if found is None:
            self._set_references(atoms, step)
        return found

    def bounds(self) -> Bounds:
        """Those of the state that was checked last, while the cell stays."""
        thermal = (self._guards.energy or math.inf) * self._thermal
        return Bounds(
            apart=self._distances.least,
            force=min(self._max_force, STRONG_FORCE * self._trained_force),
            kinetic=self._max_temperature * self._ensemble.n_degrees * units.kB / 2,
            energy=self._energy,
            change=math.inf if self._ensemble.conserved is None else thermal,
            escape=self._guards.escape_A or math.inf,
        )

    @property
    def trained(self) -> Floats:
        """(119, 119) Å, the shortest distances in training."""
        return self._seen.least

    def nearest(self, atoms: Atoms, listed: float = math.nan) -> float:
        """The shortest distance, Å; infinite if no pair is near. Warns below the distances in training.

        Args:
            atoms: as they are.
            listed: the shortest distance in a list of pairs, none of which is closer than in training.
        """
        if listed < self._distances.reach:
            return listed
        unseen = self._seen.too_close(atoms)
        if unseen is not None:
            self.warnings.setdefault("distance", f"{unseen}, the shortest in training.")
        return self._distances.nearest(atoms)

    def check_slowly(self, atoms: Atoms) -> str | None:
        """The reason to stop, None if there is none, by checks that are too slow for every step."""
        potential, before = atoms.calc.potential, self.last.neighbors
        graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff)
        neighbors = len(graph.edges) / len(atoms)
        self.last = SlowChecks(neighbors, math.nan)
        if abs(neighbors - before) > COORDINATION * before:
            self.warnings.setdefault(
                "neighbors", f"An atom's neighbors went from {before:.3g} to {neighbors:.3g} in {WINDOW} steps."
            )
        if self._guards.extrapolation_grade is None:
            return None
        grades = extrapolation_grade(potential, graph.to(atoms.calc.device))
        if grades is None:
            self.warnings["extrapolation_grade"] = NO_DOMAIN
            return None
        worst = int(grades.argmax())
        most = float(grades[worst])
        self.last = SlowChecks(neighbors, most)
        found = (
            f"Atom {worst} ({atoms.symbols[worst]}) has extrapolation grade {most:.3g}: it is {most:.3g} times as "
            "far from the training set as 99.9 % of the training atoms"
        )
        if most > FAR or (grades > 1).sum() >= max(2, MANY_FAR * len(grades)):
            self.warnings.setdefault("extrapolation_grade", f"{found}.")
        return f"{found} (guards.extrapolation_grade)." if most > self._guards.extrapolation_grade else None

    def _set_references(self, atoms: Atoms, step: int) -> None:
        if step % WINDOW == 0 and self._ensemble.conserved is not None:
            self._energy = self._ensemble.conserved()
        if step % self._per_ps == 0 and atoms.pbc.all():
            self._volume = atoms.get_volume()

    def _strong_force(self, forces: Floats) -> str | None:
        strength = np.square(forces).sum(axis=1)
        worst = int(strength.argmax())
        force = math.sqrt(strength[worst])
        if force > STRONG_FORCE * self._trained_force:
            self.warnings.setdefault(
                "force",
                f"A force of {force:.3g} eV/Å is above {STRONG_FORCE:g} times the greatest in training "
                f"({self._trained_force:.3g}).",
            )
        if force > self._max_force:
            return (
                f"The force on atom {worst} is {force:.3g} eV/Å, above {self._max_force:.3g} "
                "(guards.max_trained_force, guards.max_force)."
            )
        return None

    def _heat(self, atoms: Atoms) -> str | None:
        temperature = 2 * atoms.get_kinetic_energy() / (self._ensemble.n_degrees * units.kB)
        if not temperature <= self._max_temperature:  # written so that NaN stops the run too
            return (
                f"The temperature is {temperature:.4g} K, above {self._max_temperature:.4g} (guards.temperature): "
                "where a structure is not relaxed, its strain becomes heat in the first steps."
            )
        return None

    def _energy_jump(self, atoms: Atoms) -> str | None:
        if self._guards.energy is None or self._ensemble.conserved is None:
            return None
        change = abs(self._ensemble.conserved() - self._energy)
        bound = self._guards.energy * max(self._thermal, atoms.get_kinetic_energy())
        if not change <= bound:
            return (
                f"The conserved quantity changed by {change:.3g} eV within {WINDOW} steps, more than {bound:.3g} "
                "(guards.energy)."
            )
        return None

    def _volume_jump(self, atoms: Atoms) -> str | None:
        if self._guards.volume is None or not atoms.pbc.all():
            return None
        change = atoms.get_volume() / self._volume - 1
        if not abs(change) <= self._guards.volume:
            return f"The volume changed by {100 * change:.0f} % within a picosecond (guards.volume)."
        return None

    def _escape(self, atoms: Atoms) -> str | None:
        if self._guards.escape_A is None or atoms.pbc.any():
            return None
        distance = np.square(atoms.positions - atoms.get_center_of_mass()).sum(axis=1)
        far = math.sqrt(distance.max())
        if far > self._guards.escape_A:
            return f"Atom {int(distance.argmax())} is {far:.0f} Å from the center of mass (guards.escape_A)."
        return None
