"""Parameters of tests of which some are enough where tests have to be quick; the others are marked slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick(names: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """All parameters, of which those that are not chosen are slow."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


def every_second(names: Iterable[Any]) -> list[Any]:
    """All parameters, of which the second, the fourth and so on are slow."""
    names = list(names)
    return quick(names, names[::2])
