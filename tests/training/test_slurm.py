"""Trainings in a queue, in an environment as SLURM makes it, and several processes that go on to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import PROJECT, TESTS
from sets import SMALL, crystals, write
from training_runs import assert_same_training

from mlpot.training.trainer import LAST

SRUN = """#!/bin/bash
# As SLURM's: a process for each task, which the signal before a job's end reaches, and the highest status.
shift  # --kill-on-bad-exit=1
tasks=()
for ((r = 0; r < SLURM_NTASKS; r++)); do
    SLURM_PROCID=$r SLURM_LOCALID=$r SLURM_NODEID=0 "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > tasks
status=0
for task in "${tasks[@]}"; do wait "$task"; s=$?; ((s > status)) && status=$s; done
exit "$status"
"""
SCONTROL = '#!/bin/bash\necho "$@" >> scontrol.log\n'


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of an array's task with two processes on this machine."""
    write(tmp_path / "set.h5", crystals())
    (tmp_path / "recipe.yaml").write_text(SMALL.format(train="set.h5", directory="none", backbone="deepsets"))
    own = tmp_path / "bin"
    own.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (own / name).write_text(text)
        (own / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={own}:{Path(sys.executable).parent}:$PATH\n")
    known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "LOCAL_RANK"))}
    told = {"JOB_ID": "4714", "JOB_NAME": "mlpot", "NODELIST": "localhost", "JOB_NUM_NODES": "1", "NNODES": "1"}
    told |= {"NTASKS": "2", "NTASKS_PER_NODE": "2", "CPUS_PER_TASK": "1", "ARRAY_JOB_ID": "4711"}
    told |= {"ARRAY_TASK_ID": "3"}
    return known | {f"SLURM_{name}": value for name, value in told.items()} | {"PYTHONPATH": str(PROJECT)}


def job(cluster: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script, as a queue starts it."""
    command = ["bash", str(PROJECT / "train/slurm/train.slurm"), "runs/mine", "recipe.yaml", *arguments]
    return subprocess.Popen(command, cwd=folder, env=cluster, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_back_into_the_queue_and_on(cluster: dict[str, str], tmp_path: Path) -> None:
    """L27: its own task of the array alone, once; and a job that fails does not."""
    run = tmp_path / "runs/mine"
    with job(cluster, tmp_path, "training.epochs=5000", "optimizer.schedule=none") as first:
        while not (run / LAST).exists():
            assert first.poll() is None, first.stderr and first.stderr.read()
            time.sleep(0.1)
        for task in (tmp_path / "tasks").read_text().split():
            os.kill(int(task), signal.SIGTERM)
        told = first.communicate()[1]
    assert first.returncode == 143, told
    assert told.count("stopped by SIGTERM and saved") == 1
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711_3\n"
    saved = torch.load(run / LAST, weights_only=True)["global_step"]
    assert 0 < saved < 10_000
    with job(cluster, tmp_path, f"training.epochs={saved // 2 + 2}", "optimizer.schedule=none") as second:
        assert second.wait() == 0, second.communicate()[1]
    assert (run / "model.safetensors").exists()
    assert torch.load(run / LAST, weights_only=True)["global_step"] == 2 * (saved // 2 + 2)
    with job(cluster, tmp_path, "training.epochs=none") as wrong:
        assert wrong.wait() not in (0, 143)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711_3\n"


@pytest.mark.slow
@pytest.mark.parametrize("streamed", ["false", "true"])
def test_two_processes_that_were_stopped_are_to_the_bit_what_they_would_be(tmp_path: Path, streamed: str) -> None:
    """L26: in the middle of an epoch, with an average, turned structures and shares of unequal size."""
    data = write(tmp_path / "set.h5", crystals())
    settings = ["training.devices=2", "training.strategy=ddp", "training.accelerator=cpu", "training.epochs=5"]
    settings += [
        "data.validation=5",
        "training.augment=rotations",
        "optimizer.ema_decay=0.9",
        "training.batch_size=2",
    ]
    settings += [f"data.stream={streamed}", "training.checkpoint_steps=1"]
    script = [sys.executable, str(TESTS / "training_runs.py"), str(data)]
    statuses = []
    for name, stop in (("whole", None), ("parts", "1 7"), ("parts", "0 10"), ("parts", None)):
        environment = os.environ | ({"STOP": stop} if stop else {})
        done = subprocess.run(
            [*script, str(tmp_path / name), *settings],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        statuses.append(done.returncode)
    assert statuses[0] == statuses[3] == 0, done.stderr
    assert all(status in (143, -signal.SIGKILL) for status in statuses[1:3])
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
