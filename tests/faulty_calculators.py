"""A pair potential that is sound, and what is wrong with it: one defect a class."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from vesin import ase_neighbor_list

from mlpot.graph import Edges
from mlpot.units import GPA

CUTOFF, R0, DEPTH, STIFFNESS = 4.5, 2.3, 0.4, 1.4  # Å, eV, 1/Å


def neighbor_list(quantities: str, atoms: Atoms) -> tuple[np.ndarray, ...]:
    """As ASE's, which takes sixty times as long."""
    found = ase_neighbor_list(quantities, atoms, CUTOFF)
    return tuple(a.astype(np.int64) if a.dtype.kind in "iu" else a for a in found)


class Toy(Calculator):
    """A Morse potential of pairs, as deep as √(Z Z'), with an honest C2 end; the defects below inherit from it."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    add = staticmethod(np.sum)

    def envelope(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and derivative."""
        x = d / CUTOFF
        return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, (-168 * x**5 + 336 * x**6 - 168 * x**7) / CUTOFF

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return neighbor_list("ijdDS", atoms)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        a = self.atoms
        if not np.isfinite(a.positions).all():
            raise ValueError("positions are not finite")
        i, j, d, vectors, _ = self.pairs(a)
        if len(d) and d.min() < 1e-3:
            raise ValueError("two atoms are in one place")
        u, du = self.envelope(d)
        t = np.exp(-STIFFNESS * (d - R0))
        depth = DEPTH / 29 * np.sqrt(a.numbers[i] * a.numbers[j])
        morse, dmorse = depth * (t**2 - 2 * t), -2 * depth * STIFFNESS * (t**2 - t)
        slope = (dmorse * u + morse * du) / 2
        along = vectors * (slope / np.where(d > 0, d, 1))[:, None]
        forces = np.zeros((len(a), 3))
        np.add.at(forces, i, along)
        np.add.at(forces, j, -along)
        self.results = {"energy": float(self.add(morse * u) / 2), "forces": forces}
        if a.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(vectors.T @ along / a.get_volume())
        elif "stress" in properties:
            raise PropertyNotImplementedError("no volume")
        self.spoil()

    def spoil(self) -> None:
        """Where a defect may change the results."""


class StressSign(Toy):
    def spoil(self) -> None:
        if "stress" in self.results:
            self.results["stress"] *= -1


class StressInGPa(Toy):
    def spoil(self) -> None:
        if "stress" in self.results:
            self.results["stress"] /= GPA


class VoigtSwapped(Toy):
    def spoil(self) -> None:
        if "stress" in self.results:
            self.results["stress"] = self.results["stress"][[0, 1, 2, 5, 4, 3]]


class ZerosForStress(Toy):
    def spoil(self) -> None:
        self.results.setdefault("stress", np.zeros(6))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, ["energy"], system_changes)


class ForceSign(Toy):
    def spoil(self) -> None:
        self.results["forces"] *= -1


class Curl(Toy):
    """A thousandth of the forces, turned by a quarter: not the gradient of anything."""

    def spoil(self) -> None:
        self.results["forces"] = self.results["forces"] @ (
            np.eye(3) + 1e-3 * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
        )


class MissingImage(Toy):
    """The nearest image alone, of each pair."""

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        i, j, d, vectors, shift = super().pairs(atoms)
        order = np.lexsort((d, j, i))
        first = np.ones(len(order), dtype=bool)
        first[1:] = (np.diff(i[order]) != 0) | (np.diff(j[order]) != 0)
        keep = order[first]
        return i[keep], j[keep], d[keep], vectors[keep], shift[keep]


