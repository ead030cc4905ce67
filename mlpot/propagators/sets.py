"""The sets of pairs that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence

from mlpot.propagators.charged_particles import published_sets
from mlpot.propagators.frame_pairs import FramePairs, joined
from mlpot.propagators.recipe import PropagatorData
from mlpot.propagators.trajectories import Trajectory, TrajectoryError, read_trajectories


def sets_of(data: PropagatorData) -> dict[str, FramePairs]:
    """The sets "train", "validation" and, if there is one, "test" of a recipe.

    Of each trajectory, the last part is for validation. Pairs lie in one part as a whole, and no frame is in two.

    Raises:
        TrajectoryError: as `read_trajectories`, or a part has no pair, or one that judges has learned frames.
    """
    if data.trajectory is None:
        return published_sets(data.n_train, seed=data.seed)
    assert data.interval_fs is not None, "the recipe asks for it"
    interval = data.interval_fs
    learned = read_trajectories(data.trajectory)
    borders = [round(len(t) * (1 - data.validation)) for t in learned]
    sets = {
        "train": joined([t.pairs(interval, 0, n)[:: data.every] for t, n in zip(learned, borders, strict=True)]),
        "validation": joined([t.pairs(interval, n)[:: data.every] for t, n in zip(learned, borders, strict=True)]),
    }
    if data.test is not None:
        judged = read_trajectories(data.test)
        _check_same(learned[0], judged[0])
        sets["test"] = joined([t.pairs(interval) for t in judged])
        _check_no_leak("test", _frames(judged), "data.test", _frames(learned))
    early = _frames(learned, [slice(n) for n in borders])
    _check_no_leak("validation", _frames(learned, [slice(n, None) for n in borders]), "data.trajectory", early)
    for name, pairs in sets.items():
        if not len(pairs):
            raise TrajectoryError(
                f"There is no pair of frames {interval:g} fs apart in the {name} set. Give longer trajectories, a "
                "shorter data.interval_fs, or another data.validation."
            )
    return sets


def _frames(trajectories: Sequence[Trajectory], parts: Sequence[slice] | None = None) -> list[bytes]:
    """What is in each frame, of parts of some trajectories."""
    parts = [slice(None)] * len(trajectories) if parts is None else parts
    return [
        x.tobytes() + v.tobytes()
        for t, part in zip(trajectories, parts, strict=True)
        for x, v in zip(t.positions[part], t.velocities[part], strict=True)
    ]


def _check_no_leak(name: str, judging: Sequence[bytes], key: str, learned: Sequence[bytes]) -> None:
    """Raise TrajectoryError where frames that judge are learned too."""
    if n := len(set(judging) & set(learned)):
        raise TrajectoryError(
            f"{n} of the {len(judging)} frames of the {name} set are learned too, so its errors mean nothing. "
            f"Give other trajectories as {key}."
        )


def _check_same(learned: Trajectory, judged: Trajectory) -> None:
    if learned.numbers.tolist() != judged.numbers.tolist() or learned.masses.tolist() != judged.masses.tolist():
        raise TrajectoryError(
            f"{judged.path} has other atoms or masses than {learned.path}. Give a test trajectory of the same "
            "molecule."
        )
