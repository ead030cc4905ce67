"""ACE: a two-layer atomic cluster expansion with few radial functions and vectors as messages.

    B_i,nk,lm = M^−½ Σ_j e_k(z_j) R_n(d_ij) Y_lm(u_ij)              n radial functions, k of the neighbor's element
    A_i,c,lm  = Σ_nk W_nk,c,l B_i,nk,lm
    h_i,c     = U Σ_η w_z,η,c (A ⊗ … ⊗ A)_η,00,   v_i,c,L = the same to degree L   one to three factors
    A'_i,c,lm = W' M^−½ Σ_j [ R'_c,l Y_lm (D h_j)_c  and  R'_c (Y_l ⊗ (D v_j,L)_c)_lm ]
    h'_i,c    = U' Σ_η w'_z,η,c (A' ⊗ … ⊗ A')_η,00 + K_z h_i
    b_i       = a · h_i + a' · silu(V h'_i)

R. Drautz, Phys. Rev. B 99, 014104 (2019): products of ν sums over neighbors see ν + 1 bodies. I. Batatia et al.,
NeurIPS 35 (2022): a second layer of messages sees beyond the cutoff. A. Bochkarev et al., Phys. Rev. X 14, 021036
(2024): scalars and vectors are enough as messages.
The first layer mixes channels after its sums: these are few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mlpot.knots import RadialTable
from mlpot.models.layers import N_NEIGHBORS, choose, normal
from mlpot.stages.coupling import couplings
from mlpot.stages.linear import Block, Linear, per_degree
from mlpot.stages.neighbor_sum import NeighborSum, Term
from mlpot.stages.network import StagedNetwork
from mlpot.stages.pointwise import SECOND_MOMENT, Activation
from mlpot.stages.products import Product, Products, coupled_products
from mlpot.stages.radial import BASES, PolynomialEnvelope
from mlpot.stages.readout import Embedding, Readout
from mlpot.stages.run import ENERGY, Step

PRESETS = {"small": (32, 2), "default": (64, 3), "large": (128, 3)}
"""Channels of an atom and highest degree."""

MAX_PRODUCTS_OF_ELEMENTS = 8  # dimensions in which a neighbor's element is told
N_HIDDEN = 16  # of the last readout


class ACE(StagedNetwork):
    """Atomic energies from products of sums over neighbors, in two layers.

    Args:
        elements: atomic numbers of the potential.
        cutoff: Å.
        preset: n_features and max_degree where they are not given: small (32, 2), default (64, 3), large (128, 3).
        n_features: channels of an atom, c.
        n_message: channels of the messages; half of n_features if none is given.
        max_degree: highest degree l of the harmonics, 1 to 3.
        message_degree: highest degree L of the messages: 1, scalars and vectors, or 2.
        radial: basis of distances: gaussian, bessel or expnormal.
        n_radial: size of the basis.
        n_neighbors: M, about the number of neighbors within the cutoff; if none is given, the mean of the training
            set, and 20 without training.
        n_knots: intervals of the grid of the radial functions.
        degree: of the splines on the grid, 3 or 5.
    """

    def __init__(
        self,
        *,
        elements: tuple[int, ...],
        cutoff: float = 5.0,
        preset: str = "default",
        n_features: int | None = None,
        n_message: int | None = None,
        max_degree: int | None = None,
        message_degree: int = 1,
        radial: str = "bessel",
        n_radial: int = 8,
        n_neighbors: float | None = None,
        n_knots: int = 128,
        degree: int = 5,
    ):
        own_features, own_degree = choose(PRESETS, preset, "preset of ACE")
        n_features = own_features if n_features is None else n_features
        max_degree = own_degree if max_degree is None else max_degree
        degrees = _degrees(max_degree, message_degree)
        linear = (coupled_products(degrees, 0), n_features)
        super().__init__(elements=elements, cutoff=cutoff, features="h2", linear={"A1": linear, "A2": linear})
        n, n_message, n_elements = n_features, n_message or max(n_features // 2, 1), len(self.elements)
        self.n_neighbors, self.degrees = n_neighbors or N_NEIGHBORS, degrees
        self.basis = choose(BASES, radial, "radial basis")(n_radial, cutoff)
        self.first_table, self.table = (
            RadialTable(self.basis, PolynomialEnvelope(cutoff), cutoff=cutoff, n_knots=n_knots, degree=degree)
            for _ in range(2)
        )
        self.message_degree = message_degree
        self.messages, self.slots = _messages(max_degree, message_degree)
        n_paths = 1 + max(t.path for t in self.messages)
        self.first_products = _products(self.degrees, message_degree)
        self.last_products = coupled_products(self.degrees, 0)
        kinds = min(n_elements, MAX_PRODUCTS_OF_ELEMENTS)
        self.neighbor_element = nn.Parameter(_directions(n_elements, kinds))
        self.radial_message = nn.Sequential(
            nn.Linear(n_radial, n_paths * n_message, bias=False, dtype=torch.float32)
        )
        nn.init.normal_(self.radial_message[0].weight, std=1 / math.sqrt(n_radial))  # type: ignore[arg-type]
        self.mix = normal(len(self.degrees), n_radial * kinds, n)
        self.first_weight = _couplings(n_elements, self.first_products, n)
        self.scalars, self.vectors = normal(1, n, n), normal(message_degree, n, n_message)
        self.to_message = normal(1, n, n_message)
        self.first_readout = nn.Parameter(torch.randn(n, dtype=torch.float32) / math.sqrt(n))
        self.mix_messages = normal(len(self.slots), n_message, n)
        self.last_weight = _couplings(n_elements, self.last_products, n)
        self.last_scalars, self.skip = normal(1, n, n), normal(n_elements, 1, n, n)
        self.hidden = normal(1, n, N_HIDDEN)
        self.last_readout = nn.Parameter(0.1 * torch.randn(N_HIDDEN, dtype=torch.float32) / math.sqrt(N_HIDDEN))

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """Known elements have zero in the dimensions e_k that are new; each new element has one of these alone.

        Tables have the factor √(number of dimensions), by which the matrices of the old ones shrink.
        """
        old, mix = weights["neighbor_element"], weights["mix"]
        kinds, more = old.shape[1], self.neighbor_element.shape[1]
        directions = old.new_zeros(len(old), more)
        directions[:, :kinds] = old
        wider = self.mix.detach().clone()
        wider[:, : mix.shape[1]] = mix.to(wider.dtype) * math.sqrt(kinds / more)
        new = [row for row, z in enumerate(self.elements) if z not in elements]
        with torch.no_grad():
            for dimension, row in enumerate(new[: more - kinds], start=kinds):
                self.neighbor_element[row] = 0.0
                self.neighbor_element[row, dimension] = 1.0
        return {**weights, "neighbor_element": directions, "mix": wider}

    def stages(self) -> list[Step]:
        """The list; components of arrays are the tensors of all degrees, side by side."""
        return [*self._first_layer(), *self._second_layer()]

    def _first_layer(self) -> list[Step]:
        (basis,) = self.first_table([nn.Sequential()])  # the radial basis itself
        n_radial, kinds = basis.shape[1], self.neighbor_element.shape[1]
        terms = tuple(Term(0, b, 0, b) for b in range(len(self.degrees) ** 2))
        table = self._scaled(basis.repeat(1, kinds))[:, None] * math.sqrt(kinds)
        element = self.neighbor_element.repeat_interleave(n_radial, dim=1)
        return [
            Step(Embedding(element), None, "z"),
            Step(NeighborSum(table, self.first_table.grid, terms), "z", "B1"),
            Step(Linear(self.mix, per_degree(self.degrees)), "B1", "A1"),
            Step(Products(self.first_products, self.first_weight), "A1", "P1"),
            Step(Linear(self.scalars), "P1", "h1"),
            Step(Readout(self.first_readout), "h1", ENERGY),
        ]

    def _second_layer(self) -> list[Step]:
        tensors = tuple(
            Block(m, m, degree - 1)
            for degree in range(1, self.message_degree + 1)
            for m in range(degree**2 - 1, (degree + 1) ** 2 - 1)
        )
        (radial,) = self.table([self.radial_message])
        table = self._scaled(radial).view(len(radial), -1, self.to_message.shape[-1])
        blocks, first = [], 0
        for number, degree in enumerate(self.slots):
            blocks += [Block(first + m, degree**2 + m, number) for m in range(2 * degree + 1)]
            first += 2 * degree + 1
        return [
            Step(Linear(self.to_message), "h1", "m"),
            Step(Linear(self.vectors, tensors), "P1", "m", read=1, write=1),
            Step(NeighborSum(table, self.table.grid, self.messages), "m", "B2"),
            Step(Linear(self.mix_messages / math.sqrt(2), tuple(blocks)), "B2", "A2"),
            Step(Products(self.last_products, self.last_weight), "A2", "P2"),
            Step(Linear(self.last_scalars), "P2", "h2"),
            Step(Linear(self.skip), "h1", "h2"),
            Step(Linear(self.hidden), "h2", "r"),
            Step(Activation("silu", factor=SECOND_MOMENT), "r", "t"),
            Step(Readout(self.last_readout), "t", ENERGY),
        ]

    def _scaled(self, table: Tensor) -> Tensor:
        """Sums over M neighbors are about one with it."""
        return table / math.sqrt(self.n_neighbors)


def _degrees(max_degree: int, message_degree: int) -> tuple[int, ...]:
    """Those of the harmonics, 0 to the highest."""
    if max_degree not in (1, 2, 3):
        raise ValueError(f"max_degree is {max_degree}: harmonics of degree 1, 2 or 3 are known.")
    if message_degree not in (1, 2) or message_degree > max_degree:
        raise ValueError(
            f"message_degree is {message_degree}: degree 1 or 2, and at most max_degree, {max_degree}, is known."
        )
    return tuple(range(max_degree + 1))


def _messages(max_degree: int, message_degree: int) -> tuple[tuple[Term, ...], tuple[int, ...]]:
    """Terms of messages with harmonics, and the degree of each tensor that they give."""
    terms = [
        Term(degree, degree**2 + m, 0, degree**2 + m)
        for degree in range(max_degree + 1)
        for m in range(2 * degree + 1)
    ]
    slots, first = list(range(max_degree + 1)), (max_degree + 1) ** 2
    for of_message, of_harmonic in itertools.product(range(1, message_degree + 1), range(min(max_degree, 2) + 1)):
        for degree in range(abs(of_harmonic - of_message), min(of_harmonic + of_message, max_degree) + 1):
            if (of_harmonic + of_message + degree) % 2 == 0:
                path = len(slots)
                terms += [
                    Term(path, of_harmonic**2 + c.m1, of_message**2 + c.m2, first + c.m, c.value)
                    for c in couplings(of_harmonic, of_message, degree)
                ]
                slots.append(degree)
                first += 2 * degree + 1
    return tuple(terms), tuple(slots)


def _products(degrees: tuple[int, ...], message_degree: int) -> tuple[Product, ...]:
    """Products to scalars, in component 0, to vectors, in 1 to 3, and so on."""
    products: list[Product] = []
    for degree in range(message_degree + 1):
        n = 1 + max((t.path for t in products), default=-1)
        terms = coupled_products(degrees, degree)
        products += [Product(t.factors, degree**2 + t.target, n + t.path, t.value) for t in terms]
    return tuple(products)


def _couplings(n_elements: int, products: tuple[Product, ...], n_features: int) -> nn.Parameter:
    n = 1 + max(t.path for t in products)
    return nn.Parameter(torch.randn(n_elements, n, n_features, dtype=torch.float32) / n)


def _directions(n_elements: int, n: int) -> Tensor:
    """A unit vector for each element, at right angles while there are enough dimensions."""
    if n_elements <= n:
        return torch.eye(n_elements, n, dtype=torch.float32)
    vectors = torch.randn(n_elements, n, dtype=torch.float32)
    return vectors if vectors.is_meta else vectors / vectors.norm(dim=1, keepdim=True)  # see `without_values`
