"""Does a run that was stopped, killed or broken go on as if nothing had happened, to the last bit?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from md_runs import Fault, assert_same_run, at_call, attempt, frames_of, kill_run, md_recipe, prepared

from mlpot.data.h5md import DataError, FormatError
from mlpot.dynamics.checkpoints import NAMES, Checkpoint, CheckpointError, Checkpoints
from mlpot.dynamics.log import read_log, resident_memory
from mlpot.dynamics.recipe import Guards
from mlpot.dynamics.run import run_md
from mlpot.dynamics.run_replicas import run_replicas

GUARDS = [name for name in Guards.model_fields if name != "disk"]
ENSEMBLES = ("nve", "langevin", "bussi", "nose-hoover", "npt-isotropic", "npt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and structures for the runs."""
    with prepared(tmp_path_factory.mktemp("restart")) as folder:
        yield folder


class BrokenError(RuntimeError):
    """What a test raises in the middle of a run."""


def run_out_of_memory() -> None:
    raise BrokenError("out of memory")


@pytest.mark.parametrize("model", ["model", "native"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_run_that_failed_goes_on_bit_by_bit(
    ensemble: str, model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{ensemble}_{model}"
    whole = md_recipe(
        folder, model=folder / f"{model}.safetensors", ensemble=ensemble, output=folder / f"{name}_whole"
    )
    run_md(whole)
    parts = whole.model_copy(update={"output": folder / f"{name}_parts"})
    for n in (9, 15):
        with monkeypatch.context() as patch:
            at_call(n, run_out_of_memory, patch)
            with pytest.raises(BrokenError):
                run_md(parts, resume=True)
    summary = run_md(parts, resume=True)
    assert summary.steps == 30
    assert_same_run(whole.output, parts.output)


def test_a_run_is_lengthened(folder: Path) -> None:
    long, short = (md_recipe(folder, output=folder / f"to_{n}", steps=n) for n in (30, 14))
    run_md(long)
    run_md(short)
    assert run_md(short, resume=True).steps == 14  # nothing to do
    run_md(short.model_copy(update={"steps": 30}), resume=True)
    assert_same_run(long.output, short.output)


def test_fixed_atoms_and_masses_are_as_before(folder: Path) -> None:
    from ase.constraints import FixAtoms
    from structures import copper

    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.set_masses(np.linspace(60, 70, 8))
    atoms.info = {}
    atoms.write(folder / "fixed.traj")
    whole = md_recipe(folder, structure=folder / "fixed.traj", output=folder / "fixed_whole")
    run_md(whole)
    parts = whole.model_copy(update={"output": folder / "fixed_parts", "steps": 10})
    run_md(parts)
    (folder / "fixed.traj").unlink()  # a checkpoint knows the atoms
    run_md(parts.model_copy(update={"steps": 30}), resume=True)
    assert_same_run(whole.output, parts.output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature_K": 301.0}, "temperature_K = 300.0, not 301.0"),
        ({"timestep_fs": 0.25}, "timestep_fs"),
        ({"ensemble": "nve"}, "ensemble"),
        ({"write_every": 5}, "write_every"),
        ({"steps": 4}, "n_steps"),
    ],
)
def test_another_run_is_not_gone_on_with(change: dict[str, Any], message: str, folder: Path) -> None:
    recipe = md_recipe(folder, output=folder / "same", steps=6, overwrite=True)
    run_md(recipe)
    with pytest.raises(CheckpointError, match=message):
        run_md(recipe.model_copy(update=change), resume=True)


def test_the_checkpoint_of_the_later_generation_counts_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(3):
        checkpoints.write(Checkpoint({"step": step}, {"x": np.arange(3.0)}))
    files = [tmp_path / name for name in NAMES]
    os.utime(files[1], (0, 0))
    newest = Checkpoints(tmp_path).newest
    assert newest is not None
    assert newest.facts["step"] == 2
    content = bytearray(files[1].read_bytes())
    for place in range(0, len(content), 7):
        content[place] ^= 4
        files[1].write_bytes(content)
        older = Checkpoints(tmp_path).newest
        assert older is not None
        assert older.facts["step"] == 1, place
        content[place] ^= 4
    files[0].write_bytes(b"")
    files[1].write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoints(tmp_path)


def test_a_run_that_is_killed_in_any_of_its_writes_goes_on(folder: Path) -> None:
    """Every write, sync and rename of the beginning of a run, and some of the rest."""
    whole = md_recipe(folder, output=folder / "writes_whole", steps=3, checkpoint_s=0)
    run_md(whole)
    ended, n = False, 0
    while not ended:
        n += 1 if n < 12 else 12
        parts = whole.model_copy(update={"output": folder / f"killed_in_{n}"})
        ended = attempt(parts, Fault(n, (n % 3) / 2), None)
        if not ended:
            assert attempt(parts, None, None)
        assert_same_run(whole.output, parts.output)
    assert n > 12


def kill_often(folder: Path, n_kills: int, seed: int) -> int:
    """How often a run was killed that in the end equals the one that was not."""
    whole = md_recipe(folder, output=folder / f"often_{seed}_whole", steps=12 * n_kills, ensemble="bussi")
    run_md(whole)
    output = folder / f"often_{seed}"
    kills = kill_run(folder, output, n_kills, seed)
    assert_same_run(whole.output, output)
    assert np.array_equal(frames_of(output)["step"], np.arange(0, 12 * n_kills + 1, 3))
    return kills


def test_a_run_that_is_killed_at_any_moment_goes_on(folder: Path) -> None:
    assert kill_often(folder, 8, seed=0) >= 2


@pytest.mark.slow
def test_a_run_that_is_killed_200_times_goes_on(folder: Path) -> None:
    kills = seed = 0
    while kills < 200:
        seed += 1
        kills += kill_often(folder, 25, seed)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["model", "native"])
def test_a_long_run_takes_no_more_memory_handles_and_threads(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of growth in 10 000 steps, by the log's own column, after warming up."""
    seen: set[tuple[int, int]] = set()

    def memory() -> float:
        handles, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        seen.add((handles, threads))
        return resident_memory()

    monkeypatch.setattr("mlpot.dynamics.simulation.resident_memory", memory)
    path = folder / f"{model}.safetensors"
    recipe = md_recipe(
        folder, model=path, structure=folder / "ethanol.xyz", output=folder / f"long_{model}", steps=200_000,
        timestep_fs=0.1, log_every=50, write_every=100, guards=dict.fromkeys(GUARDS),
    )  # fmt: skip
    run_md(recipe)
    log = read_log(recipe.output / "log.csv")
    late = log["step"] >= 20_000
    growth = np.polyfit(log["step"][late] / 1e4, log["memory_MB"][late], 1)[0]
    print(f"{model}: {growth:.4f} MB in 10 000 steps; handles and threads {sorted(seen)}")
    assert growth < 1, growth
    assert len(seen) == 1, seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 9}, "seed = 0, and seed = 9 cannot change that now"),
        ({"velocities": "file"}, "velocities = draw"),
        ({"repeat": (2, 1, 1)}, "repeat"),
        ({"frame": -1}, "frame = 0"),
        ({"structure": "ethanol.xyz"}, "is of Cu8, and .*ethanol.xyz has C2H6O"),
    ],
)
@pytest.mark.parametrize("replicas", [1, 2])
def test_what_only_a_beginning_has_is_not_changed_later(
    change: dict[str, Any], message: str, replicas: int, folder: Path
) -> None:
    go = run_md if replicas == 1 else run_replicas
    output = folder / f"begun_{replicas}"
    recipe = md_recipe(folder, output=output, steps=4, overwrite=True, model=folder / "native.safetensors",
                       replicas=replicas, structure=folder / "copper.xyz")  # fmt: skip
    if not output.exists():
        go(recipe)
    longer = {"steps": 6} | change
    if "structure" in change:
        longer["structure"] = folder / change["structure"]
    with pytest.raises(CheckpointError, match=message):
        go(recipe.model_copy(update=longer), resume=True)


