"""Large numbers, coarse numbers and processors in LAMMPS: ids, float32, versions, threads."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import WRITE, lammps_run, needs_lammps, write_data
from potentials import new_potential
from ranks import potential_of
from structures import quartz, shaken, worst
from test_fix_mlpot import OXIDE, oxide

from mlpot.calculator import MLPotCalculator
from mlpot.engines.mpi import THREADS as THREADS_OF
from mlpot.engines.mpi import share_processors, world
from mlpot.model_file import save_potential

LARGEST = 2**31 - 2  # as LAMMPS lets it
THREADS = """
from mlpot.engines.mpi import share_processors, world
comm = world()
n = share_processors(comm)
import numba
import torch
found = comm.allgather((n, torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
if comm.Get_rank() == 0:
    print(found)
"""


def test_ids_up_to_the_largest_find_their_owners(tmp_path: Path) -> None:
    """L20: ids of 31 bits with gaps, by either way; of 2 ranks."""
    needs_lammps()
    model = tmp_path / "model.safetensors"
    save_potential(potential_of("painn", nuclei=True), model)
    atoms = write_data(tmp_path, shaken(quartz() * (2, 1, 1), seed=5), OXIDE, "small")
    text = (tmp_path / "small").read_text()
    head, rows = text.split("Atoms # atomic\n\n")
    ids = LARGEST - 1000 * np.arange(len(atoms))[::-1]
    lines = [f"{number} {row.split(maxsplit=1)[1]}" for number, row in zip(ids, rows.splitlines(), strict=True)]
    (tmp_path / "small").write_text(head + "Atoms # atomic\n\n" + "\n".join(lines) + "\n")
    script = "".join(
        oxide("small", line=f"fix potential all mlpot O Si passes {way}").replace("map yes", "map hash")
        + f"run 0\n{WRITE.format(way)}\n"
        for way in ("exchange", "ghosts")
    )
    run = lammps_run(tmp_path, script, model, 2, "--min-distance", "0", "--max-force", "0")
    atoms.calc = MLPotCalculator(model)
    for way in ("exchange", "ghosts"):
        found = run.dump(way)
        assert np.array_equal(found[:, 0], ids)
        assert worst(found[:, 5:8], atoms.get_forces()) < 1e-10


def test_float32_is_summed_in_float64(tmp_path: Path) -> None:
    """L19: of a total of 1e4 eV, float32 alone would leave 1e-3 eV; a minimization reaches its tolerance."""
    needs_lammps()
    model = tmp_path / "model.safetensors"
    save_potential(new_potential("schnet", n_knots=32, repulsion=True), model)
    write_data(tmp_path, shaken(quartz() * (2, 2, 2), seed=5), OXIDE, "silica")
    script = oxide() + f"run 0\n{WRITE.format('begin')}\nminimize 0 1e-2 500 5000\n{WRITE.format('end')}\n"
    free = ("--min-distance", "0", "--max-force", "0")
    run = lammps_run(tmp_path, script, model, 2, "--dtype", "float32", *free)
    energies, calculator = run.thermo()["PotEng"], MLPotCalculator(model, dtype="float32")
    for name, energy in (("begin", energies[0]), ("end", energies[-1])):
        atoms, forces = run.frame(name, OXIDE)
        atoms.calc = calculator
        assert abs(energy) > 1e4
        assert worst(energy, atoms.get_potential_energy()) < 1e-4
        assert worst(forces, atoms.get_forces()) < 1e-4
    assert energies[-1] < energies[0]
    assert np.linalg.norm(forces) < 1e-2


def test_ranks_times_threads_are_at_most_the_processors() -> None:
    """L17: PyTorch and Numba too, whatever a user asks for."""
    needs_lammps()
    command = [str(Path(sys.prefix) / "bin" / "mpirun"), "-np", "2", sys.executable, "-c", THREADS]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "64"}
    for name in ("NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ranks = eval(done.stdout.strip(), {"__builtins__": {}})
    assert len(ranks) == 2
    most = max(2, len(os.sched_getaffinity(0)))
    for k in range(3):
        assert sum(rank[k] for rank in ranks) <= most


class _Ranks:
    """So many on this machine."""

    def __init__(self, n: int):
        self.n = n

    def Split_type(self, kind: int) -> _Ranks:  # noqa: N802  (a name of MPI)
        return self

    def Get_size(self) -> int:  # noqa: N802  (a name of MPI)
        return self.n


@pytest.mark.parametrize(
    ("wanted", "n_ranks", "found"),
    [("", 1, 6), ("", 2, 3), ("", 4, 1), ("", 9, 1), ("64", 2, 3), ("2", 2, 2), ("0", 3, 2), ("all", 1, 6)],
)
def test_ranks_share_the_processors_that_there_are(
    monkeypatch: pytest.MonkeyPatch, wanted: str, n_ranks: int, found: int
) -> None:
    """L17: six processors among ranks that ask for threads, or for none."""
    needs_lammps()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for name in THREADS_OF:
        monkeypatch.setenv(name, wanted)
    world()  # loads MPI
    assert share_processors(_Ranks(n_ranks)) == found
    assert {os.environ[name] for name in THREADS_OF} == {str(found)}


class _OfAnotherTime:
    def __init__(self, date: int):
        self.date = date

    def version(self) -> int:
        return self.date


@pytest.mark.parametrize("date", [20200303, 20301231])
def test_another_version_of_lammps_is_refused_by_its_date(date: int) -> None:
    """L15: functions are found by their names, which earlier and later versions need not have."""
    needs_lammps()
    from mlpot.engines.lammps_fix import Callbacks, register

    with pytest.raises(ValueError, match=f"of {date}; mlpot was tested"):
        register(_OfAnotherTime(date), Callbacks())


def test_an_error_before_it_can_be_caught_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """L1: an interrupt as LAMMPS calls was ignored by ctypes, and the run went on without forces in that step."""
    needs_lammps()
    from mlpot.engines import lammps_fix

    class Open(lammps_fix.Callbacks):
        def failed(self, error: BaseException) -> None:
            ended.append(error)

    ended: list[BaseException] = []
    usual: list[object] = []
    monkeypatch.setattr(lammps_fix, "_instances", {1: Open()})
    monkeypatch.setattr(sys, "unraisablehook", partial(lammps_fix._unwatched, usual.append))
    lammps_fix.ONE(lammps_fix._atoms_changed)(12345)  # of no fix that is known
    assert [type(error) for error in ended] == [KeyError]
    lammps_fix.ONE(lambda _: 1 / 0)(0)  # of another program's
    assert len(ended) == 1
    assert len(usual) == 2
