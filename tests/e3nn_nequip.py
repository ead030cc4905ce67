"""NequIP from e3nn's linear maps, tensor products and gates, with all tensors that its layers could have.

The blocks are those of the paper's figure 1: linear, tensor product with harmonics, linear; a self-connection by
element; a gate. Ours has the tensors alone that the energy depends on, so that weights of this definition are
more than ours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from e3nn.nn import FullyConnectedNet, Gate
from e3nn_mace import in_double, o3, radial_functions
from numbers_by_formula import fill
from torch import Tensor, nn

from mlpot.models.nequip import Irrep, Layer, NequIP
from mlpot.stages.pointwise import SECOND_MOMENT

silu, tanh = torch.nn.functional.silu, torch.tanh


class Size(NamedTuple):
    """What a model is."""

    elements: tuple[int, ...]
    cutoff: float = 4.0
    n: int = 3
    max_degree: int = 2
    parity: bool = True
    n_layers: int = 3
    residual: bool = False
    n_radial: int = 5
    exponent: int = 6
    radial: tuple[int, ...] = (6,)
    neighbors: float = 7.0

    def arguments(self) -> dict[str, Any]:
        """Of `models.nequip.NequIP`."""
        return {
            "cutoff": self.cutoff,
            "n_features": self.n,
            "max_degree": self.max_degree,
            "parity": self.parity,
            "n_interactions": self.n_layers,
            "residual": self.residual,
            "n_radial": self.n_radial,
            "envelope_exponent": self.exponent,
            "radial_layers": list(self.radial),
            "n_neighbors": self.neighbors,
        }


class Convolution(nn.Module):
    """A message, the self-connection and the gate."""

    def __init__(self, size: Size, before: o3.Irreps):
        super().__init__()
        n, parities = size.n, (1, -1) if size.parity else (1,)
        harmonics = o3.Irreps.spherical_harmonics(size.max_degree, p=-1 if size.parity else 1)
        reached = {out for _, a in before for _, b in harmonics for out in a * b}
        every = [o3.Irrep(k, p) for k in range(size.max_degree + 1) for p in parities]
        own = [ir for ir in every if ir in reached]
        scalars, gated = [ir for ir in own if ir.l == 0], [ir for ir in own if ir.l > 0]
        acts = [silu if ir.p == 1 else tanh for ir in scalars]
        gates = [(n, "0e")] * len(gated)
        self.gate = Gate([(n, ir) for ir in scalars], acts, gates, [silu] * len(gated), [(n, ir) for ir in gated])
        self.before, self.after, self.neighbors = before, self.gate.irreps_out, size.neighbors
        self.linear_up = o3.Linear(before, before)
        found = [
            (i, j, out) for i, (_, a) in enumerate(before) for j, (_, b) in enumerate(harmonics) for out in a * b
        ]
        found = sorted((path for path in found if path[2] in own), key=lambda path: path[2])
        middle = o3.Irreps([(n, out) for *_, out in found])
        paths = [(i, j, k, "uvu", True) for k, (i, j, _) in enumerate(found)]
        self.product = o3.TensorProduct(
            before, harmonics, middle, paths, shared_weights=False, internal_weights=False
        )
        self.radial = FullyConnectedNet([size.n_radial, *size.radial, self.product.weight_numel], silu)
        self.linear = o3.Linear(middle, self.gate.irreps_in)
        self.skip = o3.FullyConnectedTensorProduct(before, f"{len(size.elements)}x0e", self.gate.irreps_in)

    def forward(self, kind: Tensor, h: Tensor, y: Tensor, radial: Tensor, edges: Tensor) -> Tensor:
        center, neighbor = edges
        message = self.product(self.linear_up(h)[neighbor], y, self.radial(radial))
        m = message.new_zeros(len(h), message.shape[1]).index_add(0, center, message) / math.sqrt(self.neighbors)
        return self.gate(self.linear(m) + self.skip(h, kind))  # type: ignore[no-any-return]  # modules have no types


class Definition(nn.Module):
    """What the readout gives for each atom."""

    def __init__(self, size: Size):
        super().__init__()
        self.size, self.layers = size, nn.ModuleList()
        irreps = o3.Irreps([(size.n, (0, 1))])
        with in_double():
            self.embedding = o3.Linear(f"{len(size.elements)}x0e", irreps)
            for _ in range(size.n_layers):
                self.layers.append(Convolution(size, irreps))
                irreps = self.layers[-1].after
            self.energy = o3.Linear(irreps, "0e")
        fill(self)

    def forward(self, kind: Tensor, edges: Tensor, vectors: Tensor) -> Tensor:
        """(n_atoms,) from one-hot elements, edges (2, n_edges), vectors (n_edges, 3) from center to neighbor."""
        degrees = list(range(self.size.max_degree + 1))
        y = o3.spherical_harmonics(degrees, vectors, True, normalization="component")
        radial = radial_functions(vectors.norm(dim=1), self.size)  # type: ignore[arg-type]  # has the names
        h = self.embedding(kind)
        for k, layer in enumerate(self.layers):
            out = layer(kind, h, y, radial, edges)
            h = plus(out, layer.after, h, layer.before) if self.size.residual and k else out
        return self.energy(h)[:, 0]  # type: ignore[no-any-return]  # as above


def plus(out: Tensor, irreps: o3.Irreps, h: Tensor, before: o3.Irreps) -> Tensor:
    """With the tensors added that were there before."""
    old = {ir: h[:, own] for (_, ir), own in zip(before, before.slices(), strict=True)}
    parts = [
        out[:, own] + old.get(ir, torch.zeros(())) for (_, ir), own in zip(irreps, irreps.slices(), strict=True)
    ]
    return torch.cat(parts, dim=1)


def weights(model: Definition, backbone: NequIP) -> dict[str, Tensor]:
    """The state of ours; functions of the definition's weights, which carry their gradients."""
    size, n = model.size, model.size.n
    n_elements = len(size.elements)
    out = {"embedding": model.embedding.weight.view(n_elements, n) / math.sqrt(n_elements)}
    for k, (theirs, ours) in enumerate(zip(model.layers, backbone.layers, strict=True)):
        assert isinstance(theirs, Convolution)
        assert isinstance(ours, Layer)
        out |= {f"layers.{k}.{name}": t for name, t in _layer(theirs, ours, size).items()}
    irreps = [_ours(ir) for _, ir in model.layers[-1].after]  # type: ignore[union-attr]  # layers are ours
    first = n * irreps.index(Irrep(0, 1))
    out["energy"] = model.energy.weight[first : first + n, None] / math.sqrt(n)
    bessel = torch.arange(1, size.n_radial + 1, dtype=torch.float64) * math.pi / size.cutoff
    return out | {"basis.basis.frequencies": bessel}


