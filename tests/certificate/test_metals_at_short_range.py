"""A potential of a dense metal passes P15 where a pair by itself is as if apart, near trained distances."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlpot.certificate.locality import _free

DISTANCES = np.array([1.0, 1.5, 2.0, 2.1, 2.2])


@pytest.mark.parametrize(
    ("nearest", "energies", "free"),
    [
        (2.1, [9.0, 5.0, 1.0, 1.0, 1.0], [False, False, True, True]),
        (2.19, [9.0, 5.0, 1.0, 1.0, 1.0], [False, False, False, True]),  # level far inside of training
        (1.0, [9.0, 5.0, 5.0, 1.0, 0.5], [False, False, False, False]),  # level, but not outermost
        (1.0, [9.0, 5.0, 0.5, 1.0, 2.0], [False, False, False, False]),  # attracts
        (1.0, [np.nan] * 5, [False] * 4),
    ],
)
def test_only_outermost_level_steps_near_training_are_free(nearest, energies, free):
    card = {"ranges": {"nearest_distance_A": {"Cu-Au": nearest}}}
    tested = SimpleNamespace(potential=SimpleNamespace(header={"card": card}))
    assert _free(tested, "Cu-Au", DISTANCES, np.array(energies)).tolist() == free
    unknown = SimpleNamespace(potential=None)
    assert not _free(unknown, "Cu-Au", DISTANCES, np.array(energies)).any()
