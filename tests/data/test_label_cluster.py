"""Are labels of a cluster those of one process, whatever happens to its workers?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from processes import running
from structures import shaken

from mlpot.data import h5md
from mlpot.data.cluster import ClusterError, WorkerError
from mlpot.data.label import label, on_cluster
from mlpot.data.label_workers import attempt
from mlpot.data.quantum import CODES, Label, SettingsError

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'mlpot[dask]'")
pytestmark = pytest.mark.xdist_group("dask")


class Crashing:
    """A code that takes its process down with it at every water molecule."""

    package = "numpy"  # for its version

    def compute(self, atoms: Atoms) -> Label:
        if len(atoms) == 3:
            os._exit(139)
        return Label(1.0, np.zeros((len(atoms), 3)))


class Newer(Crashing):
    """A code whose version in a worker is another one."""

    def __init__(self) -> None:
        self.here = os.getpid()

    @property
    def package(self) -> str:  # type: ignore[override]  # a constant elsewhere
        return "numpy" if os.getpid() == self.here else "ase"


@pytest.mark.parametrize("n_frames", [24, pytest.param(100, marks=pytest.mark.slow)])
def test_a_dead_worker_costs_no_label_and_doubles_none(
    tmp_path: Path, cluster: distributed.LocalCluster, n_frames: int
) -> None:
    """L28: GFN2-xTB's labels are those of this process, each once."""
    pytest.importorskip("tblite")
    waters = [shaken(molecule("H2O"), seed=k) for k in range(n_frames)]
    ase.io.write(tmp_path / "waters.extxyz", waters)
    done: list[int] = []

    def kill(n: int, _: int) -> None:
        done.append(n)
        if n == 5:
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

    report = label(
        tmp_path / "waters.extxyz", tmp_path / "there.h5", calculator="tblite",
        on=cluster.scheduler_address.replace("tcp://", "dask://"), progress=kill,
    )  # fmt: skip
    assert (report.labeled, report.failures, done) == (n_frames, {}, list(range(1, n_frames + 1)))
    label(tmp_path / "waters.extxyz", tmp_path / "here.h5", calculator="tblite")
    with h5md.Reader(tmp_path / "there.h5") as there, h5md.Reader(tmp_path / "here.h5") as here:
        for a, b, water in zip(there.frames(), here.frames(), waters, strict=True):
            assert np.abs(a.positions - water.positions).max() < 1e-7
            assert a.get_potential_energy() == b.get_potential_energy()
            assert (a.get_forces() == b.get_forces()).all()


@pytest.mark.slow  # each death costs the start of a process
def test_a_structure_that_kills_its_workers_is_named_and_others_are_labeled(
    cluster: distributed.LocalCluster,
) -> None:
    frames = list(enumerate(molecule(name) for name in ("CH4", "H2O", "NH3")))
    found = sorted(on_cluster(Crashing(), frames, cluster.scheduler_address), key=lambda o: o.frame)  # type: ignore[arg-type]
    assert [o.energy for o in found] == [1.0, None, 1.0]
    assert "each worker that computed it died" in str(found[1].failure)


class Littering(Crashing):
    """A code that leaves a file behind, and is misled by one that it finds."""

    def compute(self, atoms: Atoms) -> Label:
        leftovers = os.listdir()
        Path("restart").write_text(str(len(atoms)))
        return Label(float(len(leftovers)), np.zeros((len(atoms), 3)))


def test_each_structure_has_a_folder_of_its_own(
    tmp_path: Path, cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L28: here and in a cluster."""
    monkeypatch.chdir(tmp_path)
    frames, code = list(enumerate([molecule("CH4")] * 4)), Littering()
    # Littering stands for a code of `quantum`, of which these two ask `compute` alone.
    there = list(on_cluster(code, frames, cluster.scheduler_address))  # type: ignore[arg-type]
    here = [attempt(code, *frame) for frame in frames]  # type: ignore[arg-type]
    assert [outcome.energy for outcome in there + here] == [0.0] * 8
    assert os.listdir() == []


def test_workers_that_cannot_be_trusted_end_the_run(cluster: distributed.LocalCluster) -> None:
    frames = [(0, molecule("CH4"))]
    with pytest.raises(WorkerError, match=r"A worker has ase .* this process"):
        list(on_cluster(Newer(), frames, cluster.scheduler_address))  # type: ignore[arg-type]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=":0"
    ) as other, pytest.raises(WorkerError, match=r"2 threads.*--nthreads 1"):  # fmt: skip
        list(on_cluster(Crashing(), frames, other.scheduler_address))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*has no worker yet")
def test_a_scheduler_that_is_killed_is_told_and_labels_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """L28: it was said that workers lack packages, beside a traceback of Dask."""
    pytest.importorskip("tblite")
    ase.io.write(tmp_path / "waters.extxyz", [shaken(molecule("H2O"), seed=k) for k in range(300)])
    there, quiet = tmp_path / "scheduler.json", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--scheduler-file", there, "--no-dashboard"]
    with ExitStack() as programs:
        scheduler, _ = (
            programs.enter_context(
                running([sys.executable, "-m", f"distributed.cli.{name}", *own, *options], **quiet)
            )
            for name, own in (("dask_scheduler", ["--port", "0"]), ("dask_worker", ["--nthreads", "1"]))
        )
        while not there.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)

        def kill(n: int, _: int) -> None:
            if n == 3:
                scheduler.kill()

        with pytest.raises(ClusterError, match=r"The scheduler ended.*run this again"):
            label(
                tmp_path / "waters.extxyz",
                tmp_path / "out.h5",
                calculator="tblite",
                on=json.loads(there.read_text())["address"],
                progress=kill,
            )
    assert len((tmp_path / "out.h5.partial").read_text().splitlines()) > 3
    assert not [record for record in caplog.records if record.name == "distributed.client"]


def test_no_scheduler_is_an_error_that_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlpot.data.cluster.SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nowhere", "dask://"):
        with pytest.raises(ClusterError, match=r"No Dask scheduler answers at .*`dask scheduler`"):
            list(on_cluster(CODES["tblite"](), [], address))


def test_workers_are_counted_here_or_those_of_the_cluster(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "water.extxyz", molecule("H2O"))
    with pytest.raises(SettingsError, match="either a number of workers or `on`"):
        label(
            tmp_path / "water.extxyz", tmp_path / "out.h5", calculator="pyscf", workers=2, on="tcp://127.0.0.1:1"
        )
