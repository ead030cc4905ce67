"""mlpot through its public functions: SchNet and EGNN as they are run, and as they are usually written."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

from ase import Atoms
from protocol import CUTOFF, N_FEATURES, N_INTERACTIONS, N_RADIAL, Answer, adamw, force_loss, frozen, serve

from mlpot.calculator import MLPotCalculator
from mlpot.forces import computed_by, predict
from mlpot.graph import AtomGraph, collate
from mlpot.neighbors import build_graph
from mlpot.potential import Potential
from mlpot.version import __version__

sys.path.append(str(Path(__file__).parents[1]))
from plain_egnn import PlainEGNN

SCHNET = {"cutoff": CUTOFF, "n_features": N_FEATURES, "n_interactions": N_INTERACTIONS, "n_radial": N_RADIAL}
EGNN = {"cutoff": CUTOFF, "n_features": N_FEATURES}
MACE = {"cutoff": CUTOFF, "residual_first": True, "n_knots": 128}  # all else as in `serve_mace`
VARIANTS = {
    "knots": ("schnet", {**SCHNET, "n_knots": 512, "degree": 3}),
    "quintic": ("schnet", {**SCHNET, "n_knots": 256, "degree": 5}),
    "plain": ("schnet", {**SCHNET, "n_knots": None}),
    "egnn": ("egnn", EGNN),
    "mace-64x0e": ("mace", {**MACE, "n_features": 64}),
    "mace-128x0e+128x1o": ("mace", {**MACE, "n_features": 128, "message_degree": 1}),
    "ace": ("ace", {"cutoff": CUTOFF}),
    "egnn-still": ("egnn", {**EGNN, "move_coordinates": False}),
}
ELEMENTS = (1, 6, 8, 14)


def graph_of(atoms: Atoms) -> AtomGraph:
    """The structure with its list."""
    return build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)


class MLPot:
    """See `protocol.Package`; a variant ends in -plain where its edge tensors are concatenated."""

    version = __version__

    def __init__(self, variant: str):
        backbone, arguments = VARIANTS[variant.removesuffix("-plain")]
        self.potential = Potential(backbone, arguments, reference_energies=dict.fromkeys(ELEMENTS, 0.0))
        if variant.endswith("-plain"):
            self.potential.backbone = PlainEGNN(self.potential.backbone)
        self.note = f"{variant} computed by {computed_by(self.potential)}"
        self.frozen = {double: potential.freeze() for double, potential in frozen(self.potential).items()}

    def evaluation(self, atoms: Atoms, double: bool) -> tuple[Callable[[], Answer], int]:
        potential, graph = self.frozen[double], graph_of(atoms)

        def evaluate() -> Answer:
            out = predict(potential, graph)
            return out.energy, out.forces

        return evaluate, len(graph.edges)

    def calculator(self) -> MLPotCalculator:
        return MLPotCalculator(self.potential)

    def training_step(self, batch: list[Atoms]) -> Callable[[], None]:
        potential = copy.deepcopy(self.potential).train()
        weights = list(potential.parameters())
        optimizer, graph = adamw(weights), collate([graph_of(atoms) for atoms in batch])

        def step() -> None:
            out = predict(potential, graph, training=True)
            optimizer.zero_grad()
            force_loss(out.energy, out.forces).backward(inputs=weights)  # as in mlpot's own training
            optimizer.step()

        return step


if __name__ == "__main__":
    serve(MLPot)
