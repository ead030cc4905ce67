"""The one door to Triton: it is imported when a network first runs on a CUDA device."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType


def kernels() -> tuple[ModuleType, ModuleType]:
    """`gpu.neighbor_sum` and `gpu.products`, imported when they are first needed."""
    from mlpot.gpu import neighbor_sum, products

    return neighbor_sum, products


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Whether Triton runs its kernels one operation after another on the CPU, as it does for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
