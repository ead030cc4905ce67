"""NequIP, small: 3 layers of 32 features up to l = 1, as its ASE calculator runs it without `nequip-compile`."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable

import torch
from ase import Atoms
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state
from protocol import CUTOFF, Answer, serve

ELEMENTS = ["H", "C", "O", "Si"]


class NequIP:
    """See `protocol.Package`."""

    version = importlib.metadata.version("nequip")

    def __init__(self, _variant: str):
        set_global_state()
        self.transforms = [ChemicalSpeciesToAtomTypeMapper(ELEMENTS), NeighborListTransform(CUTOFF)]
        self.models = {dtype: self.model(dtype) for dtype in ("float32", "float64")}
        weights = self.models["float32"].state_dict()
        self.models["float64"].load_state_dict(weights)

    def model(self, dtype: str) -> torch.nn.Module:
        """A model of random weights."""
        return NequIPGNNModel(
            seed=0,
            model_dtype=dtype,
            type_names=ELEMENTS,
            r_max=CUTOFF,
            num_layers=3,
            l_max=1,
            num_features=32,
            avg_num_neighbors=20.0,
        ).eval()

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        model = self.models["float64" if double else "float32"].requires_grad_(False)
        inputs = from_ase(atoms)
        for transform in self.transforms:
            inputs = transform(inputs)

        def evaluate() -> Answer:
            out = model(dict(inputs))
            return out[AtomicDataDict.TOTAL_ENERGY_KEY].detach(), out[AtomicDataDict.FORCE_KEY].detach()

        return evaluate, inputs[AtomicDataDict.EDGE_INDEX_KEY].shape[1]

    def calculator(self) -> NequIPCalculator:
        model = copy.deepcopy(self.models["float32"])
        return NequIPCalculator(model, device="cpu", transforms=self.transforms)


if __name__ == "__main__":
    serve(NequIP)