def test_a_run_goes_on_in_a_copy_under_another_name_and_behind_a_link(folder: Path) -> None:
    whole = md_recipe(folder, output=folder / "not_moved", steps=20)
    run_md(whole)
    for name in ("moved", "linked"):
        run_md(md_recipe(folder, output=folder / "begun_elsewhere", steps=11, overwrite=True))
        (folder / "begun_elsewhere").rename(folder / f"{name}_folder")
        output = folder / f"{name}_folder"
        if name == "linked":
            output = folder / "link"
            output.symlink_to(folder / "linked_folder")
        run_md(md_recipe(folder, output=output, steps=20), resume=True)
        assert_same_run(whole.output, output)


@pytest.mark.parametrize("name", ["log.csv", "trajectory.h5"])
def test_a_file_of_the_run_that_is_gone_or_older_is_named(name: str, folder: Path) -> None:
    output = folder / f"without_{name}"
    run_md(md_recipe(folder, output=output, steps=6))
    older = (output / name).read_bytes()
    run_md(md_recipe(folder, output=output, steps=12), resume=True)
    newer = (output / name).read_bytes()
    (output / name).write_bytes(older)
    with pytest.raises((CheckpointError, DataError), match=rf"{name} has .* were written. Restore it, or start"):
        run_md(md_recipe(folder, output=output, steps=14), resume=True)
    (output / name).unlink()
    with pytest.raises((CheckpointError, DataError), match=rf"{name} is gone.*Restore it, or start the run anew"):
        run_md(md_recipe(folder, output=output, steps=14), resume=True)
    (output / name).write_bytes(newer)
    run_md(md_recipe(folder, output=output, steps=14), resume=True)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"temperature_K": 500.0}, "it began from other atoms, velocities or settings"),
        ({"structure": "rattled.xyz"}, "it began from other atoms"),
        ({"structure": "heavy.xyz"}, "it began from other atoms"),
        ({"write_every": 6, "steps": 36}, "it began from other atoms, velocities or settings"),
        ({"seed": 7}, "it began from other atoms, velocities or settings"),
    ],
)
def test_the_trajectory_of_another_run_with_as_many_frames_is_refused(folder: Path, other: Any, told: str) -> None:
    atoms = ase.io.read(folder / "copper.xyz")
    atoms.rattle(0.01, seed=1)
    atoms.write(folder / "rattled.xyz")
    atoms = ase.io.read(folder / "copper.xyz")
    atoms.set_masses([64.9] * len(atoms))
    atoms.write(folder / "heavy.xyz")
    other = {key: folder / value if key == "structure" else value for key, value in other.items()}
    recipe = md_recipe(folder, output=folder / "mine", steps=18)
    run_md(recipe)
    run_md(md_recipe(folder, **{"output": folder / "other", "steps": 18, "overwrite": True, **other}))
    kept = (folder / "mine/trajectory.h5").read_bytes()
    shutil.copy(folder / "other/trajectory.h5", folder / "mine/trajectory.h5")
    longer = recipe.model_copy(update={"steps": 24})
    with pytest.raises(FormatError, match=f"mine/trajectory.h5 is the trajectory of another run: {told}"):
        run_md(longer, resume=True)
    (folder / "mine/trajectory.h5").write_bytes(kept)
    assert run_md(longer, resume=True).steps == 24
    assert run_md(longer.model_copy(update={"steps": 30}), resume=True).steps == 30, "what it is goes on with it"
    shutil.rmtree(folder / "mine")


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_log_of_another_run_is_not_gone_on_with(folder: Path, replicas: int) -> None:
    """Whether it is shorter, as long, or longer than what was written: its lines would be taken for this run's."""
    outputs = {seed: folder / f"log_{replicas}_{seed}" for seed in (0, 7)}
    run = run_md if replicas == 1 else run_replicas
    model = folder / "native.safetensors"
    runs = {
        seed: md_recipe(folder, model=model, output=output, steps=6 * (seed + 1), seed=seed, replicas=replicas)
        for seed, output in outputs.items()
    }
    for recipe in runs.values():
        run(recipe)
    log, other = (output / ("replica_1" if replicas > 1 else "") / "log.csv" for output in outputs.values())
    own = log.read_bytes()
    longer = runs[0].model_copy(update={"steps": 12})
    swapped = own.replace(b",300.0,", b",301.0,")
    assert len(swapped) == len(own) < len(other.read_bytes())
    for wrong in (other.read_bytes(), swapped):
        log.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=r"log\.csv is the log of another run, or was changed"):
            run(longer, resume=True)
        assert log.read_bytes() == wrong
    log.write_bytes(own)
    run(longer, resume=True)


def test_a_log_that_is_damaged_is_said_to_be(tmp_path: Path) -> None:
    for content in (b"step,time_ps\n0,0.0\n2,nonsense\n", b"\x8e\xff\x00", b"", b"step,time_ps\n0,0.0\n2\n"):
        (tmp_path / "log.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"log\.csv is no log of a run, or is damaged near line"):
            read_log(tmp_path / "log.csv")
