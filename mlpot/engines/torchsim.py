"""TorchSim's door: a potential as a model of it, which computes many systems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface

from mlpot.engines.images import images_matter
from mlpot.equivariance import warn_of_rotations
from mlpot.model_file import own_potential
from mlpot.neighbors import build_graphs
from mlpot.potential import Potential
from mlpot.watched import Watch, predict_watched


class MLPotModel(ModelInterface):  # type: ignore[misc]  # TorchSim has no types
    """Energies, forces and stresses of the systems of a state; what lies outside of the training set is told once.

    Args:
        potential: a potential, of which a copy is used, or the path of its file.
        device: where it computes, and where the state is; lists of neighbors are made on the CPU.
        dtype: torch.float64, torch.float32 or their names, of the potential and of what is returned; that of the
            potential by default.

    Raises (on a call):
        UnknownElementError: an element the potential was not made for.
        ValueError: positions or a cell are not finite, two atoms are in one place, or TorchSim may have lost a
            boundary.
    """

    def __init__(
        self,
        potential: Potential | str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
    ):
        super().__init__()
        self.potential = own_potential(potential, device, dtype)
        warn_of_rotations(self.potential)
        self._device, self._dtype = torch.device(device), self.potential.dtype
        self._compute_forces = self._compute_stress = True
        self._watch = Watch()

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energies (n_systems,) eV, forces (n_atoms, 3) eV/Å and stresses (n_systems, 3, 3) eV/Å³.

        The stress of a system without periods is NaN.

        Args:
            state: TorchSim's, in Å.
        """
        sizes = torch.bincount(state.system_idx, minlength=len(state.row_vector_cell)).tolist()
        parts = (t.detach().cpu().split(sizes) for t in (state.atomic_numbers, state.positions.double()))
        numbers, positions = ([part.numpy() for part in split] for split in parts)
        cells = list(state.row_vector_cell.detach().double().cpu().numpy())
        if state.pbc is False:
            self._check_boundaries(numbers, positions, cells)
        pbc = torch.as_tensor(state.pbc).cpu().expand(3).numpy()
        graph = build_graphs(numbers, positions, cells, [pbc] * len(sizes), self.potential.cutoff)
        self.potential.check_elements(graph.numbers.to(self._device))
        out = predict_watched(
            self.potential, graph.to(self._device), self._watch, lambda k: f"An atom of system {k}"
        )
        found = {"energy": out.energy, "forces": out.forces, "stress": out.stress}
        return {name: value.to(self._dtype) for name, value in found.items()}

    def _check_boundaries(self, numbers: list[Any], positions: list[Any], cells: list[Any]) -> None:
        """TorchSim before 0.4 takes slabs and wires for molecules, and says so to nobody."""
        for k, system in enumerate(zip(numbers, positions, cells, strict=True)):
            if images_matter(*system, self.potential.cutoff):
                raise ValueError(
                    f"System {k} has a cell in which images of atoms are near, and the state has no periods: "
                    "TorchSim before 0.4 makes slabs and wires such. Give the state its periodic directions, such "
                    "as state.pbc = [True, True, False]; if it is a molecule, a cell of zeros: state.cell.zero_()."
                )
