"""Energies that were rounded before they came here: kept in single precision, or written with few decimals."""

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
