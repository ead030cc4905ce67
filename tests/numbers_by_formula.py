"""Weights that their names determine, so that two programs have the same without a file of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def fill(module: nn.Module) -> None:
    """Give every weight of MACE such numbers, of the size that mace-torch begins with."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.numel():
                weight.copy_(numbers(name, weight.shape))


def numbers(name: str, shape: Sequence[int]) -> Tensor:
    """√2 sin(…) float64; those of products divided by their number."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    size = shape[1] if "contractions" in name else 1
    return (math.sqrt(2) * torch.sin(1.37 * (k + 1) ** 1.5 + sum(name.encode())) / size).reshape(list(shape))
