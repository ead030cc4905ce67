"""Pictures of trainings: drawn where a test asks for them."""

from __future__ import annotations

import pytest
from training_runs import pictures


@pytest.fixture(scope="module", autouse=True)
def _few_pictures(_no_pictures: None) -> None:
    """In this folder, only tests that use `_pictures` have any."""


@pytest.fixture
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this test draw pictures."""
    pictures(monkeypatch)
