"""MACE as mace-torch has it, from e3nn's linear maps, tensor products, harmonics and Wigner symbols.

Modules and weights have mace-torch's names and shapes, so that a state of one is one of the other. The products of
many factors are mace-torch's own; here they are written from e3nn's `wigner_3j`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from numbers_by_formula import fill
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3
    from e3nn.nn import FullyConnectedNet
    from e3nn.util.jit import get_optimization_defaults, set_optimization_defaults

set_optimization_defaults(**{**get_optimization_defaults(), "jit_mode": "eager"})


@contextmanager
def in_double() -> Iterator[None]:
    """e3nn makes its constants in PyTorch's default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Size(NamedTuple):
    """What a model is."""

    elements: tuple[int, ...]
    cutoff: float = 4.0
    n: int = 4
    max_degree: int = 3
    message_degree: int = 0
    correlation: int = 3
    n_layers: int = 2
    residual_first: bool = False
    n_radial: int = 5
    exponent: int = 5
    radial: tuple[int, ...] = (6,)
    n_hidden: int = 3
    neighbors: float = 7.0
    parity: bool = True

    def hidden(self, degree: int) -> str:
        """Irreps of n channels of every degree: of natural parity, or even all of them."""
        return " + ".join(f"{self.n}x{k}{'eo'[k % 2 * self.parity]}" for k in range(degree + 1))

    @property
    def harmonics(self) -> o3.Irreps:
        """One of every degree."""
        return o3.Irreps(self._replace(n=1).hidden(self.max_degree))

    def before(self, layer: int) -> int:
        """Highest degree of what neighbors send."""
        return self.message_degree if layer else 0

    def after(self, layer: int) -> int:
        """Highest degree of the features of a layer."""
        return self.message_degree if layer + 1 < self.n_layers else 0

    def residual(self, layer: int) -> bool:
        """Whether a layer adds the features before it."""
        return layer > 0 or self.residual_first


class Interaction(nn.Module):
    """RealAgnosticInteractionBlock, or RealAgnosticResidualInteractionBlock."""

    def __init__(self, size: Size, layer: int):
        super().__init__()
        before, target = o3.Irreps(size.hidden(size.before(layer))), o3.Irreps(size.hidden(size.max_degree))
        attributes, harmonics = f"{len(size.elements)}x0e", size.harmonics
        self.size, self.residual = size, size.residual(layer)
        self.linear_up = o3.Linear(before, before)
        middle, instructions = _paths(before, harmonics, target)
        self.conv_tp = o3.TensorProduct(
            before, harmonics, middle, instructions, shared_weights=False, internal_weights=False
        )
        sizes = [size.n_radial, *size.radial, self.conv_tp.weight_numel]
        degrees = [
            tuple(part.l for part in (before[p[0]].ir, harmonics[p[1]].ir, middle[p[2]].ir)) for p in instructions
        ]
        signs = torch.tensor([-1.0 if d in OTHER_SIGN else 1.0 for d in degrees], dtype=torch.float64)
        self.signs = signs.repeat_interleave(size.n)
        self.couplings = [first_sign(*d) * (-1 if d in OTHER_SIGN else 1) for d in degrees]
        self.conv_tp_weights = FullyConnectedNet(sizes, torch.nn.functional.silu)
        self.linear = o3.Linear(middle, target)
        skipped = (before, size.hidden(size.after(layer))) if self.residual else (target, target)
        self.skip_tp = o3.FullyConnectedTensorProduct(skipped[0], attributes, skipped[1])

    def forward(self, kind: Tensor, h: Tensor, y: Tensor, radial: Tensor, edges: Tensor) -> tuple[Tensor, Any]:
        sender, receiver = edges
        skip = self.skip_tp(h, kind) if self.residual else None
        messages = self.conv_tp(self.linear_up(h)[sender], y, self.conv_tp_weights(radial) * self.signs)
        a = self.linear(messages.new_zeros(len(h), messages.shape[1]).index_add(0, receiver, messages))
        a = a / self.size.neighbors
        return a if self.residual else self.skip_tp(a, kind), skip


def first_sign(*degrees: int) -> float:
    """Of the numbers of a Wigner symbol."""
    w = o3.wigner_3j(*degrees, dtype=torch.float64)
    return float(w[w.abs() > 1e-6][0].sign())


def _paths(one: o3.Irreps, two: o3.Irreps, target: o3.Irreps) -> tuple[o3.Irreps, list[Any]]:
    """All couplings to the target with channels kept, sorted by what they give."""
    found = [
        (i, j, out, mul)
        for i, (mul, a) in enumerate(one)
        for j, (_, b) in enumerate(two)
        for out in a * b
        if out in target
    ]
    found.sort(key=lambda path: path[2])
    irreps = o3.Irreps([(mul, out) for *_, out, mul in found])
    return irreps, [(i, j, k, "uvu", True) for k, (i, j, *_) in enumerate(found)]


