"""A function of arrays as one CUDA graph: all its kernels start by one call, so that small structures do not wait.

Arrays keep their places and sizes: new numbers are copied into them before each replay. The function may not ask
what is in an array, nor take one from the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[], tuple[Tensor, ...]]


def captured(function: Function, device: torch.device) -> Function:
    """The same function, replayed; what it returned before is overwritten by the next call.

    Args:
        function: of arrays that it knows.
        device: a CUDA device.
    """
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # PyTorch has no types here
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels are compiled, and libraries take their memory, before the capture
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = function()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return out

    return replay
