"""More that can be wrong with the pair potential of `seeded`."""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from faulty_calculators import Rocket, Toy


class AlmostForces(Toy):
    def spoil(self) -> None:
        self.results["forces"] *= 0.999


class ClippedForces(Toy):
    """No component above 3 eV/Å, for the stability of training."""

    def spoil(self) -> None:
        np.clip(self.results["forces"], -3, 3, out=self.results["forces"])


class Balanced(Rocket):
    """A wrong force, and its trace removed: the sum is zero."""

    def spoil(self) -> None:
        super().spoil()
        self.results["forces"] -= self.results["forces"].mean(axis=0)


class Twisted(Toy):
    """Molecules are set spinning."""

    def spoil(self) -> None:
        arms = self.atoms.positions - self.atoms.positions.mean(axis=0)
        self.results["forces"] += 1e-9 * np.cross([0, 0, 1], arms)


class RightAngled(Toy):
    """The volume is taken for the product of three lengths."""

    def spoil(self) -> None:
        if "stress" in self.results:
            self.results["stress"] *= self.atoms.get_volume() / self.atoms.cell.lengths().prod()


class SignedVolume(Toy):
    def spoil(self) -> None:
        if "stress" in self.results:
            self.results["stress"] *= np.sign(np.linalg.det(self.atoms.cell.array))


class AlwaysPeriodic(Toy):
    """Periodic in one direction is periodic in all."""

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        whole = atoms.copy()
        whole.pbc = atoms.pbc.any()
        return super().pairs(whole)


class CastEarly(Toy):
    """Positions lose half of their digits before differences are taken."""

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        cast = atoms.copy()
        cast.positions = atoms.positions.astype(np.float32)
        return super().pairs(cast)


class Unreferenced(Toy):
    """Atoms have their energy only in company."""

    def spoil(self) -> None:
        self.results["energy"] -= 1.0 * len(np.unique(self.pairs(self.atoms)[0]))


class NothingForAtoms(Toy):
    """The stored energies of free atoms, 1 eV each, are left out."""


class ShuffledSums(Toy):
    """As of threads that add in the order in which they are done."""

    @staticmethod
    def add(values: np.ndarray) -> float:
        return float(np.add.reduce(np.random.default_rng().permutation(values)))


class Remembering(Toy):
    """Remembers its answer, whatever happens to `forgets`."""

    forgets = ""

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        return [c for c in super().check_state(atoms, tol) if c != self.forgets]


class StaleNumbers(Remembering):
    forgets = "numbers"


class StaleCell(Remembering):
    forgets = "cell"


class StalePbc(Remembering):
    forgets = "pbc"


class Lenient(Toy):
    """What moved by less than 1e-7 Å has not moved."""

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        return super().check_state(atoms, 1e-7)


class LastAnswer(Toy):
    """A part of the answer before, as a filter of noise would have it."""

    before: np.ndarray | None = None

    def spoil(self) -> None:
        new, old = self.results["forces"], self.before
        if old is not None and len(old) == len(new):
            self.results["forces"] = 0.999 * new + 0.001 * old
        self.before = new


class SetsDtype(Toy):
    def spoil(self) -> None:
        torch.set_default_dtype(torch.float64)


class SetsEnvironment(Toy):
    def spoil(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "3"


class SilencesWarnings(Toy):
    def spoil(self) -> None:
        warnings.simplefilter("ignore")


class Wraps(Toy):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        if np.isfinite(atoms.positions).all():
            atoms.wrap()
        super().calculate(atoms, properties, system_changes)