class Contraction(nn.Module):
    """Products of 1 … ν factors to one degree, the highest first as mace-torch's weights are named."""

    def __init__(self, size: Size, degree: int):
        super().__init__()
        self.degree, self.highest = degree, size.correlation
        irreps = size.harmonics
        n_elements, self.weights = len(size.elements), nn.ParameterList()
        for order in range(1, size.correlation + 1):
            self.register_buffer(f"U_matrix_{order}", couplings(irreps, degree, order))
        for order in range(size.correlation, 0, -1):
            weight = nn.Parameter(torch.empty(n_elements, self.u(order).shape[-1], size.n, dtype=torch.float64))
            if order == size.correlation:
                self.weights_max = weight
            else:
                self.weights.append(weight)

    def u(self, order: int) -> Tensor:
        return self.get_buffer(f"U_matrix_{order}")

    def forward(self, a: Tensor, kind: Tensor) -> Tensor:
        """(n_atoms, n, 2L + 1) of (n_atoms, n, n_components)."""
        out = torch.zeros(*a.shape[:2], 2 * self.degree + 1, dtype=a.dtype)
        for order in range(1, self.highest + 1):
            weight = self.weights_max if order == self.highest else self.weights[self.highest - 1 - order]
            u = self.u(order).reshape(2 * self.degree + 1, *[a.shape[2]] * order, -1)
            factors, letters = [], "ijk"[:order]
            for letter in letters:
                factors += [f"nc{letter}"]
            formula = f"m{letters}p,zpc,nz,{','.join(factors)}->ncm"
            out = out + torch.einsum(formula, u, weight, kind, *[a] * order)
        return out


OTHER_SIGN = {
    (1, 2, 2), (1, 3, 3), (2, 1, 2), (2, 2, 1), (3, 1, 3), (3, 3, 1), (4, 1, 4), (4, 3, 6), (5, 1, 5), (6, 1, 6),
    (6, 3, 4),
}  # fmt: skip
"""Degrees whose Wigner symbols changed their sign between e3nn 0.4.4, which mace-torch needs, and 0.6."""


@cache
def couplings(irreps: o3.Irreps, degree: int, order: int) -> Tensor:
    """U (2L + 1, n, …, n, n_couplings) of all couplings ((A ⊗ A) ⊗ A), without its first axis if L is 0."""
    n, ends = irreps.dim, list(itertools.accumulate([0, *(ir.dim for _, ir in irreps)]))
    places = [(ir, a, b) for (_, ir), (a, b) in zip(irreps, itertools.pairwise(ends), strict=True)]
    found = [(ir, torch.eye(n, dtype=torch.float64)[a:b]) for ir, a, b in places]
    for _ in range(order - 1):
        longer = []
        for left, c_left in found:
            for right, a, b in places:
                for out in left * right:
                    w = o3.wigner_3j(out.l, left.l, right.l, dtype=torch.float64) * math.sqrt(out.dim)
                    w = -w if (out.l, left.l, right.l) in OTHER_SIGN else w
                    c = torch.zeros(out.dim, *c_left.shape[1:], n, dtype=torch.float64)
                    c[..., a:b] = torch.einsum("j...,ijl->i...l", c_left, w)
                    longer.append((out, c))
        found = sorted(longer, key=lambda pair: pair[0])
    parity = irreps[1].ir.p  # −1, or 1 if all are even
    own = [c for ir, c in found if ir == o3.Irrep(degree, parity**degree)]
    u = torch.stack(own, dim=-1) if own else torch.zeros(2 * degree + 1, *[n] * order, 1, dtype=torch.float64)
    return u[0] if degree == 0 else u


class Product(nn.Module):
    """EquivariantProductBasisBlock."""

    def __init__(self, size: Size, layer: int):
        super().__init__()
        self.n, self.irreps = size.n, size.harmonics
        self.symmetric_contractions = nn.Module()
        self.symmetric_contractions.contractions = nn.ModuleList(
            Contraction(size, degree) for degree in range(size.after(layer) + 1)
        )
        hidden = size.hidden(size.after(layer))
        self.linear = o3.Linear(hidden, hidden)

    def forward(self, a: Tensor, kind: Tensor, skip: Tensor | None) -> Tensor:
        parts = a.split([self.n * ir.dim for _, ir in self.irreps], dim=1)
        a = torch.cat([part.view(len(a), self.n, -1) for part in parts], dim=2)
        out = [c(a, kind).flatten(1) for c in self.symmetric_contractions.contractions]
        h = self.linear(torch.cat(out, dim=1))
        return h if skip is None else h + skip


class Readout(nn.Module):
    """LinearReadoutBlock, or NonLinearReadoutBlock."""

    def __init__(self, size: Size, layer: int):
        super().__init__()
        hidden = size.hidden(size.after(layer))
        if 0 < layer == size.n_layers - 1:
            between = f"{size.n_hidden}x0e"
            self.linear_1, self.linear_2 = o3.Linear(hidden, between), o3.Linear(between, "0e")
            self.act = FullyConnectedNet([1, 1, 1], torch.nn.functional.silu).layer0.act
        else:
            self.linear = o3.Linear(hidden, "0e")

    def forward(self, h: Tensor) -> Tensor:
        out = self.linear_2(self.act(self.linear_1(h))) if hasattr(self, "linear_1") else self.linear(h)
        return out[:, 0]


