"""What a network made of stages is: its parameters, and the list that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.stages.edge_network import EdgeNetwork
from mlpot.stages.handedness import tells_mirror_images
from mlpot.stages.neighbor_sum import NeighborSum
from mlpot.stages.products import Product, Products
from mlpot.stages.readout import Readout
from mlpot.stages.run import ENERGY, Program, Step, forward
from mlpot.stages.stage import Environments


class StagedNetwork(nn.Module):
    """A network that is a list of stages. A subclass has parameters and writes `stages`, nothing else.

    Args:
        elements: atomic numbers that it knows, sorted; the potential gives its own to a class that asks for them.
        cutoff: Å; beyond it every radial function is zero.
        features: the array whose component 0 says what an atom's environment is, for the extrapolation grade.
        linear: products to scalars of some arrays, and the number of their channels; the energy has a sum of them
            with weights by element and channel that are zero unless they were solved for, see `linear_weight`.

    Raises:
        ValueError: no element was given.
    """

    element_index: Tensor
    equivariant: bool = True  # whether rotated copies have one energy by construction
    parity: bool = True  # whether mirror images have one energy by construction
    for_handedness: str = ""  # of a class that can do without parity: what tells mirror images apart

    def __init__(
        self,
        *,
        elements: Sequence[int],
        cutoff: float,
        features: str,
        linear: Mapping[str, tuple[tuple[Product, ...], int]] | None = None,
    ):
        super().__init__()
        if not elements or min(elements) < 1:
            raise ValueError(f"A network needs atomic numbers of at least one element, got {tuple(elements)}.")
        self.elements, self.cutoff, self.features = tuple(elements), float(cutoff), features
        index = torch.full((max(self.elements) + 1,), -1, dtype=torch.int64, device="cpu")  # no file holds it
        index[list(self.elements)] = torch.arange(len(self.elements), device="cpu")
        self.register_buffer("element_index", index, persistent=False)
        self.linear = {name: products for name, (products, _) in (linear or {}).items()}
        for name, (products, n_channels) in (linear or {}).items():
            n_paths = 1 + max(t.path for t in products)
            self.register_buffer(
                f"linear_{name}", torch.zeros(len(self.elements), n_paths, n_channels, dtype=torch.float32)
            )
        self.readout: nn.Module = nn.Identity()  # whoever asks what the readout receives hooks it

    def stages(self) -> Iterable[Step]:
        """The list. Weights are functions of the parameters; those by element have a row for each known one."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its stages are.")

    def native_obstacle(self) -> str | None:
        """None: compiled code knows every stage."""
        return None

    def handedness_obstacle(self) -> str | None:
        """Why mirror images have one energy although `parity` is false; None if they have not, or it is true."""
        if self.parity or tells_mirror_images(self.program()):
            return None
        return f"parity is false, but a pseudoscalar needs {self.for_handedness}"

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """As they are: only rows by element depend on how many elements there are."""
        return dict(weights)

    def linear_weight(self, name: str) -> Tensor:
        """Weights (n_elements, n_paths, n_channels) of the products of an array; the energy is linear in them."""
        return self.get_buffer(f"linear_{name}")

    def program(self) -> Program:
        """The checked list for all elements, with the weights of now."""
        steps = list(self.stages())
        for name, products in self.linear.items():
            weight = self.linear_weight(name)
            if weight.any():
                sums = f"{name} linear"
                steps.append(Step(Products(products, weight), name, sums))
                steps.append(Step(Readout(weight.new_ones(weight.shape[2])), sums, ENERGY))
        return Program(steps)

    @property
    def n_passes(self) -> int:
        """Messages that an energy depends on: it reaches that many cutoffs."""
        passes: dict[str | None, int] = {None: 0}
        for step in self.program().steps:
            sent = passes[step.source] + isinstance(step.stage, NeighborSum | EdgeNetwork)
            passes[step.target] = max(sent, passes.get(step.target, 0))
        return passes[ENERGY]

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å, by the definition of each stage."""
        at = Environments(self.element_index.index_select(0, numbers), edges, vectors)
        arrays = forward(self.program(), at)
        self.readout(arrays[self.features][:, 0])
        return arrays[ENERGY][:, 0, 0]
