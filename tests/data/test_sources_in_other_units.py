"""Sources that are sound each by itself, but not in the same units: the merged set says which."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from places import PROJECT

import mlpot
from mlpot.data.check.check import check
from mlpot.data.h5md.write import write
from mlpot.data.merge import MergeError, merge
from mlpot.data.sources.read import Source
from mlpot.units import BOHR, HARTREE

SETS = [
    [a for a in mlpot.read(PROJECT / "data/ethanol.h5", index) if len(a) > 1] for index in ("0:400:8", "1:400:8")
]


def scaled(frames: list[Atoms], forces: float = 1.0, energy: float = 0.0) -> list[Atoms]:
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        results = {
            "energy": atoms.calc.results["energy"] + energy,
            "forces": atoms.calc.results["forces"] * forces,
        }
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return copies


@pytest.mark.parametrize("factor", [BOHR / HARTREE, -1.0], ids=["hartree/bohr", "gradient"])
def test_forces_of_a_source_in_other_units_are_found_in_the_merged_set(tmp_path, factor):
    write(tmp_path / "first.h5", SETS[0], card={})
    write(tmp_path / "second.h5", scaled(SETS[1], factor), card={})
    merge([Source(tmp_path / name) for name in ("first.h5", "second.h5")], tmp_path / "both.h5")
    (found,) = (f for f in check(tmp_path / "both.h5", quick=True).findings if f.check == "mixed units")
    assert found.severity == "error"
    told = re.search(r"forces of (\S+) are about (\S+) times those of (\S+):", found.message)
    ratio = float(told[2]) if told[1] == "second.h5" else 1 / float(told[2])
    assert ratio == pytest.approx(factor, rel=0.2)


def test_the_same_structures_elsewhere_with_other_energies_are_not_merged(tmp_path):
    moved = scaled(SETS[0][:10], energy=0.01)
    for atoms in moved:
        atoms.translate((3.0, -1.0, 2.0))
    write(tmp_path / "first.h5", SETS[0], card={})
    write(tmp_path / "moved.h5", moved, card={})
    sources = [Source(tmp_path / name) for name in ("first.h5", "moved.h5")]
    with pytest.raises(MergeError, match="10 structures stand in two sources with other labels"):
        merge(sources, tmp_path / "both.h5")
    write(tmp_path / "moved.h5", scaled(moved, energy=-0.01), card={}, overwrite=True)
    assert merge(sources, tmp_path / "both.h5", drop_duplicates=True).n_left_out == 10
    assert np.isfinite([a.get_potential_energy() for a in mlpot.read(tmp_path / "both.h5")]).all()
