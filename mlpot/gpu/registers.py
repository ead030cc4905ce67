"""What kernels keep in registers: tuples of tiles, whose length and use are known when a kernel is compiled.

Where a tuple has no tile it has a zero, which nobody reads.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 32  # channels of a program


@triton.jit
def zeros(like, N: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):
    """N tiles (ROWS, TILE) of the type that a pointer points to."""
    out = ()
    for _ in tl.static_range(N):
        out += (tl.zeros((ROWS, TILE), like.dtype.element_ty),)
    return out


@triton.jit
def components(x, row, f, inside, USED: tl.constexpr):
    """Components of an array at atoms that are used, from pointers (ROWS, 1) to the first of each atom."""
    out = ()
    for a in tl.static_range(n_tiles(USED)):
        if is_used(USED, a):
            out += (tl.load(x + a * row + f, inside, 0),)
        else:
            out += (0,)
    return out


@triton.constexpr_function
def n_tiles(used):
    """Tiles of a tuple that reaches to the last one that is used."""
    return 1 + max(used)


@triton.constexpr_function
def is_used(used, a):
    """Whether a component is among those that are used."""
    return a in used


@triton.constexpr_function
def n_items(items):
    """Of a list that is known when a kernel is compiled, as that of its paths."""
    return len(items)


@triton.constexpr_function
def path_of(paths, p):
    """The number of a path, which stands first."""
    return paths[p][0]


def rows_of(x: Tensor) -> Tensor:
    """The same numbers with channels side by side."""
    x = x.detach()
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def strides(*arrays: Tensor) -> list[int]:
    """From atom to atom and from component to component, of each array."""
    return [s for x in arrays for s in (x.stride(0), x.stride(1))]


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel where its first argument is, unless there is nothing to do."""
    if 0 in grid:
        return
    with torch.cuda.device(arguments[0].get_device()):  # Triton launches on the current one
        kernel[grid](*arguments, **constants, num_warps=4)
