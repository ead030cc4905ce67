"""What the data say before training: reference energies, shifts and scales, in spite of bad frames and gaps."""

from __future__ import annotations

import numpy as np
import pytest

from mlpot.training.reference_energies import force_scales, reference_energies, robust_least_squares, shifts

ELEMENTS = [1, 6, 8]
TRUTH = np.array([-13.6, -1029.5, -2042.3])


def frames(n: int = 60, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Compositions and energies: atoms at their true energies, and a little more."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (n, 3)).astype(float)
    return counts, counts @ TRUTH + noise * counts.sum(1) * rng.normal(size=n)


def test_without_noise_the_fit_is_exact() -> None:
    assert robust_least_squares(*frames(noise=0.0)) == pytest.approx(TRUTH, abs=1e-8)


def test_bad_frames_do_not_count() -> None:
    counts, energies = frames(noise=0.001)
    clean = robust_least_squares(counts, energies)
    energies[::10] += 1e4  # one in ten is nonsense
    assert robust_least_squares(counts, energies) == pytest.approx(clean, abs=0.01)
    plain = np.linalg.lstsq(counts, energies, rcond=None)[0]
    assert np.abs(plain - TRUTH).max() > 10


def test_one_composition_shares_the_energy_in_the_shortest_way() -> None:
    counts = np.tile([6.0, 2.0, 1.0], (5, 1))  # ethanol, always
    x = robust_least_squares(counts, counts @ TRUTH)
    assert counts[0] @ x == pytest.approx(counts[0] @ TRUTH, rel=1e-12)
    assert x == pytest.approx(counts[0] * (counts[0] @ x) / (counts[0] @ counts[0]), rel=1e-9)


def test_one_frame_is_enough() -> None:
    assert np.isfinite(robust_least_squares(np.array([[2.0, 0.0, 1.0]]), np.array([-2076.0]))).all()


def test_isolated_atoms_are_taken_as_computed_if_there_is_one_of_each() -> None:
    counts, energies = frames()
    found = reference_energies(counts, energies, ELEMENTS, {1: -13.0, 6: -1000.0, 8: -2000.0, 29: -1.0})
    assert found.energies == {1: -13.0, 6: -1000.0, 8: -2000.0}
    assert set(found.sources.values()) == {"isolated atom"}


def test_known_reference_energies_are_held_and_the_others_fitted() -> None:
    """Given ones go before isolated atoms; what is left of the energies decides on the rest."""
    counts, energies = frames(noise=0.0)
    found = reference_energies(counts, energies, ELEMENTS, {1: -99.0, 6: TRUTH[1]}, {1: TRUTH[0]})
    assert list(found.energies) == ELEMENTS
    assert (found.energies[1], found.energies[6]) == (TRUTH[0], TRUTH[1])
    assert found.energies[8] == pytest.approx(TRUTH[2], abs=1e-8)
    assert found.sources == {1: "given", 6: "isolated atom", 8: "fitted"}


def test_a_wrong_reference_energy_is_held_all_the_same() -> None:
    counts, energies = frames(noise=0.0)
    assert reference_energies(counts, energies, ELEMENTS, {}, {6: -1000.0}).energies[6] == -1000.0


def test_elements_in_one_ratio_only_are_determined_once_one_of_them_is_known() -> None:
    counts = np.array([[1, 1, 1], [2, 2, 5], [3, 3, 2], [4, 4, 4], [2, 2, 3], [1, 1, 2]], dtype=float)
    energies = counts @ TRUTH
    open_ones = reference_energies(counts, energies, ELEMENTS, {})
    assert open_ones.sources == {1: "not determined", 6: "not determined", 8: "fitted"}
    assert open_ones.energies[8] == pytest.approx(TRUTH[2], abs=1e-6)
    held = reference_energies(counts, energies, ELEMENTS, {1: TRUTH[0]})
    assert held.sources == {1: "isolated atom", 6: "fitted", 8: "fitted"}
    assert list(held.energies.values()) == pytest.approx(TRUTH, abs=1e-6)


def test_without_energies_what_is_not_known_is_zero_and_said_to_be_open() -> None:
    found = reference_energies(np.zeros((0, 3)), np.zeros(0), ELEMENTS, {6: -1000.0})
    assert found.energies == {1: 0.0, 6: -1000.0, 8: 0.0}
    assert found.sources == {1: "not determined", 6: "isolated atom", 8: "not determined"}


def test_shifts_are_what_binding_leaves() -> None:
    counts, energies = frames(noise=0.0)
    binding = np.array([-2.0, -7.0, -5.0])
    found = shifts(counts, energies + counts @ binding, ELEMENTS, dict(zip(ELEMENTS, TRUTH, strict=True)))
    assert list(found.values()) == pytest.approx(binding, abs=1e-8)


def test_force_scales_are_root_mean_squares_of_the_forces_that_are_known() -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat([1, 6], 500)
    forces = rng.normal(size=(1000, 3)) * np.where(numbers == 1, 0.5, 3.0)[:, None]
    forces[::7] = np.nan
    found = force_scales(numbers, forces, ELEMENTS)
    assert found[1] == pytest.approx(0.5, rel=0.05)
    assert found[6] == pytest.approx(3.0, rel=0.05)
    assert found[8] == pytest.approx(np.sqrt(np.nanmean(forces**2)), rel=1e-12)  # none seen: that of the whole set


@pytest.mark.parametrize("forces", [np.zeros((4, 3)), np.full((4, 3), np.nan)])
def test_without_forces_the_scale_is_one(forces: np.ndarray) -> None:
    assert force_scales(np.array([1, 1, 6, 6]), forces, [1, 6]) == {1: 1.0, 6: 1.0}
