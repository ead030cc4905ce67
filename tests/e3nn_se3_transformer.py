"""The SE(3)-Transformer from e3nn's linear maps, tensor products, harmonics, radial functions and gates.

The weights of attention are a plain softmax's with an envelope and a constant, without care for large logits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from e3nn.math import soft_one_hot_linspace
from e3nn.nn import FullyConnectedNet, Gate
from e3nn_mace import in_double, o3
from e3nn_nequip import plus
from numbers_by_formula import fill
from torch import Tensor, nn

from mlpot.models.se3_transformer import SE3Transformer
from mlpot.stages.pointwise import SECOND_MOMENT

silu = torch.nn.functional.silu


class Size(NamedTuple):
    """What a model is."""

    elements: tuple[int, ...]
    cutoff: float = 4.0
    n: int = 4
    heads: int = 2
    max_degree: int = 2
    parity: bool = True
    n_layers: int = 3
    n_radial: int = 5
    exponent: int = 6
    radial: tuple[int, ...] = (6,)

    def arguments(self) -> dict[str, Any]:
        """Of `models.se3_transformer.SE3Transformer`."""
        return {
            "cutoff": self.cutoff,
            "n_features": self.n,
            "n_heads": self.heads,
            "max_degree": self.max_degree,
            "parity": self.parity,
            "n_interactions": self.n_layers,
            "n_radial": self.n_radial,
            "envelope_exponent": self.exponent,
            "radial_layers": list(self.radial),
        }

    def tensors(self, degree: int) -> list[o3.Irrep]:
        """All that an atom has."""
        return [o3.Irrep(k, (-1) ** (k * self.parity)) for k in range(degree + 1)]


def tensor_product(before: o3.Irreps, harmonics: o3.Irreps, targets: list[o3.Irrep]) -> o3.TensorProduct:
    """Channel by channel, with a weight for each path and channel of each edge."""
    paths = [
        (i, j, out)
        for out in targets
        for i, (_, a) in enumerate(before)
        for j, (_, b) in enumerate(harmonics)
        if out in a * b
    ]
    middle = o3.Irreps([(before[0].mul, out) for *_, out in paths])
    instructions = [(i, j, k, "uvu", True) for k, (i, j, _) in enumerate(paths)]
    return o3.TensorProduct(before, harmonics, middle, instructions, shared_weights=False, internal_weights=False)


class Attention(nn.Module):
    """One layer."""

    def __init__(self, size: Size, before: o3.Irreps, degree: int):
        super().__init__()
        n, after = size.n, size.tensors(degree)
        harmonics = o3.Irreps.spherical_harmonics(size.max_degree, p=-1 if size.parity else 1)
        self.size, gated = size, after[1:]
        gates = [(n, "0e")] * len(gated)
        self.gate = Gate(f"{n}x0e", [silu], gates, [silu] * len(gated), [(n, ir) for ir in gated])
        self.before, self.after = before, self.gate.irreps_out
        self.linear_up = o3.Linear(before, before)
        self.keys = tensor_product(before, harmonics, [ir for _, ir in before])
        self.values = tensor_product(before, harmonics, after)
        numbers = self.keys.weight_numel, self.values.weight_numel
        self.radial = FullyConnectedNet([size.n_radial, *size.radial, sum(numbers)], silu)
        self.query = o3.Linear(before, self.keys.irreps_out)
        self.mix = o3.Linear(self.values.irreps_out + before, self.gate.irreps_in)
        self.bias = nn.Parameter(torch.empty(n * (1 + len(gated))))  # of scalars and gates

    def forward(self, h: Tensor, y: Tensor, radial: Tensor, u: Tensor, edges: Tensor) -> Tensor:
        center, neighbor = edges
        to_keys, to_values = self.radial(radial).split([self.keys.weight_numel, self.values.weight_numel], dim=1)
        x = self.linear_up(h)[neighbor]
        alpha = self.weights(self.query(h)[center], self.keys(x, y, to_keys), u, center)
        value = self.values(x, y, to_values)
        parts = [
            (value[:, own].view(len(value), self.size.heads, -1) * alpha[:, :, None]).flatten(1)
            for own in self.values.irreps_out.slices()
        ]
        m = value.new_zeros(len(h), value.shape[1]).index_add(0, center, torch.cat(parts, dim=1))
        mixed = self.mix(torch.cat([m, h], dim=1))
        bias = torch.nn.functional.pad(self.bias, (0, mixed.shape[1] - len(self.bias)))
        return plus(self.gate(mixed + bias), self.after, h, self.before)

    def weights(self, q: Tensor, k: Tensor, u: Tensor, center: Tensor) -> Tensor:
        """(n_edges, n_heads)."""
        irreps, heads = self.keys.irreps_out, self.size.heads
        products = [(q[:, own] * k[:, own]).view(len(q), heads, -1).sum(2) for own in irreps.slices()]
        part = u[:, None] * torch.exp(sum(products) / math.sqrt(irreps.dim / heads))
        total = part.new_ones(int(center.max()) + 1, heads).index_add(0, center, part)
        return part / total[center]


class Definition(nn.Module):
    """What the readout gives for each atom."""

    def __init__(self, size: Size):
        super().__init__()
        self.size, self.layers = size, nn.ModuleList()
        irreps = o3.Irreps([(size.n, (0, 1))])
        with in_double():
            self.embedding = o3.Linear(f"{len(size.elements)}x0e", irreps)
            for layer in range(size.n_layers):
                self.layers.append(Attention(size, irreps, size.max_degree if layer + 1 < size.n_layers else 0))
                irreps = self.layers[-1].after
            self.readout = nn.Sequential(nn.Linear(size.n, size.n // 2), nn.SiLU(), nn.Linear(size.n // 2, 1))
        fill(self)

    def forward(self, kind: Tensor, edges: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms,) from one-hot elements, edges (2, n_edges), vectors (n_edges, 3) from center to neighbor."""
        size, d = self.size, vectors.norm(dim=1)
        y = o3.spherical_harmonics(list(range(size.max_degree + 1)), vectors, True, normalization="component")
        radial = soft_one_hot_linspace(d, 0.0, size.cutoff, size.n_radial, basis="bessel", cutoff=False)
        x, p = d / size.cutoff, size.exponent
        u = (1 - x) ** 3 * sum((k + 1) * (k + 2) / 2 * x**k for k in range(p))  # the envelope, as a product
        h = self.embedding(kind)
        for layer in self.layers:
            h = layer(h, y, radial, u, edges)
        return self.readout(h)[:, 0]  # type: ignore[no-any-return]  # modules have no types


