"""The products of a network's arrays, in which the energy is linear, and their derivatives by positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mlpot.array_tangents import ArrayTangents, Motion
from mlpot.graph import AtomGraph, Edges
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork
from mlpot.stages.products import Product, Products
from mlpot.stages.run import Step

Direction = tuple[int, int]  # an atom, counted within its structure, and a coordinate


class LinearFeatures:
    """∂E/∂w and ∂F/∂w of a potential whose network has linear weights w, see `StagedNetwork`.

    Args:
        potential: float64, on the CPU; not changed.
        network: its backbone.
        names: of those of its arrays whose products are meant, in the order of the weights.
    """

    def __init__(self, potential: Potential, network: StagedNetwork, names: tuple[str, ...]):
        self.potential, self.network, self.names = potential, network, names
        self.n = sum(network.linear_weight(name).numel() for name in names)
        products = [Step(_unweighted(network.linear[name]), name, f"{name} products") for name in names]
        steps = [*network.program().steps, *products]
        self.tangents = ArrayTangents(network, steps, [step.target for step in products])
        self.isolated = next(self.tangents.along(_isolated_atoms(network.elements), []))

    def rows(
        self, graph: AtomGraph, directions: Iterable[Direction], strains: Iterable[Tensor] = ()
    ) -> Iterator[Tensor]:
        """∂E/∂w of each structure (n_graphs, n), and then derivatives of it in turn.

        Args:
            graph: the structures.
            directions: −∂/∂r along each of these.
            strains: and ∂/∂ε along each of these, (n_graphs, 3, 3), symmetric.
        """
        number, motion = within(graph), torch.zeros_like(graph.positions)

        def motions() -> Iterator[Motion]:
            for atom, axis in directions:
                motion.zero_()
                motion[:, axis] = -(number == atom).double()
                yield Motion(motion)
            motion.zero_()
            for strain in strains:
                yield Motion(motion, strain.index_select(0, graph.batch))

        element = self.network.element_index.index_select(0, graph.numbers)
        summed = self._sum_over_atoms(graph)
        arrays = self.tangents.along(graph, motions())
        values = next(arrays)
        yield summed({name: b - self.isolated[name].index_select(0, element) for name, b in values.items()})
        yield from map(summed, arrays)

    def _sum_over_atoms(self, graph: AtomGraph) -> Callable[[dict[str, Tensor]], Tensor]:
        """Maps products (n_atoms, n_paths, n_channels) to Σ over the atoms of each element of s(Z) times them."""
        kind = self.potential.element_index.index_select(0, graph.numbers)
        n, scale = len(self.potential.elements), self.potential.energy_scale.index_select(0, kind)
        onto = torch.zeros(graph.n_graphs * n, graph.n_atoms, dtype=torch.float64)
        onto[graph.batch * n + kind, torch.arange(graph.n_atoms)] = scale.double()

        def summed(products: dict[str, Tensor]) -> Tensor:
            sums = [onto @ values.flatten(1) for values in products.values()]
            return torch.cat([s.view(graph.n_graphs, -1) for s in sums], 1)

        return summed

    def write(self, network: StagedNetwork, w: Tensor) -> None:
        """Add weights (n,) to those of a network."""
        for name in self.names:
            own = network.linear_weight(name)
            part, w = w[: own.numel()], w[own.numel() :]
            own += part.view(own.shape).to(own)


def within(graph: AtomGraph) -> Tensor:
    """The number of each atom within its structure, (n_atoms,)."""
    n = torch.bincount(graph.batch, minlength=graph.n_graphs)
    first = torch.cat([n.new_zeros(1), n.cumsum(0)[:-1]])
    return torch.arange(graph.n_atoms) - first.index_select(0, graph.batch)


def _unweighted(terms: tuple[Product, ...]) -> Products:
    """Each path in a component of its own."""
    return Products(tuple(Product(t.factors, t.path, 0, t.value) for t in terms))


def _isolated_atoms(elements: tuple[int, ...]) -> AtomGraph:
    """An atom of each element without neighbors."""
    n, none = len(elements), torch.zeros(0, dtype=torch.int64)
    return AtomGraph(
        positions=torch.zeros(n, 3, dtype=torch.float64),
        numbers=torch.tensor(elements),
        cell=torch.zeros(n, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(n, 3, dtype=torch.bool),
        edges=Edges(none, none, torch.zeros(n + 1, dtype=torch.int64), none),
        cell_shift=torch.zeros(0, 3, dtype=torch.float64),
        batch=torch.arange(n),
    )
