"""MACE, invariant and small (64x0e) or equivariant (128x0e+128x1o)."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable

import torch
from ase import Atoms
from mace import data, tools
from mace.calculators import MACECalculator
from mace.tools import torch_geometric
from mace_model import ELEMENTS, scale_shift_mace
from protocol import CUTOFF, Answer, adamw, force_loss, frozen, serve


class MACE:
    """See `protocol.Package`; the variant is the hidden irreps."""

    version = importlib.metadata.version("mace-torch")

    def __init__(self, variant: str):
        self.model = scale_shift_mace(variant)
        self.frozen = frozen(self.model)

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        dtype = torch.float64 if double else torch.float32
        torch.set_default_dtype(dtype)  # MACE makes its inputs, and some constants on the way, in this type
        model, inputs = self.frozen[double], _inputs([atoms])

        def evaluate() -> Answer:
            torch.set_default_dtype(dtype)
            out = model(dict(inputs), training=False, compute_force=True)
            return out["energy"].detach(), out["forces"].detach()

        return evaluate, inputs["edge_index"].shape[1]

    def training_step(self, batch: list[Atoms]) -> Callable[[], None]:
        torch.set_default_dtype(torch.float32)
        model, inputs = copy.deepcopy(self.model).float().train(), _inputs(batch)
        optimizer = adamw(model.parameters())

        def step() -> None:
            out = model(dict(inputs), training=True, compute_force=True)
            optimizer.zero_grad()
            force_loss(out["energy"], out["forces"]).backward()
            optimizer.step()

        return step

    def calculator(self) -> MACECalculator:
        return MACECalculator(models=[copy.deepcopy(self.model).eval()], device="cpu", default_dtype="float32")


def _inputs(structures: list[Atoms]) -> dict[str, torch.Tensor]:
    """What the model takes, in PyTorch's default type."""
    table = tools.AtomicNumberTable(ELEMENTS)
    graphs = [
        data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
        for atoms in structures
    ]
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs))
    return next(iter(loader)).to_dict()  # type: ignore[no-any-return]  # mace has no types


if __name__ == "__main__":
    serve(MACE)
