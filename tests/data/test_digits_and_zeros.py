"""Labels that lost their digits, or that are zeros in place of what was never computed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from sets import crystals, labeled, write

from mlpot.data.check.check import check
from mlpot.units import HARTREE


def found(path: Path, name: str, *, quick: bool = True) -> list[str]:
    """Severity and message of the findings of one check."""
    return [f"{f.severity}: {f.message}" for f in check(path, quick=quick).findings if f.check == name]


def with_labels(atoms: Atoms, **labels) -> Atoms:
    """A copy with other labels."""
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **atoms.calc.results | labels)
    return copy


def in_single_precision(energy: float) -> float:
    return float(np.float32(energy))


def in_single_hartree(energy: float) -> float:
    return float(np.float32(energy / HARTREE)) * HARTREE


def with_two_decimals(energy: float) -> float:
    return round(energy, 2)


@pytest.mark.parametrize(
    ("rounded", "offset", "words"),
    [
        (in_single_precision, -2.0e5, "single precision of numbers in eV: .* steps of 16 meV"),
        (in_single_hartree, -2.0e5, "single precision of numbers in hartree: .* steps of 13 meV"),
        (with_two_decimals, 0.0, "rounded to 0.01 eV: .* steps of 10 meV"),
        (float, -2.0e5, None),
        (in_single_precision, -100.0, None),  # its steps are nothing beside an error of training
    ],
)
def test_energies_that_lost_their_digits_are_told(tmp_path, rounded, offset, words):
    frames = [with_labels(a, energy=rounded(a.get_potential_energy() + offset)) for a in crystals(12)]
    told = found(write(tmp_path / "set.h5", frames), "resolution of energies")
    assert len(told) == (words is not None)
    if words:
        assert told[0].startswith("warning")
        assert re.search(words, told[0])


def test_zeros_for_forces_that_were_not_computed_are_an_error(tmp_path):
    frames = [
        with_labels(a, forces=np.zeros((len(a), 3))) if k % 3 == 1 else a for k, a in enumerate(crystals(12))
    ]
    (told,) = found(write(tmp_path / "set.h5", frames), "labels")
    assert told.startswith("error: 4 of 12 structures have no force but exactly zeros")


def test_forces_of_perfect_crystals_are_zero_by_symmetry(tmp_path):
    perfect = [with_labels(labeled(bulk("Cu", a=a) * 2), forces=np.zeros((8, 3))) for a in (3.5, 3.6, 3.7)]
    assert not found(write(tmp_path / "set.h5", [*crystals(9), *perfect]), "labels")
