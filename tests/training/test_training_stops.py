"""Does a training end well when it is told to, or when one of its processes dies?"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from places import TESTS
from processes import running
from sets import crystals, small_recipe, write
from training_runs import assert_same_training

from mlpot.cli.main import main
from mlpot.signals import SIGNALS, SignalledError, end_with_parent
from mlpot.training.fit import train
from mlpot.training.interruption import LostProcessError, lost_processes_told
from mlpot.training.module import TrainingModule
from mlpot.training.trainer import LAST

pytestmark = pytest.mark.usefixtures("_from_a_terminal")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "set.h5", crystals())  # 12 train: 4 steps an epoch


# --- signals ---


class Signal(Callback):
    """Sends this process a signal within a step, or within a batch of the validation of an epoch."""

    def __init__(self, number: int, *, step: int | None = None, validation: int | None = None):
        self.number, self.step, self.validation = number, step, validation

    def on_before_optimizer_step(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.current_epoch == self.validation:
            os.kill(os.getpid(), self.number)


MOMENTS = [{"step": 1}, {"step": 3}, {"validation": 1}, {"step": 9}, {"step": 11}, {"validation": 3}]
STREAMED = ("data.stream=true", "data.workers=1", "optimizer.ema_decay=0")


@pytest.mark.parametrize(("moments", "overrides"), [(MOMENTS, ()), (MOMENTS[2:3], STREAMED)])
def test_a_training_that_is_signalled_is_the_training_that_was_not(
    moments: list[dict[str, int]], overrides: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    whole, parts = (small_recipe(data, tmp_path / n, "training.epochs=4", *overrides) for n in ("whole", "parts"))
    train(whole)
    for k, moment in enumerate(moments):
        number = SIGNALS[k % len(SIGNALS)]
        with pytest.raises(
            SignalledError, match=f"{number.name} and saved.*parts/recipe.yaml --resume"
        ) as stopped:
            train(parts, resume=k > 0, callbacks=[Signal(number, **moment)])
        assert stopped.value.exit_code == 128 + number
        saved = torch.load(tmp_path / "parts" / LAST, weights_only=True)["global_step"]
        assert saved == moment["step"] + 1 if "step" in moment else 4 * (moment["validation"] + 1)
    train(parts, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


class Meanwhile(Callback):
    """Sends this process a signal from another thread, at any moment between one step and the fourth after it."""

    def __init__(self, number: int, step: int, delay: int):
        self.step = step
        self.thread = threading.Thread(target=self.send, args=(number, delay))

    @staticmethod
    def send(number: int, delay: int) -> None:
        for _ in range(delay):  # side by side with the training, on the same interpreter
            pass
        os.kill(os.getpid(), number)

    def on_train_batch_start(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def]
        if trainer.global_step == self.step:
            self.thread.start()
        elif trainer.global_step == self.step + 4:
            self.thread.join()


def exit_code_of(do: Callable[[], object]) -> int:
    """Do something in a process of its own, so that no signal meets the tests; how it ended (-n: by signal n)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except SignalledError as stopped:
            code = stopped.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("n", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_a_training_that_is_signalled_at_any_moment_goes_on(n: int, data: Path, tmp_path: Path) -> None:
    epochs = f"training.epochs={4 * n}"
    whole, parts = (small_recipe(data, tmp_path / name, epochs) for name in ("whole", "parts"))
    train(whole)
    rng, saved = random.Random(0), 0
    for k in range(n):
        number, step, delay = SIGNALS[k % len(SIGNALS)], saved + rng.randrange(8), rng.randrange(10**6)
        run = partial(train, parts, resume=k > 0, callbacks=[Meanwhile(number, step, delay)])
        assert exit_code_of(run) == 128 + number
        saved = torch.load(tmp_path / "parts" / LAST, weights_only=True)["global_step"]
        assert step <= saved <= step + 8  # at the next step, or after the validation if it was an epoch's last
    assert saved < 16 * n
    train(parts, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_a_second_interrupt_ends_a_training_at_once(data: Path, tmp_path: Path) -> None:
    twice = [Signal(signal.SIGINT, step=2), Signal(signal.SIGINT, step=2)]
    assert exit_code_of(lambda: train(small_recipe(data, tmp_path / "run"), callbacks=twice)) == -signal.SIGINT


def test_the_command_says_how_to_go_on_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mlpot(*arguments: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["mlpot", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code

    def signaled(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(
        f"data: {{train: {data}, validation: 4, workers: 0}}\n"
        "model: {backbone: deepsets, arguments: {cutoff: 4.0, n_features: 8, n_radial: 6}}\n"
        "training: {directory: run, epochs: 2, progress: false}\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_before_optimizer_step", signaled)
        assert mlpot("train", "my.yaml") == 128 + signal.SIGTERM
    told = capsys.readouterr().err.strip().splitlines()[-1]
    command = "mlpot train run/recipe.yaml --resume"
    assert told == f"mlpot: Step 1: stopped by SIGTERM and saved. Continue with {command}"
    with monkeypatch.context() as patch:
        patch.setattr("mlpot.training.fit.finish", signaled)
        assert mlpot("train", "run/recipe.yaml", "--resume") == 128 + signal.SIGTERM
    assert "nothing is lost" in capsys.readouterr().err
    assert not mlpot("train", "run/recipe.yaml", "--resume")
    assert Path("run/model.safetensors").exists()


# --- one of several processes ---


def test_a_process_whose_parent_is_killed_ends() -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.close(ready)
            end_with_parent(period=0.01)
            os.write(tell, b"x")
            time.sleep(300)
            os.write(tell, b"still there")
        signal.pause()
        os._exit(0)
    os.close(tell)
    assert os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert os.read(ready, 1) == b""  # the last one that could write has gone


def pids(run: Path, step: int) -> list[int]:
    """Of the two processes of a training, once both have done so many steps."""
    while True:
        told = [run.with_suffix(f".{rank}") for rank in range(2)]
        lines = [path.read_text().split() if path.exists() else [] for path in told]
        if all(len(line) == 2 and int(line[1]) >= step for line in lines):
            return [int(line[0]) for line in lines]
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, if only to be waited for."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_message_to_a_process_that_has_gone_is_told_in_words() -> None:
    """And an error of another kind stays what it is."""
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"
    told = r"Another process .* ended .*reset by peer.* mlpot train run/recipe.yaml --resume"
    for error in (RuntimeError(lost), torch.distributed.DistBackendError("Connection reset by peer")):
        with pytest.raises(LostProcessError, match=told), lost_processes_told(Path("run/recipe.yaml")):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), lost_processes_told(Path("run/recipe.yaml")):
        raise RuntimeError("shapes")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_when_one_of_two_processes_is_ended_so_is_the_other(
    rank: int, number: signal.Signals, data: Path, tmp_path: Path
) -> None:
    run, script = tmp_path / "run", TESTS / "training_runs.py"
    two = ["training.devices=2", "training.strategy=ddp", "training.accelerator=cpu"]
    command = [sys.executable, script, data, run, *two, "training.checkpoint_minutes=0"]
    with running([*command, "training.epochs=1000"], stderr=subprocess.PIPE, text=True) as first:
        both = pids(run, 10)
        os.kill(both[rank], number)
        told = first.communicate()[1]  # 1000 epochs, if the other went on
    assert first.returncode != 0
    if number == signal.SIGKILL and rank == 1:
        assert "Another process of this training has ended" in told
    while not all(is_gone(pid) for pid in both):
        time.sleep(0.1)
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM and saved" in told
        assert first.returncode in (128 + number, -signal.SIGKILL)  # Lightning may end what the other has left
    saved = torch.load(run / LAST, weights_only=True)["global_step"]
    assert 9 <= saved < 2000  # the end of 1000 epochs
    epochs = f"training.epochs={saved // 2 + 2}"
    done = subprocess.run([*command, epochs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_reaches_processes_that_were_forked(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """L27: the process that only waits for them said that it had stopped, and they went on for ever."""
    run, script = tmp_path / "run", TESTS / "training_runs.py"
    two = ["training.devices=2", "training.strategy=ddp_fork", "training.accelerator=cpu"]
    command = [sys.executable, script, data, run, *two]
    with running([*command, "training.epochs=1000"], stderr=subprocess.PIPE, text=True) as first:
        both = pids(run, 10)
        os.kill(first.pid, number)
        told = first.communicate()[1]
    assert first.returncode == 128 + number
    assert f"Stopped by {number.name} and saved" in told
    while not all(is_gone(pid) for pid in both):
        time.sleep(0.1)
    assert 9 <= torch.load(run / LAST, weights_only=True)["global_step"] < 2000
    diverging = [*two, "optimizer.learning_rate=1e30", "training.clip=null"]
    command = [sys.executable, script, data, tmp_path / "diverging", *diverging]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "TrainingDivergedError: The training diverged: the" in done.stderr
