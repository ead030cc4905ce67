"""Features that processes exchange after each pass: what each computes of its own atoms adds up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from ase import Atoms
from ranks import box_of, of_process, potential_of
from structures import graph_of, quartz, worst
from torch import Tensor

from mlpot.engines.exchanged import ExchangedPotential
from mlpot.engines.local_atoms import LocalGraph, LocalList
from mlpot.engines.message_costs import costs
from mlpot.forces import predict, predict_atoms
from mlpot.graph import AtomGraph, Edges

STAGED = ("schnet", "egnn", "egnn_moving", "egnn_attention", "painn", "ace", "mace", "nequip")


@dataclass
class Rows:
    """Ghosts and their owners in one array, as if several processes shared it."""

    ghosts: Tensor
    owners: Tensor
    share: float = 1.0  # of what is sent that arrives
    home: float = 1.0  # of what is sent back

    def fill(self, x: Tensor) -> None:
        x[self.ghosts] = self.share * x[self.owners]

    def gather(self, x_bar: Tensor) -> None:
        x_bar.index_add_(0, self.owners, self.home * x_bar[self.ghosts])
        x_bar[self.ghosts] = 0


def of_processes(atoms: Atoms, own: list[np.ndarray], cutoff: float) -> tuple[LocalGraph, Rows]:
    """The atoms of all processes side by side: own ones first, then all ghosts."""
    locals_ = []
    for mine in own:
        positions, index, n_own = of_process(atoms, mine, cutoff)
        locals_.append(LocalList(cutoff, 1).graph(positions, atoms.numbers[index], index, n_own, box_of(atoms)))
    first = [0, *accumulate(len(local.ids) for local in locals_)]
    is_ghost = np.concatenate([np.arange(len(local.ids)) >= local.n_own for local in locals_])
    ids = np.concatenate([local.ids for local in locals_])
    order = np.argsort(is_ghost, kind="stable")
    place = torch.from_numpy(np.argsort(order))
    graphs = [local.graph for local in locals_]
    center, neighbor = (
        torch.cat([place[n + getattr(g.edges, end)] for n, g in zip(first, graphs, strict=False)])
        for end in ("center", "neighbor")
    )
    edges, shift = sorted_edges(center, neighbor, graphs)
    rows = torch.from_numpy(order)
    graph = AtomGraph(
        positions=torch.cat([g.positions for g in graphs])[rows],
        numbers=torch.cat([g.numbers for g in graphs])[rows],
        cell=graphs[0].cell,
        pbc=torch.ones(1, 3, dtype=torch.bool),
        edges=edges,
        cell_shift=shift,
        batch=torch.zeros(len(rows), dtype=torch.int64),
    )
    n_own = int((~is_ghost).sum())
    owner = {number: k for k, number in enumerate(ids[order][:n_own])}
    ghosts = torch.arange(n_own, len(order))
    owners = torch.tensor([owner[number] for number in ids[order][n_own:]], dtype=torch.int64)
    return LocalGraph(graph, order, n_own, ids[order]), Rows(ghosts, owners)


def sorted_edges(center: Tensor, neighbor: Tensor, graphs: list[AtomGraph]) -> tuple[Edges, Tensor]:
    """Edges of several graphs, whose atoms have new places."""
    first = [0, *accumulate(len(g.edges) for g in graphs)]
    reverse = torch.cat([n + g.edges.reverse for n, g in zip(first, graphs, strict=False)])
    order = torch.argsort(center, stable=True)
    place = torch.argsort(order)
    n_atoms = sum(g.n_atoms for g in graphs)
    row_ptr = torch.cat([center.new_zeros(1), torch.bincount(center, minlength=n_atoms).cumsum(0)])
    shift = torch.cat([g.cell_shift for g in graphs])[order]
    return Edges(center[order], neighbor[order], row_ptr, place[reverse[order]]), shift


def halves(atoms: Atoms) -> list[np.ndarray]:
    one = atoms.get_scaled_positions()[:, 0] < 0.4
    return [one, ~one]


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "defined"])
@pytest.mark.parametrize("variant", STAGED)
def test_processes_that_exchange_features_add_up_to_the_whole(variant: str, native: bool) -> None:
    """L4, L5: a ghost has many images, and an atom is its own image's neighbor; nuclei and limits of training."""
    atoms, potential = quartz() * (2, 1, 1), potential_of(variant, nuclei=True)
    whole = predict(potential, graph_of(atoms))
    local, rows = of_processes(atoms, halves(atoms), potential.cutoff)
    assert len(rows.ghosts) > 0
    energy, pull, virial = ExchangedPotential(potential, rows, native=native).predict(local)
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, torch.from_numpy(local.ids), pull)
    assert energy.item() == pytest.approx(whole.energy.item(), abs=1e-9)
    assert worst(forces, whole.forces) < 1e-10
    assert worst((virial[0] + virial[0].mT) / 2 / atoms.get_volume(), whole.stress[0]) < 1e-11


