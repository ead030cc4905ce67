"""Labels that lost their digits, are zeros in place of what was never computed, or are of two methods."""

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
from mlpot.data.h5md import Reader
from mlpot.units import HARTREE

ETHANOL = Path(__file__).parents[2] / "data" / "ethanol.h5"


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


@pytest.mark.parametrize(
    ("other", "gap"), [(lambda energy: energy + 300.0, "33.27"), (lambda energy: energy / HARTREE, "450.6")]
)
def test_energies_of_two_methods_are_no_unit_of_all(tmp_path, other, gap):
    with Reader(ETHANOL) as reader:
        frames = list(reader.frames(0, 40))
    frames[20:] = [with_labels(a, energy=other(a.get_potential_energy())) for a in frames[20:]]
    findings = check(write(tmp_path / "set.h5", frames), quick=True).findings
    (told,) = [f for f in findings if f.check == "two levels of energy"]
    assert told.severity == "error"
    assert f"{gap[:3]}" in told.message
    assert not any("--correct" in (f.fix or "") for f in findings)  # which would spoil what is right


def lifted(k: int, energy: float) -> float:
    return energy + 0.5 * (k >= 30)


def noisy(k: int, energy: float) -> float:
    return energy + 0.2 * np.sin(12.9898 * k)


@pytest.mark.parametrize("other", [lifted, noisy])
def test_energies_that_contradict_the_forces_are_told_and_no_unit_is_proposed(tmp_path, other):
    with Reader(ETHANOL) as reader:
        frames = list(reader.frames(0, 60))
    frames = [with_labels(a, energy=other(k, a.get_potential_energy())) for k, a in enumerate(frames)]
    findings = check(write(tmp_path / "set.h5", frames), quick=True).findings
    (told,) = findings
    assert (told.check, told.severity) == ("energies", "warning")
    assert "of the energies: some energies have another offset" in told.message
