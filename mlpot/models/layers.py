"""The small dense pieces that every backbone is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mlpot.stages.pointwise import SECOND_MOMENT

MAX_Z = 118
LIMITS = {"cutoff": 100.0, "n_features": 4096, "n_radial": 1024, "n_knots": 8192, "n_neighbors": 1000.0}
LIMITS |= {"n_rotations": 1024, "seed": 2**31, "radial_layers": 4096}
LEAST_NEIGHBORS = 0.1  # by fewer, sums over neighbors grow from layer to layer until they overflow
MAX_ARGUMENT = 64  # of all others, such as the number of layers
"""What is larger is a slip of the pen, or a file made to fill the memory."""
N_NEIGHBORS = 20.0  # of a network that no data were shown to
MAY_BE_ZERO = {"message_degree", "seed"}


FILLED, MADE = ("normal_", "uniform_"), ("eye", "randn")
BY_ELEMENT = ("mul", "__mul__", "__rmul__", "div", "__truediv__", "rsqrt")


class _NoValues(TorchFunctionMode):
    """Fills no tensor with random numbers, and multiplies none that has no values.

    For arithmetic on device "meta" PyTorch imports its compiler, which takes longer than to load a model.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in FILLED:
            return args[0] if args else kwargs["tensor"]
        if name in MADE:
            return torch.empty(*args, **kwargs)
        factors = [a for a in args if isinstance(a, Tensor)]
        if name in BY_ELEMENT and any(a.is_meta for a in factors):
            shape = np.broadcast_shapes(*(tuple(a.shape) for a in factors))
            return torch.empty(shape, dtype=factors[0].dtype, device="meta")
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Modules made within the block have shapes and types, but no memory; no random number is drawn for them."""
    with torch.device("meta"), _NoValues():
        yield


def check_arguments(arguments: Mapping[str, object]) -> None:
    """Raise ValueError if an argument of a backbone is absurd."""
    for key, value in arguments.items():
        limit = LIMITS.get(key, MAX_ARGUMENT)
        for number in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool) or 0 < number <= limit:
                continue
            if key in MAY_BE_ZERO and number == 0:
                continue
            raise ValueError(f"{key} is {str(value)[:20]}, expected above 0 and at most {limit:g}. Correct it.")
        if key == "n_neighbors" and isinstance(value, int | float) and value < LEAST_NEIGHBORS:
            raise ValueError(
                f"n_neighbors is {value:g}, expected at least {LEAST_NEIGHBORS:g}: sums over neighbors "
                "are divided by it. Leave it out, and it is counted in the training set."
            )


class SiLU(nn.SiLU):
    """x σ(x), with the derivatives that carry a function of distance through a network (see `knots`)."""

    def slope(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return s * (1 + x * (1 - s))

    def curvature(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return s * (1 - s) * (2 + x * (1 - 2 * s))


class ShiftedSoftplus(nn.Module):
    """ssp(x) = ln(1 + eˣ) − ln 2, smooth to all orders and zero at zero (Schütt et al. 2017, section 4.2)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.softplus(x) - math.log(2.0)

    def slope(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def curvature(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        return s * (1 - s)


ACTIVATIONS = {"silu": SiLU, "ssp": ShiftedSoftplus}


def dense(n_in: int, n_out: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot-uniform weights and zero bias."""
    layer = nn.Linear(n_in, n_out, bias=bias, dtype=torch.float32)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(*sizes: int, activation: str) -> nn.Sequential:
    """Dense layers of the given sizes with an activation between each two, none at the end."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [dense(n_in, n_out), choose(ACTIVATIONS, activation, "activation")()]
    return nn.Sequential(*layers[:-1])


def radial_layers(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers without bias; an activation in between, and its factor in the weights after it."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layer = nn.Linear(n_in, n_out, bias=False, dtype=torch.float32)
        nn.init.normal_(layer.weight, std=(SECOND_MOMENT if layers else 1) / math.sqrt(n_in))
        layers += [layer, SiLU()]
    return nn.Sequential(*layers[:-1])


def normal(*shape: int) -> nn.Parameter:
    """Matrices that keep the size of what they are applied to."""
    return nn.Parameter(torch.randn(*shape, dtype=torch.float32) / math.sqrt(shape[-2]))


def distance_layer(basis: nn.Module, n_radial: int, n_features: int, cutoff: float) -> nn.Linear:
    """A linear layer on a radial basis, scaled so that its outputs spread by one over the distances of neighbors.

    Few functions of a basis are large at one distance: as usually initialized, such a layer is drowned by
    what the atoms' features add to it, and the network is slow to see distances.
    """
    layer = dense(n_radial, n_features, bias=False)
    if layer.weight.is_meta:  # see `without_values`
        return layer
    with torch.no_grad():
        outputs = layer(basis(torch.linspace(0.2, 1.0, 64, dtype=torch.float32) * cutoff))
        layer.weight /= outputs.std(dim=0).mean()
    return layer


def embedding(n_features: int) -> nn.Embedding:
    """A learned vector for each atomic number."""
    table = nn.Embedding(MAX_Z + 1, n_features, dtype=torch.float32)
    nn.init.uniform_(table.weight, -math.sqrt(3), math.sqrt(3))
    return table


def choose(table: dict, name: str, what: str):  # type: ignore[no-untyped-def, type-arg]
    """table[name], or a ValueError that lists the valid names."""
    if not isinstance(name, str) or name not in table:
        near = get_close_matches(str(name).lower().replace("-", "_"), table, n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise ValueError(f"Unknown {what} {name!r}. {meant}Choose one of {', '.join(sorted(table))}.")
    return table[name]
