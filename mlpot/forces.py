"""From energy to forces, stress and curvature: the only file that differentiates.

A potential sees edge vectors, never positions or cells, so E = E({r_e}) and one gradient
g_e = ∂E/∂r_e gives both derivatives (chain rule on r_e = r_j + S·cell − r_i):

    F_i = Σ_{e: center i} g_e − Σ_{e: neighbor i} g_e         σ = (1/V) Σ_e r_e ⊗ g_e

The vectors are formed in float64 and cast to the weights' type; energies are summed in float64. `executors`
chooses what computes them: compiled code gives forces itself, and all else is differentiated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mlpot.cpu.calls import StagedCall
from mlpot.executors import Executor, check_executor, device_outputs
from mlpot.executors import computed_by as computed_by
from mlpot.executors import device_obstacle as device_obstacle
from mlpot.executors import native_call_of as native_call_of
from mlpot.executors import native_call_with_exchanges as native_call_with_exchanges
from mlpot.executors import native_call_with_ghosts as native_call_with_ghosts
from mlpot.executors import native_obstacle as native_obstacle
from mlpot.graph import AtomGraph, Movable, Prediction, Properties, edge_vectors
from mlpot.graph_check import AtomicEnergies as AtomicEnergies
from mlpot.graph_check import check_energies, check_graph
from mlpot.potential import Potential
from mlpot.torch_settings import usual_settings

FLAT = 1e-9
"""A cell whose volume is less than this part of the product of its edges has none."""


@dataclass(frozen=True)
class AtomicProperties(Movable):
    """The energy and the virial, atom by atom; their sums are the energy and stress · volume."""

    energies: Tensor  # (n_atoms,) float64, eV
    virials: Tensor  # (n_atoms, 3, 3) float64, eV; each edge shared equally by its two atoms


def predict(
    potential: AtomicEnergies,
    graph: AtomGraph,
    *,
    training: bool = False,
    native: bool = True,
    executor: Executor | None = None,
) -> Properties:
    """Energy, forces and stress of every graph.

    Args:
        potential: maps (numbers, edges, vectors) to atomic energies (n_atoms,) in eV.
        graph: the structures; not changed.
        training: keep the graph of the gradient, so that a loss on forces reaches the weights.
        native: use the fastest executor that knows the potential; if not, the definition.
        executor: use this one, for comparisons.

    Returns:
        Properties in float64. Stress is that of the cell's volume, zero out of the periodic directions, and NaN
        where nothing is periodic or the cell is flat.

    Raises:
        TypeError: no potential, such as the path of its file, or no AtomGraph, such as ASE's Atoms.
        ValueError: weights of a type of 16 bits, a graph with a smaller cutoff than the potential's or whose
            tensors do not fit together, or an executor that does not know the potential.
        RuntimeError: when a gradient of what training gave is taken under autocast.
    """
    _check_given(potential, graph, "predict")
    if executor is not None:
        check_executor(potential, executor)
    compiled = native if executor is None else executor == "cpu"
    on_device = native if executor is None else executor == "gpu"
    if training:
        with _settled(potential, graph, training=True) as settled, torch.enable_grad():
            known = _natively(potential, settled) if compiled else None
            return _for_a_loss(known or _predict(potential, settled, training=True, on_device=on_device))
    _check(potential, graph)
    with torch.no_grad():
        known = _natively(potential, graph) if compiled else None
    if known is not None:
        return known
    with _settled(potential, graph) as settled:
        return _predict(potential, settled, training=False, on_device=on_device)


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
    return Properties(energy, forces, stress_of(virial, graph))


def predict_and_grade(potential: Potential, graph: AtomGraph) -> Prediction:
    """As `predict`, and with the highest extrapolation grade of each structure if the potential can tell.

    Compiled code has the features that it takes anyway.
    """
    _check_given(potential, graph, "predict_and_grade")
    if potential.domain is None:
        return _graded(predict(potential, graph), None)
    _check(potential, graph)
    call = native_call_of(potential) if potential.is_frozen else None
    with torch.no_grad():
        known = call.with_features(graph) if isinstance(call, StagedCall) else None
        if known is None:
            out, grades = predict(potential, graph), extrapolation_grade(potential, graph)
        else:
            (energy, forces, virial), features = known
            out = Properties(energy, forces, stress_of(virial, graph))
            grades = grades_of(potential, graph.numbers, features)
        assert grades is not None
        highest = grades.new_zeros(graph.n_graphs).scatter_reduce(0, graph.batch, grades, "amax")
    return _graded(out, highest)


def _graded(out: Properties, highest: Tensor | None) -> Prediction:
    return Prediction(out.energy, out.forces, out.stress, highest)


def extrapolation_grade(potential: Potential, graph: AtomGraph) -> Tensor | None:
    """As of the potential, in compiled code if there is some: PyTorch makes arrays of edges × features for it."""
    _check_given(potential, graph, "extrapolation_grade")
    _check(potential, graph)
    call = native_call_of(potential) if potential.domain is not None and potential.is_frozen else None
    features = call.features_of(graph) if isinstance(call, StagedCall) else None
    return (
        potential.extrapolation_grade(graph) if features is None else grades_of(potential, graph.numbers, features)
    )


def grades_of(potential: Potential, numbers: Tensor, features: Tensor) -> Tensor | None:
    """Extrapolation grades of atoms whose features are known; None if the potential cannot tell."""
    if potential.domain is None:
        return None
    kind = potential.element_index.index_select(0, numbers.to(features.device))
    grades: Tensor = potential.domain(kind, features)
    return grades


@contextmanager
def _settled(potential: AtomicEnergies, graph: AtomGraph, training: bool = False) -> Iterator[AtomGraph]:
    """The graph for a block that computes with the usual settings of PyTorch, whatever is set outside.

    In training the precision of products stays what the training chose.
    """
    _check(potential, graph)
    with usual_settings(full_precision=not training):
        yield graph.clone() if graph.positions.is_inference() else graph


def _check_given(potential: AtomicEnergies, graph: AtomGraph, caller: str) -> None:
    """Raise TypeError or ValueError for what is no potential or no graph, or a graph that does not hold."""
    if not isinstance(potential, Potential):
        check_energies(potential, caller)
    check_graph(graph, caller)


def _check(potential: AtomicEnergies, graph: AtomGraph) -> None:
    """Raise ValueError for weights of 16 bits, in training too, and for a graph that lacks pairs.

    Constants of weights that changed under a frozen potential are computed again.
    """
    if potential.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{potential.dtype} is too coarse for energies and forces. Use float32 or float64.")
    reach = getattr(potential, "cutoff", 0.0)
    if graph.cutoff < reach:
        raise ValueError(
            f"The graph has pairs up to {graph.cutoff:g} Å, and the potential has a cutoff of {reach:g} Å: pairs "
            "are missing. Build it with potential.cutoff."
        )
    if isinstance(potential, Potential):
        potential.renew()


def _predict(potential: AtomicEnergies, graph: AtomGraph, *, training: bool, on_device: bool) -> Properties:
    atom_energy, vectors, g = _gradient(potential, graph, create_graph=training, on_device=on_device)
    virial = torch.zeros_like(graph.cell).index_add(0, _edge_batch(graph), vectors[:, :, None] * g[:, None, :])
    out = Properties(_sum_graphs(atom_energy, graph), to_atoms(g, graph), stress_of(virial, graph))
    return out if training else Properties(out.energy.detach(), out.forces.detach(), out.stress.detach())


def volumes(cell: Tensor, pbc: Tensor) -> Tensor:
    """(n_graphs,) Å³, by which a stress is defined: NaN without a periodic direction, or with a flat cell."""
    volume = torch.linalg.det(cell).abs()
    return torch.where(pbc.any(-1) & (volume > FLAT * cell.norm(dim=-1).prod(-1)), volume, torch.nan)


def stress_of(virial: Tensor, graph: AtomGraph) -> Tensor:
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


def predict_atoms(
    potential: AtomicEnergies, graph: AtomGraph, n_own: int | None = None, *, native: bool = True
) -> AtomicProperties:
    """Atomic energies and virials. How a total is shared among atoms is a convention, not physics.

    Args:
        potential, graph, native: as for `predict`.
        n_own: how many atoms, the first, count with their energies; all by default. Others get a virial by their
            forces on these, and NaN for their energy; there is no compiled code for that.

    Raises:
        TypeError, ValueError: as `predict`, or there are not so many atoms.
    """
    if n_own is None:  # with own atoms, lists are an engine's, whose indices have other types
        _check_given(potential, graph, "predict_atoms")
    elif isinstance(n_own, bool) or not isinstance(n_own, int) or not 0 <= n_own <= graph.n_atoms:
        raise ValueError(f"n_own = {n_own!r}: give how many of the {graph.n_atoms} atoms, the first, count.")
    _check(potential, graph)
    call = native_call_of(potential) if native and n_own is None else None
    found = call.by_atom(graph) if isinstance(call, StagedCall) else None
    if found is not None:
        return by_atom(*found, graph.n_atoms)
    with _settled(potential, graph) as settled:
        atom_energy, vectors, g = _gradient(potential, settled, n_own=n_own)
        if n_own is not None:
            atom_energy[n_own:] = torch.nan
    share = vectors[:, :, None] * g[:, None, :] / 2
    virials = share.new_zeros(graph.n_atoms, 3, 3)
    virials = virials.index_add(0, graph.edges.center, share).index_add(0, graph.edges.neighbor, share)
    return AtomicProperties(energies=atom_energy.detach(), virials=(virials + virials.mT).detach() / 2)


def by_atom(energies: Tensor, virials: Tensor, n_own: int) -> AtomicProperties:
    """As `predict_atoms`, of what compiled code found for atoms of which the first are own."""
    energies[n_own:] = torch.nan
    return AtomicProperties(energies, (virials + virials.mT) / 2)


def predict_own(potential: AtomicEnergies, graph: AtomGraph, n_own: int) -> tuple[Tensor, Tensor, Tensor]:
    """The energy of the first atoms of one graph, (1,) eV, with its forces (n_atoms, 3) and virial (1, 3, 3)."""
    with _settled(potential, graph) as settled:
        atom_energy, vectors, g = _gradient(potential, settled, n_own=n_own)
        virial = (vectors[:, :, None] * g[:, None, :]).sum(0, keepdim=True)
        return atom_energy[:n_own].sum(0, keepdim=True).detach(), to_atoms(g, settled).detach(), virial.detach()


def predict_pairs(potential: AtomicEnergies, graph: AtomGraph, n_own: int) -> tuple[Tensor, Tensor]:
    """Energies of the first atoms (n_own,) eV, and ∂E/∂r_e of their sum (n_edges, 3) eV/Å, of one graph."""
    with _settled(potential, graph) as settled:
        atom_energy, _, g = _gradient(potential, settled, n_own=n_own)
        return atom_energy[:n_own].detach(), g


def hessian_vector_product(potential: AtomicEnergies, graph: AtomGraph, direction: Tensor) -> Tensor:
    """H v = ∂²E/∂r∂r · v for a displacement v (n_atoms, 3) Å: (n_atoms, 3) eV/Å.

    Raises:
        TypeError, ValueError: as `predict`, or the displacement is no real tensor of that shape.
    """
    _check_given(potential, graph, "hessian_vector_product")
    if not isinstance(direction, Tensor) or direction.shape != graph.positions.shape or direction.is_complex():
        raise ValueError(
            f"A displacement is a tensor of real numbers in Å, of shape {tuple(graph.positions.shape)}, a row for "
            "each atom; torch.as_tensor makes it of an array."
        )
    with _settled(potential, graph) as settled:
        return _hessian_products(potential, settled, direction[None])[0]


def hessian(potential: AtomicEnergies, graph: AtomGraph) -> Tensor:
    """∂²E/∂r∂r as (3 n_atoms, 3 n_atoms) float64, eV/Å², one product a column; errors as of `predict`."""
    _check_given(potential, graph, "hessian")
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
        products.append(-to_atoms(dg.double(), graph))
    return torch.stack(products)


def _gradient(
    potential: AtomicEnergies,
    graph: AtomGraph,
    create_graph: bool = False,
    n_own: int | None = None,
    on_device: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Atomic energies with references, edge vectors and ∂E/∂r_e of all or the first atoms, all float64."""
    exact = edge_vectors(graph).detach()
    reference = potential.reference_energies(graph.numbers)
    atom_energy, g = energies_and_pulls(
        potential, graph, exact, create_graph=create_graph, n_own=n_own, on_device=on_device
    )
    return atom_energy.double() + reference, exact, g


