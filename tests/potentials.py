"""Small potentials of every kind, untrained and trained, and the known truth they are trained on."""

from __future__ import annotations

import copy
from functools import cache

import torch
from ase.data import covalent_radii
from structures import CUTOFF, ELEMENTS, REFERENCES, batch_of, copper, ethanol, quartz, slab
from torch import Tensor

from mlpot.forces import predict
from mlpot.graph import AtomGraph, Edges
from mlpot.potential import Potential
from mlpot.stages.radial import PolynomialEnvelope

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "schnet": ("schnet", {"n_interactions": 2}),
    "egnn": ("egnn", {"n_layers": 2, "move_coordinates": False}),
    "egnn_moving": ("egnn", {"n_layers": 3, "move_coordinates": True}),
    "egnn_attention": ("egnn", {"n_layers": 2, "move_coordinates": True, "attention": True}),
    "deepsets": ("deepsets", {}),
    "se3_transformer": (
        "se3_transformer",
        {"n_features": 8, "n_radial": 6, "max_degree": 1, "n_heads": 2, "n_interactions": 2},
    ),
    "transformer": ("transformer", {"n_layers": 2, "n_heads": 4, "n_radial": 24}),
    "mace": (
        "mace",
        {
            "n_features": 8,
            "n_radial": 6,
            "max_degree": 2,
            "message_degree": 1,
            "correlation": 2,
            "radial_layers": [16],
            "n_neighbors": 0.5,
        },
    ),
    "nequip": (
        "nequip",
        {
            "n_features": 8,
            "n_radial": 6,
            "max_degree": 1,
            "n_interactions": 3,
            "radial_layers": [16],
            "n_knots": 64,  # second derivatives of splines lose digits with the square of it
        },
    ),
}
"""Name of a test's potential -> backbone and its arguments, beside the sizes in `new_potential`."""
ROTATING = [name for name in VARIANTS if name != "transformer"]
"""Those that rotate with their structures by construction."""


class Morse:
    """Known truth: E = ½ Σ_ij D [(1 − exp(−a (d − r₀)))² − 1] u(d), r₀ the sum of covalent radii."""

    dtype = torch.float64
    cutoff = CUTOFF
    depth, stiffness = 1.0, 1.5  # eV, 1/Å

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor:
        """Atomic energies (n_atoms,) eV."""
        radius = torch.as_tensor(covalent_radii)[numbers]
        d, r0 = vectors.norm(dim=-1), radius[edges.center] + radius[edges.neighbor]
        pair = self.depth * ((1 - torch.exp(-self.stiffness * (d - r0))) ** 2 - 1)
        return vectors.new_zeros(edges.n_atoms).index_add(
            0, edges.center, pair / 2 * PolynomialEnvelope(self.cutoff)(d)
        )

    def reference_energies(self, numbers: Tensor) -> Tensor:
        """Of each atom, (n_atoms,) eV."""
        table = torch.zeros(119, dtype=torch.float64)
        table[list(REFERENCES)] = torch.tensor(list(REFERENCES.values()), dtype=torch.float64)
        return table[numbers]


def new_potential(
    variant: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, repulsion: bool = False, **changes: object
) -> Potential:
    """An untrained potential of 32 features; `changes` are arguments of its backbone."""
    backbone, arguments = VARIANTS[variant]
    torch.manual_seed(seed)
    potential = Potential(
        backbone,
        {"cutoff": CUTOFF, "n_features": 32, "n_radial": 16, **arguments, **changes},
        reference_energies=REFERENCES,
        energy_scale=dict.fromkeys(ELEMENTS, 0.8),
        energy_shift={z: -2.0 - 0.1 * k for k, z in enumerate(ELEMENTS)},
        repulsion=repulsion,
    )
    return potential.to(dtype)


def training_graph() -> AtomGraph:
    """A batch of shaken molecules, crystals and slabs, some squeezed, some stretched."""
    squeezed, stretched = copper(seed=100), copper(seed=101)
    squeezed.set_cell(0.95 * squeezed.cell.array, scale_atoms=True)
    stretched.set_cell(1.05 * stretched.cell.array, scale_atoms=True)
    return batch_of([ethanol(seed=102), quartz(seed=103), slab(seed=104), copper(seed=105), squeezed, stretched])


@cache
def _trained(variant: str, n_steps: int = 120) -> tuple[Potential, float, float]:
    """A trained potential, and its force error before and after, eV/Å."""
    potential = new_potential(variant)
    graph = training_graph()
    truth = predict(Morse(), graph)
    n_atoms, periodic = torch.bincount(graph.batch), graph.pbc.all(-1)
    optimizer = torch.optim.Adam(potential.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    errors = []
    for _ in range(n_steps):
        out = predict(potential, graph, training=True)
        wrong_energy = (out.energy - truth.energy) / n_atoms
        wrong_forces = out.forces - truth.forces
        wrong_stress = (out.stress - truth.stress)[periodic]
        loss = wrong_energy.square().mean() + wrong_forces.square().mean() + 100 * wrong_stress.square().mean()
        errors.append(wrong_forces.detach().abs().mean().item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(potential.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return potential, errors[0], errors[-1]


def small_potential(
    variant: str = "schnet", *, trained: bool = False, dtype: torch.dtype = torch.float64
) -> Potential:
    """A small potential of a kind in `VARIANTS`, yours to change; training takes seconds, once a session."""
    potential = copy.deepcopy(_trained(variant)[0]) if trained else new_potential(variant)
    return potential.to(dtype)


def training_errors(variant: str) -> tuple[float, float]:
    """Mean force error before and after training, eV/Å."""
    return _trained(variant)[1:]
