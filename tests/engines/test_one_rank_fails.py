"""An error that one rank of three finds alone ends all of them, with its reason on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lammps_runs import WRITE, of_two_passes, write_data
from processes import PATIENCE
from structures import quartz, shaken
from test_fix_mlpot import OXIDE, by, oxide

BREAK = """
import importlib, sys
from mlpot.engines.mpi import world
where, error = sys.argv.pop(1), sys.argv.pop(1)
if world().Get_rank() == 1:
    module, of, name = where.split(":")
    place = importlib.import_module("mlpot.engines." + module)
    place = getattr(place, of) if of else place
    def broken(*arguments, **settings):
        raise {"value": ValueError, "type": TypeError, "disk": OSError}[error]("this rank alone")
    assert hasattr(place, name)
    setattr(place, name, broken)
from mlpot.cli.main import main
sys.argv[0] = "mlpot"
main()
"""
PLACES = [
    ("lammps::load_potential", "disk", "ghosts"),
    ("lammps::attach", "value", "ghosts"),
    ("lammps_potential:RankPotential:_numbers_of_types", "value", "ghosts"),
    ("lammps_passes:Passes:_way", "value", "exchange"),
    ("own_energies:ExchangedPotential:__init__", "disk", "exchange"),
    ("lammps_potential:RankPotential:_check_is_there", "value", "ghosts"),
    ("lammps_potential:RankPotential:_check", "type", "ghosts"),
    ("lammps_potential:RankPotential:atoms_changed", "value", "ghosts"),
    ("local_atoms:LocalList:graph", "value", "exchange"),
    ("halo:RankHalo:meet", "value", "exchange"),
    ("halo:RankHalo:gather", "value", "exchange"),
    ("lammps_potential:RankPotential:_predict", "type", "ghosts"),
    ("lammps_potential:RankPotential:_predict", "value", "exchange"),
    ("lammps_potential:RankPotential:_add", "value", "ghosts"),
    ("lammps_fix:Fix:tell", "value", "ghosts"),
    ("lammps_fix:Fix:tell", "value", "exchange"),
    ("lammps_potential:RankPotential:_by_atom", "value", "exchange"),
    ("lammps_potential:RankPotential:by_atom", "value", "ghosts"),
]
QUICK = ("lammps_fix:Fix:tell", "halo:RankHalo:gather")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_two_passes(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("where", "error", "way"),
    [p if p[0] in QUICK and p[2] == "exchange" else pytest.param(*p, marks=pytest.mark.slow) for p in PLACES],
)
def test_what_one_rank_finds_ends_all(tmp_path: Path, model: Path, where: str, error: str, way: str) -> None:
    """L1: in no place do others wait for a rank that has left."""
    write_data(tmp_path, shaken(quartz() * (2, 2, 2), seed=5), OXIDE, "silica")
    steps = "compute e all pe/atom\ncompute t all reduce sum c_e\nthermo_style custom step c_t\nrun 1\n"
    (tmp_path / "in.script").write_text(by(way, oxide()) + steps + WRITE.format("done") + "\n")
    command = [str(Path(sys.prefix) / "bin" / "mpirun"), "-np", "3", sys.executable, "-c", BREAK, where, error]
    command += ["lammps", "in.script", "--model", str(model), "--min-distance", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    assert "this rank alone" in done.stderr
    assert not (tmp_path / "done").exists()
