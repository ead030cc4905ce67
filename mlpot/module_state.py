"""Whether a module has the tensors and numbers of an earlier moment, when something was made of them."""

from __future__ import annotations

from itertools import chain, compress
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

SAMPLED = 4  # numbers of each tensor
_VERSION = attrgetter("_version")


class ModuleState:
    """What a module consists of at the moment when this is made.

    PyTorch counts changes of a tensor in place, but not those through `tensor.data` or an array of NumPy with the
    same memory. So the first numbers of each tensor on a CPU are compared too: uncounted changes of all numbers
    are seen, those of a few others are not. Each call of a potential asks for it, so its loops are those of C.

    Args:
        module: not changed, and not copied.
    """

    def __init__(self, module: nn.Module):
        parts = list(module.modules())
        self._of_tensors: list[dict[str, Any]] = [
            own for part in parts for own in (part._parameters, part._buffers) if own
        ]
        self._of_parts: list[dict[str, Any]] = [part._modules for part in parts if part._modules]
        values = list(chain.from_iterable(map(dict.values, self._of_tensors)))
        self._is_tensor = [isinstance(value, Tensor) for value in values]
        # After the last comes None: there are no more.
        self._parts = [*chain.from_iterable(map(dict.values, self._of_parts)), None]
        self._kept = self._tensors()  # so that no other has their memory
        self._samples = [_sample(t) for t in self._kept if _is_compared(t)]
        self._numbers = b"".join(self._samples)
        self._counts = self._counted()

    def holds(self) -> bool:
        """Whether the module still has the same tensors and parts, with the same numbers."""
        try:
            return (
                self._counted() == self._counts
                and b"".join(self._samples) == self._numbers
                and all(map(is_, chain(*map(dict.values, self._of_parts), (None,)), self._parts))
            )
        except (AttributeError, TypeError):  # what was a tensor is none
            return False

    def _tensors(self) -> list[Tensor]:
        return list(compress(chain.from_iterable(map(dict.values, self._of_tensors)), self._is_tensor))

    def _counted(self) -> tuple[list[int], list[int]]:
        """How often each tensor was changed, and where its numbers are: another place if it was replaced."""
        tensors = self._tensors()
        return list(map(_VERSION, tensors)), list(map(Tensor.data_ptr, tensors))


def _is_compared(tensor: Tensor) -> bool:
    known = tensor.dtype in (torch.float32, torch.float64) and tensor.device.type == "cpu"
    return known and tensor.is_contiguous() and tensor.numel() > 0


def _sample(tensor: Tensor) -> memoryview:
    """The first numbers of a tensor, which change with it and keep its memory alive."""
    return tensor.detach().view(-1)[:SAMPLED].numpy().data.cast("B")
