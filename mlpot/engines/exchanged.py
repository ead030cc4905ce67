"""A potential of which a process computes the features of its own atoms, and gets those of ghosts from others."""

from __future__ import annotations

import torch
from torch import Tensor

from mlpot.engines.local_atoms import LocalGraph
from mlpot.forces import (
    AtomicProperties,
    by_atom,
    grades_of,
    native_call_with_exchanges,
    predict_atoms,
    predict_own,
)
from mlpot.graph import Edges, edge_vectors
from mlpot.potential import Potential
from mlpot.stages.exchange import Halo, with_exchanges
from mlpot.stages.network import StagedNetwork
from mlpot.stages.run import ENERGY, Arrays, forward
from mlpot.stages.stage import Environments
from mlpot.torch_settings import usual_settings


class ExchangedPotential:
    """Energies of own atoms; ghosts reach one cutoff, whatever the number of passes.

    All processes call its methods in the same order. Compiled code computes if there is some for the potential.

    Args:
        potential: frozen, with a network of stages.
        halo: knows whose the ghosts are.
        native: use compiled code; if not, the stages in PyTorch.

    Raises:
        ValueError: the network is no list of stages.
    """

    def __init__(self, potential: Potential, halo: Halo, *, native: bool = True):
        if not isinstance(potential.backbone, StagedNetwork):
            raise ValueError(f"{type(potential.backbone).__name__} is not made of stages.")
        self._network: StagedNetwork = potential.backbone
        self.potential, self.halo = potential, halo
        self._call = native_call_with_exchanges(potential) if native else None

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype

    def reference_energies(self, numbers: Tensor) -> Tensor:
        """As of the potential."""
        return self.potential.reference_energies(numbers)

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV above the references, by the definition of the stages."""
        energies: Tensor = self.potential(numbers, edges, vectors, self._outputs)
        return energies

    def _outputs(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        return self._arrays(numbers, edges, vectors)[ENERGY][:, 0, 0]

    def _arrays(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Arrays:
        at = Environments(self._network.element_index.index_select(0, numbers), edges, vectors)
        return forward(with_exchanges(self._network.program(), self.halo), at)

    def predict(self, local: LocalGraph) -> tuple[Tensor, Tensor, Tensor]:
        """The energy of own atoms (1,) eV with its forces on all (n_atoms, 3) eV/Å and virial (1, 3, 3) eV."""
        if self._call is not None:
            return self._call.of_own(local.graph, local.n_own, self.halo)
        device = self.potential.energy_scale.device
        return predict_own(self, local.with_true_numbers().to(device), local.n_own)

    def by_atom(self, local: LocalGraph) -> AtomicProperties:
        """As `forces.predict_atoms` with own atoms."""
        if self._call is not None:
            return by_atom(*self._call.by_atom_of_own(local.graph, local.n_own, self.halo), local.n_own)
        device = self.potential.energy_scale.device
        return predict_atoms(self, local.with_true_numbers().to(device), local.n_own)

    def features(self, local: LocalGraph) -> Tensor:
        """What the readout receives of own atoms, (n_own, n_features), as `models.backbone.atom_features`."""
        if self._call is not None:
            return self._call.features(local.graph, local.n_own, self.halo)
        graph = local.with_true_numbers().to(self.potential.energy_scale.device)
        with usual_settings(), torch.no_grad():
            arrays = self._arrays(graph.numbers, graph.edges, edge_vectors(graph).to(self.dtype))
        return arrays[self._network.features][: local.n_own, 0]

    def grades(self, local: LocalGraph) -> Tensor | None:
        """As `potential.extrapolation_grade`, of own atoms (n_own,)."""
        if self.potential.domain is None:
            return None
        return grades_of(self.potential, local.graph.numbers[: local.n_own], self.features(local))
