"""Energies that were rounded before they came here, or that lie on two levels which no structures explain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlpot.data.check.checks import FEW
from mlpot.data.check.finding import Finding, finding
from mlpot.data.check.tally import Columns
from mlpot.units import ENERGY

LEAST = 1e-4  # eV an atom, below which rounding is nothing beside the error of a potential
DECIMALS = range(4)
APART = 2.0  # eV an atom between two levels of one composition; structures that are bound differ by less
SPREAD = 10.0  # of either level, that the gap between them exceeds
FEWEST_OF_LEVEL = 3  # structures; single ones are outliers
EXACT = 2.0**-50  # of a value: a product with a unit changes its last bits
UNITS = ("eV", "hartree", "kcal/mol", "kJ/mol", "rydberg")
Floats = NDArray[np.float64]


def resolution(c: Columns) -> Iterator[Finding]:
    """Energies whose rounding hides how structures differ: that of -2e5 eV in single precision is 8 meV."""
    mine = np.flatnonzero(np.isfinite(c.energy) & ~c.isolated)
    energies, sizes = c.energy[mine], c.n_atoms[mine]
    if len(np.unique(energies)) < FEW:
        return
    found = max(_steps(energies), key=lambda step: float(np.median(step[0] / sizes)), default=None)
    if found is None or np.median(found[0] / sizes) <= LEAST:
        return
    steps, how = found
    worst = int(np.argmax(steps / sizes))
    message = (
        f"Energies {how}: at {energies[worst]:.6g} eV they come in steps of {_said(steps[worst])}, which are "
        f"{_said(steps[worst] / sizes[worst])} an atom, and no potential learns differences below that. Take them "
        "from where they have all their digits."
    )
    yield finding("resolution of energies", "warning", message)


def levels(c: Columns) -> Iterator[Finding]:
    """Energies of one composition on two levels far apart, as those of two methods or in two units."""
    for kind in np.unique(c.composition[~c.isolated]):
        mine = np.flatnonzero((c.composition == kind) & np.isfinite(c.energy) & ~c.isolated)
        if len(mine) < FEW:
            continue
        order = mine[np.argsort(c.energy[mine])]
        per_atom = c.energy[order] / c.n_atoms[order]
        cut = int(np.argmax(np.diff(per_atom))) + 1
        gap = per_atom[cut] - per_atom[cut - 1]
        few, widest = min(cut, len(order) - cut), max(np.ptp(per_atom[:cut]), np.ptp(per_atom[cut:]))
        if few < FEWEST_OF_LEVEL or gap < APART or gap < SPREAD * widest:
            continue
        smaller = np.sort(order[:cut] if cut == few else order[cut:])
        message = (
            f"Energies of {len(mine)} structures of one composition lie on two levels, {gap:.4g} eV an atom apart "
            f"(about {c.energy[order[0]]:.6g} and {c.energy[order[-1]]:.6g} eV): they are of two methods, or in "
            "two units. Look at each source by itself, and put them together with mlpot data merge."
        )
        yield finding("two levels of energy", "error", message, c.index[smaller])
        return


def _steps(energies: Floats) -> Iterator[tuple[Floats, str]]:
    """Of each way of rounding that all energies show: the distance to the next number, eV, and its name."""
    for unit in UNITS:
        values = energies / ENERGY[unit]
        single = values.astype(np.float32)
        if (np.abs(single - values) <= EXACT * np.abs(values)).all():
            yield np.spacing(np.abs(single)) * ENERGY[unit], f"have the single precision of numbers in {unit}"
        for n in DECIMALS:
            if (np.abs(np.round(values, n) - values) <= EXACT * np.abs(values)).all():
                yield np.full(len(values), 10.0**-n * ENERGY[unit]), f"are rounded to {10.0**-n:g} {unit}"
                break


def _said(value: float) -> str:
    return f"{value:.2g} eV" if value >= 0.1 else f"{1000 * value:.2g} meV"
