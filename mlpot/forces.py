"""From energy to forces, stress and curvature: what chooses the executor, and the only file that differentiates.

A potential sees edge vectors, never positions or cells, so E = E({r_e}) and one gradient
g_e = ∂E/∂r_e gives both derivatives (chain rule on r_e = r_j + S·cell − r_i):

    F_i = Σ_{e: center i} g_e − Σ_{e: neighbor i} g_e         σ = (1/V) Σ_e r_e ⊗ g_e

The vectors are formed in float64 and cast to the weights' type; energies are summed in float64. Two executors know
the formula of a potential: its modules, which are differentiated here, and compiled code, which is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mlpot.cpu.calls import ExchangedCall, StagedTraining, native_call
from mlpot.graph import AtomGraph, Edges, Movable, Properties, edge_vectors
from mlpot.models.native import Elements, obstacle_of_weights
from mlpot.potential import Potential
from mlpot.stages.network import StagedNetwork
from mlpot.torch_settings import usual_settings

FLAT = 1e-9
"""A cell whose volume is less than this part of the product of its edges has none."""

Native = Callable[[AtomGraph], tuple[Tensor, Tensor, Tensor] | None]
"""Energies (n_graphs,) eV, forces (n_atoms, 3) eV/Å and virials (n_graphs, 3, 3) eV of whole structures in
float64, differentiable once by weights that require it, without a graph of theirs; None for a structure with an
unknown element, or if there is no such call for the potential."""
_in_use: WeakKeyDictionary[Potential, tuple[Tensor, Native | None]] = WeakKeyDictionary()
"""Native calls of potentials whose weights no longer change, each with the constants that it was made for."""
_in_training: WeakKeyDictionary[Potential, StagedTraining] = WeakKeyDictionary()
"""What the native calls of potentials in training keep from step to step."""


class AtomicEnergies(Protocol):
    """What `predict` needs: atomic energies from edge vectors, and float64 reference energies."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, numbers: Tensor, edges: Edges, vectors: Tensor) -> Tensor: ...

    def reference_energies(self, numbers: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AtomicProperties(Movable):
    """The energy and the virial, atom by atom; their sums are the energy and stress · volume."""

    energies: Tensor  # (n_atoms,) float64, eV
    virials: Tensor  # (n_atoms, 3, 3) float64, eV; each edge shared equally by its two atoms


def predict(
    potential: AtomicEnergies, graph: AtomGraph, *, training: bool = False, native: bool = True
) -> Properties:
    """Energy, forces and stress of every graph.

    Args:
        potential: maps (numbers, edges, vectors) to atomic energies (n_atoms,) in eV.
        graph: the structures; not changed.
        training: keep the graph of the gradient, so that a loss on forces reaches the weights.
        native: use the compiled code if there is some for the potential, instead of the modules.

    Returns:
        Properties in float64. Stress is that of the cell's volume, zero out of the periodic directions, and NaN
        where nothing is periodic or the cell is flat.

    Raises:
        ValueError: weights of a type of 16 bits.
        RuntimeError: when a gradient of what training gave is taken under autocast.
    """
    if training:
        with _settled(potential, graph, training=True) as settled, torch.enable_grad():
            known = _natively(potential, settled) if native else None
            return _for_a_loss(known or _predict(potential, settled, training=True))
    _check_type(potential)
    with torch.no_grad():
        known = _natively(potential, graph) if native else None
    if known is not None:
        return known
    with _settled(potential, graph) as settled:
        return _predict(potential, settled, training=False)


def _for_a_loss(out: Properties) -> Properties:
    """The same, whose gradient is not taken in 16 bits."""
    for values in (out.energy, out.forces, out.stress):
        if values.requires_grad:
            values.register_hook(_refuse_autocast)  # type: ignore[no-untyped-call]  # torch.Tensor has no types here
    return out


def _refuse_autocast(gradient: Tensor) -> None:
    if torch.is_autocast_enabled(gradient.device.type):
        raise RuntimeError(
            "Autocast would round the gradient of a loss to 16 bits. Call backward() outside of torch.autocast."
        )


def _natively(potential: AtomicEnergies, graph: AtomGraph) -> Properties | None:
    call = native_call_of(potential)
    known = None if call is None else call(graph)
    if known is None:
        return None
    energy, forces, virial = known
    return Properties(energy, forces, _stress(virial, graph))


def native_obstacle(potential: Potential) -> str | None:
    """Why PyTorch and not compiled code computes energies and forces; None if compiled code does."""
    return potential.backbone.native_obstacle() or obstacle_of_weights(potential.energy_scale)


def computed_by(potential: Potential) -> str:
    """What computes energies and forces, in words: compiled code, or PyTorch and why."""
    obstacle = native_obstacle(potential)
    return "compiled code" if obstacle is None else f"PyTorch ({obstacle})"


def native_call_of(potential: AtomicEnergies) -> Native | None:
    """The compiled energies, forces and virials of a potential; None if there is an obstacle.

    Of a potential that is frozen the call is made once, until its constants are computed again.
    """
    if not isinstance(potential, Potential) or native_obstacle(potential) is not None:
        return None
    if not potential.is_frozen:  # its weights may change
        return None if potential.core_repulsion is not None else partial(_call_in_training, potential)
    constants, call = _in_use.get(potential, (None, None))
    if constants is not potential.isolated:
        known = potential.backbone, _elements(potential), potential.isolated
        with usual_settings():
            call = native_call(*known)
        _in_use[potential] = potential.isolated, call
    return call


def native_call_with_ghosts(potential: Potential) -> Native | None:
    """As `native_call_of` for a frozen potential and the atoms of one process among several.

    `models.native.GHOST` is added to the atomic numbers of other processes' atoms. Of their energies, and so of
    forces and virials, nothing counts; sums over all processes are those of the whole.
    """
    if native_obstacle(potential) is not None:
        return None
    known = potential.backbone, _elements(potential)._replace(ghosts=True), potential.isolated
    with usual_settings():
        return native_call(*known)


def native_call_with_exchanges(potential: Potential) -> ExchangedCall | None:
    """As `native_call_with_ghosts`, where processes send each other the features of their atoms."""
    if native_obstacle(potential) is not None or not isinstance(potential.backbone, StagedNetwork):
        return None
    with usual_settings():
        elements = _elements(potential)._replace(ghosts=True)
        return ExchangedCall(potential.backbone, elements, potential.isolated)


def _call_in_training(potential: Potential, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor] | None:
    if potential not in _in_training:
        _in_training[potential] = StagedTraining()
    return _in_training[potential](potential.backbone, _elements(potential), graph)


def _elements(potential: Potential) -> Elements:
    of = potential
    terms = of.repulsion, of.core_repulsion, of.cutoff
    return Elements(of.elements, of.reference, of.energy_scale, of.energy_shift, *terms)


@contextmanager
def _settled(potential: AtomicEnergies, graph: AtomGraph, training: bool = False) -> Iterator[AtomGraph]:
    """The graph for a block that computes with the usual settings of PyTorch, whatever is set outside.

    In training the precision of products stays what the training chose.
    """
    _check_type(potential)
    with usual_settings(full_precision=not training):
        yield graph.clone() if graph.positions.is_inference() else graph


def _check_type(potential: AtomicEnergies) -> None:
    """Raise ValueError for weights of 16 bits, in training too: there products are coarse, never the weights."""
    if potential.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{potential.dtype} is too coarse for energies and forces. Use float32 or float64.")


def _predict(potential: AtomicEnergies, graph: AtomGraph, *, training: bool) -> Properties:
    atom_energy, vectors, g = _gradient(potential, graph, create_graph=training)
    virial = torch.zeros_like(graph.cell).index_add(0, _edge_batch(graph), vectors[:, :, None] * g[:, None, :])
    out = Properties(_sum_graphs(atom_energy, graph), _to_atoms(g, graph), _stress(virial, graph))
    return out if training else Properties(out.energy.detach(), out.forces.detach(), out.stress.detach())


def volumes(cell: Tensor, pbc: Tensor) -> Tensor:
    """(n_graphs,) Å³, by which a stress is defined: NaN without a periodic direction, or with a flat cell."""
    volume = torch.linalg.det(cell).abs()
    return torch.where(pbc.any(-1) & (volume > FLAT * cell.norm(dim=-1).prod(-1)), volume, torch.nan)


def _stress(virial: Tensor, graph: AtomGraph) -> Tensor:
    """(n_graphs, 3, 3) eV/Å³ of virials in eV; NaN without a volume, zero out of the periodic directions.

    Strain of what is periodic alone is strain of the cell: along the vacuum of a slab the volume means nothing.
    """
    if not graph.pbc.any():
        return torch.full_like(graph.cell, torch.nan)
    volume = volumes(graph.cell, graph.pbc)[:, None, None]
    safe_volume = torch.where(volume.isnan(), 1.0, volume)  # else 0/NaN poisons gradients
    stress = (virial + virial.mT) / 2 / safe_volume
    if not graph.pbc.all():
        onto = periodic_directions(graph)
        stress = onto @ stress @ onto
    return torch.where(volume.isnan(), torch.nan, stress)


def periodic_directions(graph: AtomGraph) -> Tensor:
    """(n_graphs, 3, 3): the projection on the span of the periodic cell vectors; exact along the axes."""
    vectors = torch.where(graph.pbc[:, :, None], graph.cell, 0.0)
    along = vectors.sum(1)  # of one periodic vector itself, of two their normal
    normal = torch.linalg.cross(vectors, vectors.roll(-1, dims=1)).sum(1)
    is_plane = (graph.pbc.sum(-1) == 2)[:, None]
    axis = torch.where(is_plane, normal, along)
    length = axis.norm(dim=-1, keepdim=True)
    unit = axis / torch.where(length > 0, length, 1.0)
    onto = unit[:, :, None] * unit[:, None, :]
    space = torch.eye(3, dtype=onto.dtype, device=onto.device)
    return torch.where(
        graph.pbc.all(-1)[:, None, None], space, torch.where(is_plane[:, :, None], space - onto, onto)
    )


def predict_atoms(potential: AtomicEnergies, graph: AtomGraph, n_own: int | None = None) -> AtomicProperties:
    """Atomic energies and virials. How a total is shared among atoms is a convention, not physics.

    Args:
        potential, graph: as for `predict`.
        n_own: how many atoms, the first, count with their energies; all by default. Others get a virial by their
            pull on these, and NaN for their energy.
    """
    with _settled(potential, graph) as settled:
        atom_energy, vectors, g = _gradient(potential, settled, n_own=n_own)
        if n_own is not None:
            atom_energy[n_own:] = torch.nan
    share = vectors[:, :, None] * g[:, None, :] / 2
    virials = share.new_zeros(graph.n_atoms, 3, 3)
    virials = virials.index_add(0, graph.edges.center, share).index_add(0, graph.edges.neighbor, share)
    return AtomicProperties(energies=atom_energy.detach(), virials=(virials + virials.mT).detach() / 2)


def predict_own(potential: AtomicEnergies, graph: AtomGraph, n_own: int) -> tuple[Tensor, Tensor, Tensor]:
    """The energy of the first atoms of one graph, (1,) eV, with its forces (n_atoms, 3) and virial (1, 3, 3)."""
    with _settled(potential, graph) as settled:
        atom_energy, vectors, g = _gradient(potential, settled, n_own=n_own)
        virial = (vectors[:, :, None] * g[:, None, :]).sum(0, keepdim=True)
        return atom_energy[:n_own].sum(0, keepdim=True).detach(), _to_atoms(g, settled).detach(), virial.detach()


def predict_pairs(potential: AtomicEnergies, graph: AtomGraph, n_own: int) -> tuple[Tensor, Tensor]:
    """Energies of the first atoms (n_own,) eV, and ∂E/∂r_e of their sum (n_edges, 3) eV/Å, of one graph."""
    with _settled(potential, graph) as settled:
        atom_energy, _, g = _gradient(potential, settled, n_own=n_own)
        return atom_energy[:n_own].detach(), g


def hessian_vector_product(potential: AtomicEnergies, graph: AtomGraph, direction: Tensor) -> Tensor:
    """H v = ∂²E/∂r∂r · v for a displacement v (n_atoms, 3) Å: (n_atoms, 3) eV/Å."""
    with _settled(potential, graph) as settled:
        return _hessian_products(potential, settled, direction[None])[0]


def hessian(potential: AtomicEnergies, graph: AtomGraph) -> Tensor:
    """∂²E/∂r∂r as (3 n_atoms, 3 n_atoms) float64, eV/Å², one product a column."""
    n = 3 * graph.n_atoms
    directions = torch.eye(n, dtype=torch.float64, device=graph.positions.device).view(n, graph.n_atoms, 3)
    with _settled(potential, graph) as settled:
        return _hessian_products(potential, settled, directions).reshape(n, n)


def _hessian_products(potential: AtomicEnergies, graph: AtomGraph, directions: Tensor) -> Tensor:
    center, neighbor = graph.edges.center, graph.edges.neighbor
    with torch.enable_grad():
        vectors = edge_vectors(graph).to(potential.dtype).detach().requires_grad_()
        atom_energy = potential(graph.numbers, graph.edges, vectors)
        (g,) = torch.autograd.grad(atom_energy.sum(), vectors, create_graph=True, materialize_grads=True)
    products = []
    for direction in directions:
        stretch = (direction.index_select(0, neighbor) - direction.index_select(0, center)).to(g.dtype)
        if g.requires_grad:
            (dg,) = torch.autograd.grad(g, vectors, stretch, retain_graph=True, materialize_grads=True)
        else:  # an energy linear in the vectors, or no edges: no curvature
            dg = torch.zeros_like(vectors)
        products.append(-_to_atoms(dg.double(), graph))
    return torch.stack(products)


def _gradient(
    potential: AtomicEnergies, graph: AtomGraph, create_graph: bool = False, n_own: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Atomic energies with references, edge vectors and ∂E/∂r_e of all or the first atoms, all float64."""
    exact = edge_vectors(graph).detach()
    reference = potential.reference_energies(graph.numbers)
    with torch.enable_grad():
        vectors = exact.to(potential.dtype).requires_grad_()
        if vectors is exact:
            vectors = exact.clone().requires_grad_()
        atom_energy = potential(graph.numbers, graph.edges, vectors)
        total = atom_energy[:n_own].sum()
        (g,) = torch.autograd.grad(total, vectors, create_graph=create_graph, materialize_grads=True)
    return atom_energy.double() + reference, exact, g.double()


def _to_atoms(g: Tensor, graph: AtomGraph) -> Tensor:
    """F_i = Σ_{e: center i} g_e − Σ_{e: neighbor i} g_e, (n_atoms, 3)."""
    zero = torch.zeros_like(graph.positions)
    return zero.index_add(0, graph.edges.center, g).index_add(0, graph.edges.neighbor, -g)


def _edge_batch(graph: AtomGraph) -> Tensor:
    return graph.batch.index_select(0, graph.edges.center)


def _sum_graphs(values: Tensor, graph: AtomGraph) -> Tensor:
    """Of each graph's atoms: (n_atoms, …) -> (n_graphs, …)."""
    return values.new_zeros((graph.n_graphs, *values.shape[1:])).index_add(0, graph.batch, values)
