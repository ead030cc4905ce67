"""Does a command that SIGTERM or SIGHUP ends leave anything behind, as where a queue or a terminal closes?"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import write as ase_write
from processes import running

pytestmark = pytest.mark.usefixtures("_from_a_terminal")  # else children ignore SIGHUP below nohup, for ever

WRITING = """
import sys
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from mlpot.data.h5md import write
from mlpot.data.sources.output import write_structures

def frames():
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0)
    yield water
    print("writing", flush=True)
    sys.stdin.read()

path = sys.argv[1]
write(path, frames(), card={}) if path.endswith(".h5") else write_structures(path, frames())
"""
FORKED = """
import os, signal, sys
from mlpot.atomic_files import replacing
with replacing(sys.argv[1]) as outer, replacing(sys.argv[1] + ".index") as inner:
    outer.write_text("old")
    inner.write_text("old")
    if (child := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    assert outer.exists() and inner.exists()
    print("writing", flush=True)
    sys.stdin.read()
"""
LISTENING = """
import sys
from mlpot.atomic_files import replacing
from mlpot.signals import stop_request
with stop_request() as stop, replacing(sys.argv[1]) as path:
    path.write_text("whole")
    print("writing", flush=True)
    sys.stdin.read(1)
    assert stop.signal is not None
"""
LOCKED = """
import sys
from mlpot.folder_lock import folder_lock
from pathlib import Path
with folder_lock(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.read()
"""


def ended(program: str, path: Path, number: int = signal.SIGTERM, then: str = "") -> int:
    """What a program returns that gets a signal once it writes."""
    with running([sys.executable, "-c", program, path], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        if then:
            process.stdin.write(then)
            process.stdin.flush()
        return process.wait()


@pytest.mark.parametrize("name", ["set.h5", "set.xyz", "set.traj"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_killed_leaves_the_folder_as_it_was(tmp_path: Path, name: str, number: int) -> None:
    ase_write(tmp_path / "old.xyz", molecule("H2O"))
    assert ended(WRITING, tmp_path / name, number) == -number
    assert [p.name for p in tmp_path.iterdir()] == ["old.xyz"]


def test_two_files_at_once_are_both_removed_and_a_forked_process_removes_none(tmp_path: Path) -> None:
    assert ended(FORKED, tmp_path / "set.txt") == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_run_that_listens_to_signals_ends_in_its_own_way(tmp_path: Path) -> None:
    assert ended(LISTENING, tmp_path / "set.txt", then="x") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["set.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_folder_of_a_lock_does_not_stay(tmp_path: Path, number: int) -> None:
    folder = tmp_path / ".set.h5.label"
    assert ended(LOCKED, folder, number) == -number
    assert folder.exists() == (number == signal.SIGKILL)
    with running([sys.executable, "-c", LOCKED, folder], stdin=-1, stdout=-1) as process:
        process.communicate()
    assert (process.returncode, list(tmp_path.iterdir())) == (0, [])
