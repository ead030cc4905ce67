"""Numbers that never change, on each device once: a copy from the CPU would make a device wait at every use."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def indices(rows: Sequence[int], device: torch.device) -> Tensor:
    """Rows or components (n,) int64."""
    return constants(tuple(rows), torch.int64, device)


@lru_cache(4096)
def constants(values: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of tuples, perhaps of tuples; nobody may change them."""
    if torch.is_inference_mode_enabled():  # autograd would refuse to keep them
        with torch.inference_mode(False):
            return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, device=device)
