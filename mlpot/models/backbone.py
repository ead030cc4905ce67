"""What a backbone is: the contract between a network and the rest of the house.

    b_i = b(numbers, edges, vectors)_i        n_atoms numbers from n_edges edge vectors

A backbone sees atomic numbers and edge vectors, never positions, cells or which structure an atom belongs to. So
translation, periodicity and batching hold by construction. The outputs are smooth functions of the vectors, and
what an edge adds reaches zero at the cutoff with two continuous derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlpot.gpu.driver import DeviceOutputs, obstacle
from mlpot.graph import AtomGraph, Edges, edge_vectors
from mlpot.stages.network import StagedNetwork
from mlpot.torch_settings import usual_settings


class Backbone(Protocol):
    """A module with these attributes; whatever is made of stages has them from `stages.network.StagedNetwork`."""

    cutoff: float  # Å; no edge beyond it changes anything
    parity: bool  # whether mirror images have one energy by construction
    equivariant: bool  # whether rotated copies have one energy by construction

    @property
    def readout(self) -> nn.Module:
        """It receives the features of the atoms (n_atoms, n_features), by which an extrapolation is told."""
        ...

    @property
    def n_passes(self) -> int:
        """Messages that an output depends on: it reaches that many cutoffs."""
        ...

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Outputs b (n_atoms,), in units of the potential's energy scale.

        Args:
            numbers: (n_atoms,) atomic numbers.
            edges: from each atom to its neighbors.
            vectors: (n_edges, 3) Å, from center to neighbor, of the type of the weights.
        """
        ...

    def native_obstacle(self) -> str | None:
        """What keeps compiled code from computing this network wherever it stands; None if nothing does."""
        ...

    def handedness_obstacle(self) -> str | None:
        """Why mirror images have one energy although `parity` is false; None if they have not, or it is true."""
        ...

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """The weights of the network for fewer elements in the shapes of this one; its function stays the same.

        Rows by element are left as they are: whoever adds elements moves them (`training.starting`). The network's
        own rows of elements that are new may change, so that they differ from those of the others.

        Args:
            weights: by name, of the smaller network.
            elements: atomic numbers that it knows, sorted.
        """
        ...

    # Of every nn.Module: what training and model files ask for.
    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def get_parameter(self, target: str) -> nn.Parameter: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class PlainNetwork(nn.Module):
    """A backbone that is no list of stages, and has a table of elements with a row for each that there is."""

    def native_obstacle(self) -> str | None:
        """Compiled code knows stages alone."""
        return f"{type(self).__name__} is not made of stages"

    def widened(self, weights: Mapping[str, Tensor], elements: Sequence[int]) -> dict[str, Tensor]:
        """As they are: whoever adds elements moves the rows of the table."""
        return dict(weights)


def atom_features(backbone: Backbone, graph: AtomGraph) -> Tensor:
    """The features that a backbone's readout receives, (n_atoms, n_features), without gradients.

    Of a network that computes several copies of each atom, those of the first.
    """
    given: list[Tensor] = []
    hook = backbone.readout.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        with usual_settings(), torch.no_grad():
            weight, outputs = next(backbone.parameters()), backbone.__call__
            if isinstance(backbone, StagedNetwork) and obstacle(backbone, weight) is None:
                outputs = DeviceOutputs(backbone, fixed=False)
            outputs(graph.numbers, graph.edges, edge_vectors(graph).to(weight.dtype))
    finally:
        hook.remove()
    return given[0][: graph.n_atoms]