class Definition(nn.Module):
    """What the readouts give for each atom; vectors point from sender to receiver, as mace-torch's do."""

    def __init__(self, size: Size):
        super().__init__()
        self.size = size
        self.node_embedding = nn.Module()
        with in_double():
            self.node_embedding.linear = o3.Linear(f"{len(size.elements)}x0e", f"{size.n}x0e")
            self.interactions = nn.ModuleList(Interaction(size, k) for k in range(size.n_layers))
            self.products = nn.ModuleList(Product(size, k) for k in range(size.n_layers))
            self.readouts = nn.ModuleList(Readout(size, k) for k in range(size.n_layers))
        fill(self)

    def forward(self, kind: Tensor, edges: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms,) from elements (n_atoms, n_elements) one-hot, edges (2, n_edges) and vectors (n_edges, 3)."""
        degrees = list(range(self.size.max_degree + 1))
        y = o3.spherical_harmonics(degrees, vectors, True, normalization="component")
        radial = radial_functions(vectors.norm(dim=1), self.size)
        h, energy = self.node_embedding.linear(kind), kind.new_zeros(len(kind))
        for interaction, product, readout in zip(self.interactions, self.products, self.readouts, strict=True):
            a, skip = interaction(kind, h, y, radial, edges)
            h = product(a, kind, skip)
            energy = energy + readout(h)
        return energy


def radial_functions(d: Tensor, size: Size) -> Tensor:
    """Bessel functions times the polynomial envelope, (n_edges, n_radial)."""
    p, x, c = size.exponent, d / size.cutoff, size.cutoff
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    k = torch.arange(1, size.n_radial + 1, dtype=d.dtype)
    return math.sqrt(2 / c) * torch.sin(k * math.pi * d[:, None] / c) / d[:, None] * (u * (x < 1))[:, None]


def description(size: Size) -> dict[str, Any]:
    """What `mlpot.importers.inside_mace` would say of such a model."""
    act = FullyConnectedNet([1, 1, 1], torch.nn.functional.silu).layer0.act
    silu = ["silu", float(act.cst)]
    layers = range(size.n_layers)
    return {
        "class": "ScaleShiftMACE",
        "children": ["interactions", "products", "readouts"],
        "heads": ["Default"],
        "options": {"use_so3": not size.parity},
        "radial": {
            "basis": "BesselBasis",
            "envelope": "PolynomialCutoff",
            "distance_transform": "NoneType",
            "apply_cutoff": True,
        },
        "repulsion": "NoneType",
        "harmonics": [size.hidden(size.max_degree), "component"],
        "normalized": True,
        "interactions": [_described_interaction(size, k, silu) for k in layers],
        "products": [
            {
                "class": "EquivariantProductBasisBlock",
                "contraction": "SymmetricContraction",
                "irreps_out": size.hidden(size.after(k)),
                "correlation": [size.correlation] * (size.after(k) + 1),
                "residual": size.residual(k),
                "agnostic": False,
            }
            for k in layers
        ],
        "readouts": [
            {"class": "NonLinearReadoutBlock", "activations": [silu]}
            if 0 < k == size.n_layers - 1
            else {"class": "LinearReadoutBlock"}
            for k in layers
        ],
    }


def _described_interaction(size: Size, k: int, silu: list[Any]) -> dict[str, Any]:
    blocks = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"
    return {
        "class": blocks[size.residual(k)],
        "children": [],
        "node_feats_irreps": size.hidden(size.before(k)),
        "edge_irreps": size.hidden(size.before(k)),
        "edge_attrs_irreps": size._replace(n=1).hidden(size.max_degree),
        "target_irreps": size.hidden(size.max_degree),
        "hidden_irreps": size.hidden(size.after(k)),
        "neighbors": size.neighbors,
        "couplings": Interaction(size, k).couplings,
        "radial": "FullyConnectedNet",
        "activations": [*[silu] * len(size.radial), None],
        "variances": [],
        "cueq": None,
    }


def state(model: Definition) -> dict[str, Tensor]:
    """Weights and constants under mace-torch's names; the weights carry their gradients."""
    size = model.size
    named = dict(model.named_parameters()) | dict(model.named_buffers(remove_duplicate=False))
    return {
        **{n: t for n, t in named.items() if t.numel() and "output_mask" not in n and "act" not in n.split(".")},
        "atomic_numbers": torch.tensor(size.elements),
        "r_max": torch.tensor(size.cutoff, dtype=torch.float64),
        "radial_embedding.cutoff_fn.p": torch.tensor(size.exponent),
        "radial_embedding.bessel_fn.bessel_weights": torch.arange(1, size.n_radial + 1, dtype=torch.float64)
        * math.pi
        / size.cutoff,
        "radial_embedding.bessel_fn.prefactor": torch.tensor(math.sqrt(2 / size.cutoff), dtype=torch.float64),
    }
