"""Forces and stress are the derivatives of the energy, with their signs, and do no work around a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from mlpot.certificate.bars import CURL, FORCES, FORCES_SINGLE, LOOP, STRESS, STRESS_SINGLE
from mlpot.certificate.check import (
    Check,
    Measurement,
    NothingToCheckError,
    Structures,
    periodic,
    repeated,
    verdict,
    worst,
)
from mlpot.certificate.structures import element_pairs, pair_name
from mlpot.certificate.tested import ALONG, CalculatorUnderTest, pair
from mlpot.rotations import random_rotations

Floats = NDArray[np.float64]

STENCIL = {-3: -1 / 60, -2: 3 / 20, -1: -3 / 4, 1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Weight of f(x + k h) in h f'(x), to sixth order: the error of fourth order exceeds the bar at short bonds."""
# Å, or strain. Where a pair crosses the cutoff, the third derivative jumps, and a difference of any order has an
# error of order h². The smaller step has a sixteenth of this error; the error of a wrong force stays as it is.
STEPS = (1e-3, 2.5e-4)
SINGLE_STEPS = (1e-2,)
MOST_COORDINATES = 90  # that are checked in one structure; of more, a random choice


def force(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P5: forces are minus the derivative of the energy, coordinate by coordinate."""
    figures, double = [], tested.double
    for name, atoms in structures.items():
        out, coordinates = double(atoms), _coordinates(len(atoms))
        expected = np.array([out.forces[i, axis] for i, axis in coordinates])

        def energies(
            step: float, atoms: Atoms = atoms, coordinates: list[tuple[int, int]] = coordinates
        ) -> Floats:
            return np.array([double.energy(_moved(atoms, i, axis, step)) for i, axis in coordinates])

        bar = max(FORCES, 1e-11 * abs(out.energy))
        if double.single:  # energies are good to some units in the last place only
            bar = FORCES_SINGLE + 1e-5 * worst(out.forces) + 2e-7 * abs(out.energy) / SINGLE_STEPS[0]
        figures.append(Measurement("forces, eV/Å", name, _departure(energies, -expected, double.single), bar))
    for a, b in element_pairs(tested.elements, structures):
        figures += _of_close_pair(double, a, b)
    return verdict("P5", "forces are −dE/dr", figures, _of_double(tested))


def _of_close_pair(tested: CalculatorUnderTest, a: int, b: int) -> Iterator[Measurement]:
    """Relative errors of the forces of two atoms that are too close: some codes clip such forces."""
    contact = covalent_radii[a] + covalent_radii[b]
    for part in (0.5, 0.7, 0.9):

        def energies(step: float, r: float = part * contact) -> Floats:
            return np.array([tested.energy(pair(a, b, r + step))])

        expected = tested(pair(a, b, part * contact)).forces[1] @ ALONG
        bar = 1e-4 * abs(expected) + (1e-2 if tested.single else 1e-6)
        found = _departure(energies, -np.array([expected]), tested.single)
        yield Measurement(
            "forces of close pairs, eV/Å", f"{pair_name(a, b)} at {part * contact:.2f} Å", found, bar
        )


def stress(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P6: stress is (1/V) dE/dε, component by component, and symmetric; also of slabs and wires."""
    if not tested.has_stress:
        raise NothingToCheckError("the calculator gives no stress")
    figures, double = [], tested.double
    for name, atoms in _with_more_cells(structures).items():
        out, volume = double(atoms), atoms.get_volume()
        if not atoms.pbc.all() and np.isnan(out.stress).all():
            continue  # the calculator refuses it
        strains = _strains(atoms)

        def energies(step: float, atoms: Atoms = atoms, v: float = volume, all: Floats = strains) -> Floats:
            return np.array([double.energy(_strained(atoms, step * strain)) for strain in all]) / v

        expected = np.einsum("cab,ab->c", strains, out.stress)
        bar = max(STRESS, 1e-11 * abs(out.energy) / volume)
        if double.single:
            bar = 1e-3 * worst(out.stress) + (STRESS_SINGLE + 2e-7 * abs(out.energy) / SINGLE_STEPS[0]) / volume
        figures.append(Measurement("stress, eV/Å³", name, _departure(energies, expected, double.single), bar))
        figures.append(Measurement("asymmetry of stress, eV/Å³", name, worst(out.stress, out.stress.T), 1e-12))
    return verdict("P6", "stress is dE/dε / V", figures, _of_double(tested))


def _with_more_cells(structures: Structures) -> Structures:
    """What repeats, the smallest crystal in a cell without right angles, and as slab and wire along no axis."""
    out, crystals = dict(repeated(structures)), periodic(structures)
    if not crystals:
        return out
    name, atoms = min(crystals.items(), key=lambda item: len(item[1]))
    sheared = atoms.copy()
    shear = np.eye(3) + np.array([[0.0, 0.04, -0.03], [0.0, 0.02, 0.05], [0.0, 0.0, -0.02]])
    sheared.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    out[f"{name}, sheared"] = sheared
    rotation = random_rotations(1, np.random.default_rng(7))[0].T
    for what, pbc in {"slab": (False, True, True), "wire": (False, True, False)}.items():
        cell = atoms.cell.array @ rotation
        out[f"{name} as a rotated {what}"] = Atoms(atoms.numbers, atoms.positions @ rotation, cell=cell, pbc=pbc)
    return out


def curl(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P7: the Jacobian of the forces is symmetric, λ = ‖J − Jᵀ‖ / 2‖J‖ (F. Bigi et al., arXiv 2412.11569)."""
    figures, double = [], tested.double
    step = SINGLE_STEPS[0] if double.single else 1e-4
    for name, atoms in structures.items():
        if len(atoms) == 1 or 3 * len(atoms) > MOST_COORDINATES:
            continue

        def forces(step: float, atoms: Atoms = atoms) -> Floats:
            moved = [_moved(atoms, i, axis, step) for i, axis in np.ndindex(len(atoms), 3)]
            return np.array([double(m).forces.ravel() for m in moved])

        j = _derivative(forces, step)
        asymmetry = float(np.linalg.norm(j - j.T) / (2 * np.linalg.norm(j)))
        figures.append(Measurement("λ", name, asymmetry, CURL[double.single]))
    return verdict("P7", "forces have no curl", figures, _of_double(tested))


def loops(tested: CalculatorUnderTest, structures: Structures, n_loops: int = 3, n_points: int = 400) -> Check:
    """P8: the work around a closed loop vanishes, relative to the work along it."""
    figures, double = [], tested.double
    for name, atoms in structures.items():
        if len(atoms) == 1:
            continue
        rng = np.random.default_rng(5)
        for _ in range(n_loops):
            q, _r = np.linalg.qr(rng.normal(size=(3 * len(atoms), 2)))
            angles = 2 * np.pi * np.arange(n_points) / n_points
            u, v = (x.reshape(-1, 3) for x in 0.3 * q.T)
            work = [
                _work(double, atoms, u * np.cos(t) + v * np.sin(t), v * np.cos(t) - u * np.sin(t)) for t in angles
            ]
            # Pairs that cross the cutoff leave an error of the sum; half the points tell how large it is.
            total, error = np.sum(work), np.sum(work) - 2 * np.sum(work[::2])
            ratio = float(np.maximum(abs(total) - abs(error), 0.0) / np.sum(np.abs(work)))  # a NaN stays NaN
            figures.append(Measurement("∮F·dr / ∮|F·dr|", name, ratio, LOOP[double.single]))
    return verdict("P8", "no work around a loop", figures, _of_double(tested))


def _work(tested: CalculatorUnderTest, atoms: Atoms, by: Floats, along: Floats) -> float:
    moved = atoms.copy()
    moved.positions += by
    return float((tested(moved).forces * along).sum())


def _derivative(f: Callable[[float], Floats], h: float) -> Floats:
    return np.sum([weight * f(k * h) for k, weight in STENCIL.items()], axis=0) / h


def _departure(f: Callable[[float], Floats], expected: Floats, single: bool) -> float:
    """Largest |f' − expected|, each component at the step that suits it best; NaN if any is NaN."""
    off: Floats | None = None
    for h in SINGLE_STEPS if single else STEPS:
        found = np.abs(_derivative(f, h) - expected)
        off = found if off is None else np.where(found < off, found, off)
        if worst(off) <= 1e-9:
            break
    assert off is not None
    return worst(off)


def _coordinates(n_atoms: int) -> list[tuple[int, int]]:
    every = list(np.ndindex(n_atoms, 3))
    if len(every) <= MOST_COORDINATES:
        return every
    return [every[k] for k in np.random.default_rng(6).choice(len(every), MOST_COORDINATES, replace=False)]


def _moved(atoms: Atoms, i: int, axis: int, step: float) -> Atoms:
    out = atoms.copy()
    out.positions[i, axis] += step
    return out


def _strains(atoms: Atoms) -> Floats:
    """(n, 3, 3): unit strains along the periodic directions; a shear is shared by its two entries."""
    axes = np.eye(3) if atoms.pbc.all() else np.linalg.qr(atoms.cell.array[atoms.pbc].T)[0].T
    pairs = [(axes[a], axes[b]) for a in range(len(axes)) for b in range(a, len(axes))]
    return np.array([(np.outer(u, v) + np.outer(v, u)) / 2 for u, v in pairs])


def _strained(atoms: Atoms, strain: Floats) -> Atoms:
    """x -> (1 + ε) x."""
    deformation = np.eye(3) + strain
    out = atoms.copy()
    out.set_cell(atoms.cell.array @ deformation)
    out.positions = atoms.positions @ deformation
    return out


def _of_double(tested: CalculatorUnderTest) -> str:
    return "of the same weights in float64" if tested.exact is not None else ""
