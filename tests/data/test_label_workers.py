"""What is a structure's fault and what a worker's, and does a worker end with its run?"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from places import PROJECT
from processes import running

from mlpot.cli.data import ended_in_words
from mlpot.data.cluster import WorkerError
from mlpot.data.label import _reopen
from mlpot.data.label_workers import attempt, in_processes
from mlpot.data.quantum import Code, Label, MissingCodeError, SettingsError
from mlpot.signals import SignalledError


class Crashing:
    """A code that takes its process down with it at every water molecule."""

    package = "crashing"

    def compute(self, atoms: Atoms) -> Label:
        if len(atoms) == 3:
            os._exit(139)
        return Label(1.0, np.zeros((len(atoms), 3)))


def test_a_crash_costs_only_its_frame() -> None:
    frames = [molecule(name) for name in ("CH4", "H2O", "NH3")]
    outcomes = sorted(in_processes(Crashing(), list(enumerate(frames)), 1), key=lambda o: o.frame)  # type: ignore[arg-type]  # computes as a Code
    assert [o.energy for o in outcomes] == [1.0, None, 1.0]
    assert "ended its process" in str(outcomes[1].failure)
    with pytest.raises(SettingsError, match="workers is 0"):
        next(in_processes(Crashing(), [], 0))  # type: ignore[arg-type]  # computes as a Code


class Unloadable(Crashing):
    """A code whose library is not where it was built for."""

    def compute(self, atoms: Atoms) -> Label:
        raise ImportError("libgfortran.so.5: cannot open shared object file")


class Unstartable(Crashing):
    """A code that ends a process which receives it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        (Unloadable(), MissingCodeError, "crashing does not load in a worker .libgfortran.*label.* is kept"),
        (Unstartable(), WorkerError, "ended before its first structure, with status 3.*__main__"),
    ],
)
def test_a_fault_of_a_worker_is_none_of_its_structures(code: Code, error: type[Exception], reason: str) -> None:
    """L28: each structure was said to have failed, also where another worker could do them."""
    with pytest.raises(error, match=reason):
        list(in_processes(code, [(0, molecule("CH4")), (1, molecule("NH3"))], 1))


def test_a_full_disk_is_no_fault_of_a_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(WorkerError, match=r"cannot write files \(.*No such file.*TMPDIR"):
        attempt(Crashing(), 0, molecule("CH4"))  # type: ignore[arg-type]  # computes as a Code


def test_structures_all_of_which_failed_are_tried_again(tmp_path: Path) -> None:
    """A broken library was mended, and its failures stayed; where some have labels, they do stay."""
    partial = tmp_path / "set.h5.partial"
    failed, done = {"frame": 0, "failure": "ImportError: libgfortran"}, {"frame": 1, "energy": -1.5}
    for lines, left in (([failed], []), ([failed, done], [0, 1])):
        partial.write_text("\n".join(json.dumps(line) for line in [{"code": "x"}, *lines]) + "\n")
        assert list(_reopen(partial, {"code": "x"}, resume=True)) == left


HANGING = """
import os, time
from ase.build import molecule
from mlpot.data.label_workers import attempt, in_processes

class Hanging:
    package = "hanging"

    def compute(self, atoms):
        print(os.getpid(), flush=True)
        time.sleep(7200)

if __name__ == "__main__":
    list(in_processes(Hanging(), [(0, molecule("CH4"))], 1))
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_no_calculation_outlives_its_run(tmp_path: Path, number: signal.Signals) -> None:
    """L27: whoever ended a run had codes computing for hours, and an interrupt waited for them."""
    (tmp_path / "run.py").write_text(HANGING)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with running([sys.executable, tmp_path / "run.py"], stdout=-1, stderr=-3, env=environment) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.send_signal(number)
        process.wait()
        assert process.stdout.read() == b""  # which the worker holds open while it lives
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_labeling_that_is_ended_says_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "set.h5.partial").touch()
    said = r"kept in .*set.h5.partial. The same command goes on"
    with pytest.raises(SignalledError, match=said) as told, ended_in_words(tmp_path / "set.h5"):
        signal.raise_signal(number)
    assert told.value.exit_code == 128 + number