def _ours(irrep: o3.Irrep) -> Irrep:
    return Irrep(irrep.l, irrep.p)


def _layer(theirs: Convolution, ours: Layer, size: Size) -> dict[str, Tensor]:
    n, own = size.n, list(ours.before)
    before = [_ours(ir) for _, ir in theirs.before]
    up = {before[ins.i_in]: w for _, ins, w in theirs.linear_up.weight_views(yield_instruction=True)}
    out = {"up": torch.stack([up[ir] for ir in own]) / math.sqrt(n)}
    middle = [_ours(ir) for _, ir in theirs.product.irreps_out]
    place = {(before[i.i_in1], i.i_in2, middle[i.i_out]): k for k, i in enumerate(theirs.product.instructions)}
    kept = [place[path] for path in ours.paths]
    factor = 1.0
    for number, layer in enumerate(theirs.radial):
        w = layer.weight / math.sqrt(len(layer.weight))
        if number == len(theirs.radial) - 1:
            w = w.view(len(w), -1, n)[:, kept].reshape(len(w), -1)
        out[f"radial.{2 * number}.weight"] = factor * w.T
        factor = SECOND_MOMENT
    targets = [_ours(ir) for _, ir in theirs.gate.irreps_in]
    linear = {
        (ins.i_in, targets[ins.i_out]): w for _, ins, w in theirs.linear.weight_views(yield_instruction=True)
    }
    fan_in = {ir: sum(t == ir for _, t in linear) * n for ir in targets}
    mixed = [
        (ir, linear[k, ir] / math.sqrt(fan_in[ir])) for k, ir in zip(kept, (p[2] for p in ours.paths), strict=True)
    ]
    out["mix"] = _matrices(mixed, theirs, ours, n)[None]
    skip = {
        before[ins.i_in1]: w / math.sqrt(n * w.shape[1])
        for _, ins, w in theirs.skip.weight_views(yield_instruction=True)
    }
    by_element = [
        _matrices([(ir, skip[ir][:, z]) for ir, _ in ours.kept], theirs, ours, n)
        for z in range(len(size.elements))
    ]
    return out | {"skip": torch.stack(by_element)}


def _matrices(maps: list[tuple[Irrep, Tensor]], theirs: Convolution, ours: Layer, n: int) -> Tensor:
    """Those of ours from maps to all scalars and gates, or to one tensor."""
    all_gated = [_ours(ir) for _, ir in theirs.gate.irreps_gated]
    gates = [0, *(1 + all_gated.index(ir) for ir in ours.gated)]
    scalars, tensors = list[Tensor](), list[Tensor]()
    for irrep, w in maps:
        if irrep == Irrep(0, 1):
            scalars += [w[:, n * gate : n * (gate + 1)] for gate in gates]
        else:
            (scalars if irrep.degree == 0 else tensors).append(w)
    return torch.stack([*scalars, *tensors])
