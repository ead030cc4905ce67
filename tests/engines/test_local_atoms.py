"""Atoms of several processes: what each computes of its own and of ghosts adds up to the whole."""

from __future__ import annotations

import numpy as np
import pytest
from ranks import box_of, of_process, potential_of
from structures import graph_of, quartz, worst

from mlpot.engines.local_atoms import Due, LocalList
from mlpot.engines.own_energies import LargeGhosts
from mlpot.forces import native_call_with_ghosts, native_obstacle, predict, predict_atoms, predict_own

VARIANTS = (
    "schnet",
    "egnn",
    "egnn_moving",
    "egnn_attention",
    "deepsets",
    "painn",
    "ace",
    "nequip",
    "se3_transformer",
)


@pytest.mark.parametrize("nuclei", [False, True], ids=["learned", "with_nuclei"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_processes_add_up_to_the_whole(variant: str, nuclei: bool) -> None:
    """L4, L5, L7: energy, forces, virial, also by atom; several images of an owner, all passes."""
    atoms = quartz() * (2, 1, 1)
    potential = potential_of(variant, nuclei=nuclei)
    whole, by_atom = (
        predict(potential, graph_of(atoms)),
        predict_atoms(potential, graph_of(atoms), native=False),
    )
    native = native_call_with_ghosts(potential)
    assert (native is None) == (native_obstacle(potential) is not None)
    energy, forces, virial = 0.0, np.zeros((len(atoms), 3)), np.zeros((3, 3))
    energies, virials = np.zeros(len(atoms)), np.zeros((len(atoms), 3, 3))
    half = atoms.get_scaled_positions()[:, 0] < 0.4
    for own in (half, ~half):
        positions, index, n_own = of_process(atoms, own, potential.n_passes * potential.cutoff)
        found = LocalList(potential.cutoff, potential.n_passes).graph(
            positions, atoms.numbers[index], index, n_own, box_of(atoms)
        )
        true = found.with_true_numbers()
        e, f, w = predict_own(potential, true, n_own) if native is None else native(found.graph)
        energy, virial = energy + e.item(), virial + w[0].numpy()
        np.add.at(forces, index[found.kept], f.numpy())
        parts = LargeGhosts(potential).by_atom(found)
        energies[index[:n_own]] = parts.energies[:n_own]
        np.add.at(virials, index[found.kept], parts.virials.numpy())
    assert energy == pytest.approx(whole.energy.item(), abs=1e-9)
    assert worst(forces, whole.forces) < 1e-10
    assert worst((virial + virial.T) / 2 / atoms.get_volume(), whole.stress[0]) < 1e-11
    assert worst(energies, by_atom.energies) < 1e-9
    assert worst(virials, by_atom.virials) < 1e-9


def test_a_list_in_use_holds_what_a_new_one_finds() -> None:
    """Atoms move by less than half the skin, and then by more; an atom of a type that is not seen stays away."""
    atoms, rng = quartz() * (2, 2, 2), np.random.default_rng(0)
    kept = LocalList(4.0, 2)
    numbers = atoms.numbers.copy()
    numbers[7] = 0
    ids, n_own, positions = np.arange(len(atoms)), 30, atoms.positions.copy()
    for _ in range(12):
        positions += rng.normal(scale=0.08, size=positions.shape)
        old = kept.graph(positions, numbers, ids, n_own, box_of(atoms))
        new = LocalList(4.0, 2).graph(positions, numbers, ids, n_own, box_of(atoms))
        assert 7 not in old.kept
        assert near_pairs(old) == near_pairs(new)
    assert 1 < kept.n_builds < 12


def test_a_list_that_another_process_needs_anew_is_found_anew() -> None:
    """Its own edges hold, but processes that found theirs in different steps would wait in each of these."""
    atoms, kept = quartz() * (2, 2, 2), LocalList(4.0, 2)
    arrays = atoms.positions, atoms.numbers, np.arange(len(atoms)), 30
    first = kept.graph(*arrays, box_of(atoms))
    assert kept.due(*arrays) is Due.NOTHING
    for due, n_builds in ((Due.NOTHING, 1), (Due.NEAR, 1), (Due.ALL, 2)):
        assert near_pairs(kept.graph(*arrays, box_of(atoms), due)) == near_pairs(first)
        assert kept.n_builds == n_builds
    assert kept.due(atoms.positions + 0.15, *arrays[1:]) is Due.NEAR
    assert kept.due(atoms.positions + 0.6, *arrays[1:]) is Due.ALL


def near_pairs(found: object) -> set[tuple[int, int]]:
    """Pairs of places within the cutoff, one of which is own or next to an own one."""
    graph = found.graph
    vectors = graph.positions[graph.edges.neighbor] - graph.positions[graph.edges.center]
    near = vectors.norm(dim=1) < 4.0
    ends = found.kept[graph.edges.center[near].numpy()], found.kept[graph.edges.neighbor[near].numpy()]
    own = found.kept[: found.n_own]
    return {(i, j) for i, j in zip(*ends, strict=True) if i in own or j in own}
