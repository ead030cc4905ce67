"""The N-body experiment: the published trajectories, and the physics that they obey."""

from __future__ import annotations

import numpy as np
import pytest

from mlpot.propagators import charged_particles
from mlpot.propagators.charged_particles import coulomb_forces, pairs_of_frames, starts
from mlpot.propagators.errors import free_flight_mse, free_flight_time


def test_starts_are_those_of_the_published_program() -> None:
    """Its lines, written out for one trajectory: charges, positions, velocities, noise of size zero."""
    np_random = np.random.RandomState(43)
    expected = []
    for _ in range(2):
        charges = np_random.choice(np.array([-1.0, 0.0, 1.0]), size=(5, 1), p=[1 / 2, 0, 1 / 2])
        loc = np_random.randn(3, 5) * 1.0
        vel = np_random.randn(3, 5)
        norm = np.sqrt((vel**2).sum(axis=0)).reshape(1, -1)
        expected.append((charges[:, 0], loc.T, (vel * 0.5 / norm).T))
        np_random.randn(49, 3, 5)
        np_random.randn(49, 3, 5)
    found = starts(np.random.RandomState(43), 2)
    for array, published in zip(found, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(array, np.stack(published), rtol=1e-15)


def test_forces_are_coulombs_and_cut_at_the_published_size() -> None:
    random = np.random.default_rng(0)
    q, x = random.choice([-1.0, 1.0], (5, 3)), random.normal(size=(5, 3, 3))
    forces = coulomb_forces(q, x)
    for i in range(5):
        apart = x[i] - x  # (j, 3, n)
        distances = np.linalg.norm(apart, axis=1)
        distances[i] = np.inf
        expected = (q[i] * q / distances**3)[:, None] * apart
        np.testing.assert_allclose(forces[i], expected.sum(0), rtol=1e-12, atol=1e-12)
    x[1] = x[0] + 1e-3
    assert np.abs(coulomb_forces(q, x)).max() == 100.0


def test_trajectories_follow_a_loop_written_for_one_of_them() -> None:
    charges, positions, velocities = starts(np.random.RandomState(1), 3)
    pairs = pairs_of_frames(charges, positions, velocities, first=0, last=1)
    x, v = positions[1].copy(), velocities[1].copy()
    kept = []
    v += 0.001 * coulomb_forces(charges[1][:, None], x[:, :, None])[:, :, 0]
    for step in range(1, 201):
        x += 0.001 * v
        if step % 100 == 0:
            kept.append((x.copy(), v.copy()))
        v += 0.001 * coulomb_forces(charges[1][:, None], x[:, :, None])[:, :, 0]
    found = (pairs.positions, pairs.velocities), (pairs.later_positions, pairs.later_velocities)
    for (a, b), (c, d) in zip(found, kept, strict=True):
        np.testing.assert_array_equal(a[1], c)
        np.testing.assert_array_equal(b[1], d)
    assert pairs.interval == pytest.approx(0.1)


def test_momentum_stays_and_the_set_is_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charged_particles, "N_JUDGED", 2)
    monkeypatch.setattr(charged_particles, "LARGEST_FORCE", np.inf)  # momentum is lost where a force is cut
    sets = charged_particles.published_sets(3, first=2, last=4, seed=5)
    again = charged_particles.published_sets(3, first=2, last=4, seed=5)
    assert {name: len(pairs) for name, pairs in sets.items()} == {"train": 3, "validation": 2, "test": 2}
    for name, pairs in sets.items():
        np.testing.assert_allclose(pairs.velocities.sum(1), pairs.later_velocities.sum(1), atol=1e-12)
        np.testing.assert_array_equal(pairs.later_positions, again[name].later_positions)
    assert np.abs(sets["validation"].positions - sets["test"].positions).max() > 0.1


def test_frames_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="Give two of 0 to 48"):
        charged_particles.published_sets(1, first=40, last=49)
    with pytest.raises(ValueError, match="Ask for at least one"):
        charged_particles.published_sets(0)


@pytest.mark.slow
def test_free_flight_errs_as_in_the_paper() -> None:
    sets = charged_particles.published_sets()
    t = free_flight_time(sets["train"])
    assert free_flight_mse(sets["test"], t) == pytest.approx(0.0819, abs=2e-4)
