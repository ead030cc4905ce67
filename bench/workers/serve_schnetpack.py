"""SchNetPack's SchNet."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
import torch.utils.data.dataloader
from ase import Atoms
from protocol import CUTOFF, N_FEATURES, N_INTERACTIONS, N_RADIAL, Answer, adamw, force_loss, frozen, serve

torch.utils.data.dataloader.T_co = TypeVar("T_co", covariant=True)  # SchNetPack 2.1 takes it from there

import schnetpack as spk  # noqa: E402  (after the line that it needs, as the next two)
from schnetpack.interfaces import AtomsConverter, SpkCalculator  # noqa: E402  (as above)
from schnetpack.transform import MatScipyNeighborList  # noqa: E402  (as above)


class SchNetPack:
    """See `protocol.Package`."""

    version = importlib.metadata.version("schnetpack")

    def __init__(self, _variant: str):
        self.model = spk.model.NeuralNetworkPotential(
            representation=spk.representation.SchNet(
                n_atom_basis=N_FEATURES,
                n_interactions=N_INTERACTIONS,
                radial_basis=spk.nn.GaussianRBF(n_rbf=N_RADIAL, cutoff=CUTOFF),
                cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
            ),
            input_modules=[spk.atomistic.PairwiseDistances()],
            output_modules=[
                spk.atomistic.Atomwise(n_in=N_FEATURES, output_key="energy"),
                spk.atomistic.Forces(energy_key="energy", force_key="forces"),
            ],
        )
        self.frozen = frozen(self.model)

    def inputs(self, atoms: Atoms, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What the model takes, list included."""
        return AtomsConverter(neighbor_list=MatScipyNeighborList(cutoff=CUTOFF), dtype=dtype)(atoms)

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        model, inputs = self.frozen[double], self.inputs(atoms, torch.float64 if double else torch.float32)

        def evaluate() -> Answer:
            out = model(dict(inputs))
            return out["energy"].detach(), out["forces"].detach()

        return evaluate, len(inputs["_idx_i"])

    def calculator(self) -> SpkCalculator:
        with TemporaryDirectory() as folder:
            file = str(Path(folder) / "model")
            torch.save(self.model, file)
            neighbors = MatScipyNeighborList(cutoff=CUTOFF)
            return SpkCalculator(file, neighbor_list=neighbors, energy_unit="eV", position_unit="Ang")

    def training_step(self, batch: list[Atoms]) -> Callable[[], None]:
        model = copy.deepcopy(self.model).train()
        optimizer = adamw(model.parameters())
        inputs = self.inputs(batch, torch.float32)

        def step() -> None:
            out = model(dict(inputs))
            optimizer.zero_grad()
            force_loss(out["energy"], out["forces"]).backward()
            optimizer.step()

        return step


if __name__ == "__main__":
    serve(SchNetPack)
