"""MACE: messages of many bodies.

    m_i,p   = Σ_j R_p(d_ij) (Y_l₁(u_ij) ⊗ U h_j)_l / M       of each path p = (l₂, l₁, l)
    A_i,l   = Σ_p W_p m_i,p           in a first layer that is not residual with W of the atom's element
    B_i,L   = Σ_η w_z,η (A ⊗ … ⊗ A)_η,L                      one to three factors
    h_i,L   = V_L B_i,L + K_z,L h_i,L
    b_i     = Σ a · h_i, in the last of several layers a · silu(H h_i)

I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner and G. Csányi, NeurIPS 35 (2022), eqs. 8 to 13.

R_p are dense layers without bias on Bessel functions times an envelope. The function is that of mace-torch's class
`ScaleShiftMACE`; weights are those of mace-torch times its normalizations, and one weight for each independent
product, see `importers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from mlpot.knots import RadialTable
from mlpot.models.layers import N_NEIGHBORS, normal, radial_layers
from mlpot.models.tensors import Path, per_path
from mlpot.stages.linear import Block, Linear, per_degree
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import SECOND_MOMENT, Activation
from mlpot.stages.products import Product, Products, coupled_products
from mlpot.stages.radial import BesselBasis, Enveloped, PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step


def paths(message_degree: int, max_degree: int, *, parity: bool = True) -> tuple[Path, ...]:
    """All, or those of natural parity, in the order of the sums: by their degree, then by source and harmonic."""
    found = (
        Path(source, harmonic, target)
        for source in range(message_degree + 1)
        for harmonic in range(max_degree + 1)
        for target in range(abs(source - harmonic), min(source + harmonic, max_degree) + 1)
        if not parity or (source + harmonic + target) % 2 == 0
    )
    return tuple(sorted(found, key=lambda p: p.target))


class Layer(nn.Module):
    """The weights of one message, of the products, and of the features that they give.

    Args:
        n: channels.
        degrees: highest ones of what neighbors have, of the harmonics, and of the features after the layer.
        parity: whether all tensors have their natural parity.
        n_elements: rows of weights by element.
        correlation: highest number of factors.
        residual: whether the features before it are added.
        radial: sizes of the dense layers of distances, with that of the basis.
        table: of the radial functions.
    """

    def __init__(
        self,
        n: int,
        degrees: tuple[int, int, int],
        *,
        parity: bool,
        n_elements: int,
        correlation: int,
        residual: bool,
        radial: Sequence[int],
        table: RadialTable,
    ):
        super().__init__()
        before, of_harmonics, after = degrees
        self.paths, self.after = paths(before, of_harmonics, parity=parity), after
        self.terms, first = per_path(self.paths, [p.source**2 for p in self.paths])
        self.blocks = tuple(
            Block(first[k] + m, p.target**2 + m, k)
            for k, p in enumerate(self.paths)
            for m in range(2 * p.target + 1)
        )
        self.products = products(of_harmonics, after, correlation, parity=parity)
        self.residual, self.table = residual, table
        self.radial = radial_layers([*radial, len(self.paths) * n])
        self.up = normal(before + 1, n, n)
        fan_in = [sum(p.target == path.target for p in self.paths) for path in self.paths]
        scale = torch.tensor(fan_in, dtype=torch.float32)[:, None, None].rsqrt()
        self.mix = nn.Parameter(normal(len(self.paths), n, n).data * scale)
        n_paths = 1 + max(t.path for t in self.products)
        self.coupling = nn.Parameter(torch.randn(n_elements, n_paths, n, dtype=torch.float32) / n_paths)
        self.linear = normal(after + 1, n, n)
        shared = min(before, after) + 1 if residual else of_harmonics + 1
        self.skip = nn.Parameter(normal(n_elements, shared, n, n).data / math.sqrt(n_elements))


class MACE(StagedNetwork):
    """Atomic energies from products of sums over neighbors, which are messages of many bodies.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        n_features: channels.
        max_degree: highest degree l of the harmonics, 1 to 3.
        message_degree: highest degree L of the features that neighbors send, 0 to 2.
        correlation: highest number of factors of a product, 1 to 3; a layer sees one body more.
        parity: whether all tensors have their natural parity, so that mirror images have one energy (E(3)); if
            not, all degrees couple that can (SE(3), mace-torch's `use_so3`).
        n_interactions: layers.
        residual_first: whether the first layer adds the features of the element, as all others do; if not, it
            mixes its sums by element. mace-torch has true in `--model=ScaleShiftMACE`, false in `--model=MACE`.
        n_radial: Bessel functions.
        envelope_exponent: p of the polynomial envelope.
        envelope_last: whether the envelope is a factor of R_p, and not of what its dense layers begin with.
        radial_layers: sizes of the dense layers of distances.
        n_hidden: of the last readout.
        n_neighbors: M, about the number of neighbors within the cutoff; if none is given, the mean of the training
            set, and 20 without training.
        n_knots: intervals of the grid of the radial functions.
        degree: of the splines on the grid, 3 or 5.
    """

    for_handedness = "n_interactions of 2 or more, message_degree of 1 or more, and correlation of 2 or more"

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
        cutoff: float = 5.0,
        n_features: int = 64,
        max_degree: int = 3,
        message_degree: int = 0,
        correlation: int = 3,
        parity: bool = True,
        n_interactions: int = 2,
        residual_first: bool = False,
        n_radial: int = 8,
        envelope_exponent: int = 5,
        envelope_last: bool = False,
        radial_layers: Sequence[int] = (64, 64, 64),
        n_hidden: int = 16,
        n_neighbors: float | None = None,
        n_knots: int = 256,
        degree: int = 5,
    ):
        _check(max_degree, message_degree, correlation)
        n, scalars = n_features, products(max_degree, 0, correlation, parity=parity)
        linear = {f"A{k}": (scalars, n) for k in range(1, n_interactions + 1)}
        super().__init__(elements=elements, cutoff=cutoff, features=f"h{n_interactions}", linear=linear)
        self.n_neighbors = n_neighbors or N_NEIGHBORS
        self.n_interactions, self.parity = n_interactions, parity
        bessel, envelope = BesselBasis(n_radial, cutoff), PolynomialEnvelope(cutoff, envelope_exponent)
        self.basis = bessel if envelope_last else Enveloped(bessel, envelope)
        last = envelope if envelope_last else None
        self.embedding = nn.Parameter(
            torch.randn(len(self.elements), n, dtype=torch.float32) / math.sqrt(len(self.elements))
        )
        self.layers = nn.ModuleList(
            Layer(
                n,
                (message_degree if k else 0, max_degree, message_degree if k + 1 < n_interactions else 0),
                parity=parity,
                n_elements=len(self.elements),
                correlation=correlation,
                residual=residual_first or k > 0,
                radial=(n_radial, *radial_layers),
                table=RadialTable(self.basis, last, cutoff=cutoff, n_knots=n_knots, degree=degree),
            )
            for k in range(n_interactions)
        )
        self.readouts = normal(max(n_interactions - 1, 1), n, 1)
        if n_interactions > 1:
            self.hidden, self.last_readout = normal(1, n, n_hidden), normal(n_hidden, 1)

    def stages(self) -> list[Step]:
        """The list; components of arrays are the tensors of all degrees, side by side."""
        steps = [Step(Embedding(self.embedding), None, "h0")]
        for k, layer in enumerate(cast("list[Layer]", list(self.layers)), 1):
            steps += [*self._message(layer, str(k), f"h{k - 1}"), *self._products(layer, str(k), f"h{k - 1}")]
            if k <= len(self.readouts):
                steps.append(Step(Readout(self.readouts[k - 1, :, 0]), f"h{k}", ENERGY))
        if self.n_interactions == 1:
            return steps
        return [
            *steps,
            Step(Linear(self.hidden), f"h{self.n_interactions}", "r"),
            Step(Activation("silu", factor=SECOND_MOMENT), "r", "t"),
            Step(Readout(self.last_readout[:, 0]), "t", ENERGY),
        ]

    def _message(self, layer: Layer, k: str, h: str) -> list[Step]:
        """From the features of neighbors to A."""
        (radial,) = layer.table([layer.radial])
        table = radial.view(len(radial), len(layer.paths), -1) / self.n_neighbors
        mix = layer.mix if layer.residual else layer.mix @ layer.skip[:, [p.target for p in layer.paths]]
        return [
            Step(Linear(layer.up, per_degree(range(len(layer.up)))), h, "u" + k),
            Step(NeighborSum(table, layer.table.grid, layer.terms), "u" + k, "m" + k),
            Step(Linear(mix, layer.blocks), "m" + k, "A" + k),
        ]

    def _products(self, layer: Layer, k: str, h: str) -> list[Step]:
        """From A to the features of an atom."""
        steps = [
            Step(Products(layer.products, layer.coupling), "A" + k, "B" + k),
            Step(Linear(layer.linear, per_degree(range(layer.after + 1))), "B" + k, "h" + k),
        ]
        if layer.residual:
            steps.append(Step(Linear(layer.skip, per_degree(range(layer.skip.shape[1]))), h, "h" + k))
        return steps


def _check(max_degree: int, message_degree: int, correlation: int) -> None:
    """Raise ValueError for degrees and numbers of factors that there are no stages for."""
    known = {"max_degree": (1, 2, 3), "message_degree": (0, 1, 2), "correlation": (1, 2, 3)}
    for (name, values), value in zip(known.items(), (max_degree, message_degree, correlation), strict=True):
        if value not in values:
            raise ValueError(f"{name} is {value}, expected one of {', '.join(map(str, values))}. Correct it.")
    if message_degree > max_degree:
        raise ValueError(f"message_degree {message_degree} is above max_degree {max_degree}. Lower it.")


def products(max_degree: int, degree: int, correlation: int, *, parity: bool = True) -> tuple[Product, ...]:
    """All products of A to tensors of degree 0, 1, … `degree`, which stand side by side."""
    out: list[Product] = []
    for to in range(degree + 1):
        first = 1 + max((t.path for t in out), default=-1)
        orders = tuple(range(1, correlation + 1))
        own = coupled_products(tuple(range(max_degree + 1)), to, orders, parity=parity)
        out += [Product(t.factors, to**2 + t.target, first + t.path, t.value) for t in own]
    return tuple(out)