@pytest.mark.parametrize("variant", ["painn", "egnn_moving"])
def test_threads_change_no_bit_of_what_is_exchanged(variant: str) -> None:
    """Own atoms and ghosts in several parts each, which threads share."""
    atoms, potential = quartz() * (5, 3, 3), potential_of(variant, nuclei=True)
    whole, n_threads = predict(potential, graph_of(atoms)), torch.get_num_threads()
    local, rows = of_processes(atoms, halves(atoms), potential.cutoff)
    exchanged, found = ExchangedPotential(potential, rows), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(exchanged.predict(local))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    ids = torch.from_numpy(local.ids)
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, ids, found[0][1])
    assert worst(forces, whole.forces) < 1e-10


def test_energies_virials_and_features_of_atoms_are_those_of_the_whole() -> None:
    """L7: by atom; and what tells an extrapolation."""
    atoms, potential = quartz() * (2, 1, 1), potential_of("mace", nuclei=True)
    whole, features = (
        predict_atoms(potential, graph_of(atoms), native=False),
        potential.atom_features(graph_of(atoms)),
    )
    local, rows = of_processes(atoms, halves(atoms), potential.cutoff)
    ids = torch.from_numpy(local.ids)
    for native in (True, False):
        exchanged = ExchangedPotential(potential, rows, native=native)
        found = exchanged.by_atom(local)
        virials = torch.zeros(len(atoms), 3, 3, dtype=torch.float64).index_add(0, ids, found.virials)
        own = ids[: local.n_own]
        assert worst(found.energies[: local.n_own], whole.energies[own]) < 1e-9
        assert worst(virials, whole.virials) < 1e-9
        assert worst(exchanged.features(local), features[own]) < 1e-10


@pytest.mark.parametrize("native", [True, False], ids=["compiled", "defined"])
@pytest.mark.parametrize("lost", ["share", "home"])
def test_what_is_lost_on_the_way_changes_forces(native: bool, lost: str) -> None:
    """L4: zeros instead of features or of adjoints are seen, which tests of one pass do not see."""
    atoms, potential = quartz() * (2, 1, 1), potential_of("nequip", nuclei=False)
    whole = predict(potential, graph_of(atoms))
    local, rows = of_processes(atoms, halves(atoms), potential.cutoff)
    pull = ExchangedPotential(potential, replace(rows, **{lost: 0.0}), native=native).predict(local)[1]
    forces = torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, torch.from_numpy(local.ids), pull)
    assert worst(forces, whole.forces) > 1e-3


def test_networks_that_are_no_list_of_stages_are_refused_by_name() -> None:
    potential = potential_of("se3_transformer", nuclei=False)
    with pytest.raises(ValueError, match="SE3Transformer is not made of stages"):
        ExchangedPotential(potential, Rows(torch.empty(0), torch.empty(0)))


def test_the_cheaper_way_depends_on_how_many_atoms_a_process_has() -> None:
    """Messages of a few atoms cost more than computing those of others; and the bytes are counted by hand."""
    potential = potential_of("painn", nuclei=False)  # two passes: one exchange of five components
    grid, density, cutoff = np.array([2, 2, 2]), 0.05, potential.cutoff
    n_channels = potential.arguments.get("n_features", 64)
    for n_atoms, is_large in ((2, False), (10**5, True)):
        side = (n_atoms / density) ** (1 / 3)
        found = costs(potential, n_atoms, np.full(3, side), grid)
        near = min(n_atoms, density * min(side, side / 2 + 2 * cutoff) ** 3)
        assert found.n_ghosts == pytest.approx(near - n_atoms / 8)
        assert found.n_bytes == pytest.approx(found.n_ghosts * 2 * 5 * n_channels * 8)
        assert (found.exchange < found.ghosts) == is_large
    alone = costs(potential, 64, np.full(3, side), np.ones(3, np.int64))
    assert (alone.n_bytes, alone.exchange) == (0, alone.ghosts)
