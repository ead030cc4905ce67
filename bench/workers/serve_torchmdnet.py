"""TorchMD-Net's graph network, which is SchNet with another update."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from protocol import CUTOFF, N_FEATURES, N_INTERACTIONS, N_RADIAL, Answer, adamw, force_loss, frozen, serve
from torchmdnet.calculators import TMDNETCalculator
from torchmdnet.models.model import create_model

ARGUMENTS = {
    "model": "graph-network",
    "embedding_dimension": N_FEATURES,
    "num_layers": N_INTERACTIONS,
    "num_rbf": N_RADIAL,
    "rbf_type": "gauss",
    "trainable_rbf": False,
    "activation": "silu",
    "aggr": "add",
    "neighbor_embedding": False,
    "cutoff_lower": 0.0,
    "cutoff_upper": CUTOFF,
    "max_z": 100,
    "max_num_neighbors": 128,
    "atom_filter": -1,
    "derivative": True,
    "output_model": "Scalar",
    "reduce_op": "sum",
    "precision": 32,
    "prior_model": None,
}


class GivenList(torch.nn.Module):
    """Stands where the model finds its neighbors, with a list found before, as the other packages have it."""

    def __init__(self, batch: list[Atoms], dtype: torch.dtype):
        super().__init__()
        index, shift, first = [], [], 0
        for atoms in batch:
            i, j, s = neighbor_list("ijS", atoms, CUTOFF)
            index.append(torch.stack([torch.from_numpy(i), torch.from_numpy(j)]) + first)
            shift.append(torch.from_numpy(s @ atoms.cell.array).to(dtype))
            first += len(atoms)
        self.index, self.shift = torch.cat(index, dim=1), torch.cat(shift)

    def forward(self, positions: torch.Tensor, _batch: torch.Tensor, _box: torch.Tensor | None = None):
        """Edges, their lengths and vectors."""
        i, j = self.index
        vectors = positions.index_select(0, i) - positions.index_select(0, j) - self.shift
        return self.index, vectors.norm(dim=-1), vectors


class TorchMDNet:
    """See `protocol.Package`."""

    version = importlib.metadata.version("torchmd-net")

    def __init__(self, _variant: str):
        self.model = create_model(dict(ARGUMENTS))
        self.frozen = frozen(self.model)

    def inputs(self, batch: list[Atoms], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Atomic numbers, positions and the structure of each atom."""
        sizes = torch.tensor([len(atoms) for atoms in batch])
        numbers = torch.cat([torch.from_numpy(atoms.numbers) for atoms in batch])
        positions = torch.cat([torch.from_numpy(atoms.positions) for atoms in batch]).to(dtype)
        return numbers, positions, torch.arange(len(batch)).repeat_interleave(sizes)

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        model, dtype = self.frozen[double], torch.float64 if double else torch.float32
        given = model.representation_model.distance = GivenList([atoms], dtype)
        inputs = self.inputs([atoms], dtype)

        def evaluate() -> Answer:
            energy, forces = model(*inputs)
            return energy.detach(), forces

        return evaluate, given.index.shape[1]

    def calculator(self) -> TMDNETCalculator:
        with TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.ckpt")
            state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            torch.save({"state_dict": state, "hyper_parameters": {**ARGUMENTS, "remove_ref_energy": False}}, file)
            return TMDNETCalculator(file, remove_ref_energy=False)

    def training_step(self, batch: list[Atoms]) -> Callable[[], None]:
        model = copy.deepcopy(self.model).train()
        model.representation_model.distance = GivenList(batch, torch.float32)
        optimizer, inputs = adamw(model.parameters()), self.inputs(batch, torch.float32)

        def step() -> None:
            energy, forces = model(*inputs)
            optimizer.zero_grad()
            force_loss(energy, forces).backward()
            optimizer.step()

        return step


if __name__ == "__main__":
    serve(TorchMDNet)
