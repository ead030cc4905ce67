"""Is a program told whose atoms are not those of the structure file?"""

from __future__ import annotations

import warnings

import pytest
from ase import Atoms, units
from structures import copper, ethanol, quartz

from mlpot.engines.template import Template


@pytest.mark.parametrize("atoms", [ethanol(), copper(), quartz()], ids=["ethanol", "copper", "quartz"])
def test_positions_in_angstrom_that_are_taken_for_bohr_are_told(atoms: Atoms) -> None:
    template = Template(atoms, "structure file", "the server")
    with pytest.warns(UserWarning, match=r"apart, closer than .* Å, and than any bond. If the server has lengths"):
        template.check(atoms.positions * units.Bohr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        template.check(atoms.positions * units.Bohr)  # said once
        Template(atoms, "structure file", "the server").check(atoms.positions)
