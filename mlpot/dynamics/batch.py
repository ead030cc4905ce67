"""Replicas in one batch: atoms of all behind one another in memory, and one native call for their forces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from mlpot.data.constraints import constraints_of, held_coordinates, holds_center
from mlpot.dynamics.start import StartError
from mlpot.forces import native_obstacle, predict
from mlpot.graph import AtomGraph, collate, edge_vectors
from mlpot.neighbors import build_graph, build_molecules
from mlpot.potential import Potential
from mlpot.predictions import ase_results

Floats = NDArray[np.float64]
SKIN = 0.5  # Å, of the lists of neighbors


class Found(NamedTuple):
    """Of all replicas, never changed."""

    energy: Floats  # (n_replicas,) eV
    forces: Floats  # (n_atoms, 3) eV/Å
    stress: Floats  # (n_replicas, 3, 3) eV/Å³, NaN where there is none


class Batch:
    """Replicas whose arrays are parts of one array, so that what is done to all is done to each.

    Energies, forces and stresses of a replica are those of the calculator to the bit, whatever the others are.

    Args:
        replicas: with momenta; their positions, momenta and cells become views, their calculators what is computed
            here.
        potential: which compiled code computes.

    Raises:
        StartError: there is no compiled code for the potential; atoms are held in some structures and not in
            others; a center of mass is held.
    """

    def __init__(self, replicas: Sequence[Atoms], potential: Potential):
        check_potential(potential)
        self.potential, self.replicas = potential, list(replicas)
        self.sizes = np.array([len(atoms) for atoms in replicas])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.atoms = _joined(self.replicas)
        self.cells = np.stack([atoms.cell.array for atoms in self.replicas])
        self.broken: dict[int, str] = {}
        """Why there are no forces of a replica: its number in the batch -> reason."""
        self._graph: AtomGraph | None = None  # as it was when the pairs were found
        for k, atoms in enumerate(self.replicas):
            for name in ("positions", "momenta"):
                atoms.arrays[name] = self.own(self.atoms.arrays[name], k)
            atoms.cell.array = self.cells[k]
            atoms.calc = OfReplica(self, k)
        self.atoms.calc = OfAll(self)
        self._at: tuple[Floats, Floats] | None = None  # positions and cells
        self.compute()

    def own(self, values: Floats, k: int) -> Floats:
        """Replica k's part of an array at all atoms."""
        return values[self.starts[k] : self.starts[k] + self.sizes[k]]

    def compute(self) -> None:
        """Energies, forces and stresses for positions and cells as they are, unless they are known."""
        now = self.atoms.positions, self.cells
        if self._at is not None and all(map(np.array_equal, now, self._at)):
            return
        if self._graph is None or not self._holds(*now):
            self._graph = self._found()
        self._at = now[0].copy(), now[1].copy()
        self.graph = replace(self._graph, positions=torch.from_numpy(self._at[0]))
        out = predict(self.potential, self.graph)
        self.found = Found(out.energy.numpy(), out.forces.numpy(), out.stress.numpy())

    def results(self, k: int, found: Found | None = None) -> dict[str, Any]:
        """What ASE's calculator has of replica k; none of one without forces. `found`: before, by this batch."""
        if found is None and k in self.broken:
            return {}
        of = found or self.found
        return ase_results(float(of.energy[k]), self.own(of.forces, k), of.stress[k])

    def distances(self) -> Floats:
        """(n_edges,) Å, of all pairs in the lists; across a boundary rounded otherwise than in a replica alone."""
        return edge_vectors(self.graph).norm(dim=1).numpy()

    def least(self, of_edges: Floats) -> Floats:
        """(n_replicas,) the least of values at edges; infinite for a replica without edges."""
        first = self.graph.edges.row_ptr.numpy()[self.starts]
        last = np.append(first[1:], len(of_edges))
        return np.where(last > first, np.minimum.reduceat(np.append(of_edges, np.inf), first), np.inf)

    def _holds(self, positions: Floats, cells: Floats) -> bool:
        assert self._graph is not None
        if not np.array_equal(cells, self._graph.cell.numpy()):
            return False
        moved = positions - self._graph.positions.numpy()
        return not self.broken and bool(np.einsum("ia,ia->i", moved, moved).max() < (SKIN / 2) ** 2)

    def _found(self) -> AtomGraph:
        """The lists of all replicas; none, and a reason, for one that has none."""
        self.broken, reach = {}, self.potential.cutoff + SKIN
        of = self.replicas
        if not any(atoms.pbc.any() for atoms in of):
            numbers, positions = [atoms.numbers for atoms in of], [atoms.positions for atoms in of]
            graph = build_molecules(numbers, positions, [atoms.cell.array for atoms in of], reach)
            if graph is not None:
                return graph
        graphs = []
        for k, atoms in enumerate(of):
            try:
                graph = build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, reach)
            except ValueError as error:
                self.broken[k] = str(error)
                apart = np.arange(3.0 * len(atoms)).reshape(-1, 3) * 10 * reach
                graph = build_graph(atoms.numbers, apart, np.zeros((3, 3)), False, reach)
            graphs.append(graph)
        return collate(graphs)


