"""Is each replica of a batch the run that it would be alone, to the last bit, whatever befalls others?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from md_runs import assert_same_run, md_recipe, prepared
from potentials import new_potential
from structures import copper, ethanol

from mlpot.data.h5md import Reader
from mlpot.dynamics.analyze import analysis_of
from mlpot.dynamics.batch import Batch
from mlpot.dynamics.checkpoints import CheckpointError
from mlpot.dynamics.guards import WINDOW
from mlpot.dynamics.recipe import NPT, MDRecipe
from mlpot.dynamics.run import run_md
from mlpot.dynamics.run_replicas import run_replicas
from mlpot.dynamics.start import StartError
from mlpot.model_file import save_potential
from mlpot.signals import BlowUpError

ENSEMBLES = ("nve", "langevin", "bussi", "nose-hoover")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and structures for the runs."""
    with prepared(tmp_path_factory.mktemp("replicas")) as folder:
        yield folder


def recipe_of(folder: Path, output: str, **settings: Any) -> MDRecipe:
    """Of a batch, or of a run alone, by a potential that knows no bounds."""
    free = {"min_distance": 0.3, "max_force": 1e4, "temperature": 1e3, "energy": 1e3, "volume": None}
    defaults = {"model": folder / "native.safetensors", "output": folder / output, "guards": free}
    return md_recipe(folder, **defaults | settings)


def alone(batch: MDRecipe, k: int, **changes: Any) -> Path:
    """Run replica k of a batch alone."""
    output = batch.output.with_name(f"{batch.output.name}_alone_{k}")
    own = {"replicas": 1, "seed": batch.seed + k, "output": output, "overwrite": True, **changes}
    run_md(batch.model_copy(update=own))
    return output


def several(folder: Path, name: str, structures: list[Any]) -> Path:
    """A file of structures of different sizes and boundaries."""
    for atoms in structures:
        atoms.info = {}
    ase.io.write(folder / name, structures)
    return folder / name


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_replica_is_what_it_would_be_alone(ensemble: str, folder: Path) -> None:
    batch = recipe_of(
        folder, f"seeds_{ensemble}", structure=folder / "ethanol.xyz", ensemble=ensemble, replicas=13, seed=5
    )
    batch = batch.model_copy(update={"steps": WINDOW + 10})
    summaries = run_replicas(batch)
    assert [summary.steps for summary in summaries] == [WINDOW + 10] * 13
    for k in (0, 6, 12):
        assert_same_run(batch.output / f"replica_{k:02d}", alone(batch, k))


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_structures_of_a_file_run_together(ensemble: str, folder: Path) -> None:
    layer, large = copper(seed=3), copper(seed=5).repeat((3, 3, 2))
    layer.set_pbc((True, True, False))
    structures = [ethanol(seed=1), copper(seed=2), layer, ethanol(seed=4)[:5], large]
    file = several(folder, "several.traj", structures)
    batch = recipe_of(folder, f"file_{ensemble}", structure=file, frame="all", ensemble=ensemble, steps=12)
    run_replicas(batch)
    for k in range(len(structures)):
        assert_same_run(batch.output / f"replica_{k}", alone(batch, k, frame=k))


@pytest.mark.parametrize("ensemble", NPT)
def test_cells_move_as_they_would_alone(ensemble: str, folder: Path) -> None:
    """Of structures that differ, through a ramp and a window of slow checks."""
    file = several(folder, "cells.traj", [copper(seed=2), copper(seed=5).repeat((2, 1, 1)), copper(seed=7)])
    pressed = {"ensemble": ensemble, "pressure_GPa": 2.0, "steps": WINDOW - 10, "temperature_end_K": 500}
    stages = ({"ensemble": "nose-hoover", "steps": 15}, pressed)
    batch = recipe_of(folder, f"cells_{ensemble}", structure=file, frame="all", stages=stages)
    run_replicas(batch)
    for k in range(3):
        assert_same_run(batch.output / f"replica_{k}", alone(batch, k, frame=k))
    with Reader(batch.output / "replica_1/trajectory.h5") as reader:
        first, *_, last = (atoms.cell.array for atoms in reader.frames())
    assert not np.allclose(first, last, atol=1e-3)


