"""What is beyond the cutoff does not matter, crossing it is smooth, and atoms that are too close repel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from mlpot.certificate.bars import HIGH_COORDINATION, ISOLATED, JUMP_OF_STIFFNESS, JUMPS
from mlpot.certificate.check import Check, Measurement, NothingToCheckError, Structures, periodic, verdict, worst
from mlpot.certificate.structures import element_pairs, pair_name
from mlpot.certificate.tested import ALONG, FAR, CalculatorUnderTest, pair

Floats = NDArray[np.float64]
Point = tuple[float, float, float]  # along a path: Å, eV, eV/Å
Interval = tuple[Point, Point]
Scan = Callable[[float], tuple[float, float]]  # distance, Å -> energy, eV, and force along it, eV/Å

HELP = "model.core_repulsion: true in the recipe mends it, unless training shows atoms this close"
NEAR = 2e-4  # Å from the cutoff; and a tenth of it
NEARLY = 0.95  # of the shortest distance in training
N_INTERVALS = 100  # of a path


def smoothness(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P9: energy, force and its derivative are continuous where a pair crosses the cutoff (C2)."""
    figures, double = [], tested.double
    side, bars = 1e-6 if double.single else 1e-11, JUMPS[double.single]
    for name, cutoff, scan in _scans(double, structures):
        (e0, f0), (e1, f1) = scan(cutoff - side), scan(cutoff + side)
        figures.append(Measurement("jump of energy, eV", name, abs(e1 - e0), bars[0]))
        figures.append(Measurement("jump of force, eV/Å", name, abs(f1 - f0), bars[1] + 4 * side * abs(f0)))
        if not double.single:  # in float32, rounding errors exceed these differences
            figures.append(
                Measurement(
                    "jump of dF/dr, of the largest", name, _jump_of_stiffness(scan, cutoff), JUMP_OF_STIFFNESS
                )
            )
    return verdict("P9", "smooth at the cutoff", figures)


