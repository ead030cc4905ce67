"""Whether a module has the tensors and numbers of an earlier moment, when something was made of them."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SAMPLED = 4  # numbers of each tensor


class ModuleState:
    """What a module consists of at the moment when this is made.

    PyTorch counts changes of a tensor in place, but not those through `tensor.data` or an array of NumPy with the
    same memory. So some numbers of each tensor on a CPU are compared too: uncounted changes of all numbers of a
    tensor are seen, those of a few may not be.

    Args:
        module: not changed, and not copied.
    """

    def __init__(self, module: nn.Module):
        self._places = [
            (own, name, value)
            for part in module.modules()
            for own in (part._parameters, part._buffers, part._modules)
            for name, value in own.items()
        ]
        self._tensors = [value for _, _, value in self._places if isinstance(value, Tensor)]
        self._samples = [_sample(t) for t in self._tensors if t.dtype in (torch.float32, torch.float64)]
        self._counts, self._numbers = self._counted(), self._sampled()

    def holds(self) -> bool:
        """Whether the module still has the same tensors and parts, with the same numbers."""
        return (
            all(own.get(name) is value for own, name, value in self._places)
            and self._counted() == self._counts
            and self._sampled() == self._numbers
        )

    def _counted(self) -> list[tuple[int, int]]:
        return [(tensor._version, tensor.data_ptr()) for tensor in self._tensors]

    def _sampled(self) -> list[bytes]:
        return [sample.tobytes() for sample in self._samples]


def _sample(tensor: Tensor) -> NDArray[Any]:
    """Numbers evenly spread over the memory of a tensor, which change with it; none where it is elsewhere."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.numel() == 0:
        tensor = torch.empty(0, dtype=torch.float32, device="cpu")
    step = max(1, (tensor.numel() - 1) // (SAMPLED - 1))
    found: NDArray[Any] = tensor.detach().view(-1)[::step].numpy()
    return found
