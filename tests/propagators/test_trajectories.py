"""Pairs of frames from trajectories: which are taken, and which trajectories are refused, with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from molecule_runs import write_trajectory

from mlpot.data.h5md import Reader
from mlpot.data.h5md.trajectory import TrajectoryWriter
from mlpot.propagators.recipe import PropagatorData
from mlpot.propagators.sets import sets_of
from mlpot.propagators.trajectories import TrajectoryError, read_trajectories, read_trajectory


def test_pairs_are_frames_an_interval_apart_in_angstrom_and_fs(tmp_path: Path) -> None:
    trajectory = read_trajectory(write_trajectory(tmp_path / "a.h5"))
    assert (len(trajectory), trajectory.spacing) == (40, pytest.approx(1.0))
    pairs = trajectory.pairs(3.0, 4, 10)
    assert (len(pairs), pairs.interval) == (3, 3.0)
    np.testing.assert_array_equal(pairs.positions, trajectory.positions[4:7])
    np.testing.assert_array_equal(pairs.later_velocities, trajectory.velocities[7:10])
    moved = trajectory.positions[1:] - trajectory.positions[:-1]
    mean = (trajectory.velocities[1:] + trajectory.velocities[:-1]) / 2
    np.testing.assert_allclose(moved, mean * 1.0, atol=2e-3)  # Å/fs times fs


def test_no_frame_is_in_two_sets(tmp_path: Path) -> None:
    paths = [str(write_trajectory(tmp_path / f"{k}.h5", seed=k)) for k in range(3)]
    data = PropagatorData(trajectory=paths[:2], test=paths[2], interval_fs=4.0, validation=0.25)
    sets = sets_of(data)
    assert {name: len(pairs) for name, pairs in sets.items()} == {"train": 52, "validation": 12, "test": 36}
    every = sets_of(data.model_copy(update={"every": 5}))
    np.testing.assert_array_equal(every["test"].positions, sets["test"].positions)
    assert (len(every["train"]), len(every["validation"])) == (12, 4)
    learned, judged = (
        {v.tobytes() for name in names for v in (*sets[name].velocities, *sets[name].later_velocities)}
        for names in (("train",), ("validation", "test"))
    )
    assert not learned & judged


def test_a_trajectory_that_is_learned_judges_nothing(tmp_path: Path) -> None:
    """Neither as the test set, whatever it is called there, nor as a trajectory that goes over another's end."""
    path = write_trajectory(tmp_path / "a.h5")
    copied = shutil.copy(path, tmp_path / "b.h5")
    data = PropagatorData(trajectory=str(path), test=str(copied), interval_fs=4.0, validation=0.25)
    with pytest.raises(TrajectoryError, match=r"40 of the 40 frames of the test set are learned.*data\.test"):
        sets_of(data)
    with Reader(path) as reader:
        frames = list(reader.frames())
    with TrajectoryWriter(tmp_path / "end.h5", card={}) as writer:
        for k, atoms in enumerate(frames[15:]):
            writer.add(atoms, step=k, time=float(k))
    both = data.model_copy(update={"trajectory": [str(path), str(tmp_path / "end.h5")], "test": None})
    with pytest.raises(TrajectoryError, match=r"4 of the 16 frames of the validation.*as data\.trajectory"):
        sets_of(both)
    assert len(sets_of(data.model_copy(update={"trajectory": [str(path)] * 2, "test": None}))["train"]) == 52


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"velocities": False}, "no velocities.*mlpot md"),
        ({"n_frames": 1}, "one frame, and a motion needs two"),
        ({"jump": 20}, "from frame 19 to 20 are 1.25 fs, elsewhere 1 fs"),
        ({"periodic": True}, r"periodic \(pbc TTT\).*mlpot md"),
        ({"name": "H"}, "single atom"),
        ({"recipe": '{"ensemble": "bussi", "stages": []}'}, "was run with bussi.*ensemble: nve"),
        ({"recipe": '{"ensemble": "nve", "stages": [{}, {"ensemble": "langevin"}]}'}, "was run with langevin"),
    ],
)
def test_trajectories_that_would_teach_something_else_are_refused(
    tmp_path: Path, wrong: dict[str, object], told: str
) -> None:
    path = write_trajectory(tmp_path / "a.h5", **wrong)  # type: ignore[arg-type]
    with pytest.raises(TrajectoryError, match=told):
        read_trajectory(path)


def test_intervals_that_no_frames_have_are_refused(tmp_path: Path) -> None:
    trajectory = read_trajectory(write_trajectory(tmp_path / "a.h5", n_frames=6))
    for interval, told in (
        (1.5, "frame every 1 fs"),
        (0.2, "frame every 1 fs"),
        (6.0, "Give a longer trajectory"),
    ):
        with pytest.raises(TrajectoryError, match=told):
            trajectory.pairs(interval)
    data = PropagatorData(trajectory=trajectory.path, interval_fs=4.0, validation=0.2)
    with pytest.raises(TrajectoryError, match="no pair of frames 4 fs apart in the validation set"):
        sets_of(data)


def test_trajectories_that_differ_are_refused(tmp_path: Path) -> None:
    a = str(write_trajectory(tmp_path / "a.h5", n_frames=6))
    b = str(write_trajectory(tmp_path / "b.h5", n_frames=6, name="CO2"))
    c = str(write_trajectory(tmp_path / "c.h5", n_frames=6, every=4))
    with pytest.raises(TrajectoryError, match="other atoms or masses"):
        read_trajectories([a, b])
    with pytest.raises(TrajectoryError, match="every 2 fs"):
        read_trajectories([a, c])
    with pytest.raises(TrajectoryError, match="test trajectory of the same molecule"):
        sets_of(PropagatorData(trajectory=a, test=b, interval_fs=1.0, validation=0.4))