class HardCutoff(Toy):
    def envelope(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ones_like(d), np.zeros_like(d)


class CosineEnvelope(Toy):
    def envelope(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.pi * d / CUTOFF
        return (np.cos(x) + 1) / 2, -np.pi / CUTOFF * np.sin(x) / 2


class NeighborCap(Toy):
    """The first 64 neighbors of each atom."""

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        i, *others = super().pairs(atoms)
        rank = np.concatenate([np.arange(n) for n in np.bincount(i, minlength=len(atoms))])
        keep = rank < 64
        return i[keep], *(x[keep] for x in others)


class StaleList(Toy):
    """Pairs are found anew only when one step moves an atom by 0.2 Å, or the cell changes."""

    last: Atoms | None = None

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        old, self.last = self.last, atoms.copy()
        if (
            old is None
            or len(old) != len(atoms)
            or np.abs(old.positions - atoms.positions).max() > 0.2
            or not np.array_equal(old.cell.array, atoms.cell.array)
            or not np.array_equal(old.pbc, atoms.pbc)
        ):
            self.list = neighbor_list("ijS", atoms)
        i, j, shift = self.list
        vectors = atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i]
        d = np.linalg.norm(vectors, axis=1)
        near = d < CUTOFF
        return i[near], j[near], d[near], vectors[near], shift[near]


class StaleResult(Toy):
    """Remembers its answer by positions alone."""

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        return [c for c in super().check_state(atoms, tol) if c == "positions"]


class SingleSums(Toy):
    @staticmethod
    def add(values: np.ndarray) -> float:
        return np.sum(values, dtype=np.float32)


class Handed(Toy):
    """Tells left from right."""

    def spoil(self) -> None:
        r = self.atoms.positions
        if len(r) > 3:
            self.results["energy"] += 1e-6 * float(np.linalg.det(r[1:4] - r[0]))


class Placed(Toy):
    """Feels where it is."""

    def spoil(self) -> None:
        self.results["energy"] += 1e-10 * float(self.atoms.positions[:, 0].sum())


class Ordered(Toy):
    """Treats the first atom in a way of its own."""

    def spoil(self) -> None:
        self.results["energy"] += 1e-6 * float(np.linalg.norm(self.results["forces"][0]))


class Noisy(Toy):
    def spoil(self) -> None:
        self.results["forces"][0] += 1e-15 * np.random.default_rng().normal(size=3)


class Meddling(Toy):
    """Draws from the random numbers of others, and leaves a note."""

    def spoil(self) -> None:
        np.random.rand()  # noqa: NPY002


class WritesInfo(Toy):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        atoms.info["model"] = "mine"


class Pulling(Toy):
    """Every structure is pulled along."""

    def spoil(self) -> None:
        self.results["forces"] += 1e-9


class Rocket(Toy):
    """A little push upwards for the first atom."""

    def spoil(self) -> None:
        self.results["forces"][0, 2] += 1e-6


class Attractive(Toy):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] *= -1
        self.results["forces"] *= -1


class NotANumber(Toy):
    def spoil(self) -> None:
        self.results["energy"] = np.nan
        self.results["forces"] *= np.nan


class Unsteady(Toy):
    """Forces depend on how often they were asked for."""

    calls = 0

    def spoil(self) -> None:
        Unsteady.calls += 1
        self.results["forces"] *= 1 + 0.1 * np.sin(Unsteady.calls)


class Growing(Toy):
    """Energy comes from nowhere, 1e-4 eV each time."""

    calls = 0

    def spoil(self) -> None:
        Growing.calls += 1
        self.results["energy"] += 1e-4 * Growing.calls


class Creeping(Growing):
    """As little as 2e-8 eV each time."""

    def spoil(self) -> None:
        Growing.calls += 1
        self.results["energy"] += 2e-8 * Growing.calls


class Blended:
    """A potential that mixes what stands together in a batch, as a normalization over the batch would."""

    dtype, native, cutoff = torch.float64, None, 4.0

    def __call__(self, numbers: torch.Tensor, edges: Edges, vectors: torch.Tensor) -> torch.Tensor:
        d2 = vectors.square().sum(-1)
        energies = vectors.new_zeros(edges.n_atoms).index_add(0, edges.center, torch.exp(-d2))
        return energies / (1 + 1e-6 * energies.mean())

    def reference_energies(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(numbers), dtype=torch.float64)


class TooStrong(Toy):
    def spoil(self) -> None:
        self.results["forces"] *= 1.01
