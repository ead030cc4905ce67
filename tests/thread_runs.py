"""Work that is shared among threads, however small it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from mlpot.kernels import threads


@contextmanager
def n_threads_for_anything(n: int) -> Iterator[None]:
    """Share even the smallest work among n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threads, "ONE_THREAD", 0)
            yield
    finally:
        torch.set_num_threads(before)