def test_stages_ramps_and_held_atoms(folder: Path) -> None:
    atoms = copper(seed=1)
    atoms.set_constraint(FixAtoms([0, 3]))
    stages = (
        {"ensemble": "nve", "steps": 7},
        {"ensemble": "langevin", "steps": 8, "temperature_end_K": 600},
        {"ensemble": "bussi", "steps": 6},
        {"ensemble": "nose-hoover", "steps": 6},
    )
    file = several(folder, "held.traj", [atoms])
    batch = recipe_of(folder, "stages", structure=file, stages=stages, replicas=3)
    run_replicas(batch)
    for k in range(3):
        assert_same_run(batch.output / f"replica_{k}", alone(batch, k))


class BrokenError(RuntimeError):
    """What a test raises in the middle of a batch."""


@pytest.mark.parametrize("ensemble", [*ENSEMBLES, *NPT])
def test_a_batch_that_failed_goes_on_bit_by_bit(
    ensemble: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe_of(folder, f"whole_{ensemble}", ensemble=ensemble, replicas=3)
    run_replicas(whole)
    parts = whole.model_copy(update={"output": folder / f"parts_{ensemble}"})
    compute = Batch.compute
    for n in (9, 15):
        calls = 0

        def broken(self: Batch, last: int = n) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise BrokenError("out of memory")
            compute(self)

        with monkeypatch.context() as patch:
            patch.setattr(Batch, "compute", broken)
            with pytest.raises(BrokenError):
                run_replicas(parts, resume=True)
    assert [summary.steps for summary in run_replicas(parts, resume=True)] == [30] * 3
    for k in range(3):
        assert_same_run(whole.output / f"replica_{k}", parts.output / f"replica_{k}")
    longer = parts.model_copy(update={"steps": 40})
    run_replicas(longer, resume=True)
    assert_same_run(alone(longer, 1), parts.output / "replica_1")


def with_one_that_flies(folder: Path) -> Path:
    """Copper, ethanol of which a hydrogen flies off, and copper."""
    flying, others = ethanol(), [copper(seed=seed) for seed in (1, 2)]
    velocities = np.zeros((9, 3))
    velocities[8, 0] = 0.5 / units.fs  # Å/fs
    flying.set_velocities(velocities)
    for atoms in others:
        atoms.set_velocities(np.random.default_rng(0).normal(size=(8, 3)) * 0.01)
    return several(folder, "flying.traj", [others[0], flying, others[1]])


def test_a_guard_stops_its_replica_alone(folder: Path) -> None:
    batch = recipe_of(
        folder,
        "stopped",
        structure=with_one_that_flies(folder),
        frame="all",
        velocities="file",
        ensemble="nve",
        steps=60,
        guards={"escape_A": 8.0, "energy": None, "temperature": None, "max_force": None},
    )
    with pytest.raises(
        BlowUpError, match=r"1 of 3 replicas, numbers 1; the others ran to .*center of mass"
    ) as told:
        run_replicas(batch)
    assert told.value.exit_code == 3
    with pytest.raises(BlowUpError) as single:
        alone(batch, 1, frame=1)
    own, other = batch.output / "replica_1", folder / "stopped_alone_1"
    assert str(single.value).replace(str(other), str(own)) in str(told.value)
    assert_same_run(own, other)
    assert (own / "bad_frame.xyz").read_text() == (other / "bad_frame.xyz").read_text()
    reasons = [json.loads((batch.output / f"replica_{k}/md.json").read_text())["summary"] for k in range(3)]
    assert [reason["blown_up"] for reason in reasons] == [False, True, False]
    assert reasons[1]["steps"] < 60 == reasons[0]["steps"]
    for k in (0, 2):
        assert_same_run(batch.output / f"replica_{k}", alone(batch, k, frame=k))
    longer = batch.model_copy(update={"steps": 66})
    with pytest.raises(BlowUpError, match="numbers 1"):
        run_replicas(longer, resume=True)
    assert_same_run(own, other)  # what was stopped stays so
    assert_same_run(batch.output / "replica_2", alone(longer, 2, frame=2))


def test_replicas_that_were_all_stopped_cannot_go_on(folder: Path) -> None:
    batch = recipe_of(folder, "none_left", replicas=2, ensemble="nve", steps=6, guards={"max_force": 1e-3})
    with pytest.raises(BlowUpError, match="All 2 replicas were stopped"):
        run_replicas(batch)
    with pytest.raises(BlowUpError, match="stopped all 2 replicas before, and none can go on") as told:
        run_replicas(batch, resume=True)
    assert told.value.exit_code == 3


def test_what_does_not_run_in_a_batch_is_refused_by_name(folder: Path) -> None:
    layer = copper()
    layer.set_pbc((True, True, False))
    with pytest.raises(
        StartError, match=r"periodic in three directions, and .*layer\.traj has pbc TTF: .*langevin"
    ):
        run_replicas(
            recipe_of(folder, "npt", replicas=2, ensemble="npt", structure=several(folder, "layer.traj", [layer]))
        )
    other = folder / "deepsets.safetensors"
    save_potential(new_potential("deepsets"), other)
    with pytest.raises(StartError, match="DeepSets is not made of stages"):
        run_replicas(recipe_of(folder, "modules", replicas=2, model=other))
    held = copper()
    held.set_constraint(FixCom())
    with pytest.raises(StartError, match="FixCom"):
        run_replicas(recipe_of(folder, "com", replicas=2, structure=several(folder, "com.traj", [held])))
    lone = several(folder, "lone.traj", [copper(), Atoms("Cu", cell=[20, 20, 20], pbc=True)])
    for ensemble, why in (("bussi", "Cu has no motion left"), ("nose-hoover", r".*lone\.traj is one atom")):
        with pytest.raises(StartError, match=f"Replica 1: {why}"):
            run_replicas(recipe_of(folder, "lone", frame="all", structure=lone, ensemble=ensemble))
    empty = several(folder, "empty.traj", [copper(), Atoms()])
    with pytest.raises(StartError, match=r"Replica 1 \(structure 1 of .*has no atoms"):
        run_replicas(recipe_of(folder, "empty", frame="all", structure=empty))
    held.set_constraint(FixAtoms([0]))
    file = several(folder, "mixed.traj", [held, copper()])
    with pytest.raises(StartError, match="Structure 1 holds no atoms and structure 0 does"):
        run_replicas(recipe_of(folder, "mixed", frame="all", structure=file))


def test_another_number_of_replicas_is_another_run(folder: Path) -> None:
    batch = recipe_of(folder, "number", replicas=2, steps=4)
    run_replicas(batch)
    with pytest.raises(FileExistsError, match="replica_0"):
        run_replicas(batch)
    with pytest.raises(CheckpointError, match="replicas = 2, not 3"):
        run_replicas(batch.model_copy(update={"replicas": 3}), resume=True)
    with pytest.raises(CheckpointError, match="replicas = 2, not 1"):
        run_md(batch.model_copy(update={"replicas": 1}), resume=True)
    kept = batch.output / "checkpoint_A"
    before = kept.stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="replica_0"):
        run_md(batch.model_copy(update={"replicas": 1}))
    with pytest.raises(FileExistsError, match=r"replica_1/trajectory\.h5 is of an earlier run"):
        run_replicas(batch.model_copy(update={"replicas": 1, "frame": "all", "overwrite": True}))
    assert kept.stat().st_mtime_ns == before


def test_a_replica_is_read_like_any_run(folder: Path) -> None:
    batch = recipe_of(folder, "read", structure=folder / "ethanol.xyz", replicas=2, steps=60, ensemble="bussi")
    run_replicas(batch)
    found, other = analysis_of(batch.output / "replica_1"), analysis_of(alone(batch, 1))
    assert found.expected_std_K == other.expected_std_K
    with Reader(batch.output / "replica_1/trajectory.h5") as reader:
        assert json.loads(reader.card["recipe"])["seed"] == batch.seed + 1


@pytest.mark.parametrize("run", [run_md, run_replicas])
def test_a_later_stage_that_makes_no_sense_is_refused_before_the_first(run: Any, folder: Path) -> None:
    """A barostat of a molecule was refused when the stages before it had been done."""
    stages = ({"ensemble": "langevin", "steps": 5}, {"ensemble": "npt-isotropic", "steps": 5})
    replicas, output = 1 if run is run_md else 2, f"late_{run.__name__}"
    late = recipe_of(folder, output, structure=folder / "ethanol.xyz", stages=stages, replicas=replicas)
    with pytest.raises(StartError, match="periodic in three directions"):
        run(late)
    assert not list((folder / output).glob("**/*.csv"))
