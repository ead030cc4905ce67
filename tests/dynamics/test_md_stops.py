"""Does a run end well when it is told to, when there is no room, when another has its folder?"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from md_runs import FullDisk, assert_same_run, at_call, frames_of, md_recipe, prepared
from places import PROJECT

from mlpot.atomic_files import StorageError
from mlpot.cli.main import main
from mlpot.dynamics.checkpoints import CheckpointError, Checkpoints
from mlpot.dynamics.log import read_log
from mlpot.dynamics.run import run_md
from mlpot.folder_lock import LockedError, folder_lock
from mlpot.recipes import RecipeError, parse_recipe
from mlpot.signals import SignalledError, StoppedError, StopRequest, stop_request


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and structures for the runs."""
    with prepared(tmp_path_factory.mktemp("stops")) as folder:
        yield folder


# --- signals and the clock ---


@pytest.mark.usefixtures("_from_a_terminal")
def test_a_run_that_is_signalled_ten_times_is_the_run_that_was_not(folder: Path) -> None:
    whole = md_recipe(folder, output=folder / "signals_whole", steps=44, ensemble="langevin")
    run_md(whole)
    parts = whole.model_copy(update={"output": folder / "signals"})
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]
    for k in range(10):
        number = signals[k % 4]
        with pytest.MonkeyPatch.context() as patch:
            at_call(4, lambda n=number: os.kill(os.getpid(), n), patch)
            with pytest.raises(SignalledError, match=number.name) as stopped:
                run_md(parts, resume=True)
            assert stopped.value.exit_code == 128 + number
        newest = Checkpoints(parts.output).newest
        assert newest is not None
        assert newest.facts["step"] <= 4 * (k + 1)  # the step in which it came was the last
    assert run_md(parts, resume=True).steps == 44
    assert_same_run(whole.output, parts.output)


@pytest.mark.usefixtures("_from_a_terminal")
def test_a_second_interrupt_ends_the_process_at_once() -> None:
    child = os.fork()
    if child == 0:
        with stop_request():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_signals_are_handed_back_and_an_ignored_one_stays_so() -> None:
    handlers = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    with stop_request() as stop:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == stop.take
    assert signal.signal(signal.SIGHUP, handlers[0]) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == handlers[1]
    assert StopRequest().signal is None


def test_the_wall_time_ends_a_run_that_can_be_continued(folder: Path) -> None:
    recipe = md_recipe(folder, output=folder / "clock", steps=10**6, wall_time_s=0.3)
    with pytest.raises(StoppedError, match="wall time") as stopped:
        run_md(recipe)
    assert stopped.value.exit_code == 75
    newest = Checkpoints(recipe.output).newest
    assert newest is not None
    steps = newest.facts["step"] + 3
    assert run_md(recipe.model_copy(update={"steps": steps, "wall_time_s": None}), resume=True).steps == steps


# --- room, rights, rivals ---


def test_a_disk_that_is_full_at_any_write_costs_nothing(folder: Path) -> None:
    whole = md_recipe(folder, output=folder / "room", steps=6, checkpoint_s=0)
    run_md(whole)
    n, full = 0, True
    while full:
        n += 2 if n < 20 else 7
        parts = whole.model_copy(update={"output": folder / f"full_{n}"})
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(n, (n % 3) / 2).install(patch)
            try:
                run_md(parts)
                full = False
            except StorageError as error:
                assert "bytes" in str(error)  # noqa: PT017
                assert "--continue" in str(error)  # noqa: PT017
        run_md(parts, resume=True)
        assert_same_run(whole.output, parts.output)
    assert n > 30


def test_a_file_that_may_not_grow_ends_the_run_with_the_checkpoint_whole(folder: Path) -> None:
    recipe = md_recipe(folder, output=folder / "limited", steps=2000, write_every=1, checkpoint_s=0)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            run_md(recipe)
        except StorageError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
    newest = Checkpoints(recipe.output).newest
    assert newest is not None
    n = newest.facts["n_frames"]
    assert n > 10
    summary = run_md(recipe.model_copy(update={"steps": n + 20}), resume=True)
    assert frames_of(recipe.output)["step"].tolist() == list(range(summary.steps + 1))


def test_the_disk_guard_stops_while_there_is_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = md_recipe(folder, output=folder / "guarded", steps=20, checkpoint_s=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StoppedError, match="1000 bytes free"):
        run_md(recipe)
    monkeypatch.undo()
    assert run_md(recipe, resume=True).steps == 20


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(folder: Path) -> None:
    recipe = md_recipe(folder, output=folder / "shared")
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with folder_lock(recipe.output):
            os.write(tell, b"x")
            signal.pause()
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(LockedError, match=f"process {child} on {os.uname().nodename}"):
        run_md(recipe)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (recipe.output / ".lock").exists()
    assert run_md(recipe).steps == 30
    assert not (recipe.output / ".lock").exists()


