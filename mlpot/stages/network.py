"""What a network made of stages is: its parameters, and the list that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mlpot.graph import Edges
from mlpot.stages.run import ENERGY, Program, Step, forward
from mlpot.stages.stage import Environments


class StagedNetwork(nn.Module):
    """A network that is a list of stages. A subclass has parameters and writes `stages`, nothing else.

    Args:
        elements: atomic numbers that it knows, sorted; the potential gives its own to a class that asks for them.
        cutoff: Å; beyond it every radial function is zero.
        features: the array whose component 0 says what an atom's environment is, for the extrapolation grade.

    Raises:
        ValueError: no element was given.
    """

    element_index: Tensor

    def __init__(self, *, elements: Sequence[int], cutoff: float, features: str):
        super().__init__()
        if not elements or min(elements) < 1:
            raise ValueError(f"A network needs atomic numbers of at least one element, got {tuple(elements)}.")
        self.elements, self.cutoff, self.features = tuple(elements), float(cutoff), features
        index = torch.full((max(self.elements) + 1,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("element_index", index, persistent=False)
        self.readout = nn.Identity()  # whoever asks what the readout receives hooks it

    def stages(self) -> Iterable[Step]:
        """The list. Weights are functions of the parameters; those by element have a row for each known one."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its stages are.")

    def program(self) -> Program:
        """The checked list for all elements, with the weights of now."""
        return Program(self.stages())

    def forward(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) from edge vectors (n_edges, 3) Å, by the definition of each stage."""
        at = Environments(self.element_index.index_select(0, numbers), edges, vectors)
        arrays = forward(self.program(), at)
        self.readout(arrays[self.features][:, 0])
        return arrays[ENERGY][:, 0, 0]
