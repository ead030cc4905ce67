"""A data file of LAMMPS is known by what stands in it: its names say anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from mlpot.data.errors import FormatError
from mlpot.data.sources.read import Source, kind_of
from mlpot.data.sources.reading import Reading

NAMES = ["quartz.data", "data.quartz", "quartz.lmp", "quartz.lammps-data", "quartz.lmpdat"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_under_any_name(tmp_path: Path, name: str) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    write(tmp_path / name, atoms, format="lammps-data", masses=True)
    (found,) = Source(tmp_path / name, Reading(labels=False)).frames()
    assert found.get_chemical_formula() == atoms.get_chemical_formula()
    assert found.get_volume() == pytest.approx(atoms.get_volume())


def test_training_data_of_runner_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "input.data").write_text("begin\ncomment 2 atoms\natom 0 0 0 H 0 0 0 0 0 0\nend\n")
    assert kind_of(tmp_path / "input.data") == "runnerdata"
    (tmp_path / "notes.lmp").write_text("12 atoms of it\n")
    with pytest.raises(FormatError, match="no format"):
        kind_of(tmp_path / "notes.lmp")
