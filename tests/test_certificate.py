"""The certificate passes what is sound and catches every seeded defect (BATTERY, physics table)."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.morse import MorsePotential
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress
from potentials import new_potential, small_potential
from structures import copper, copper_atom, ethanol, shaken

from mlpot.certificate import cells, derivatives, locality, motion, state, symmetry
from mlpot.certificate.check import Check, Figure, Structures, judge
from mlpot.certificate.subject import Subject, of_calculator, of_potential
from mlpot.certificate.verify import QUICK, verify
from mlpot.units import GPA

CUTOFF, R0, DEPTH, STIFFNESS = 4.5, 2.3, 0.4, 1.4  # of the toy below, Å, eV, 1/Å
CUBE = shaken(bulk("Cu", cubic=True, a=3.61), by=0.05)
COPPER: Structures = {"crystal": CUBE, "primitive cell": copper_atom()}
CLUSTER = Atoms("Cu4", positions=[(0, 0, 0), (2.4, 0.1, 0), (0.3, 2.5, 0.2), (1.1, 0.9, 2.3)])
ALL: Structures = {"cluster": CLUSTER} | dict(COPPER)


class Toy(Calculator):
    """A Morse potential of pairs with an honest C2 end; the defects below inherit from it."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    add = staticmethod(np.sum)

    def envelope(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and derivative."""
        x = d / CUTOFF
        return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, (-168 * x**5 + 336 * x**6 - 168 * x**7) / CUTOFF

    def pairs(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return neighbor_list("ijdDS", atoms, CUTOFF)

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
        morse, dmorse = DEPTH * (t**2 - 2 * t), -2 * DEPTH * STIFFNESS * (t**2 - t)
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
    """The first 64 neighbours of each atom."""

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
            self.list = neighbor_list("ijS", atoms, CUTOFF)
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


class TooStrong(Toy):
    def spoil(self) -> None:
        self.results["forces"] *= 1.01


def toy(kind: type[Toy] = Toy) -> Subject:
    return Subject(kind.__name__, kind, (29,))


SEEDED: list[tuple[type[Toy], Callable[[Subject, Structures], Check]]] = [
    (StressSign, derivatives.stress),
    (StressInGPa, derivatives.stress),
    (VoigtSwapped, derivatives.stress),
    (ForceSign, derivatives.force),
    (Curl, derivatives.force),
    (Curl, derivatives.curl),
    (Curl, derivatives.loops),
    (SingleSums, derivatives.force),
    (SingleSums, cells.supercell),
    (MissingImage, cells.supercell),
    (ZerosForStress, cells.boundaries),
    (HardCutoff, locality.smoothness),
    (CosineEnvelope, locality.smoothness),
    (NeighborCap, locality.crowd),
    (Attractive, locality.short_range),
    (StaleList, state.memory),
    (StaleResult, state.memory),
    (Noisy, state.determinism),
    (Meddling, state.side_effects),
    (WritesInfo, state.side_effects),
    (Handed, symmetry.rotation),
    (Placed, symmetry.translation),
    (Ordered, symmetry.permutation),
    (Pulling, symmetry.momentum),
    (Unsteady, motion.reversal),
    (Growing, motion.drift),
    (TooStrong, motion.scaling),
    (Rocket, motion.momenta),
]


SHORT: dict[object, dict[str, float]] = {
    derivatives.loops: {"n_loops": 1, "n_points": 200},
    motion.drift: {"picoseconds": 0.3},
    motion.momenta: {"picoseconds": 0.1},
    motion.reversal: {"n_steps": 50},
    state.determinism: {"n_repeats": 3},
}
"""What is enough for a toy."""
MOVING = {motion.drift, motion.momenta, motion.reversal, motion.scaling}


def run(check, kind: type[Toy]) -> Check:  # type: ignore[no-untyped-def]
    structures = {"cluster": CLUSTER} if check in MOVING else ALL
    return check(toy(kind), structures, **SHORT.get(check, {}))


@pytest.mark.parametrize(("kind", "check"), SEEDED, ids=[f"{k.__name__}-{c.__name__}" for k, c in SEEDED])
def test_a_seeded_defect_is_caught_by_its_check(kind, check) -> None:  # type: ignore[no-untyped-def]
    verdict = run(check, kind)
    assert not verdict.passed, verdict
    assert not verdict.figure <= verdict.bar


SOUND = [*dict.fromkeys(check for _, check in SEEDED), cells.representation, locality.lone_atoms]


@pytest.mark.parametrize("check", SOUND, ids=lambda c: c.__name__)
def test_a_sound_calculator_passes(check) -> None:  # type: ignore[no-untyped-def]
    verdict = run(check, Toy)
    assert verdict.passed, verdict


@pytest.mark.parametrize("check", [c for c in SOUND if c not in MOVING], ids=lambda c: c.__name__)
def test_what_is_not_a_number_fails(check) -> None:  # type: ignore[no-untyped-def]
    try:
        assert not run(check, NotANumber).passed
    except FloatingPointError:
        # These look for the cutoff first; an error is a failure.
        assert check in (locality.smoothness, locality.short_range, locality.lone_atoms)


def test_nan_is_above_every_bar() -> None:
    figures = [Figure("energy", "here", 0.5, 1.0), Figure("forces", "there", np.nan, 1.0)]
    verdict = judge("P0", "nothing", figures)
    assert not verdict.passed
    assert verdict.what == "forces"


@pytest.mark.parametrize(
    ("variant", "dtype"), [("schnet", torch.float32), ("egnn_moving", torch.float64)], ids=["schnet", "egnn"]
)
@pytest.mark.slow
def test_our_potentials_pass_all_but_short_range(variant: str, dtype: torch.dtype) -> None:
    potential = small_potential(variant, trained=True, dtype=dtype).freeze()
    structures = {"molecule": ethanol(), "crystal": copper(), "primitive cell": copper_atom()}
    certificate = verify(of_potential(potential), structures)
    failed = [c for c in certificate.checks if not c.passed and c.id != "P15"]  # trained without repulsion
    assert not failed


def test_a_cosine_envelope_of_ours_is_told() -> None:
    potential = new_potential("schnet", envelope="cosine").freeze()
    assert not locality.smoothness(of_potential(potential), {"crystal": copper()}).passed


def test_any_calculator_of_ase_can_be_judged() -> None:
    subject = of_calculator("ase.calculators.morse:MorsePotential", (29,))
    assert symmetry.rotation(subject, COPPER).passed
    assert isinstance(subject.calculator, MorsePotential)
    with pytest.raises(ValueError, match="no calculator"):
        of_calculator("ase.calculators.morse:Nothing", (29,))


def test_the_cutoff_of_a_calculator_is_found() -> None:
    assert toy().cutoff(29, 29) == pytest.approx(CUTOFF, abs=1e-6)


def test_every_row_is_told_or_said_not_to_apply() -> None:
    certificate = verify(toy(NotANumber), {"cluster": CLUSTER})
    assert not certificate.passed
    ids = [c.id for c in certificate.checks] + list(certificate.not_applicable)
    assert sorted(ids) == sorted(QUICK)
    json.dumps(certificate.as_dict(), allow_nan=False)
