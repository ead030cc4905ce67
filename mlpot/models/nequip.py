"""NequIP: messages of tensors, with gates.

    m_i,p = Σ_j R_p(d_ij) (Y_l₁(u_ij) ⊗ U h_j)_l / √M            of each path p = (l₂, l₁, l)
    s, g  = silu(Σ_p W_p m_i,p + K_z h_i)                            scalars and gates, from paths to scalars
    t     = Σ_p W_p m_i,p + K_z h_i                                  of each degree and parity
    h_i   = (s, g ∘ t)  (+ h_i)
    b_i   = a · s_i of the last layer

S. Batzner, A. Musaelian, L. Sun, M. Geiger, J. P. Mailoa, M. Kornbluth, N. Molinari, T. E. Smidt and B. Kozinsky,
Nat. Commun. 13, 2453 (2022). R_p are dense layers without bias on Bessel functions times an envelope; scalars that
change their sign under inversion have tanh instead of silu.

With parity every tensor has a degree and a parity, and a path keeps both (E(3)). Without it all degrees couple
that can, and what they give mixes (SE(3)): 1 ⊗ 1 -> 1 is a cross product.
A layer has the tensors that its messages reach and that the energy can depend on, no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, cast

import torch
from torch import nn

from mlpot.knots import RadialTable
from mlpot.models.layers import N_NEIGHBORS, normal, radial_layers
from mlpot.models.tensors import Path, per_path
from mlpot.stages.linear import Block, Linear, per_degree
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import SECOND_MOMENT, TANH_SECOND_MOMENT, Activation
from mlpot.stages.products import Product, Products
from mlpot.stages.radial import BesselBasis, Enveloped, PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step


class Irrep(NamedTuple):
    """How a tensor changes under rotation and inversion."""

    degree: int
    parity: int  # its factor under inversion; 1 where none is kept

    @property
    def size(self) -> int:
        """Components."""
        return 2 * self.degree + 1


SCALAR, PSEUDOSCALAR = Irrep(0, 1), Irrep(0, -1)
Irreps = tuple[Irrep, ...]
Blocks = tuple[tuple[Block, ...], tuple[Block, ...]]
"""What mixes tensors into scalars and gates, and into tensors that will be gated."""


def messages(sources: Irreps, max_degree: int, *, parity: bool) -> list[tuple[Irrep, int, Irrep]]:
    """All couplings of tensors with harmonics, in the order of what they give; no degree is above `max_degree`."""
    found = (
        (source, harmonic, Irrep(degree, source.parity * (-1) ** (harmonic * parity)))
        for source in sources
        for harmonic in range(max_degree + 1)
        for degree in range(abs(source.degree - harmonic), min(source.degree + harmonic, max_degree) + 1)
    )
    return sorted(found, key=lambda path: _order(path[2]))


def features(n_layers: int, max_degree: int, *, parity: bool) -> list[Irreps]:
    """What atoms have before the first layer and after each.

    Couplings go both ways: a tensor matters for the energy after as many layers as it takes to be reached from a
    scalar.
    """
    reached: list[set[Irrep]] = [{SCALAR}]
    for _ in range(n_layers):
        reached.append({path[2] for path in messages(tuple(reached[-1]), max_degree, parity=parity)})
    own = (one & other for one, other in zip(reached, reversed(reached), strict=True))
    return [tuple(sorted(irreps, key=_order)) for irreps in own]


def _order(irrep: Irrep) -> tuple[int, int]:
    return irrep.degree, -irrep.parity


def _places(irreps: Irreps, first: int = 0) -> dict[Irrep, int]:
    """First component of each tensor: they stand side by side."""
    return dict(zip(irreps, accumulate((irrep.size for irrep in irreps), initial=first), strict=False))


class Layer(nn.Module):
    """The weights of one message and of the features that it gives.

    Args:
        n: channels.
        irreps: tensors of an atom before the layer, and after it.
        max_degree: of the harmonics.
        parity: whether tensors have one.
        n_elements: rows of weights by element.
        radial: sizes of the dense layers of distances, with that of the basis.
        table: of the radial functions.
    """

    def __init__(
        self,
        n: int,
        irreps: tuple[Irreps, Irreps],
        *,
        max_degree: int,
        parity: bool,
        n_elements: int,
        radial: Sequence[int],
        table: RadialTable,
    ):
        super().__init__()
        before, after = irreps
        self.before, self.after, self.table = _places(before), _places(after), table
        self.gated = tuple(irrep for irrep in after if irrep.degree > 0)
        self.n_even, self.n_odd = 1 + len(self.gated), int(PSEUDOSCALAR in after)
        self.paths = [path for path in messages(before, max_degree, parity=parity) if path[2] in after]
        degrees = [Path(source.degree, harmonic, target.degree) for source, harmonic, target in self.paths]
        self.terms, first = per_path(degrees, [self.before[source] for source, *_ in self.paths])
        self.kept = tuple((irrep, place) for irrep, place in self.before.items() if irrep in after)
        self.mixed = self._blocks([(target, first[k]) for k, (*_, target) in enumerate(self.paths)])
        self.skipped, self.products = self._blocks(self.kept), self._products()
        self.radial = radial_layers([*radial, len(self.paths) * n])
        self.up = normal(len(before), n, n)
        self.mix, self.skip = _matrices(self.mixed, 1, n), _matrices(self.skipped, n_elements, n)

    def _products(self) -> tuple[Product, ...]:
        """From scalars, gates, odd scalars and tensors to the features."""
        out = [Product((0,), self.after[SCALAR])]
        if self.n_odd:
            out.append(Product((self.n_even,), self.after[PSEUDOSCALAR]))
        for gate, (irrep, place) in enumerate(_places(self.gated, self.n_even + self.n_odd).items(), 1):
            out += [Product((gate, place + m), self.after[irrep] + m) for m in range(irrep.size)]
        return tuple(out)

    def _blocks(self, tensors: Sequence[tuple[Irrep, int]]) -> Blocks:
        """See `Blocks`; of tensors with their first components."""
        scalars: list[Block] = []
        others: list[Block] = []
        places = _places(self.gated)
        for irrep, first in tensors:
            targets = range(self.n_even) if irrep == SCALAR else (self.n_even,) * (irrep == PSEUDOSCALAR)
            scalars += [Block(first, target, len(scalars) + k) for k, target in enumerate(targets)]
            if irrep in places:
                number = 1 + max((b.matrix for b in others), default=-1)
                others += [Block(first + m, places[irrep] + m, number) for m in range(irrep.size)]
        return tuple(scalars), tuple(others)


def _matrices(blocks: Blocks, n_elements: int, n: int) -> nn.Parameter:
    """(n_elements, n_matrices, n, n), those of scalars and then those of tensors; a target keeps its size."""
    scales = []
    for own in blocks:
        target_of = {b.matrix: b.target for b in own}
        scales += [1 / math.sqrt(list(target_of.values()).count(t) * n_elements) for t in target_of.values()]
    return nn.Parameter(
        normal(n_elements, len(scales), n, n).data * torch.tensor(scales, dtype=torch.float32)[:, None, None]
    )


class NequIP(StagedNetwork):
    """Atomic energies from messages of tensors.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        n_features: channels of every tensor.
        max_degree: highest degree l of harmonics and tensors, 1 to 3.
        parity: whether tensors keep a parity, so that mirror images have one energy (E(3)); if not, they may
            differ with three layers or more (SE(3)).
        n_interactions: layers.
        residual: whether a layer from the second on adds what it begins with.
        n_radial: Bessel functions.
        envelope_exponent: p of the polynomial envelope.
        radial_layers: sizes of the dense layers of distances.
        n_neighbors: M, about the number of neighbors within the cutoff; if none is given, the mean of the training
            set, and 20 without training.
        n_knots: intervals of the grid of the radial functions.
        degree: of the splines on the grid, 3 or 5.

    Raises:
        ValueError: there is no such degree.
    """

    for_handedness = "n_interactions of 3 or more"

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
        cutoff: float = 5.0,
        n_features: int = 32,
        max_degree: int = 2,
        parity: bool = True,
        n_interactions: int = 4,
        residual: bool = False,
        n_radial: int = 8,
        envelope_exponent: int = 6,
        radial_layers: Sequence[int] = (64, 64),
        n_neighbors: float | None = None,
        n_knots: int = 256,
        degree: int = 5,
    ):
        if max_degree not in (1, 2, 3):
            raise ValueError(f"max_degree is {max_degree}, expected one of 1, 2, 3. Correct it.")
        last, n = f"h{n_interactions}", n_features
        linear = {last: ((Product((0,), 0),), n)}
        super().__init__(elements=elements, cutoff=cutoff, features=last, linear=linear)
        self.n_neighbors = n_neighbors or N_NEIGHBORS
        self.residual, self.parity = residual, parity
        self.basis = Enveloped(BesselBasis(n_radial, cutoff), PolynomialEnvelope(cutoff, envelope_exponent))
        self.embedding = nn.Parameter(torch.randn(len(self.elements), n, dtype=torch.float32))
        self.layers = nn.ModuleList(
            Layer(
                n,
                irreps,
                max_degree=max_degree,
                parity=parity,
                n_elements=len(self.elements),
                radial=(n_radial, *radial_layers),
                table=RadialTable(self.basis, None, cutoff=cutoff, n_knots=n_knots, degree=degree),
            )
            for irreps in pairwise(features(n_interactions, max_degree, parity=parity))
        )
        self.energy = normal(n, 1)

    def stages(self) -> list[Step]:
        """The list; components of arrays are tensors side by side."""
        steps = [Step(Embedding(self.embedding), None, "h0")]
        for k, layer in enumerate(cast("list[Layer]", list(self.layers)), 1):
            h = f"h{k - 1}"
            steps += [*self._message(layer, h, str(k)), *self._gate(layer, h, str(k))]
            if self.residual and k > 1:
                steps += [
                    Step(None, h, f"h{k}", place, layer.after[irrep], irrep.size) for irrep, place in layer.kept
                ]
        return [*steps, Step(Readout(self.energy[:, 0]), self.features, ENERGY)]

    def _message(self, layer: Layer, h: str, k: str) -> list[Step]:
        """From the features of neighbors to m."""
        (radial,) = layer.table([layer.radial])
        table = radial.view(len(radial), -1, self.energy.shape[0]) / math.sqrt(self.n_neighbors)
        return [
            Step(Linear(layer.up, per_degree([irrep.degree for irrep in layer.before])), h, "u" + k),
            Step(NeighborSum(table, layer.table.grid, layer.terms), "u" + k, "m" + k),
        ]

    def _gate(self, layer: Layer, h: str, k: str) -> list[Step]:
        """From m and the features of the atom to those after the layer."""
        steps = []
        n_even, n_odd = layer.n_even, layer.n_odd
        for array, (scalars, tensors), weight in (
            ("m" + k, layer.mixed, layer.mix),
            (h, layer.skipped, layer.skip),
        ):
            steps.append(Step(Linear(weight[:, : len(scalars)], scalars), array, "s" + k))
            if tensors:
                steps.append(
                    Step(Linear(weight[:, len(scalars) :], tensors), array, "t" + k, write=n_even + n_odd)
                )
        steps.append(Step(Activation("silu", n_even, SECOND_MOMENT), "s" + k, "t" + k))
        if n_odd:
            odd = Activation("tanh", 1, TANH_SECOND_MOMENT)
            steps.append(Step(odd, "s" + k, "t" + k, read=n_even, write=n_even))
        return [*steps, Step(Products(layer.products), "t" + k, "h" + k)]