def energies_and_pulls(
    potential: AtomicEnergies,
    graph: AtomGraph,
    exact: Tensor,
    *,
    create_graph: bool = False,
    n_own: int | None = None,
    on_device: bool = True,
) -> tuple[Tensor, Tensor]:
    """Atomic energies without references, of the weights' type, and ∂E/∂r_e (n_edges, 3) float64, of all or the
    first atoms.

    No number is asked for on the way, so that a CUDA device does not wait; `exact` are the vectors in float64.
    """
    with torch.enable_grad():
        vectors = exact.to(potential.dtype).requires_grad_()
        if vectors is exact:
            vectors = exact.clone().requires_grad_()
        outputs = device_outputs(potential) if on_device else None
        if outputs is None:
            atom_energy = potential(graph.numbers, graph.edges, vectors)
        else:
            atom_energy = cast("Potential", potential)(graph.numbers, graph.edges, vectors, outputs)
        total = atom_energy[:n_own].sum()
        (g,) = torch.autograd.grad(total, vectors, create_graph=create_graph, materialize_grads=True)
    return atom_energy, g.double()


def to_atoms(g: Tensor, graph: AtomGraph) -> Tensor:
    """F_i = Σ_{e: center i} g_e − Σ_{e: neighbor i} g_e, (n_atoms, 3)."""
    zero = torch.zeros_like(graph.positions)
    return zero.index_add(0, graph.edges.center, g).index_add(0, graph.edges.neighbor, -g)


def _edge_batch(graph: AtomGraph) -> Tensor:
    return graph.batch.index_select(0, graph.edges.center)


def _sum_graphs(values: Tensor, graph: AtomGraph) -> Tensor:
    """Of each graph's atoms: (n_atoms, …) -> (n_graphs, …)."""
    return values.new_zeros((graph.n_graphs, *values.shape[1:])).index_add(0, graph.batch, values)
