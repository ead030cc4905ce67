"""Numbers that never change, on each device once: a copy from the CPU would make a device wait at every use."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def indices(rows: Sequence[int], device: torch.device) -> Tensor:
    """Rows or components (n,) int64."""
    return constants(tuple(rows), torch.int64, device)


def constants(values: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of tuples, perhaps of tuples; nobody may change them."""
    if torch.compiler.is_compiling():  # what is compiled has constants of its own
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept(values, dtype, device)


@lru_cache(4096)
def _kept(values: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd would refuse to keep what was made in that mode
        return torch.tensor(values, dtype=dtype, device=device)