def test_where_locks_are_not_known_the_name_in_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(handle: int, what: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    lock = tmp_path / ".lock"
    with folder_lock(tmp_path), pytest.raises(LockedError), folder_lock(tmp_path):
        pass
    lock.write_text('{"pid": 1, "host": "elsewhere"}')
    with pytest.raises(LockedError, match="1 on elsewhere"), folder_lock(tmp_path):
        pass
    lock.write_text(f'{{"pid": 4194305, "host": "{os.uname().nodename}"}}')  # above the greatest there is
    with folder_lock(tmp_path):
        pass


# --- stages ---

STAGES = """
model: m
structure: s
timestep_fs: 1
pressure_GPa: 1
stages:
- {ensemble: langevin, steps: 10, temperature_K: 100, temperature_end_K: 400}
- {ensemble: npt-isotropic, time_ps: 0.01, temperature_K: 400}
- {ensemble: nve, steps: 8, timestep_fs: 0.5}
"""


def staged(folder: Path, **settings: Any) -> Any:
    stages = [
        {"ensemble": "langevin", "steps": 10, "temperature_K": 100, "temperature_end_K": 400},
        {"ensemble": "npt-isotropic", "steps": 10, "temperature_K": 400},
        {"ensemble": "nve", "steps": 8, "timestep_fs": 0.25},
    ]
    return md_recipe(folder, steps=None, stages=stages, **settings)


def test_stages_take_what_they_do_not_say_from_the_run() -> None:
    from mlpot.dynamics.recipe import MDRecipe

    plan = parse_recipe(MDRecipe, STAGES).plan()
    assert [stage.n_steps for stage in plan] == [10, 10, 8]
    assert [stage.pressure_GPa for stage in plan] == [0, 1, 0]
    assert [plan[0].temperature(k) for k in (0, 5, 10)] == [100, 250, 400]
    with pytest.raises(RecipeError, match="no thermostat"):
        parse_recipe(MDRecipe, STAGES.replace("langevin", "nve"))
    with pytest.raises(RecipeError, match="Did you mean 'steps'"):
        parse_recipe(MDRecipe, STAGES.replace("steps: 8", "stepps: 8"))


def test_stages_follow_one_another_and_restart_anywhere(folder: Path) -> None:
    whole = staged(folder, output=folder / "stages_whole", log_every=1)
    run_md(whole)
    log = read_log(whole.output / "log.csv")
    np.testing.assert_array_equal(log["step"], np.arange(29))
    np.testing.assert_allclose(log["time_ps"][[10, 20, 28]], [0.005, 0.01, 0.012])
    np.testing.assert_allclose(log["target_K"][:21], [*np.linspace(100, 400, 11), *[400] * 10])
    assert np.isnan(log["target_K"][21:]).all()
    assert np.ptp(log["volume_A3"][:11]) == 0 < np.ptp(log["volume_A3"][10:21])
    parts = whole.model_copy(update={"output": folder / "stages"})
    for calls in (7, 5, 9, 8):
        with pytest.MonkeyPatch.context() as patch:
            at_call(calls, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
            with pytest.raises(SignalledError):
                run_md(parts, resume=True)
    run_md(parts, resume=True)
    assert_same_run(whole.output, parts.output)
    longer = [*whole.stages[:2], whole.stages[2].model_copy(update={"steps": 12})]
    assert run_md(parts.model_copy(update={"stages": tuple(longer)}), resume=True).steps == 32
    with pytest.raises(CheckpointError, match="ensemble"):
        run_md(parts.model_copy(update={"stages": tuple(longer[1:] * 2)}), resume=True)


def test_every_thermostat_follows_a_ramp(folder: Path) -> None:
    for ensemble in ("langevin", "bussi", "nose-hoover", "npt-isotropic", "npt"):
        recipe = md_recipe(
            folder, output=folder / f"ramp_{ensemble}", ensemble=ensemble, temperature_end_K=1500.0, steps=150,
            timestep_fs=2, thermostat_fs=10, guards={"volume": None}, log_every=5,
        )  # fmt: skip
        run_md(recipe)
        log = read_log(recipe.output / "log.csv")
        assert log["target_K"][-1] == 1500
        assert log["temperature_K"][-8:].mean() > 900 > 700 > log["temperature_K"][:8].mean(), ensemble
        assert np.isfinite(log["conserved_eV"]).all() == (ensemble == "bussi")


def test_the_run_files_that_come_with_the_project_are_recipes() -> None:
    from mlpot.dynamics.recipe import MDRecipe
    from mlpot.recipes import load_recipe

    files = list((PROJECT / "md").glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        assert all(stage.n_steps > 100 for stage in load_recipe(MDRecipe, file).plan())


# --- the command ---


def test_the_command_says_how_a_run_ended_and_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mlpot(*arguments: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["mlpot", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code

    monkeypatch.chdir(folder)
    Path("md.yaml").write_text("model: model.safetensors\nstructure: copper.xyz\nsteps: 8\nwrite_every: 1\n")
    assert mlpot("md", "md.yaml", "guards.max_force=1e-3") == 3
    assert "The force on atom" in capsys.readouterr().err
    assert "trajectory.h5 exists" in str(mlpot("md", "md.yaml"))
    with monkeypatch.context() as patch:
        at_call(5, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert mlpot("md", "--continue", "md.yaml") == 128 + signal.SIGTERM
    assert not mlpot("md", "run", "md.yaml", "--continue", "--steps", "12")
    assert frames_of(Path("md_run"))["step"].tolist() == list(range(13))
    parts = "stages=[{ensemble: nve, steps: 3}, {steps: 2}]"
    assert "2 stages, so that --steps is not" in str(mlpot("md", "md.yaml", "output=a", parts, "--steps", "12"))
    assert "2 stages, so that steps is not" in str(mlpot("md", "md.yaml", "output=a", parts))
    capsys.readouterr()
    assert not mlpot("md", "analyze", "md_run")
    assert "13 frames" in capsys.readouterr().out