class OfReplica:
    """What ASE's structures ask of a calculator, of one replica as it was computed last."""

    def __init__(self, batch: Batch, k: int):
        self._batch, self._k = batch, k
        self.potential, self.device = batch.potential, "cpu"

    @property
    def results(self) -> dict[str, Any]:
        """As of any calculator; none for a replica without forces."""
        return self._batch.results(self._k)

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """Of the replica, eV."""
        return float(self._batch.found.energy[self._k])

    def get_forces(self, atoms: Atoms | None = None) -> Floats:
        """(n_atoms, 3) eV/Å, a copy."""
        return self._batch.own(self._batch.found.forces, self._k).copy()

    def get_stress(self, atoms: Atoms | None = None) -> Floats:
        """(6,) eV/Å³, NaN where there is none."""
        found: Floats = self._batch.results(self._k, self._batch.found).get("stress", np.full(6, np.nan))
        return found


class OfAll:
    """What ASE's integrators ask of a calculator, of all atoms."""

    def __init__(self, batch: Batch):
        self._batch = batch

    def get_forces(self, atoms: Atoms | None = None) -> Floats:
        """(n_atoms, 3) eV/Å at the positions as they are, a copy."""
        self._batch.compute()
        return self._batch.found.forces.copy()


def check_potential(potential: Potential) -> None:
    """Raise StartError unless compiled code computes, in which no structure depends on the others."""
    obstacle = native_obstacle(potential)
    if obstacle is not None:
        raise StartError(
            f"Replicas run in compiled code, in which none depends on the others, and there is none for this "
            f"potential: {obstacle}. Run them one after another: replicas 1, with a seed and an output each."
        )


def _joined(replicas: list[Atoms]) -> Atoms:
    """All atoms as one structure without a cell; what is held in each is held in it."""
    held = [held_coordinates(atoms) for atoms in replicas]
    some = [bool(mask.any()) for mask in held]
    if any(holds_center(atoms) for atoms in replicas):
        raise StartError(
            "Replicas do not hold the center of mass (FixCom). Remove it, or run them one after another: replicas "
            "1, with a seed and an output each."
        )
    if any(some) and not all(some):
        raise StartError(
            f"Structure {some.index(False)} holds no atoms and structure {some.index(True)} does. Run structures "
            "that hold atoms and those that do not one after another, or give all of them the same constraints."
        )
    atoms = Atoms(
        np.concatenate([one.numbers for one in replicas]), np.concatenate([one.positions for one in replicas])
    )
    atoms.set_masses(np.concatenate([one.get_masses() for one in replicas]))
    atoms.set_momenta(np.concatenate([one.get_momenta() for one in replicas]))
    atoms.set_constraint(constraints_of(np.concatenate(held)))
    return atoms