def high_coordination(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P10: of 260 neighbors none is dropped and energy follows force, or the structure is refused."""
    figures, double = [], tested.double
    for name, atoms in periodic(structures).items():
        if len(atoms) > 32:
            continue
        dense = atoms.copy()
        dense.set_cell(atoms.cell.array / _coordination(tested, atoms) ** (1 / 3), scale_atoms=True)
        dense = dense if len(dense) > 1 else dense * (2, 1, 1)
        dense.positions += np.random.default_rng(0).normal(scale=0.02, size=dense.positions.shape)
        try:
            one = double(dense)
        except ValueError as refusal:
            return verdict("P10", "high coordination", [Measurement("refused", name, 0.0, 0.0)], str(refusal)[:80])
        order = np.random.default_rng(1).permutation(8 * len(dense))
        eight = double((dense * (2, 2, 2))[order])
        # Energies at high coordination have another magnitude: the bars are relative to it, and above the error of
        # networks at distances far from their training (6e-8). A dropped neighbor changes the first digits.
        relative = HIGH_COORDINATION[double.single]
        figures.append(
            Measurement(
                "energy of a supercell, eV",
                name,
                abs(eight.energy / 8 - one.energy),
                relative * max(1.0, abs(one.energy)),
            )
        )
        expected = np.tile(one.forces, (8, 1))[order]
        size = max(1.0, worst(expected))
        figures.append(
            Measurement("forces in a supercell, eV/Å", name, worst(eight.forces, expected), 10 * relative * size)
        )
        figures.append(Measurement("energy against ∫F·dr, eV", name, *_along_a_path(double, dense)))
    return verdict("P10", "high coordination", figures)


def isolated_atoms(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P14: an isolated atom has its reference energy and no force, also with another atom beyond the cutoff."""
    figures, isolated = [], {}
    for z in tested.elements:
        out = tested(Atoms([z], positions=[(0.3, -0.2, 0.1)]))
        isolated[z] = out.energy
        figures.append(Measurement("force, eV/Å", chemical_symbols[z], worst(out.forces), 0.0))
        figures.append(
            Measurement(
                "energy − stored, eV",
                chemical_symbols[z],
                worst(out.energy, tested.references.get(z, out.energy)),
                ISOLATED,
            )
        )
    for a, b in element_pairs(tested.elements, structures):
        cutoff = tested.cutoff(a, b)
        out = tested(pair(a, b, FAR if cutoff is None else cutoff + 1e-6))
        rounding = 1e-6 * abs(out.energy) if tested.single and not tested.references else 0.0
        if cutoff is not None:
            figures.append(Measurement("force beyond the cutoff, eV/Å", pair_name(a, b), worst(out.forces), 0.0))
        figures.append(
            Measurement(
                "energy beyond the cutoff, eV",
                pair_name(a, b),
                worst(out.energy, isolated[a] + isolated[b]),
                ISOLATED + rounding,
            )
        )
    note = "imported: the energy of an isolated atom is what the original gives" if tested.imported else ""
    return verdict("P14", "isolated atoms", figures, note)


def short_range(tested: CalculatorUnderTest, structures: Structures) -> Check:
    """P15: atoms that are too close repel, more at shorter distance; coincident atoms are an error or finite."""
    figures: list[Measurement] = []
    bars = (np.inf, np.inf) if tested.imported else (0.0, 1.0)
    for a, b in element_pairs(tested.elements, structures):
        name, contact = pair_name(a, b), 0.8 * (covalent_radii[a] + covalent_radii[b])
        distances = np.linspace(0.05, contact, 40)
        energies = np.array([tested.energy(pair(a, b, r)) for r in distances])
        falling = ~(np.diff(energies) < 0)  # inwards; NaN counts
        rising = float((falling & ~_free(tested, name, distances, energies)).sum())
        figures.append(Measurement("of 39 steps inwards, downhill", name, rising, bars[0]))
        wide = np.linspace(0.4 * contact, min(tested.cutoff(a, b) or 6.0, 6.0), 120)
        force = np.array([tested(pair(a, b, r)).forces[1] @ ALONG for r in wide])
        signs = np.sign(force[np.abs(force) > 1e-2])
        flips = float((np.diff(signs) != 0).sum()) if np.isfinite(force).all() else np.nan
        figures.append(Measurement("changes of sign of the force", name, flips, bars[1]))
        figures.append(Measurement("NaN of coincident atoms", name, _not_nan(tested, pair(a, b, 0.0)), 0.0))
    if not tested.imported:
        return verdict("P15", "short range", figures, advice=HELP if tested.potential else "")
    rising = max(f.value for f in figures if f.what.startswith("of 39"))
    note = (
        f"imported: how atoms repel is the original's own; {rising:.0f} of 39 steps inwards are downhill at worst"
    )
    return verdict("P15", "short range", figures, note)


def _free(tested: CalculatorUnderTest, name: str, distances: Floats, energies: Floats) -> NDArray[np.bool_]:
    """(n - 1,) outermost steps along which a pair is as if apart, at distances that training nearly shows.

    A potential of dense metals does not repel two atoms by themselves there: nothing lowers their energy either.
    """
    ranges = tested.potential.header.get("card", {}).get("ranges", {}) if tested.potential else {}
    trained = ranges.get("nearest_distance_A", {}).get(name, np.inf)
    level = np.cumprod((np.diff(energies) == 0)[::-1])[::-1].astype(bool)
    return np.asarray(level & (distances[:-1] > NEARLY * trained))


def _scans(tested: CalculatorUnderTest, structures: Structures) -> Iterator[tuple[str, float, Scan]]:
    """Pairs across the cutoff, in vacuum and in crystals."""
    found = False
    for a, b in element_pairs(tested.elements, structures):
        cutoff = tested.cutoff(a, b)
        if cutoff is None:
            continue
        found = True

        def dimer(r: float, a: int = a, b: int = b) -> tuple[float, float]:
            out = tested(pair(a, b, r))
            return out.energy, float(out.forces[1] @ ALONG)

        yield pair_name(a, b), cutoff, dimer
        for name, atoms in periodic(structures).items():
            if len(atoms) > 1 and {a, b} <= set(atoms.numbers):
                yield from _crystal_scan(tested, name, atoms, a, b, cutoff)
    if not found:
        raise NothingToCheckError("no cutoff up to 20 Å was found")


def _crystal_scan(
    tested: CalculatorUnderTest, name: str, atoms: Atoms, a: int, b: int, cutoff: float
) -> Iterator[tuple[str, float, Scan]]:
    """An atom of a crystal that is moved until its distance to another is that of the cutoff."""
    i, j, d, vectors = neighbor_list("ijdD", atoms, cutoff + 0.3)
    right = (i != j) & (atoms.numbers[i] == a) & (atoms.numbers[j] == b)
    if not right.any():
        return
    e = np.flatnonzero(right)[np.abs(d[right] - cutoff).argmin()]
    direction = vectors[e] / d[e]

    def scan(r: float) -> tuple[float, float]:
        moved = atoms.copy()
        moved.positions[j[e]] += (r - d[e]) * direction
        out = tested(moved)
        return out.energy, float(out.forces[j[e]] @ direction)

    yield f"{pair_name(a, b)} in {name}", cutoff, scan


def _jump_of_stiffness(scan: Scan, cutoff: float) -> float:
    """Jump of dF/dr as the step vanishes, over the largest |dF/dr| in the last 0.6 Å; 0 for C2."""

    def stiffness(r: float, h: float) -> float:
        return (scan(r + h)[1] - scan(r - h)[1]) / (2 * h)

    def jump(s: float) -> float:
        return stiffness(cutoff + s, s / 2) - stiffness(cutoff - s, s / 2)

    left = (10 * jump(NEAR / 10) - jump(NEAR)) / 9  # without the part that is linear in the step
    largest = max(abs(stiffness(r, NEAR)) for r in np.linspace(cutoff - 0.6, cutoff - 2 * NEAR, 7))
    # Where all derivatives are small, rounding errors divided by the step are not a jump.
    return abs(left) / max(largest, 1e-4)


def _coordination(tested: CalculatorUnderTest, atoms: Atoms) -> float:
    """Four times the density, or more for 260 neighbors: some codes stop at 256."""
    number = int(atoms.numbers.max())
    reach = tested.cutoff(number, number) or 5.0
    return max(4.0, 260 / (len(atoms) / atoms.get_volume() * 4 / 3 * np.pi * reach**3))


def _along_a_path(tested: CalculatorUnderTest, atoms: Atoms) -> tuple[float, float]:
    """Largest |ΔE + F·dr| on the path of an atom after its interval was halved several times, and its bar.

    Each halving divides the value of a smooth function by eight and leaves a jump as it is.
    """
    direction, step = np.array([0.6, 0.0, 0.8]), 2e-3

    def at(s: float) -> tuple[float, float, float]:
        moved = atoms.copy()
        moved.positions[0] += s * direction
        out = tested(moved)
        return s, out.energy, float(out.forces[0] @ direction)

    def gap(ends: Interval) -> float:
        (a, energy_a, force_a), (b, energy_b, force_b) = ends
        return abs(energy_b - energy_a + (force_a + force_b) / 2 * (b - a))

    points = [at(k * step) for k in range(N_INTERVALS + 1)]
    gaps = np.array([gap(ends) for ends in pairwise(points)])
    left, right = points[gaps.argmax()], points[gaps.argmax() + 1]  # NaN is the largest
    for _ in range(6):
        middle = at((left[0] + right[0]) / 2)
        left, right = max((left, middle), (middle, right), key=gap)
    noise = (1e-6 if tested.single else 1e-12) * max(1.0, abs(left[1]))
    return gap((left, right)), float(gaps.max() / 20 + noise)


def _not_nan(tested: CalculatorUnderTest, atoms: Atoms) -> float:
    """1 if the answer is NaN, 0 if it is finite or an error."""
    try:
        out = tested(atoms)
    except Exception:  # calculators of other packages raise errors of any kind
        return 0.0
    return float(not (np.isfinite(out.energy) and np.isfinite(out.forces).all()))
