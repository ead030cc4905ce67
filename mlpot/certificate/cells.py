"""One crystal has many descriptions and one energy; what does not repeat has no volume and no stress."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from mlpot.certificate.bars import CELLS
from mlpot.certificate.check import Check, Measurement, Structures, free, periodic, verdict, worst
from mlpot.certificate.symmetry import differences
from mlpot.certificate.tested import Answer, CalculatorUnderTest

# Rows of integers with determinant ±1: other vectors of the same lattice.
LATTICES = {
    "sheared": [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
    "tilted beyond a half": [[1, 0, 0], [3, 1, 0], [-2, 5, 1]],
    "left-handed, a and b swapped": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    "left-handed, c reversed": [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    "cycled": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
}
SUPERCELLS = {"2×2×2": np.diag([2, 2, 2]), "skewed": np.array([[1, 1, 0], [-1, 2, 0], [0, 1, 2]])}
MOST_ATOMS = 1000  # of a supercell
ROUNDING = 1e-12  # of a stress that is projected on directions


def supercell(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P11: a supercell has the energy of its cells, their forces and their stress."""
    figures: list[Measurement] = []
    for name, atoms in periodic(structures).items():
        out = tested(atoms)
        for shape, matrix in SUPERCELLS.items():
            n = round(abs(np.linalg.det(matrix)))
            if n * len(atoms) <= MOST_ATOMS:
                whole = tested(make_supercell(atoms, matrix, wrap=False))
                expected = Answer(out.energy, np.tile(out.forces, (n, 1)), out.stress)
                part = Answer(whole.energy / n, whole.forces, whole.stress)
                figures += _same(tested, part, expected, f"{name}, {shape}")
    return verdict("P11", "supercells", figures)


def representation(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P12: wrapping, whole cell shifts, the choice of lattice vectors and rounding change nothing."""
    figures: list[Measurement] = []
    for name, atoms in periodic(structures).items():
        out = tested(atoms)
        for how, same in _descriptions(atoms):
            figures += _same(tested, tested(same), out, f"{name}, {how}")
    return verdict("P12", "descriptions of a cell", figures)


def boundaries(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P13: an open direction changes nothing and has no stress; a periodic one without a vector is an error."""
    figures: list[Measurement] = []
    for name, atoms in free(structures).items():
        boxed = atoms.copy()
        boxed.set_cell([[3.0, 0.2, 0], [0, 2.0, 0.1], [0.5, 0, 2.5]])
        figures += _same(tested, tested(boxed), tested(atoms), f"{name}, in a cell that does not repeat")
        figures.append(_refused(tested, boxed, "stress without volume", name, ask_stress=True))
        endless = atoms.copy()
        endless.set_cell(np.zeros((3, 3)))
        endless.pbc = True
        figures.append(_refused(tested, endless, "periodic without a cell", name))
    for name, atoms in periodic(structures).items():
        slab = atoms.copy()
        slab.pbc = (True, True, False)
        tilted = slab.copy()
        tilted.set_cell(slab.cell.array + np.array([[0, 0, 0], [0, 0, 0], [1.0, -0.7, 2.0]]))
        outside = slab.copy()
        outside.positions += 3 * slab.cell.array[0] - 5 * slab.cell.array[1] - 2 * slab.cell.array[2]
        out, leaning = tested(slab), tested(tilted)
        leaning = leaning._replace(stress=leaning.stress * tilted.get_volume() / slab.get_volume())
        figures += _same(tested, leaning, out, f"{name} as a slab, third vector changed")
        figures += _same(tested, tested(outside), out, f"{name} as a slab, outside the cell")
        figures.append(_across(tested, slab, f"{name} as a slab"))
    return verdict("P13", "open boundaries", figures)


def _across(tested: CalculatorUnderTest, atoms: Atoms, where: str) -> Measurement:
    """The stress across open directions: none if the calculator refuses a stress or answers NaN.

    Along the periodic directions a slab has the stress of its cell's volume.
    """
    atoms, what = atoms.copy(), "stress across an open direction, eV/Å³"
    atoms.calc = tested.calculator
    periodic = atoms.cell.array[atoms.pbc]
    open_directions = np.eye(3) - np.linalg.pinv(periodic) @ periodic
    try:
        stress = atoms.get_stress(voigt=False)
    except Exception:  # calculators of other packages raise errors of any kind
        return Measurement(what, where, 0.0, 0.0)
    known = np.where(np.isnan(stress), 0.0, stress)  # NaN says that there is none
    return Measurement(what, where, worst(known @ open_directions), ROUNDING * max(worst(known), 1.0))


def _descriptions(atoms: Atoms) -> Iterator[tuple[str, Atoms]]:
    rng = np.random.default_rng(3)
    wrapped, displaced, noisy = atoms.copy(), atoms.copy(), atoms.copy()
    wrapped.wrap()
    yield "wrapped", wrapped
    displaced.positions += rng.integers(-7, 8, (len(atoms), 3)) @ atoms.cell.array
    yield "displaced by cells", displaced
    noisy.positions += rng.uniform(-1e-15, 1e-15, noisy.positions.shape)
    noisy.set_cell(atoms.cell.array + rng.uniform(-1e-15, 1e-15, (3, 3)))
    yield "last digit", noisy
    for how, rows in LATTICES.items():
        yield how, Atoms(atoms.numbers, atoms.positions, cell=np.array(rows) @ atoms.cell.array, pbc=True)


def _same(tested: CalculatorUnderTest, out: Answer, expected: Answer, where: str) -> Iterator[Measurement]:
    size, (energy, *forces) = abs(expected.energy), CELLS[tested.single]
    if tested.single:
        return differences(out, expected, where, energy * len(expected.forces) + 1e-6 * size, *forces)
    return differences(out, expected, where, energy * max(size, 1.0), *forces)


def _refused(
    tested: CalculatorUnderTest, atoms: Atoms, what: str, where: str, *, ask_stress: bool = False
) -> Measurement:
    """0 if the calculator raises an error or gives NaN, 1 if it gives a number."""
    atoms = atoms.copy()
    atoms.calc = tested.calculator
    try:
        answer = atoms.get_stress() if ask_stress else atoms.get_potential_energy()
    except Exception:  # calculators of other packages raise errors of any kind
        return Measurement(f"{what} answered", where, 0.0, 0.0)
    return Measurement(f"{what} answered", where, float(not np.isnan(worst(answer))), 0.0)