def weights(model: Definition, backbone: SE3Transformer) -> dict[str, Tensor]:
    """The state of ours; functions of the definition's weights, which carry their gradients."""
    size, n_elements = model.size, len(model.size.elements)
    own = model.embedding.weight.view(n_elements, size.n) / math.sqrt(n_elements)
    table = backbone.embedding.weight.detach()
    out = {"embedding.weight": torch.zeros_like(table).index_add(0, torch.tensor(size.elements), own)}
    for k, layer in enumerate(model.layers):
        assert isinstance(layer, Attention)
        out |= {f"layers.{k}.{name}": t for name, t in _layer(layer).items()}
    bessel = torch.arange(1, size.n_radial + 1, dtype=torch.float64) * math.pi / size.cutoff
    return out | {f"readout.{k}": t for k, t in model.readout.named_parameters()} | {"basis.frequencies": bessel}


def _layer(theirs: Attention) -> dict[str, Tensor]:
    n, out, factor = theirs.size.n, dict[str, Tensor](), 1.0
    for number, layer in enumerate(theirs.radial):
        out[f"radial.{2 * number}.weight"] = factor * layer.weight.T / math.sqrt(len(layer.weight))
        factor = SECOND_MOMENT
    for name, linear in (("up", theirs.linear_up), ("query", theirs.query)):
        for degree, (rows, _) in _by_degree(linear).items():
            out[f"{name}.{degree}.weight"] = torch.cat([w for row in rows for w in row], dim=1).T / math.sqrt(n)
    for degree, (rows, n_in) in _by_degree(theirs.mix).items():
        # Ours reads all sums and then the features; theirs has a map from each of them to each target.
        out[f"mix.{degree}.weight"] = torch.cat([torch.cat(row, dim=1) for row in rows]).T / math.sqrt(n_in)
    return out | {"mix.0.bias": theirs.bias}


def _by_degree(linear: o3.Linear) -> dict[int, tuple[list[list[Tensor]], int]]:
    """Of each degree the maps from every tensor (rows) to every target (columns), and the channels read."""
    out: dict[int, dict[int, list[Tensor]]] = {}
    for _, ins, w in linear.weight_views(yield_instruction=True):
        out.setdefault(linear.irreps_in[ins.i_in].ir.l, {}).setdefault(ins.i_in, []).append(w)
    return {
        degree: (list(rows.values()), sum(row[0].shape[0] for row in rows.values()))
        for degree, rows in out.items()
    }
