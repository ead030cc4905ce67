"""Do sets, trainings and simulations do without locks and /tmp, and tell of folders that cannot be written?"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from md_runs import frames_of, md_recipe, prepared
from sets import crystals, small_recipe, write
from training_runs import no_pictures

from mlpot.atomic_files import StorageError
from mlpot.data.errors import FormatError
from mlpot.data.h5md import Reader, safe_hdf5
from mlpot.data.h5md.recover import recover
from mlpot.data.sources.read import Source
from mlpot.dynamics.run import run_md
from mlpot.training.fit import train

pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models, structures and a training set."""
    with prepared(tmp_path_factory.mktemp("odd")) as folder:
        write(folder / "set.h5", crystals())
        yield folder


def everything(folder: Path, out: Path, workers: int = 1) -> None:
    """Write a set, read it, train on it, streamed too, and simulate."""
    data = write(out / "set.h5", crystals())
    recover(data, out / "saved.h5")
    with Reader(out / "saved.h5") as reader:
        assert len(reader) == 16
    train(small_recipe(data, out / "train"))
    train(small_recipe(data, out / "streamed", "data.stream=true", f"data.workers={workers}", "training.epochs=1"))
    run_md(md_recipe(folder, output=out / "md", steps=6))
    assert frames_of(out / "md")["step"].tolist() == [0, 3, 6]
    assert (out / "train/model.safetensors").exists()
    assert (out / "streamed/model.safetensors").exists()


# --- locks ---

NO_LOCKS = "#include <errno.h>\nint flock(int file, int what) { errno = %d; return -1; }\n"


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler")
@pytest.mark.parametrize("code", [errno.ENOLCK, pytest.param(errno.ENOSYS, marks=pytest.mark.slow)])
def test_a_file_system_without_locks_is_enough(code: int, folder: Path, tmp_path: Path) -> None:
    source, library = tmp_path / "locks.c", tmp_path / "locks.so"
    source.write_text(NO_LOCKS % code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, folder, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "md/.lock").exists()


# --- folders for temporary files ---


def test_no_folder_for_temporary_files_is_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/absent"])
    with pytest.raises(FileNotFoundError, match="No usable temporary directory"):
        tempfile.gettempdir()
    everything(folder, tmp_path, workers=0)
    with pytest.raises(ValueError, match=r"Set TMPDIR .* or data\.workers=0"):
        train(small_recipe(folder / "set.h5", tmp_path / "two", "data.stream=true", "data.workers=2"))
    assert not (tmp_path / "two").exists()


def test_temporary_files_may_be_on_another_device(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second device, mounted at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as elsewhere:
        monkeypatch.setattr(tempfile, "tempdir", elsewhere)
        everything(folder, tmp_path)


# --- folders that cannot be written ---

RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "set": lambda folder, out: write(out / "set.h5", crystals(2)),
    "train": lambda folder, out: train(small_recipe(folder / "set.h5", out / "run")),
    "md": lambda folder, out: run_md(md_recipe(folder, output=out / "run")),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_folder_under_a_file_is_named_before_the_first_step(run: str, folder: Path) -> None:
    with pytest.raises(
        StorageError,
        match=r"(cannot be written.*Choose a folder that can be written|is a file, so that set.h5 cannot be)",
    ):
        RUNS[run](folder, folder / "model.safetensors")


@pytest.mark.parametrize("run", RUNS)
def test_a_folder_without_rights_is_named_before_the_first_step(run: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as readable:
        shutil.copytree(folder, readable, dirs_exist_ok=True)  # pytest closes its own to others
        Path(readable).chmod(0o755)
        Path(name).chmod(0o555)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.seteuid(65534)  # root may write anywhere
                RUNS[run](Path(readable), Path(name))
            except StorageError as error:
                status = 0 if "Permission denied. Choose a folder" in str(error) else 2
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
        assert not list(Path(name).iterdir())
        Path(name).chmod(0o755)


if __name__ == "__main__":
    no_pictures(pytest.MonkeyPatch())
    everything(Path(sys.argv[1]), Path(sys.argv[2]))


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Whoever opens one without a writer waits for ever."""
    os.mkfifo(tmp_path / "set.xyz")
    with pytest.raises(FormatError, match="is a pipe or a device"):
        Source(tmp_path / "set.xyz")


def test_a_file_that_another_program_locks_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set.h5", crystals(1))
    monkeypatch.setattr(safe_hdf5, "PATIENCE", 0.0)
    with (tmp_path / "set.h5").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FormatError, match="open for writing in another program"):
            Reader(tmp_path / "set.h5")
    with Reader(tmp_path / "set.h5") as reader:
        assert len(reader) == 1
