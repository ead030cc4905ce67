"""Where the project and the files of its tests are, whatever folder a test stands in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
SHARED = PROJECT.parent / "shared"  # public sets, absent from most checkouts
