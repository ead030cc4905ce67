"""Sets whose atoms are held in part, as slabs with fixed layers are, are examined by the forces of the others."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from frames import converted

from mlpot.data.check.check import check
from mlpot.units import BOHR, HARTREE, KCAL_MOL


def slabs(energy: float, forces: float, step: float = 0.0) -> list[Atoms]:
    """Oxygen on copper whose lowest layer is fixed; apart from each other, or `step` Å along a path."""
    rng, frames = np.random.default_rng(0), []
    slab = fcc111("Cu", (2, 2, 2), vacuum=6)
    add_adsorbate(slab, "O", 1.4, "fcc")
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
    for _ in range(40):
        atoms = slab.copy()
        atoms.positions[4:] += rng.normal(scale=step or 0.06, size=(5, 3))
        slab = atoms if step else slab
        atoms.calc = EMT()
        labels = {
            "energy": energy * atoms.get_potential_energy(),
            "forces": forces * atoms.get_forces(apply_constraint=False),
        }
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **labels)
        frames.append(copy)
    return frames


def examined(tmp_path, frames):
    write(tmp_path / "slabs.traj", frames)
    converted(tmp_path / "slabs.traj")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return check(tmp_path / "converted.h5")


@pytest.mark.parametrize(
    ("energy", "forces", "fix"),
    [
        (1 / KCAL_MOL, 1.0, "energy=kcal/mol"),
        (1.0, BOHR / HARTREE, "forces=hartree/bohr"),
        (1.0, -1.0, "forces=-eV/angstrom"),
        (1.0, 1.0, None),
    ],
)
def test_wrong_units_of_slabs_with_fixed_atoms_are_named(tmp_path, energy, forces, fix):
    report = examined(tmp_path, slabs(energy, forces))
    assert not any("units" in what for what in report.skipped)
    assert [f.check for f in report.findings if f.severity == "error"] == ["units of labels"] * (fix is not None)
    if fix:
        assert any(f"--correct {fix}" in (f.fix or "") for f in report.findings)


def test_the_work_of_forces_is_compared_along_a_path_of_a_slab_with_fixed_atoms(tmp_path):
    report = examined(tmp_path, slabs(1.0, 1.0, step=0.004))
    ratio, _, n = report.facts["work of forces / change of energy"].split()[:3]
    assert float(ratio) == pytest.approx(1.0, abs=0.01)
    assert int(n) == 39
